// Stage 2 of the fused mixture of experts on sm_90, for as many tokens as a workgroup has room for: the products of h
// with w2, and biases, weighted, and their sum over the slots of each token.
//
// Formulation. As in stage 1 weights are rows and entries columns. A workgroup owns AITERLITE_ROWS elements of every
// token's result and runs over all blocks of entries: their experts' rows of w2 stream through shared memory, and what
// an entry gets is added, weighted, to its token's sums there. So nothing is written for each slot.
//
// Tiling. A lane asks for boxes of rows of 128 bytes of w2; warps gather the block's rows of h, scales, entries and
// weights, each into stages of its own of a ring of AITERLITE_STAGES. AITERLITE_GROUPS warpgroups take blocks in turn;
// a turn passes when a block's products are added. None may wait for a stage before the use before it has been read:
// there are as many stages as steps of a block of each group, or one group. The weights of the first stages are asked
// for while stage 1 still ends.
//
// Traffic. w2 of each expert that has entries once a block, from memory; h, scales and entries once a workgroup, from
// the L2, which is what bounds it from some 256 tokens on: an SM takes in about 24 bytes a cycle. out once.
//
// Order. A token's slots are added in the order of their experts, so its bits depend on its own row of h, weights and
// experts.
//
// Grid: width / AITERLITE_ROWS, upwards. Shared memory holds the sums of `tokens` rows.
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/fused_moe/sm90_cut.h>
#include <aiterlite/overlap.h>
#include <aiterlite/quant/strip.h>
#include <aiterlite/tile/sm90_copy.h>
#include <aiterlite/tile/sm90_turn.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::experts;

constexpr uint32_t kStages = AITERLITE_STAGES, kGatherWarps = AITERLITE_GATHER_WARPS, kGroups = AITERLITE_GROUPS;
constexpr uint32_t kGroupThreads = kGroupWaves * kWaveSize, kMultiplying = kGroups * kGroupThreads;
constexpr uint32_t kThreads = kMultiplying + (kGatherWarps + 1) * kWaveSize;
// Of the 64 rows of a product the workgroup owns so many; what it multiplies by others is not looked at.
constexpr uint32_t kOwnRows = AITERLITE_ROWS, kPitch = kOwnRows + 4;  // of a token's sums: tokens in different banks
static_assert(kStages % kGatherWarps == 0, "a warp fills the same stages again");
static_assert(kOwnRows % 8 == 0 && kOwnRows <= kGroupRows && (!AITERLITE_SHUFFLED || kOwnRows == kGroupRows),
              "AITERLITE_ROWS must be a multiple of 8, at most 64; 64 of shuffled weights");
constexpr uint32_t kAllBarrier = 1;
using Out = AITERLITE_ELEMENT;

struct alignas(1024) Stage {
  uint8_t w[kGroupRows * kStepBytes];
  uint8_t h[kColumns * kStepBytes];
  float scale[kColumns];
  int32_t entry[kColumns];
  float weight[kColumns];
  float w_scale[2];  // of the rows up to a multiple of 128, and of those behind it
};
struct Shared {
  Stage stage[kStages];
  Barrier full[kStages];
  Barrier empty[kStages];
  Barrier turn[kGroups];
  ListShared lists;
  alignas(16) float sums[1][kPitch];  // a row a token
};
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");

struct Work {
  uint32_t blocks, steps;  // steps of a block

  AITERLITE_DEVICE Work(const Args& args, const EarlyLists& lists)
      : blocks(lists.blocks()), steps(static_cast<uint32_t>(args.moe.inter) / kStep) {}
};

using Turn = RingTurn<kStages>;

// One warp, of which one lane asks. It reads no more than weights, and what was there before stage 1 began: so it waits
// for nothing. A lane knows the expert of one of 32 blocks, and has asked for that of one of the next: an answer of the
// L2 takes longer than a block.
AITERLITE_DEVICE void copy_weights(const Args& args, const TensorMap& map, const EarlyLists& lists, const Work& work,
                                   Shared& shared) {
  const auto width = static_cast<uint32_t>(args.moe.width), row = workgroup_id() * kOwnRows, lane = lane_id();
  const uint64_t once = keep_briefly();
  const auto expert_at = [&](uint32_t block) { return block < work.blocks ? lists.expert(block) : 0; };
  uint32_t experts = 0, next = expert_at(lane);
  Turn turn;
#pragma unroll 1
  for (uint32_t block = 0; block < work.blocks; ++block) {
    if (block % kWaveSize == 0) {
      experts = next;
      next = expert_at(block + kWaveSize + lane);
    }
    const uint32_t first_row = shuffle(experts, block % kWaveSize) * width + row;
    if (lane != 0) continue;
#pragma unroll 1
    for (uint32_t step = 0; step < work.steps; ++step, turn.skip(1)) {
      Stage& stage = shared.stage[turn.stage];
      Barrier& full = shared.full[turn.stage];
      shared.empty[turn.stage].wait(turn.parity ^ 1);
      full.arrive_expecting(kOwnRows * kStepBytes);
      if constexpr (AITERLITE_SHUFFLED) {
        copy_box(stage.w, map, 0, first_row / 16, step * (kStepBytes / 16), full, once);
      } else {
        copy_box(stage.w, map, step * kStep, first_row, full, once);
      }
    }
  }
}

// Warps that take stages in turn: rows of h, scales of both, and, with the last step of a block, entries and weights. A
// step's instructions take longer than its weights, so one warp alone would be too slow.
AITERLITE_DEVICE void gather(const Args& args, const Lists& lists, const Work& work, Shared& shared, uint32_t warp) {
  const uint32_t lane = lane_id(), chunk = lane % 8, first_row = lane / 8;
  const auto inter = static_cast<uint32_t>(args.moe.inter), groups = inter / kRows;
  const uint64_t row_bytes = uint64_t{inter} * sizeof(Code);
  const auto* h = static_cast<const uint8_t*>(args.moe.h) + first_row * row_bytes + chunk * 16;
  const uint32_t scale_row = workgroup_id() * kOwnRows / kRows;
  const bool more_rows = (scale_row + 1) * kRows < static_cast<uint32_t>(args.moe.width);
  const float* w_scale = args.moe.w2_scale + uint64_t{scale_row + (lane % 2 != 0 && more_rows)} * groups;
  const uint64_t expert_scales = static_cast<uint64_t>(static_cast<uint32_t>(args.moe.width) / kRows) * groups;
  const auto expert_at = [&](uint32_t block) { return block < work.blocks ? lists.expert(block) : 0; };
  uint32_t block = warp / work.steps, step = warp % work.steps;
  Turn turn;
  turn.skip(warp);
  // Entries that are no padding, which stands behind them: of padding nothing is read, and zeros are what it is.
  // A lane's tokens of a block; read a block ahead, and not looked at until then.
  constexpr uint32_t kHeld = (kColumns + kWaveSize - 1) / kWaveSize;
  const auto read_tokens = [&](uint32_t block, uint32_t (&token)[kHeld]) {
#pragma unroll
    for (uint32_t i = 0; i < kHeld; ++i) {
      const uint32_t column = i * kWaveSize + lane;
      token[i] = block < work.blocks && column < kColumns ? lists.token(block * kColumns + column) : ~0u;
    }
  };
  uint32_t next = expert_at(block), next_token[kHeld], count = 0, counted = ~0u;
  read_tokens(block, next_token);
#pragma unroll 1
  while (block < work.blocks) {
    const uint32_t expert = next, first = block * kColumns;
    if (block != counted) {
      counted = block;
      count = 0;
#pragma unroll
      for (const uint32_t token : next_token) count += static_cast<uint32_t>(__popc(lanes_where(token != ~0u)));
    }
    const bool last = step + 1 == work.steps;
    Stage& stage = shared.stage[turn.stage];
    Barrier& full = shared.full[turn.stage];
    const uint8_t* from = h + first * row_bytes + step * kStepBytes;
    const uint32_t own_step = step;
    // Where this warp's next stage is.
    step += kGatherWarps;
    const uint32_t before = block;
    while (step >= work.steps) {
      step -= work.steps;
      ++block;
    }
    if (block != before) {
      next = expert_at(block);
      read_tokens(block, next_token);
    }
    shared.empty[turn.stage].wait(turn.parity ^ 1);
    turn.skip(kGatherWarps);
#pragma unroll
    for (uint32_t i = 0; i < kColumns / 4; ++i) {
      const uint32_t row = first_row + 4 * i;
      const bool wanted = row < count;
      copy_async(stage.h + row * kStepBytes + (chunk ^ row % 8) * 16, from + (wanted ? 4 * i * row_bytes : 0), wanted);
    }
#pragma unroll
    for (uint32_t column = lane; column < kColumns; column += kWaveSize) {
      if constexpr (kIsFp8) {
        const uint64_t pitch = static_cast<uint32_t>(args.entry_pitch);
        copy_word_async(stage.scale + column, args.moe.h_scale + own_step * pitch + first + column);
      }
      if (!kInline && last) {
        copy_word_async(stage.entry + column, args.moe.sorted_ids + first + column);
        copy_word_async(stage.weight + column, args.moe.sorted_weights + first + column);
      }
    }
    if constexpr (kIsFp8 && !kRowScales) {
      if (lane >= kWaveSize - 2) copy_word_async(stage.w_scale + lane % 2, w_scale + expert * expert_scales + own_step);
    }
    full.arrive_after_copies();
  }
}

AITERLITE_DEVICE void multiply(const Args& args, const Lists& lists, const Work& work, Shared& shared, uint32_t group) {
  const uint32_t lane = lane_id(), thread = thread_id() % kGroupThreads;
  const Place place(thread);
  constexpr uint32_t kPieceBytes = 128, kAlongK = kGroupRows / 8 * kPieceBytes;
  constexpr uint32_t kAdvance = AITERLITE_SHUFFLED ? 2 * kAlongK : 32;
  // Rows of w2 behind a multiple of 128 have another scale.
  const uint32_t first_row = workgroup_id() * kOwnRows % kRows;
  const uint32_t second_scale[2] = {first_row + place.row(0) >= kRows, first_row + place.row(1) >= kRows};
  const uint32_t first_owned = workgroup_id() * kOwnRows, left = static_cast<uint32_t>(args.moe.width) - first_owned;
  const uint32_t rows = left < kOwnRows ? left : kOwnRows;
  const bool owned[2] = {place.row(0) < rows, place.row(1) < rows};
  Turn turn;
  turn.skip(group * work.steps);
#pragma unroll 1
  for (uint32_t block = group; block < work.blocks; block += kGroups, turn.skip((kGroups - 1) * work.steps)) {
    float sums[kSums] = {};
    float weight[kColumns / 4];
    uint32_t token[kColumns / 4];
    // What rows have of their own; asked for before the products, which take longer.
    float own_scale[2] = {1.0f, 1.0f}, bias[2] = {};
    if constexpr (kRowScales || AITERLITE_BIAS2) {
      const uint32_t expert = lists.expert(block);
      const uint64_t first = uint64_t{expert} * static_cast<uint32_t>(args.moe.width) + first_owned;
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        if (!owned[i]) continue;
        const uint64_t row = first + place.row(i);
        if constexpr (kRowScales) own_scale[i] = load_f32(args.moe.w2_scale + (kTensorScales ? expert : row));
        if constexpr (AITERLITE_BIAS2) bias[i] = load_f32(args.moe.bias2 + row);
      }
    }
#pragma unroll 1
    for (uint32_t step = 0; step < work.steps; ++step) {
      const uint32_t at = turn.stage;
      const Stage& stage = shared.stage[at];
      shared.full[at].wait(turn.parity);
      turn.skip(1);
      publish_to_engines();
      const uint64_t w = AITERLITE_SHUFFLED ? operand_descriptor(stage.w, Swizzle::kNone, kPieceBytes, kAlongK)
                                            : tile_descriptor(stage.w);
      const uint64_t h = tile_descriptor(stage.h);
      float part[kSums];
      begin_group();
      multiply_group<Start::kZero>(Code{}, part, w, h);
#pragma unroll
      for (uint32_t k = 1; k < 4; ++k) {
        multiply_group(Code{}, part, advanced_bytes(w, k * kAdvance), advanced_bytes(h, k * 32));
      }
      commit_group();
      float scale[kColumns / 4];
#pragma unroll
      for (uint32_t k = 0; k < kColumns / 4; ++k) {
        const uint32_t column = place.column(k / 2, k % 2);
        scale[k] = kIsFp8 ? stage.scale[column] : 1.0f;
        if (step + 1 == work.steps) {
          const uint32_t entry = block * kColumns + column;
          token[k] = kInline ? lists.token(entry) : lists.token_of(static_cast<uint32_t>(stage.entry[column]));
          weight[k] = AITERLITE_WEIGHTED_INPUT ? 1.0f : kInline ? lists.weight(entry) : stage.weight[column];
        }
      }
      float row_scale[2] = {1.0f, 1.0f};
#pragma unroll
      for (uint32_t i = 0; kIsFp8 && !kRowScales && i < 2; ++i) row_scale[i] = stage.w_scale[second_scale[i]];
      await_group<0>();
      if (lane == 0) shared.empty[at].arrive();
#pragma unroll
      for (uint32_t k = 0; k < kSums; ++k) {
        sums[k] = __builtin_fmaf(part[k], scale[k / 4 * 2 + k % 2] * row_scale[k / 2 % 2], sums[k]);
      }
    }
    shared.turn[group].wait(block / kGroups & 1);
#pragma unroll
    for (uint32_t k = 0; k < kColumns / 4; ++k) {
      if (token[k] == ~0u) continue;
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        if (!owned[i]) continue;
        const float made = sums[k / 2 * 4 + 2 * i + k % 2];
        const float value = AITERLITE_BIAS2 ? __builtin_fmaf(made, own_scale[i], bias[i]) : made * own_scale[i];
        float& sum = shared.sums[token[k]][place.row(i)];
        sum = __builtin_fmaf(value, weight[k], sum);
      }
    }
    shared.turn[(group + 1) % kGroups].arrive();
  }
}

}  // namespace

AITERLITE_KERNEL(kThreads) aiterlite_sm90_moe_down(const __grid_constant__ aiterlite_sm90_moe_gemm_args given) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  const Args& args = given.experts;
  const auto& w_map = reinterpret_cast<const TensorMap&>(given.w_map);
  const uint32_t warp = shuffle(thread_id() / kWaveSize, 0);
  if (thread_id() == 0) {
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      shared.full[stage].open(1 + kWaveSize);
      shared.empty[stage].open(kGroupWaves);
    }
    for (Barrier& turn : shared.turn) turn.open(kGroupThreads);
    publish_barriers();
    fetch_map_early(w_map);
  }
  workgroup_barrier();
  admit_successors();
  // Stage 1's end began after all that lists are made of was there, so this kernel did too.
  make_lists<kThreads>(args, shared.lists);
  const EarlyLists early(args, shared.lists);
  const Lists lists(args, shared.lists);
  const Work work(args, early);
  if (warp == kMultiplying / kWaveSize + kGatherWarps) {
    copy_weights(args, w_map, early, work, shared);
    await_predecessors();
    return;
  }
  if (warp >= kMultiplying / kWaveSize) {
    await_predecessors();
    gather(args, lists, work, shared, warp - kMultiplying / kWaveSize);
    return;
  }
  const auto tokens = static_cast<uint32_t>(args.moe.tokens);
  for (uint32_t i = thread_id(); i < tokens * kPitch; i += kMultiplying) shared.sums[0][i] = 0.0f;
  await_predecessors();
  named_barrier_wait(kAllBarrier, kMultiplying);
  const uint32_t group = warp / kGroupWaves;
  // The first turn is the first group's.
  if (group + 1 == kGroups) shared.turn[0].arrive();
  multiply(args, lists, work, shared, group);
  named_barrier_wait(kAllBarrier, kMultiplying);

  constexpr uint32_t kChunks = kOwnRows / 8;
  auto* out = static_cast<Out*>(args.moe.out) + workgroup_id() * kOwnRows;
#pragma unroll 4
  for (uint32_t i = thread_id(); i < tokens * kChunks; i += kMultiplying) {
    const uint32_t token = i / kChunks, first = i % kChunks * 8;
    if (workgroup_id() * kOwnRows + first >= static_cast<uint32_t>(args.moe.width)) continue;
    Out* to = out + token * args.moe.stride_out + first;
    float value[8];
#pragma unroll
    for (uint32_t k = 0; k < 8; k += 4) {
      const Quad& quad = *reinterpret_cast<const Quad*>(&shared.sums[token][first + k]);
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) value[k + j] = quad.value[j];
    }
    Vector16 packed;
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k) {
      packed.word[k] =
          from_float<Out>(value[2 * k]).bits | static_cast<uint32_t>(from_float<Out>(value[2 * k + 1]).bits) << 16;
    }
    store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, packed));
  }
}
