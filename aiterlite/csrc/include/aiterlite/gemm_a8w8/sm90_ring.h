// Of the GEMM of 8-bit floats on sm_90 (gemm_a8w8/sm90.hip): where a workgroup stands, the ring of steps of 128 k in
// shared memory, and who fills it. A part of its text, to which a variant's defines are known.
#pragma once
#include <aiterlite/block/mailbox.h>
#include <aiterlite/gemm_a8w8/output.h>
#include <aiterlite/gemm_a8w8/sm90_args.h>
#include <aiterlite/overlap.h>
#include <aiterlite/tile/sm90_copy.h>
#include <aiterlite/tile/sm90_turn.h>

namespace {

using namespace aiterlite;
using Result = AITERLITE_RESULT;
using Args = aiterlite_gemm_a8w8_args;

constexpr uint32_t kColumns = AITERLITE_COLS, kRows = AITERLITE_ROWS, kStages = AITERLITE_STAGES;
constexpr uint32_t kCluster = AITERLITE_CLUSTER, kEarly = AITERLITE_EARLY;
constexpr uint32_t kShare = AITERLITE_SHARE;  // workgroups that share tokens
constexpr bool kShuffled = AITERLITE_SHUFFLED;
// Whether scales are those of 128 k, which steps are multiplied by, or of all k, which the end is multiplied by.
constexpr bool kGroupsOfX = AITERLITE_X_GROUPS, kBlocksOfW = AITERLITE_W_BLOCKS, kScaled = kGroupsOfX || kBlocksOfW;

using End = gemm_a8w8::Output<Result, !kGroupsOfX, !kBlocksOfW>;

constexpr uint32_t kStep = 128, kScaleRows = 128, kTileRows = 16;
// Blocks of 128 rows that so many rows may touch, which begin at a multiple of their number.
constexpr uint32_t kAligned = kRows & (~kRows + 1);
constexpr uint32_t kBlocks =
    (kScaleRows - (kAligned < kScaleRows ? kAligned : kScaleRows) + kRows - 1) / kScaleRows + 1;
constexpr uint32_t kScalers = kScaled ? kWaveSize : 0;

static_assert(kColumns == 8 || kColumns == 16 || kColumns == 32 || kColumns == 64 || kColumns == 128,
              "AITERLITE_COLS must be 8, 16, 32, 64 or 128");
static_assert(kRows % kTileRows == 0 && kRows >= kTileRows && kRows <= 256,
              "AITERLITE_ROWS must be a multiple of 16, at most 256");
static_assert(kCluster >= 1 && kCluster <= 8, "AITERLITE_CLUSTER must be 1 to 8");
static_assert(AITERLITE_CLUSTER_SIZE == kCluster * kShare, "AITERLITE_CLUSTER_SIZE counts all that share or exchange");
static_assert(kColumns % (8 * kShare) == 0, "each workgroup that shares fetches whole groups of 8 tokens");

struct alignas(1024) Stage {
  uint8_t w[kRows * kStep];
  uint8_t x[kColumns * kStep];
};
struct alignas(8) Scales {
  float x[kColumns];
  float w[kBlocks];
};
static_assert(sizeof(Stage) == (kRows + kColumns) * kStep, "tiles begin at multiples of 1024 bytes");

AITERLITE_DEVICE const TensorMap& map(const aiterlite_tensor_map& opaque) {
  return reinterpret_cast<const TensorMap&>(opaque);
}

// What a workgroup does: its rows and tokens, and its steps of K, [begin, begin + count); and where it stands in its
// cluster: `rank` of those that split K, `share` of those that share tokens.
struct Work {
  uint32_t rank = 0, share = 0, first_row, first_token, batch, begin, count;

  AITERLITE_DEVICE uint32_t of_rank(uint32_t other) const { return share * kCluster + other; }
  AITERLITE_DEVICE uint32_t of_share(uint32_t other) const { return other * kCluster + rank; }
  AITERLITE_DEVICE uint16_t sharers() const {
    uint32_t every = 0;
#pragma unroll
    for (uint32_t i = 0; i < kShare; ++i) every |= 1u << (i * kCluster);
    return static_cast<uint16_t>(every << rank);
  }

  AITERLITE_DEVICE explicit Work(const Args& args) {
    if constexpr (kCluster * kShare > 1) {
      rank = cluster_rank() % kCluster;
      share = cluster_rank() / kCluster;
    }
    const uint32_t token_tiles = (static_cast<uint32_t>(args.n) + kColumns - 1) / kColumns;
    const uint32_t row_tiles = (static_cast<uint32_t>(args.m) + kShare * kRows - 1) / (kShare * kRows);
    const uint32_t tile = workgroup_id() / (kCluster * kShare), pieces = tile / token_tiles;
    first_token = (tile - pieces * token_tiles) * kColumns;
    batch = pieces / row_tiles;
    first_row = ((pieces - batch * row_tiles) * kShare + share) * kRows;
    const uint32_t steps = (static_cast<uint32_t>(args.k) + kStep - 1) / kStep;
    const uint32_t each = steps / kCluster, more = steps % kCluster;
    begin = rank * each + (rank < more ? rank : more);
    count = each + (rank < more ? 1 : 0);
  }
};

using Turn = RingTurn<kStages>;

// Where a step's weights are, for `ask`: (x, y, z) of the map.
template <class Ask>
AITERLITE_DEVICE void at_weights(const aiterlite_sm90_gemm_a8w8_args& args, const Work& work, uint32_t step,
                                 const Ask& ask) {
  if constexpr (kShuffled) {
    // Pieces of 16 rows of 16 bytes; batches are further rows.
    ask(0, (work.batch * static_cast<uint32_t>(args.gemm.m) + work.first_row) / 16, step * (kStep / 16));
  } else {
    ask(step * kStep, work.first_row, work.batch);
  }
}

// One lane, before others have ended: weights of the first steps come to the L2 already, which reads nothing yet.
AITERLITE_DEVICE void prefetch_weights(const aiterlite_sm90_gemm_a8w8_args& args, const Work& work) {
  const uint32_t steps = work.count < kEarly ? work.count : kEarly;
#pragma unroll 1
  for (uint32_t step = work.begin; step != work.begin + steps; ++step) {
    at_weights(args, work, step, [&](uint32_t x, uint32_t y, uint32_t z) { prefetch_box(map(args.w_map), x, y, z); });
  }
}

// One lane: fills the ring, waiting for each stage to be read before it is filled again.
template <class Shared>
AITERLITE_DEVICE void copy(const aiterlite_sm90_gemm_a8w8_args& args, Shared& shared, const Work& work) {
  const uint64_t once = keep_briefly(), again = keep_long();
  Turn turn;
#pragma unroll 1
  for (uint32_t step = work.begin; step < work.begin + work.count; ++step, turn.advance(1)) {
    Stage& stage = shared.stage[turn.stage];
    Barrier& full = shared.full[turn.stage];
    shared.empty[turn.stage].wait(turn.parity ^ 1);
    full.arrive_expecting(sizeof(Stage));
    at_weights(args, work, step,
               [&](uint32_t x, uint32_t y, uint32_t z) { copy_box(stage.w, map(args.w_map), x, y, z, full, once); });
    constexpr uint32_t kFetched = kColumns / kShare;
    const uint32_t own = work.share * kFetched;
    if constexpr (kShare == 1) {
      copy_box(stage.x, map(args.x_map), step * kStep, work.first_token, work.batch, full, again);
    } else {
      copy_box_to_ranks(stage.x + own * kStep, map(args.x_map), step * kStep, work.first_token + own, work.batch, full,
                        work.sharers());
    }
  }
}

// One warp: the scales of each step.
template <class Shared>
AITERLITE_DEVICE void fetch_scales(const Args& args, Shared& shared, const Work& work) {
  constexpr uint32_t kHeld = (kColumns + kWaveSize - 1) / kWaveSize;
  const uint32_t lane = lane_id(), tokens = static_cast<uint32_t>(args.n) - work.first_token;
  const float* x = args.x_scale + work.batch * args.stride_x_scale_batch + work.first_token * args.stride_x_scale;
  // The last lanes fetch those of weights.
  const uint32_t block = lane - (kWaveSize - kBlocks), row = work.first_row / kScaleRows + block;
  const bool of_weights = kBlocksOfW && lane >= kWaveSize - kBlocks;
  const bool block_exists = of_weights && row * kScaleRows < static_cast<uint32_t>(args.m);
  const float* w =
      args.w_scale + work.batch * args.stride_w_scale_batch + (block_exists ? row * args.stride_w_scale : 0);
  Turn turn;
#pragma unroll 1
  for (uint32_t step = work.begin; step < work.begin + work.count; ++step, turn.advance(1)) {
    Scales& scales = shared.scales[turn.stage];
    shared.empty[turn.stage].wait(turn.parity ^ 1);
    if constexpr (kGroupsOfX) {
#pragma unroll
      for (uint32_t i = 0; i < kHeld; ++i) {
        const uint32_t column = lane + i * kWaveSize;
        const bool wanted = column < tokens;
        const float* from = x + (wanted ? column * args.stride_x_scale + step * args.stride_x_scale_group : 0);
        if (column < kColumns) copy_word_async(scales.x + column, from, wanted);
      }
    }
    if (of_weights) {
      copy_word_async(scales.w + block, w + (block_exists ? step : 0), block_exists);
    }
    shared.full[turn.stage].arrive_after_copies();
  }
}

// Says that this warp has read a step's stage, whose number is `step`, and who may write it again.
template <class Shared>
AITERLITE_DEVICE void release(Shared& shared, const Turn& turn, const Work& work, uint32_t step) {
  const uint32_t lane = lane_id();
  if constexpr (kShare == 1) {
    if (lane == 0) shared.empty[turn.stage].arrive();
  } else {
    // Where it will be written again: then nobody is told who has ended.
    if (step + kStages < work.count && lane < kShare) {
      shared.empty[turn.stage].arrive_having_read_in(work.of_share(lane));
    }
  }
}

}  // namespace
