// Stage 2 of a mixture of experts of MXFP4 weights on sm_90 by 8-bit products: out[token] = sum over its entries of
// weight * (w2 h[entry] + bias2), of sorted blocks of AITERLITE_COLS entries (fused_moe/sm90_args.h), for some tens of
// tokens. Behind sm90_mx_group_up.hip.
//
// Tiling. A workgroup owns AITERLITE_ROWS elements of every token's result and goes over all blocks, which its
// AITERLITE_GROUPS warpgroups take in turn: their experts' rows of w2 and rows of h come in steps of 256 k
// (fused_moe/sm90_mx_step.h) through a ring of AITERLITE_STAGES of each group, across blocks. What an entry gets is
// added, weighted, to its token's sums in shared memory, when the blocks before have been: nothing is written a slot.
//
// Early. Lists are read, and the first weights asked for, before stage 1 has ended: it had waited for all ahead of it
// before it admitted this kernel.
//
// Traffic. w2 and its scales once a block of entries; h, its scales, entries and weights once a workgroup, from the L2;
// no padding of h. out once.
//
// Order. An entry's blocks of 32 k ascending; a token's slots in the order of their experts. No atomics: same operands,
// same bits, and those of a token do not depend on others. A block has no token twice. Grid: width / AITERLITE_ROWS.
#include <aiterlite/fused_moe/sm90_mx_step.h>
#include <aiterlite/numeric/types.h>
#include <aiterlite/overlap.h>

// Named: lambdas of the kernel hold what is declared here.
namespace aiterlite::experts::mx::down {

constexpr uint32_t kInter = AITERLITE_INTER, kSteps = kInter / kStepK, kOwnRows = AITERLITE_ROWS;
constexpr uint32_t kPitch = kOwnRows + 4;  // of a token's sums
constexpr uint32_t kMostBlocks = AITERLITE_BLOCKS, kTokens = AITERLITE_TOKENS;
static_assert(kInter % kStepK == 0, "AITERLITE_INTER must be a multiple of 256");
static_assert(kOwnRows % 8 == 0 && kOwnRows <= kGroupRows, "AITERLITE_ROWS must be a multiple of 8, at most 64");

struct Shared {
  Stage ring[kGroups][kStages];
  RowScales scales[kGroups];
  Barrier turn[kGroups];
  uint16_t expert[kMostBlocks];
  uint8_t count[kMostBlocks];  // entries that are no padding, which stands behind them
  alignas(16) float sums[kTokens][kPitch];
};
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the rings do not fit AITERLITE_SHARED_BYTES");

}  // namespace aiterlite::experts::mx::down

AITERLITE_KERNEL(aiterlite::experts::mx::kThreads)
aiterlite_sm90_moe_mx_group_down(const __grid_constant__ aiterlite_sm90_moe_args given) {
  using namespace aiterlite;
  using namespace aiterlite::experts;
  using namespace aiterlite::experts::mx::down;
  using namespace aiterlite::experts::mx;
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  const aiterlite_fused_moe_args& args = given.moe;
  const NoShared none;
  const ListsOf<NoShared, Reading::kEarly> lists(given, none);
  Place place;
  const uint32_t group = shuffle(thread_id() / kGroupThreads, 0);
  const auto width = static_cast<uint32_t>(args.width);
  const uint32_t first_row = workgroup_id() * kOwnRows, left = width - first_row;
  const uint32_t rows = left < kOwnRows ? left : kOwnRows;
  if (thread_id() == 0) {
    for (Barrier& turn : shared.turn) turn.open(kGroupThreads);
    publish_barriers();
  }
  const uint32_t blocks = lists.blocks();
#pragma unroll 1
  for (uint32_t block = thread_id(); block < blocks; block += kThreads) {
    uint32_t count = 0;
#pragma unroll
    for (uint32_t i = 0; i < kColumns; ++i) count += lists.token(block * kColumns + i) != ~0u ? 1 : 0;
    shared.expert[block] = static_cast<uint16_t>(lists.expert(block));
    shared.count[block] = static_cast<uint8_t>(count);
  }
#pragma unroll 1
  for (uint32_t i = thread_id(); i < kTokens * kPitch; i += kThreads) shared.sums[0][i] = 0.0f;
  workgroup_barrier();

  using Bytes = RowBytes<kInter>;
  const uint32_t own_row = place.warp * kWarpRows, code_row = first_row + own_row + Bytes::code_row();
  const uint32_t scale_row = first_row + own_row + Bytes::scale_row();
  const uint8_t* codes = static_cast<const uint8_t*>(args.w2) + Bytes::code(code_row);
  const uint8_t* scales = reinterpret_cast<const uint8_t*>(args.w2_scale) + Bytes::scale(scale_row);
  // Of shuffled weights rows 8 further on may be in another piece or tile.
  const uint32_t code_apart = Bytes::code(code_row + 8) - Bytes::code(code_row);
  const auto scale_apart = static_cast<int32_t>(Bytes::scale(scale_row + 8) - Bytes::scale(scale_row));
  bool scale_owned[kScaleWords];
#pragma unroll
  for (uint32_t i = 0; i < kScaleWords; ++i) {
    scale_owned[i] = scale_row - first_row + 8 * i < rows;
    place.scale_shift[i] = Bytes::scale_shift(scale_row + 8 * i);
  }
  const auto apart = [=](uint32_t copy) {
    return kShuffled ? copy % 2 * 1024 + copy / 2 * code_apart : copy * 4 * (kInter / 2);
  };
  const auto owned = [=](uint32_t copy) { return code_row - first_row + (kShuffled ? copy / 2 * 8 : copy * 4) < rows; };
  const auto block_of = [&](uint32_t n) { return group + n / kSteps * kGroups; };
  const auto ask_weights = [&](Stage& stage, uint32_t n) {
    const uint64_t row = uint64_t{shared.expert[block_of(n)]} * width;
    const uint32_t step = n % kSteps;
    copy_rows(stage, place, codes + row * (kInter / 2) + step * Bytes::kStep, apart, owned,
              scales + row * (kInter / kMxBlock) + step * Bytes::kScaleStep, scale_apart, scale_owned);
  };
  const auto ask_rows = [&](Stage& stage, uint32_t n) {
    const uint32_t block = block_of(n), step = n % kSteps, first = block * kColumns, count = shared.count[block];
    const auto* h = static_cast<const uint8_t*>(args.h) + step * kStepK + place.thread % 16 * 16;
#pragma unroll
    for (uint32_t pass = 0; pass < kColumns / kColumnsAtOnce; ++pass) {
      const uint32_t column = pass * kColumnsAtOnce + place.thread / 16;
      if (column < count) copy_column(stage, place, pass, h + uint64_t{first + column} * kInter);
    }
    if (place.thread < 2 * kColumns) {
      const uint32_t column = place.thread / 2;
      const float* scale =
          args.h_scale + uint64_t{first + column} * (kInter / kMxBlock) + step * kStepBlocks + place.thread % 2 * 4;
      if (column < count) copy_column_scale(stage, column, place.thread % 2, scale);
    } else if (place.thread < 3 * kColumns) {
      const uint32_t column = place.thread - 2 * kColumns;
      copy_word_async(stage.entry + column, args.sorted_ids + first + column);
      copy_word_async(stage.weight + column, args.sorted_weights + first + column);
    }
  };
  const uint32_t count = (blocks + kGroups - 1 - group) / kGroups * kSteps;
  Stage(&ring)[kStages] = shared.ring[group];
#pragma unroll 1
  for (uint32_t n = 0; n + 1 < kStages && n < count; ++n) ask_weights(ring[n], n);
  await_predecessors();
  admit_successors();
#pragma unroll
  for (uint32_t n = 0; n + 1 < kStages; ++n) {
    if (n < count) ask_rows(ring[n], n);
    commit_copies();
  }
  const auto ask = [&](Stage& stage, uint32_t n) {
    ask_weights(stage, n);
    ask_rows(stage, n);
  };
  // The first turn is the first group's.
  if (group + 1 == kGroups) shared.turn[0].arrive();
  float sums[kSums];
  run_steps(ring, group, count, ask, [&](const Stage& stage, uint32_t n) {
    if (n % kSteps == 0) {
#pragma unroll
      for (float& sum : sums) sum = 0.0f;
    }
    multiply_step(stage, shared.scales[group], place, sums);
    if ((n + 1) % kSteps != 0) return;
    const uint32_t block = block_of(n);
    float bias[2] = {};
    if constexpr (AITERLITE_BIAS2) {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        if (place.row(i) >= rows) continue;
        bias[i] = load_f32(args.bias2 + uint64_t{shared.expert[block]} * width + first_row + place.row(i));
      }
    }
    shared.turn[group].wait(n / kSteps & 1);
#pragma unroll
    for (uint32_t k = 0; k < kPairs; ++k) {
      const uint32_t column = place.column(k / 2, k % 2);
      const uint32_t token = lists.token_of(static_cast<uint32_t>(stage.entry[column]));
      if (token == ~0u) continue;
      const float weight = AITERLITE_WEIGHTED_INPUT ? 1.0f : stage.weight[column];
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        if (place.row(i) >= rows) continue;
        const float made = __builtin_fmaf(sums[k / 2 * 4 + 2 * i + k % 2], kOfSums, bias[i]);
        float& sum = shared.sums[token][place.row(i)];
        sum = __builtin_fmaf(made, weight, sum);
      }
    }
    shared.turn[(group + 1) % kGroups].arrive();
  });
  workgroup_barrier();

  constexpr uint32_t kChunks = kOwnRows / 8;
  auto* out = static_cast<uint16_t*>(args.out) + first_row;
#pragma unroll 1
  for (uint32_t i = thread_id(); i < static_cast<uint32_t>(args.tokens) * kChunks; i += kThreads) {
    const uint32_t token = i / kChunks, first = i % kChunks * 8;
    if (first >= rows) continue;
    Vector16 packed;
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k) {
      const float* value = &shared.sums[token][first + 2 * k];
      packed.word[k] = from_float<bf16>(value[0]).bits | static_cast<uint32_t>(from_float<bf16>(value[1]).bits) << 16;
    }
    store_quad(reinterpret_cast<float*>(out + token * args.stride_out + first), __builtin_bit_cast(Quad, packed));
  }
}
