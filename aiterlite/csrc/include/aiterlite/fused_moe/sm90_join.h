// What stage 2 that adds slots up as they get ready (fused_moe/sm90_down_join.hip) has in shared memory, which tiles
// its workgroups take, and who asks the copy engine for weights and for h.
#pragma once
#include <aiterlite/fused_moe/sm90_cut.h>
#include <aiterlite/overlap.h>
#include <aiterlite/tile/sm90_counters.h>
#include <aiterlite/tile/sm90_turn.h>

namespace aiterlite::experts::join {

inline constexpr uint32_t kStages = AITERLITE_STAGES, kSets = 2, kSetWarps = 2, kAdders = AITERLITE_ADDERS,
                          kTickets = 8;
inline constexpr uint32_t kTileRows = 2 * kRows, kCounterWords = 32;
inline constexpr uint32_t kBatch = 8;    // slots that are fetched, and added, at a time
inline constexpr uint32_t kFetches = 2;  // batches of a warp that adds
// Parts of 256 elements whose rows of slots lie in memory: the next are written over them.
inline constexpr uint32_t kParts = AITERLITE_PARTS;
// Warpgroups of roles: two that multiply, one that stores, and two of which a warp asks for weights, one for entries,
// one watches counters, and up to five add.
inline constexpr uint32_t kMultiplierWarps = 2 * kGroupWaves, kStorerWarp = kMultiplierWarps;
inline constexpr uint32_t kAskerWarp = kStorerWarp + kSets * kSetWarps, kWatcherWarp = kAskerWarp + 2;
inline constexpr uint32_t kAdderWarp = kWatcherWarp + 1, kThreads = (kAskerWarp + 2 * kGroupWaves) * kWaveSize;
static_assert(!kSplit && kTickets % kSets == 0 && kSets * kSetWarps == kGroupWaves && kAdders <= 5);

struct alignas(1024) Stage {
  uint8_t w[2][kRows * kStepBytes];
  uint8_t h[kColumns * kStepBytes];
  alignas(16) float scale[kColumns];
  alignas(16) float weight[kColumns];
  float w_scale[2];
};
struct Shared {
  Stage stage[kStages];
  alignas(16) uint16_t rows[kSets][kColumns][kTileRows + 8];           // of entries, on their way to memory
  alignas(16) uint16_t fetched[kAdders][kFetches][kBatch][kTileRows];  // rows of slots that are to be added
  Barrier full[kStages];
  Barrier empty[kStages];
  Barrier rows_full[kSets];
  Barrier rows_empty[kSets];
  Barrier fetched_full[kAdders][kFetches];
  Barrier ticket_full[kTickets];
  Barrier ticket_empty[kTickets];
  uint32_t ticket[kTickets];
  uint32_t stored;  // parts whose tiles are stored, of all workgroups

  // One thread; others may use it behind a barrier.
  AITERLITE_DEVICE void open() {
    for (uint32_t i = 0; i < kStages; ++i) {
      full[i].open(2 + kWaveSize);
      empty[i].open(kMultiplierWarps);
    }
    for (uint32_t set = 0; set < kSets; ++set) {
      rows_full[set].open(kMultiplierWarps);
      rows_empty[set].open(kSetWarps);
    }
    for (auto& of_adder : fetched_full) {
      for (Barrier& barrier : of_adder) barrier.open(1);
    }
    for (uint32_t i = 0; i < kTickets; ++i) {
      ticket_full[i].open(1);
      ticket_empty[i].open(kMultiplierWarps + 1 + kSetWarps);
    }
    stored = 0;
    publish_barriers();
  }
};
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");

using Turn = RingTurn<kStages>;

// Counters, in lines of their own: tiles and sums that are taken, then of each part warps that have stored a tile of
// it, then tokens whose rows of it have been fetched.
struct Counters {
  uint32_t* first;

  AITERLITE_DEVICE uint32_t* tiles() const { return first; }
  AITERLITE_DEVICE uint32_t* sums() const { return first + kCounterWords; }
  AITERLITE_DEVICE uint32_t* stored(uint32_t part) const { return first + (2 + part) * kCounterWords; }
  AITERLITE_DEVICE uint32_t* fetched(uint32_t part, uint32_t parts) const { return stored(parts + part); }
};

// Tiles in order: all blocks' of the first 256 elements, then of the next.
struct Work {
  uint32_t blocks, parts, steps, tiles, workgroups;

  template <class AnyLists>
  AITERLITE_DEVICE Work(const Args& args, const AnyLists& lists)
      : blocks(lists.blocks()),
        parts((static_cast<uint32_t>(args.moe.width) + kTileRows - 1) / kTileRows),
        steps(static_cast<uint32_t>(args.moe.inter) / kStep),
        tiles(blocks * parts),
        workgroups(static_cast<uint32_t>(args.workgroups)) {}
  AITERLITE_DEVICE uint32_t part(uint32_t tile) const { return tile / blocks; }
  AITERLITE_DEVICE uint32_t block(uint32_t tile) const { return tile % blocks; }
};

// Tiles that the workgroup has taken, in order; one of no tile ends them.
struct Tickets {
  RingTurn<kTickets> turn;

  // One thread.
  AITERLITE_DEVICE void push(Shared& shared, uint32_t tile) {
    shared.ticket_empty[turn.stage].wait(turn.parity ^ 1);
    shared.ticket[turn.stage] = tile;
    shared.ticket_full[turn.stage].arrive();
    turn.advance(1);
  }
  // A warp, which takes every `by`-th one.
  AITERLITE_DEVICE uint32_t pop(Shared& shared, uint32_t by = 1) {
    shared.ticket_full[turn.stage].wait(turn.parity);
    const uint32_t tile = *const_cast<volatile uint32_t*>(&shared.ticket[turn.stage]);
    wave_barrier();
    if (lane_id() == 0) shared.ticket_empty[turn.stage].arrive();
    turn.advance(by);
    return tile;
  }
};

// One lane. It reads no more than weights, and what was there before stage 1 began: so it waits for nothing.
AITERLITE_DEVICE void ask_for_weights(const Args& args, const TensorMap& map, const EarlyLists& lists, const Work& work,
                                      Shared& shared) {
  const auto width = static_cast<uint32_t>(args.moe.width);
  const uint64_t once = keep_briefly();
  const auto take = [&] { return take_number(Counters{args.arrived}.tiles()); };
  const auto expert_at = [&](uint32_t tile) { return tile < work.tiles ? lists.expert(work.block(tile)) : 0; };
  Tickets tickets;
  Turn turn;
  uint32_t tile = take(), next = take(), expert = expert_at(tile);
  tickets.push(shared, tile);
#pragma unroll 1
  while (tile < work.tiles) {
    // Others look a tile ahead too.
    tickets.push(shared, next);
    const uint32_t row = expert * width + work.part(tile) * kTileRows;
    expert = expert_at(next);
    tile = next;
    next = take();
#pragma unroll 1
    for (uint32_t step = 0; step < work.steps; ++step, turn.advance()) {
      Stage& stage = shared.stage[turn.stage];
      Barrier& full = shared.full[turn.stage];
      shared.empty[turn.stage].wait(turn.parity ^ 1);
      full.arrive_expecting(sizeof(Stage::w));
#pragma unroll
      for (uint32_t box = 0; box < 2; ++box) {
        if constexpr (AITERLITE_SHUFFLED) {
          copy_box(stage.w[box], map, 0, (row + box * kRows) / 16, step * (kStepBytes / 16), full, once);
        } else {
          copy_box(stage.w[box], map, step * kStep, row + box * kRows, full, once);
        }
      }
    }
  }
  // Each set sees the end.
  for (uint32_t set = 1; set < kSets; ++set) tickets.push(shared, work.tiles);
}

// One warp: live rows of h, scales, and with the last step of a tile the weights of its entries.
AITERLITE_DEVICE void ask_for_entries(const Args& args, const EarlyLists& lists, const Work& work, Shared& shared) {
  constexpr uint32_t kHeld = (kColumns + kWaveSize - 1) / kWaveSize;  // entries of a lane
  const uint32_t lane = lane_id(), scale_rows = static_cast<uint32_t>(args.moe.width) / kRows;
  const uint32_t groups = static_cast<uint32_t>(args.moe.inter) / kRows;
  uint32_t expert = 0, token[kHeld] = {};
  const auto read = [&](uint32_t tile) {
    const bool exists = tile < work.tiles;
    const uint32_t block = exists ? work.block(tile) : 0;
    expert = exists ? lists.expert(block) : 0;
#pragma unroll
    for (uint32_t i = 0; i < kHeld; ++i) {
      const uint32_t column = i * kWaveSize + lane;
      token[i] = exists && column < kColumns ? lists.token(block * kColumns + column) : ~0u;
    }
  };
  Tickets tickets;
  uint32_t next = tickets.pop(shared);
  read(next);
  await_predecessors();  // lists are older than these
  Turn turn;
#pragma unroll 1
  while (next < work.tiles) {
    const uint32_t part = work.part(next), block = work.block(next);
    uint32_t count = 0;  // padding stands behind the others
#pragma unroll
    for (const uint32_t one : token) count += static_cast<uint32_t>(__popc(lanes_where(one != ~0u)));
    // Behind the last rows of an expert are another's, of which nothing is written.
    const uint32_t row = part * 2 + lane % 2, scale_row = row < scale_rows ? row : scale_rows - 1;
    const float* w_scale = args.moe.w2_scale + (uint64_t{expert} * scale_rows + scale_row) * groups;
    next = tickets.pop(shared);
    read(next);
    const auto* h = static_cast<const uint8_t*>(args.moe.h) + uint64_t{block} * work.steps * (kColumns * kStepBytes);
#pragma unroll 1
    for (uint32_t step = 0; step < work.steps; ++step, turn.advance()) {
      Stage& stage = shared.stage[turn.stage];
      Barrier& full = shared.full[turn.stage];
      shared.empty[turn.stage].wait(turn.parity ^ 1);
      if (lane == 0) {
        const bool weighs = !AITERLITE_WEIGHTED_INPUT && step + 1 == work.steps;
        full.arrive_expecting(count * kStepBytes + (kIsFp8 ? 4 * kColumns : 0) + (weighs ? 4 * kColumns : 0));
        if (count != 0) copy_bytes(stage.h, h + step * (kColumns * kStepBytes), count * kStepBytes, full);
        if constexpr (kIsFp8) {
          const uint64_t first = uint64_t{step} * static_cast<uint32_t>(args.entry_pitch) + block * kColumns;
          copy_bytes(stage.scale, args.moe.h_scale + first, 4 * kColumns, full);
        }
        if (weighs) copy_bytes(stage.weight, args.moe.sorted_weights + block * kColumns, 4 * kColumns, full);
      }
      if constexpr (kIsFp8 && !kRowScales) {
        if (lane < 2) copy_word_async(stage.w_scale + lane, w_scale + step);
      }
      full.arrive_after_copies();
    }
  }
}

}  // namespace aiterlite::experts::join
