// Stage 1 of a mixture of experts of MXFP4 weights on sm_90 by 8-bit products: h = act(x w1_gate^T) * (x w1_up^T) of a
// sorted block of AITERLITE_COLS entries (fused_moe/sm90_args.h), for some tens of tokens. Behind sm90_prepare.hip,
// which sorts, and makes codes of x.
//
// Tiling. A workgroup has a block of entries by 32 elements of h, which are a block of MXFP4: 32 gate and 32 up rows of
// w1 and all of K, in steps of 64 rows by 256 k (fused_moe/sm90_mx_step.h). AITERLITE_GROUPS warpgroups take steps in
// turn, each through a ring of AITERLITE_STAGES of its own, as do the AITERLITE_CLUSTER workgroups of a cluster, whose
// first one gets the sums of all; AITERLITE_RESIDENT workgroups share a multiprocessor, so
// that one's start and end are another's stream. A warp has 8 gate rows and the 8 up rows of the same elements.
//
// Traffic. w1 and its scales once a block of entries: 17 bytes for 32 codes. Codes and scales of x: a row an entry and
// workgroup, from the L2, a thirtieth of that for each. h: its codes and scales once.
//
// Order. A group's steps ascending, blocks of 32 in them ascending, then groups, and workgroups of a cluster,
// ascending: the bits of an entry do not depend on others. No atomics. Grid: blocks that there may be, times inter /
// 32; those that are not there end at once.
#include <aiterlite/block/cluster.h>
#include <aiterlite/fused_moe/activation.h>
#include <aiterlite/fused_moe/sm90_mx_numbers.h>
#include <aiterlite/fused_moe/sm90_mx_step.h>
#include <aiterlite/overlap.h>
#include <aiterlite/vector.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::experts;
using namespace aiterlite::experts::mx;

constexpr uint32_t kWidth = AITERLITE_WIDTH, kSteps = kWidth / kStepK, kElements = kMxBlock;
constexpr uint32_t kInter = AITERLITE_INTER;
constexpr uint32_t kRanks = AITERLITE_CLUSTER, kShares = kRanks * kGroups;  // of K
// From gate row to gate row, and to the up row that goes with it.
constexpr uint32_t kGateStep = AITERLITE_INTERLEAVED ? 2 : 1, kUp = AITERLITE_INTERLEAVED ? 1 : kInter;
static_assert(kWidth % kStepK == 0, "AITERLITE_WIDTH must be a multiple of 256");

struct Shared {
  Stage ring[kGroups][kStages];
  RowScales scales[kGroups];
  alignas(16) float sums[kGroups == 1 ? 1 : kGroups - 1][kGroupThreads][kSums];
  alignas(16) uint16_t h[kColumns][kElements];
};
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the rings do not fit AITERLITE_SHARED_BYTES");

}  // namespace

AITERLITE_KERNEL_RESIDENT(kThreads, AITERLITE_RESIDENT)
AITERLITE_CLUSTER_DIMS(AITERLITE_CLUSTER)
aiterlite_sm90_moe_mx_group_up(const __grid_constant__ aiterlite_sm90_moe_args given) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  const aiterlite_fused_moe_args& args = given.moe;
  await_predecessors();
  admit_successors();
  constexpr uint32_t strips = kInter / kElements;
  const uint32_t tile = workgroup_id() / kRanks, block = tile / strips;
  const uint32_t first = tile % strips * kElements;
  const NoShared none;
  const ListsOf<NoShared, Reading::kLate> lists(given, none);
  if (block >= lists.blocks()) return;

  Place place;
  const uint32_t group = shuffle(thread_id() / kGroupThreads, 0);
  const uint32_t rank = kRanks > 1 ? cluster_rank() : 0, share = rank * kGroups + group;
  const uint64_t expert = lists.expert(block);
  // Rows of this warp: elements 8 w to 8 w + 7, gate and then up.
  const uint32_t element = first + 8 * place.warp;
  using Bytes = RowBytes<kWidth>;
  const uint64_t first_of_expert = expert * 2 * kInter;
  const uint32_t scaled = Bytes::scale_row();
  const uint32_t scale_row = (element + scaled % 8) * kGateStep + scaled / 8 * kUp;
  const uint8_t* codes = static_cast<const uint8_t*>(args.w1) + first_of_expert * (kWidth / 2) +
                         Bytes::code((element + Bytes::code_row()) * kGateStep) + share * Bytes::kStep;
  const uint8_t* scales = reinterpret_cast<const uint8_t*>(args.w1_scale) + first_of_expert * (kWidth / kMxBlock) +
                          Bytes::scale(scale_row) + share * Bytes::kScaleStep;
  place.scale_shift[0] = place.scale_shift[1] = Bytes::scale_shift(scale_row);
  const auto apart = [](uint32_t copy) {
    if constexpr (kShuffled) {
      return copy % 2 * 1024 + copy / 2 * (AITERLITE_INTERLEAVED ? 16 : kUp * (kWidth / 2));
    } else {
      return (copy % 2 * 4 * kGateStep + copy / 2 * kUp) * (kWidth / 2);
    }
  };
  constexpr uint32_t kScaleApart = AITERLITE_INTERLEAVED ? 4 : kUp / 32 * kWidth;
  bool all[kScaleWords];
  for (bool& one : all) one = true;
  // Columns that this thread copies.
  constexpr uint32_t kPasses = kColumns / kColumnsAtOnce;
  const uint8_t* x[kPasses];
  bool wanted[kPasses];
#pragma unroll
  for (uint32_t pass = 0; pass < kPasses; ++pass) {
    const uint32_t token = lists.token(block * kColumns + pass * kColumnsAtOnce + place.thread / 16);
    wanted[pass] = token != ~0u;
    x[pass] = given.codes + uint64_t{wanted[pass] ? token : 0} * kWidth + share * kStepK + place.thread % 16 * 16;
  }
  const float* x_scale = nullptr;
  const uint32_t scaled_column = place.thread / 2 % kColumns, scaled_half = place.thread % 2;
  bool wanted_scale = false;
  if (place.thread < 2 * kColumns) {
    const uint32_t token = lists.token(block * kColumns + scaled_column);
    wanted_scale = token != ~0u;
    x_scale = given.code_scale + uint64_t{wanted_scale ? token : 0} * (kWidth / kMxBlock) + share * kStepBlocks +
              scaled_half * 4;
  }
  // Asks for the next step, and goes on to the one behind it.
  const auto ask = [&](Stage& stage, uint32_t) {
    copy_rows(stage, place, codes, apart, [](uint32_t) { return true; }, scales, kScaleApart, all);
    codes += kShares * Bytes::kStep;
    scales += kShares * Bytes::kScaleStep;
#pragma unroll
    for (uint32_t pass = 0; pass < kPasses; ++pass) {
      if (wanted[pass]) copy_column(stage, place, pass, x[pass]);
      x[pass] += kShares * kStepK;
    }
    if (wanted_scale) copy_column_scale(stage, scaled_column, scaled_half, x_scale);
    x_scale += kShares * kStepBlocks;
  };
  const uint32_t count = (kSteps + kShares - 1 - share) / kShares;
  Stage(&ring)[kStages] = shared.ring[group];
#pragma unroll
  for (uint32_t n = 0; n + 1 < kStages; ++n) {
    if (n < count) ask(ring[n], n);
    commit_copies();
  }
  RowScales& row_scales = shared.scales[group];
  float sums[kSums] = {};
  run_steps(ring, group, count, ask,
            [&](const Stage& stage, uint32_t) { multiply_step(stage, row_scales, place, sums); });

  if (group != 0) {
#pragma unroll
    for (uint32_t k = 0; k < kSums; ++k) shared.sums[group - 1][place.thread][k] = sums[k];
  }
  workgroup_barrier();
  if (group == 0) {
#pragma unroll
    for (uint32_t other = 1; other < kGroups; ++other) {
#pragma unroll
      for (uint32_t k = 0; k < kSums; ++k) sums[k] += shared.sums[other - 1][place.thread][k];
    }
  }
  if constexpr (kRanks > 1) {
    float (&own)[kSums] = shared.sums[0][place.thread];
    if (rank != 0 && group == 0) {
#pragma unroll
      for (uint32_t k = 0; k < kSums; ++k) own[k] = sums[k];
    }
    cluster_barrier();
    if (rank == 0 && group == 0) {
#pragma unroll
      for (uint32_t other = 1; other < kRanks; ++other) {
#pragma unroll
        for (uint32_t k = 0; k < kSums; ++k) sums[k] += load_from_rank(address_in_rank(&own[k], other));
      }
    }
    cluster_barrier();  // those that are read stay
    if (rank != 0) return;
  }
  if (group != 0) return;
#pragma unroll
  for (float& sum : sums) sum *= kOfSums;
  const fused_moe::Swiglu swiglu = {args.limit, args.beta, args.linear_beta};
  const uint32_t own = 8 * place.warp + place.lane / 4;
  float bias[2] = {};
  if constexpr (AITERLITE_BIAS1) {
    const float* of = args.bias1 + first_of_expert + (first + own) * kGateStep;
    bias[0] = load_f32(of);
    bias[1] = load_f32(of + kUp);
  }
#pragma unroll
  for (uint32_t k = 0; k < kPairs; ++k) {
    const uint32_t column = place.column(k / 2, k % 2), at = k / 2 * 4 + k % 2;
    float gate = sums[at], upper = sums[at + 2];
    if constexpr (AITERLITE_WEIGHTED_INPUT) {
      const float weight = lists.weight(block * kColumns + column);
      gate *= weight;
      upper *= weight;
    }
    if constexpr (AITERLITE_BIAS1) {
      gate += bias[0];
      upper += bias[1];
    }
    shared.h[column][own] = from_float<bf16>(fused_moe::activate<AITERLITE_ACTIVATION>(gate, upper, swiglu)).bits;
  }
  named_barrier_wait(1, kGroupThreads);
  // A warp has eight columns, a quad of lanes one.
  if (place.warp >= kColumns / 8) return;
  const uint32_t column = place.warp * 8 + place.lane / 4, entry = block * kColumns + column;
  const BlockCodes made = codes_of_block<AITERLITE_ROUNDING>(load_shared_16(&shared.h[column][place.lane % 4 * 8]));
  if (lists.token(entry) == ~0u) return;
  store_block(static_cast<uint8_t*>(args.h) + uint64_t{entry} * kInter + first, place.lane % 4, made);
  if (place.lane % 4 == 0) args.h_scale[uint64_t{entry} * strips + first / kMxBlock] = made.scale;
}
