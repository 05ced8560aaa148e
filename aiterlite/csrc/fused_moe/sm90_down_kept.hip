// Stage 2 of the fused mixture of experts on sm_90, for up to some 1,000 tokens: the products of h with w2, weighted,
// and their sum over the slots of each token, which stays in shared memory in 24 bits an element.
//
// Formulation. As fused_moe/sm90_down.hip: weights are rows and entries columns; a workgroup owns AITERLITE_ROWS
// elements of every token's result and runs over all blocks of entries. A sum is the first 24 bits of a float,
// cut off after each addition (or 20, rounded): 16 bits of it in one plane, 8 in another. The result has 16 bits, so
// what is lost does not show.
//
// Tiling. AITERLITE_TAKERS warps each take blocks in turn to ask the copy engine for boxes of rows of w2, and for a
// block's live rows of h, which stage 1 has laid out as the matrix unit wants it, and to multiply scales and weights
// with each other. AITERLITE_GROUPS warpgroups take blocks in turn; a warp's turn passes when its 16 rows of a block
// are added. A lane has rows r and r + 8 of a token, which are neighbours in a plane: a word and a half are read and
// written for both. Tokens of a block differ, so all its sums are read at once; padding is added to a row of its own.
//
// Traffic. w2 of each expert that has entries once a block, from memory. h once a cluster of AITERLITE_RANKS, whose
// workgroups each send a share of a block's rows to all. No rows of slots. out once.
//
// Order. A token's slots are added in the order of their experts. No atomics.
//
// Grid: width / AITERLITE_ROWS, upwards, whole clusters. Shared memory holds the planes of `tokens` rows. `arrived` has
// how many entries of each block are no padding (fused_moe/sm90_prepare_many.hip).
#include <aiterlite/block/cluster.h>
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/fused_moe/sm90_planes.h>
#include <aiterlite/numeric/pack.h>
#include <aiterlite/overlap.h>
#include <aiterlite/tile/sm90_copy.h>
#include <aiterlite/tile/sm90_turn.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::experts;
using namespace aiterlite::experts::kept;

// Stages of the ring, a block's weights, rows of h and numbers each; steps of 128 bytes of a block.
constexpr uint32_t kStages = AITERLITE_STAGES, kSteps = AITERLITE_STEPS;
constexpr uint32_t kGroups = AITERLITE_GROUPS, kRanks = AITERLITE_RANKS;
constexpr uint32_t kGroupThreads = kGroupWaves * kWaveSize, kMultiplying = kGroups * kGroupThreads;
// Warps of each role that take blocks in turn: what one does for a block takes longer than the block. A stage is always
// the same one's, or a warp might see a barrier a round too early.
constexpr uint32_t kTakers = AITERLITE_TAKERS;
static_assert(kStages % kTakers == 0 && kColumns <= 2 * kWaveSize);
constexpr uint32_t kWeightsWarp = kMultiplying / kWaveSize, kRowsWarp = kWeightsWarp + kTakers,
                   kNumbersWarp = kRowsWarp + kTakers, kWarps = kNumbersWarp + kTakers;
constexpr uint32_t kThreads = (kWarps + kGroupWaves - 1) / kGroupWaves * kGroupThreads;
static_assert(kIsFp8 && !kRowScales && !kInline && kTiled);
static_assert(kGroups <= kStages);
constexpr uint32_t kAllBarrier = 1;
using Out = AITERLITE_ELEMENT;

struct alignas(1024) Stage {
  uint8_t w[kSteps][kOwnRows * kStepBytes];
  uint8_t h[kSteps][kColumns * kStepBytes];
};
struct alignas(16) Numbers {  // that go with a stage
  // By which a step's product is multiplied: scales of h and of w2, of the rows up to a multiple of 128 and of those
  // behind it, and weights.
  float factor[2][kSteps][kColumns];
  uint32_t token[kColumns];
  uint32_t chunks;  // of 8 entries, of which one at least is no padding
};
struct Shared {
  Stage stage[kStages];
  Numbers numbers[kStages];
  Barrier full[kStages];
  Barrier empty[kStages];
  Barrier turn[kGroups][kGroupWaves];  // of each 16 rows
  alignas(16) uint8_t planes[16];      // [tokens][kOwnRows] of 16 bits, then [tokens][kLowBytes]
};
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");

using Turn = RingTurn<kStages>;

struct Work {
  uint32_t blocks, rank;

  AITERLITE_DEVICE Work(const Args&, const EarlyLists& lists)
      : blocks(lists.blocks()), rank(kRanks == 1 ? 0 : cluster_rank()) {}
};

// A number of each of a taker's blocks, of which a lane holds those of every 32nd; the next 32 are on their way.
template <class Read>
class OfBlocks {
 public:
  AITERLITE_DEVICE OfBlocks(uint32_t taker, uint32_t blocks, const Read& read)
      : taker_(taker), blocks_(blocks), read_(read), now_(at(lane_id())), next_(at(kWaveSize + lane_id())) {}
  // All lanes; of the taker's turns, in order.
  AITERLITE_DEVICE void turn_to(uint32_t turn) {
    if (turn % kWaveSize != 0 || turn == 0) return;
    now_ = next_;
    next_ = at(turn + kWaveSize + lane_id());
  }
  AITERLITE_DEVICE uint32_t of(uint32_t turn) const { return shuffle(now_, turn % kWaveSize); }
  // Of one that is less than kWaveSize ahead.
  AITERLITE_DEVICE uint32_t of_later(uint32_t turn, uint32_t by) const {
    const uint32_t place = turn % kWaveSize + by;
    return shuffle(place < kWaveSize ? now_ : next_, place % kWaveSize);
  }

 private:
  AITERLITE_DEVICE uint32_t at(uint32_t turn) const {
    const uint32_t block = turn * kTakers + taker_;
    return block < blocks_ ? read_(block) : 0;
  }
  const uint32_t taker_, blocks_;
  const Read& read_;
  uint32_t now_, next_;
};

// One warp, of which one lane asks. It reads no more than weights, and what was there before stage 1 began: so it waits
// for nothing.
AITERLITE_DEVICE void ask_for_weights(const Args& args, const TensorMap& map, const EarlyLists& lists, const Work& work,
                                      Shared& shared, uint32_t taker) {
  const uint64_t once = keep_briefly();
  const uint32_t row = workgroup_id() * kOwnRows;
  const auto read = [&](uint32_t block) { return lists.expert(block); };
  OfBlocks experts(taker, work.blocks, read);
  Turn turn;
  turn.advance(taker);
#pragma unroll 1
  for (uint32_t i = 0, block = taker; block < work.blocks; ++i, block += kTakers, turn.advance(kTakers)) {
    experts.turn_to(i);
    const uint32_t expert = experts.of(i);
    if (lane_id() != 0) continue;
    Stage& stage = shared.stage[turn.stage];
    Barrier& full = shared.full[turn.stage];
    shared.empty[turn.stage].wait(turn.parity ^ 1);
    full.arrive_expecting(sizeof(Stage::w));
#pragma unroll
    for (uint32_t step = 0; step < kSteps; ++step) copy_box(stage.w[step], map, step * kStep, row, expert, full, once);
  }
}

// One warp, of which one lane asks: a block's live rows of h, of every kRanks-th step to all of the cluster.
AITERLITE_DEVICE void ask_for_rows(const Args& args, const Work& work, Shared& shared, uint32_t taker) {
  const auto read_count = [&](uint32_t block) { return load_latest(args.arrived + block); };
  OfBlocks counts(taker, work.blocks, read_count);
  await_predecessors();  // lists are older than these
  Turn turn;
  turn.advance(taker);
#pragma unroll 1
  for (uint32_t i = 0, block = taker; block < work.blocks; ++i, block += kTakers, turn.advance(kTakers)) {
    counts.turn_to(i);
    const uint32_t bytes = counts.of(i) * kStepBytes;
    const auto* h = static_cast<const uint8_t*>(args.moe.h) + uint64_t{block} * sizeof(Stage::h);
    if (lane_id() != 0) continue;
    Stage& stage = shared.stage[turn.stage];
    Barrier& full = shared.full[turn.stage];
    shared.empty[turn.stage].wait(turn.parity ^ 1);
    full.arrive_expecting(kSteps * bytes);
#pragma unroll
    for (uint32_t step = 0; step < kSteps; ++step) {
      const uint8_t* from = h + step * (kColumns * kStepBytes);
      if constexpr (kRanks == 1) {
        copy_bytes(stage.h[step], from, bytes, full);
      } else if (step % kRanks == work.rank) {
        copy_bytes_to_ranks(stage.h[step], from, bytes, full, (1u << kRanks) - 1);
      }
    }
  }
}

// A lane has two entries: what sums are multiplied by, and the tokens they go to. Of two turns ahead it is on its way.
AITERLITE_DEVICE void make_numbers(const Args& args, const EarlyLists& lists, const Work& work, Shared& shared,
                                   uint32_t taker) {
  constexpr uint32_t kOwn = (kColumns + kWaveSize - 1) / kWaveSize;
  struct Given {
    uint32_t entry[kOwn];
    float weight[kOwn], scale[kOwn][kSteps], w_scale;
  };
  const uint32_t lane = lane_id();
  const auto scale_rows = static_cast<uint32_t>(args.moe.width) / kRows,
             pitch = static_cast<uint32_t>(args.entry_pitch);
  const auto tokens = static_cast<uint32_t>(args.moe.tokens);
  const auto read_expert = [&](uint32_t block) { return lists.expert(block); };
  const auto read_count = [&](uint32_t block) { return load_latest(args.arrived + block); };
  OfBlocks experts(taker, work.blocks, read_expert);
  OfBlocks counts(taker, work.blocks, read_count);
  await_predecessors();  // lists are older than these
  const uint32_t wanted = workgroup_id() * kOwnRows / kRows + lane / kSteps;
  const uint32_t scale_row = wanted < scale_rows ? wanted : scale_rows - 1;
  const auto read = [&](uint32_t block, uint32_t expert) {
    Given made = {};
    if (block >= work.blocks) return made;
#pragma unroll
    for (uint32_t own = 0; own < kOwn; ++own) {
      const uint32_t column = own * kWaveSize + lane, at = block * kColumns + column;
      if (column >= kColumns) continue;
      made.entry[own] = static_cast<uint32_t>(load_i32(args.moe.sorted_ids + at));
      made.weight[own] = AITERLITE_WEIGHTED_INPUT ? 1.0f : load_f32(args.moe.sorted_weights + at);
#pragma unroll
      for (uint32_t step = 0; step < kSteps; ++step) {
        made.scale[own][step] = load_f32(args.moe.h_scale + uint64_t{step} * pitch + at);
      }
    }
    if (lane < 2 * kSteps) {
      made.w_scale = load_f32(args.moe.w2_scale + (uint64_t{expert} * scale_rows + scale_row) * kSteps + lane % kSteps);
    }
    return made;
  };
  Turn turn;
  turn.advance(taker);
  Given now = read(taker, experts.of(0)), next = read(taker + kTakers, experts.of_later(0, 1));
#pragma unroll 1
  for (uint32_t i = 0, block = taker; block < work.blocks; ++i, block += kTakers, turn.advance(kTakers)) {
    experts.turn_to(i);
    counts.turn_to(i);
    const Given later = read(block + 2 * kTakers, experts.of_later(i, 2));
    const uint32_t count = counts.of(i);
    float w_scale[2][kSteps];
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
#pragma unroll
      for (uint32_t step = 0; step < kSteps; ++step) {
        const auto bits = __builtin_bit_cast(uint32_t, now.w_scale);
        w_scale[half][step] = __builtin_bit_cast(float, shuffle(bits, half * kSteps + step));
      }
    }
    Numbers& numbers = shared.numbers[turn.stage];
    shared.empty[turn.stage].wait(turn.parity ^ 1);
#pragma unroll
    for (uint32_t own = 0; own < kOwn; ++own) {
      const uint32_t column = own * kWaveSize + lane, token = lists.token_of(now.entry[own]);
      if (column >= kColumns) continue;
      numbers.token[column] = token == ~0u ? tokens : token;
#pragma unroll
      for (uint32_t step = 0; step < kSteps; ++step) {
        const float scale = now.scale[own][step] * now.weight[own];
        numbers.factor[0][step][column] = scale * w_scale[0][step];
        numbers.factor[1][step][column] = scale * w_scale[1][step];
      }
    }
    if (lane == 0) numbers.chunks = (count + 7) / 8;
    wave_barrier();
    if (lane == 0) shared.full[turn.stage].arrive();
    now = next;
    next = later;
  }
}

// What a multiplying thread is, and what it needs of its workgroup.
struct Multiplier {
  const Work& work;
  const Planes& planes;
  uint32_t group, warp, lane, factors[2];  // of its two rows

  // A block of at most 8 * kChunks entries.
  template <uint32_t kChunks>
  AITERLITE_DEVICE void take(Shared& shared, const Turn& turn, uint32_t block) const {
    const Stage& stage = shared.stage[turn.stage];
    const Numbers& numbers = shared.numbers[turn.stage];
    float part[kSteps][4 * kChunks];
    begin_group();
#pragma unroll
    for (uint32_t step = 0; step < kSteps; ++step) {
      const uint64_t w = tile_descriptor(stage.w[step]), h = tile_descriptor(stage.h[step]);
      multiply_group<Start::kZero>(Code{}, part[step], w, h);
#pragma unroll
      for (uint32_t k = 1; k < 4; ++k) {
        multiply_group(Code{}, part[step], advanced_bytes(w, k * 32), advanced_bytes(h, k * 32));
      }
    }
    commit_group();
    float factor[2][kSteps][2 * kChunks];
    uint32_t token[2 * kChunks];
#pragma unroll
    for (uint32_t k = 0; k < 2 * kChunks; k += 2) {
      const uint32_t column = 4 * k + lane % 4 * 2;  // of two neighbours
      const Vector8 named = load_shared_8(numbers.token + column);
      token[k] = named.word[0];
      token[k + 1] = named.word[1];
#pragma unroll
      for (uint32_t step = 0; step < kSteps; ++step) {
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
          const Vector8 two = load_shared_8(&numbers.factor[0][0][0] + factors[i] + step * kColumns + column);
          factor[i][step][k] = __builtin_bit_cast(float, two.word[0]);
          factor[i][step][k + 1] = __builtin_bit_cast(float, two.word[1]);
        }
      }
    }
    await_group<0>();
    if (lane == 0) {
      shared.empty[turn.stage].arrive();
      if constexpr (kRanks == 2) shared.empty[turn.stage].arrive_having_read_in(work.rank ^ 1);
    }
    float sums[4 * kChunks];
#pragma unroll
    for (uint32_t k = 0; k < 4 * kChunks; ++k) {
      const uint32_t at = k / 4 * 2 + k % 2, i = k / 2 % 2;
      sums[k] = part[0][k] * factor[i][0][at];
#pragma unroll
      for (uint32_t step = 1; step < kSteps; ++step) {
        sums[k] = __builtin_fmaf(part[step][k], factor[i][step][at], sums[k]);
      }
    }
    shared.turn[group][warp].wait(block / kGroups & 1);
    if (16 * warp + 16 <= kOwnRows) {
      add<true, kChunks>(sums, token, planes, warp);
    } else if (16 * warp + 8 <= kOwnRows) {
      add<false, kChunks>(sums, token, planes, warp);
    }
    wave_barrier();
    if (lane == 0) shared.turn[(group + 1) % kGroups][warp].arrive();
  }
};

AITERLITE_DEVICE void multiply(const Work& work, Shared& shared, uint32_t group, const Planes& planes) {
  // Most blocks are not full: of those fewer columns are multiplied and added.
  constexpr uint32_t kMost = kColumns / 8, kFew = kMost > 3 ? kMost - 2 : kMost;
  const uint32_t thread = thread_id() % kGroupThreads, warp = shuffle(thread / kWaveSize, 0);
  const Place place(thread);
  // Rows of w2 behind a multiple of 128 have another scale.
  const uint32_t first_row = workgroup_id() * kOwnRows % kRows;
  constexpr uint32_t kBehind = kSteps * kColumns;
  const Multiplier multiplier = {
      work,      planes,
      group,     warp,
      lane_id(), {first_row + place.row(0) >= kRows ? kBehind : 0, first_row + place.row(1) >= kRows ? kBehind : 0}};
  Turn turn;
  turn.advance(group);
#pragma unroll 1
  for (uint32_t block = group; block < work.blocks; block += kGroups, turn.advance(kGroups)) {
    shared.full[turn.stage].wait(turn.parity);
    if (kFew < kMost && shuffle(shared.numbers[turn.stage].chunks, 0) <= kFew) {
      multiplier.take<kFew>(shared, turn, block);
    } else {
      multiplier.take<kMost>(shared, turn, block);
    }
  }
}

AITERLITE_DEVICE void write(const Args& args, const Planes& planes) {
  constexpr uint32_t kParts = (kOwnRows + 15) / 16;
  const auto tokens = static_cast<uint32_t>(args.moe.tokens), width = static_cast<uint32_t>(args.moe.width);
  auto* out = static_cast<Out*>(args.moe.out);
#pragma unroll 1
  for (uint32_t i = thread_id(); i < tokens * kParts; i += kMultiplying) {
    const uint32_t token = i / kParts, part = i % kParts, column = workgroup_id() * kOwnRows + 16 * part;
    const bool pairs = 16 * part + 16 <= kOwnRows;
    float sums[2][8];
    planes.read(sums[0], sums[1], token, part, pairs);
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      if ((half == 1 && !pairs) || column + 8 * half >= width) continue;
      Vector16 made;
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) made.word[j] = pack_pair(Out{}, sums[half][2 * j], sums[half][2 * j + 1]);
      auto* to = reinterpret_cast<float*>(out + token * args.moe.stride_out + column + 8 * half);
      store_quad(to, __builtin_bit_cast(Quad, made));
    }
  }
}

}  // namespace

AITERLITE_KERNEL(kThreads)
AITERLITE_CLUSTER_DIMS(AITERLITE_RANKS)
aiterlite_sm90_moe_down_kept(const __grid_constant__ aiterlite_sm90_moe_gemm_args given) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  const Args& args = given.experts;
  const auto& w_map = reinterpret_cast<const TensorMap&>(given.w_map);
  const uint32_t warp = shuffle(thread_id() / kWaveSize, 0);
  if (thread_id() == 0) {
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      shared.full[stage].open(3);
      shared.empty[stage].open(kRanks * kGroupWaves);
    }
    for (auto& of_group : shared.turn) {
      for (Barrier& turn : of_group) turn.open(1);
    }
    publish_barriers();
    fetch_map_early(w_map);
  }
  if constexpr (kRanks == 1) {
    workgroup_barrier();
  } else {
    cluster_barrier();
  }
  admit_successors();
  // Stage 1's end began after all that lists are made of was there, so this kernel did too.
  const ListShared none;
  const EarlyLists early(args, none);
  const Work work(args, early);
  const auto tokens = static_cast<uint32_t>(args.moe.tokens);
  if (warp < kWeightsWarp) {
    take_registers<AITERLITE_MULTIPLIER_REGISTERS>();
    const Planes planes = {reinterpret_cast<uint16_t*>(shared.planes), shared.planes + (tokens + 1) * kOwnRows * 2};
    const Vector16 zeros = {};
    for (uint32_t i = thread_id(); i < ((tokens + 1) * kTokenBytes + 15) / 16; i += kMultiplying) {
      store_shared_16(shared.planes + 16 * i, zeros);
    }
    await_predecessors();
    named_barrier_wait(kAllBarrier, kMultiplying);
    const uint32_t group = warp / kGroupWaves;
    // The first turn is the first group's.
    if (group + 1 == kGroups && lane_id() == 0) shared.turn[0][warp % kGroupWaves].arrive();
    multiply(work, shared, group, planes);
    named_barrier_wait(kAllBarrier, kMultiplying);
    write(args, planes);
  } else {
    give_registers<AITERLITE_OTHER_REGISTERS>();
    if (warp >= kWarps) {
      await_predecessors();
    } else if (warp >= kNumbersWarp) {
      make_numbers(args, early, work, shared, warp - kNumbersWarp);
    } else if (warp >= kRowsWarp) {
      ask_for_rows(args, work, shared, warp - kRowsWarp);
    } else {
      ask_for_weights(args, w_map, early, work, shared, warp - kWeightsWarp);
      await_predecessors();
    }
  }
  // Others send to this one, and tell it what is free, until they end.
  if constexpr (kRanks != 1) cluster_barrier();
}
