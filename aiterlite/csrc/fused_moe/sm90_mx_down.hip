// Stage 2 of a mixture of experts of MXFP4 weights for a few tokens on sm_90, without sorting: out[token] = sum over
// its slots of weight * (w2 h[pair] + bias2), of up to 64 pairs (fused_moe/args.h). Behind sm90_mx_gate_up.hip.
//
// Tiling. A workgroup has AITERLITE_TILES tiles of 16 features of the result of all tokens. Its AITERLITE_WAVES warps
// take items in turn, a group of pairs of one expert (fused_moe/sm90_mx_pairs.h) by a tile, and all of the inner width
// of each: AITERLITE_UNITS units of 128 k, AITERLITE_AHEAD of which are in registers ahead of the products, across
// items. Results of pairs meet in shared memory, where a thread adds those of its token and feature in the order of
// slots, times their weights, rounded once. One token of a width of 7,168 makes 448 workgroups of one tile.
//
// Early. The experts are found, and the first weights asked for, before stage 1 has ended. It has waited for all ahead
// of it before it admits this kernel, so what routing and weights were written by has ended; both are read as the L2
// has them.
//
// Traffic. w2 and its scales: 17 bytes for 32 codes, once for each AITERLITE_COLS pairs of an expert. h: a row a pair
// and workgroup, from the L2; with AITERLITE_FINISHED as stage 1 left it, numbers in the order of products, else what
// is left of rounding it is done here, once a workgroup. out: once.
//
// Order. Units ascending, even words of their blocks apart from odd ones; slots ascending. No atomics: same operands,
// same bits, and those of a token do not depend on others. Tokens without a pair that counts get zeros. Grid: width /
// (16
// * tiles).
#include <aiterlite/fused_moe/sm90_mx_pairs.h>
#include <aiterlite/fused_moe/sm90_mx_stream.h>
#include <aiterlite/overlap.h>
#include <aiterlite/tile/sm90_barrier.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::fused_moe;

constexpr uint32_t kWaves = AITERLITE_WAVES, kThreads = kWaves * kWaveSize, kColumns = AITERLITE_COLS,
                   kTiles = AITERLITE_TILES, kUnits = AITERLITE_UNITS, kAhead = AITERLITE_AHEAD,
                   kPairs = AITERLITE_PAIRS;
constexpr bool kShuffled = AITERLITE_SHUFFLED, kWeighted = AITERLITE_WEIGHTED, kBiased = AITERLITE_BIASED,
               kFinished = AITERLITE_FINISHED, kEarly = AITERLITE_EARLY;
constexpr int kRounding = AITERLITE_ROUNDING;
constexpr uint32_t kInter = kUnits * kUnitK, kRows = 16, kFeatures = kTiles * kRows, kSumPitch = kFeatures + 4;
constexpr uint32_t kPitch = 2 * kInter + 64;
static_assert(kAhead >= 1 && kUnits % kAhead == 0, "a unit's registers are known when this is compiled");
static_assert(kPairs <= kMostMxPairs && kColumns >= 1 && kColumns <= 8, "pairs are bits of two words");

struct Shared {
  float of_pair[kPairs][kSumPitch];
  float weight[kMostMxPairs];
  uint32_t experts[kMostMxPairs];
  uint32_t leader[kMostMxPairs];
  uint32_t groups;
  alignas(16) char h[kFinished ? 16 : kPairs * kPitch];
};

using Unit = MxUnit<kShuffled, true>;

// The pairs that lead, in their order, by one warp, whose lanes have two each.
AITERLITE_DEVICE void list_leaders(Shared& shared) {
  const uint32_t lane = lane_id(), own[2] = {shared.experts[lane], shared.experts[kWaveSize + lane]};
  uint32_t rank[2] = {0, 0};
#pragma unroll 8
  for (uint32_t pair = 0; pair < kPairs; ++pair) {
    const uint32_t expert = shared.experts[pair];
    rank[0] += pair < lane && expert == own[0] ? 1 : 0;
    rank[1] += pair < kWaveSize + lane && expert == own[1] ? 1 : 0;
  }
  const bool leads[2] = {own[0] != kNoExpert && rank[0] % kColumns == 0,
                         own[1] != kNoExpert && rank[1] % kColumns == 0};
  const LaneMask low = lanes_where(leads[0]), high = lanes_where(leads[1]);
  if (leads[0]) shared.leader[count_lanes_before(low)] = lane;
  if (leads[1]) shared.leader[count_lanes(low) + count_lanes_before(high)] = kWaveSize + lane;
  if (lane == 0) shared.groups = count_lanes(low) + count_lanes(high);
}

}  // namespace

AITERLITE_KERNEL_RESIDENT(kThreads, AITERLITE_RESIDENT)
aiterlite_fused_moe_sm90_mx_down(aiterlite_fused_moe_args args) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  if constexpr (!kEarly) await_predecessors();
  const auto width = static_cast<uint32_t>(args.width), topk = static_cast<uint32_t>(args.topk);
  const uint32_t lane = lane_id(), wave = wave_id(), feature = workgroup_id() * kFeatures;
  find_experts<true, kWaves>(args, shared.experts);
  workgroup_barrier();
  if (wave == 0) list_leaders(shared);
  workgroup_barrier();
  const uint32_t items = shared.groups * kTiles;

  const uint32_t *experts = shared.experts, *leader = shared.leader;
  const auto rows_of = [=, &args](uint32_t item) {
    const uint32_t expert = experts[leader[item / kTiles]];
    const MxExpert<kShuffled> w2(args.w2, args.w2_scale, kInter, width, expert);
    const uint32_t row = feature + item % kTiles * kRows + lane / 4;
    return w2.rows(row, row + 8);
  };
  Unit unit[kAhead];
  MxUnitRows<kShuffled> rows = {};
  if (wave < items) {
    rows = rows_of(wave);
#pragma unroll
    for (uint32_t u = 0; u < kAhead; ++u) unit[u].load(rows, u);
  }
  if constexpr (kEarly) await_predecessors();
  admit_successors();

  const char* h = static_cast<const char*>(args.h);
  if constexpr (!kFinished) {
    bring_numbers<kRounding, kThreads>(shared.h, kPitch, kPairs, kInter,
                                       [&](uint32_t pair) { return h + uint64_t{pair} * (2 * kInter); });
  }
  if (thread_id() < kPairs && shared.experts[thread_id()] != kNoExpert) {
    const uint32_t pair = thread_id();
    shared.weight[pair] =
        kWeighted ? 1.0f : load_f32(args.topk_weights + int64_t{pair / topk} * args.stride_weights + pair % topk);
  }
  workgroup_barrier();

#pragma unroll 1
  for (uint32_t item = wave; item < items; item += kWaves) {
    const MxGroup<kColumns> group(shared.experts, shared.leader[item / kTiles]);
    uint32_t pair = group.pair[0];
#pragma unroll
    for (uint32_t c = 1; c < kColumns; ++c) pair = lane / 4 == c ? group.pair[c] : pair;
    const char* own = (kFinished ? h + uint64_t{pair} * (2 * kInter) : shared.h + pair * kPitch) + lane % 4 * 16;
    const bool more = item + kWaves < items;
    float sums[2][4] = {};
#pragma unroll
    for (uint32_t u = 0; u < kUnits; ++u) {
      unit[u % kAhead].multiply(sums, [=](uint32_t w) {
        const char* at = own + u * kPieceBytes + w * 64;
        return kFinished ? load_row_vector<Reuse::kLikely>(at) : load_shared_16(at);
      });
      if (u + kAhead < kUnits) {
        unit[u % kAhead].load(rows, u + kAhead);
      } else if (more) {
        if (u + kAhead == kUnits) rows = rows_of(item + kWaves);
        unit[u % kAhead].load(rows, u + kAhead - kUnits);
      }
    }
    const uint32_t row = item % kTiles * kRows + lane / 4;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t of = lane % 4 * 2 + i % 2, at = row + i / 2 * 8;
      uint32_t to = group.pair[0];
#pragma unroll
      for (uint32_t c = 1; c < kColumns; ++c) to = of == c ? group.pair[c] : to;
      if (of >= group.count) continue;
      float value = sums[0][i] + sums[1][i];
      if constexpr (kBiased) value += load_f32(args.bias2 + uint64_t{group.expert} * width + feature + at);
      shared.of_pair[to][at] = value;
    }
  }
  workgroup_barrier();

  const auto tokens = static_cast<uint32_t>(args.tokens);
#pragma unroll 1
  for (uint32_t index = thread_id(); index < tokens * kFeatures; index += kThreads) {
    const uint32_t token = index / kFeatures, at = index % kFeatures;
    float sum = 0.0f;
#pragma unroll 1
    for (uint32_t pair = token * topk; pair < (token + 1) * topk; ++pair) {
      if (shared.experts[pair] == kNoExpert) continue;
      sum = __builtin_fmaf(shared.of_pair[pair][at], shared.weight[pair], sum);
    }
    store_u16(static_cast<uint16_t*>(args.out) + token * args.stride_out + feature + at, from_float<bf16>(sum).bits);
  }
}
