// Stage 1 of a mixture of experts of MXFP4 weights for a few tokens on sm_90, without sorting: h[pair] = act(x
// w1_gate^T)
// * (x w1_up^T) of up to 64 pairs of token and slot, straight from topk_ids (fused_moe/args.h).
//
// Tiling. A workgroup has up to AITERLITE_COLS pairs of one expert (fused_moe/sm90_mx_pairs.h) and AITERLITE_TILES
// tiles of 8 gate and 8 up rows, all of K: its AITERLITE_WAVES warps have AITERLITE_UNITS neighbouring units of 128 k
// each. Weights and scales go straight to registers (fused_moe/sm90_mx_stream.h), AITERLITE_AHEAD units ahead of the
// products and across tiles, so that a multiprocessor's 14 or more warps have 56 KB and more on their way at any time.
// x becomes what the call multiplies in shared memory, while the first weights are on their way: no kernel before this
// one quantises it.
//
// Traffic. w1 and its scales: 17 bytes for 32 codes, once for each AITERLITE_COLS pairs of an expert. x: a row a pair
// and workgroup, from the L2. h: once, bf16. With 4 tiles a workgroup has a block of 32 of h and leaves the numbers
// that stage 2 multiplies, in their order; with fewer it leaves h rounded to bf16, and stage 2 does the rest: the same
// bits.
//
// Order. Units of a warp ascending, even words of their blocks apart from odd ones; then warps, ascending. So the bits
// of a pair do not depend on other pairs. No atomics.
//
// Grid: pairs, times inner width / (8 * tiles): one token of 8 slots and a width of 256 makes 256 workgroups of one
// tile. Pairs that another leads, or that do not count, end at once.
#include <aiterlite/fused_moe/activation.h>
#include <aiterlite/fused_moe/sm90_mx_pairs.h>
#include <aiterlite/fused_moe/sm90_mx_stream.h>
#include <aiterlite/overlap.h>
#include <aiterlite/tile/sm90_barrier.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::fused_moe;

constexpr uint32_t kWaves = AITERLITE_WAVES, kThreads = kWaves * kWaveSize, kColumns = AITERLITE_COLS,
                   kTiles = AITERLITE_TILES, kUnits = AITERLITE_UNITS, kAhead = AITERLITE_AHEAD,
                   kWidth = AITERLITE_WIDTH;
constexpr bool kShuffled = AITERLITE_SHUFFLED, kWeighted = AITERLITE_WEIGHTED, kBiased = AITERLITE_BIASED;
constexpr int kRounding = AITERLITE_ROUNDING;
constexpr uint32_t kInner = 8, kGroupInner = kTiles * kInner, kAllUnits = kWidth / kUnitK;
// A token's row of x: another 64 bytes behind a multiple of 128 keep columns on other banks.
constexpr uint32_t kPitch = 2 * kWidth + 64;
constexpr bool kWhole = kWaves * kUnits == kAllUnits, kFinal = kGroupInner == kMxBlock;
static_assert(kWidth % kUnitK == 0 && kWaves * kUnits >= kAllUnits, "warps have all of K");
static_assert(kAhead >= 1 && kUnits % kAhead == 0, "a unit's registers are known when this is compiled");
static_assert(kColumns >= 1 && kColumns <= 8, "mma.sync has 8 columns");
static_assert(kGroupInner <= kMxBlock, "a workgroup has at most a block of h");

struct Shared {
  Quad partial[kTiles][kWaves][kColumns][4];  // sums of 16 rows
  uint16_t h[kColumns][kMxBlock];
  uint32_t experts[kMostMxPairs];
  alignas(16) char x[kColumns * kPitch];
};

using Unit = MxUnit<kShuffled, false>;

}  // namespace

AITERLITE_KERNEL_RESIDENT(kThreads, AITERLITE_RESIDENT)
aiterlite_fused_moe_sm90_mx_gate_up(aiterlite_fused_moe_args args) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  // Waits first: stage 2 takes what is ahead of this kernel for ended once this one has admitted it.
  await_predecessors();
  admit_successors();
  const auto inter = static_cast<uint32_t>(args.inter), topk = static_cast<uint32_t>(args.topk);
  const uint32_t strips = inter / kGroupInner, first = workgroup_id() % strips * kGroupInner;
  find_experts<false, kWaves>(args, shared.experts);
  workgroup_barrier();
  const MxGroup<kColumns> group(shared.experts, workgroup_id() / strips);
  if (group.count == 0) return;

  const uint32_t lane = lane_id(), wave = wave_id();
  const auto step = static_cast<uint32_t>(args.gate_step), up = static_cast<uint32_t>(args.up_offset);
  const MxExpert<kShuffled> w1(args.w1, args.w1_scale, kWidth, 2 * inter, group.expert);
  const auto rows_of = [&](uint32_t tile) {
    const uint32_t gate = (first + tile * kInner + lane / 4) * step;
    return w1.rows(gate, gate + up);
  };
  const uint32_t first_unit = wave * kUnits;
  const auto exists = [&](uint32_t u) { return kWhole || first_unit + u < kAllUnits; };
  auto rows = rows_of(0);
  Unit unit[kAhead];
#pragma unroll
  for (uint32_t u = 0; u < kAhead; ++u) {
    if (exists(u)) unit[u].load(rows, first_unit + u);
  }

  bring_numbers<kRounding, kThreads>(shared.x, kPitch, group.count, kWidth, [&](uint32_t column) {
    uint32_t pair = group.pair[0];
#pragma unroll
    for (uint32_t c = 1; c < kColumns; ++c) pair = column == c ? group.pair[c] : pair;
    return static_cast<const char*>(args.x) + int64_t{pair / topk} * args.stride_x * 2;
  });
  workgroup_barrier();

  const uint32_t column = lane / 4 < group.count ? lane / 4 : 0;
  const char* x = shared.x + column * kPitch + lane % 4 * 16 + first_unit * kPieceBytes;
#pragma unroll 1
  for (uint32_t tile = 0; tile < kTiles; ++tile) {
    float sums[2][4] = {};
#pragma unroll
    for (uint32_t u = 0; u < kUnits; ++u) {
      if (exists(u)) {
        unit[u % kAhead].multiply(sums, [&](uint32_t w) { return load_shared_16(x + u * kPieceBytes + w * 64); });
      }
      const uint32_t next = (u + kAhead) % kUnits;
      if (u + kAhead < kUnits) {
        if (exists(next)) unit[u % kAhead].load(rows, first_unit + next);
      } else if (tile + 1 < kTiles) {
        if (next == 0) rows = rows_of(tile + 1);
        if (exists(next)) unit[u % kAhead].load(rows, first_unit + next);
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t of = lane % 4 * 2 + i % 2;
      auto* to = reinterpret_cast<float*>(shared.partial[tile][wave][of < kColumns ? of : 0]);
      if (of < group.count) to[lane / 4 + i / 2 * 8] = sums[0][i] + sums[1][i];
    }
  }
  workgroup_barrier();

  // A warp has a column at a time, a lane one of the inner width.
  const Swiglu swiglu = {args.limit, args.beta, args.linear_beta};
#pragma unroll 1
  for (uint32_t c = wave; c < group.count; c += kWaves) {
    uint32_t pair = group.pair[0];
#pragma unroll
    for (uint32_t i = 1; i < kColumns; ++i) pair = c == i ? group.pair[i] : pair;
    const bool within = lane < kGroupInner;
    const uint32_t own = within ? lane : 0, tile = own / kInner, row = own % kInner;
    float gate = 0.0f, upper = 0.0f;
#pragma unroll
    for (uint32_t w = 0; w < kWaves; ++w) {
      const auto* of = reinterpret_cast<const float*>(shared.partial[tile][w][c]);
      gate += of[row];
      upper += of[row + kInner];
    }
    if constexpr (kWeighted) {
      // Of x times the weight they are as much.
      const float weight = load_f32(args.topk_weights + int64_t{pair / topk} * args.stride_weights + pair % topk);
      gate *= weight;
      upper *= weight;
    }
    if constexpr (kBiased) {
      const float* bias = args.bias1 + uint64_t{2} * group.expert * inter + (first + own) * step;
      gate += load_f32(bias);
      upper += load_f32(bias + up);
    }
    const uint16_t h = from_float<bf16>(activate<AITERLITE_ACTIVATION>(gate, upper, swiglu)).bits;
    char* to = static_cast<char*>(args.h) + uint64_t{pair} * inter * 2;
    if constexpr (kFinal) {
      shared.h[c][lane] = h;
      wave_barrier();
      const Vector16 made = numbers_in_order<kRounding>(load_shared_16(&shared.h[c][lane % 4 * 8]));
      if (lane < 4) {
        store_quad(reinterpret_cast<float*>(to + place_in_order(first + lane * 8)), __builtin_bit_cast(Quad, made));
      }
    } else {
      if (within) store_u16(to + (first + own) * 2, h);
    }
  }
}
