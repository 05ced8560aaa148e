// How slots meet (fused_moe/sm90_down_join.hip): rows of a tile go to memory, and who finds that all tiles of the same
// elements are there adds up what each token has.
#pragma once
#include <aiterlite/fused_moe/sm90_join.h>
#include <aiterlite/numeric/pack.h>
#include <aiterlite/quant/strip.h>

namespace aiterlite::experts::join {

using Out = AITERLITE_ELEMENT;

// Rows of slots: [part % kParts][pair][256 elements].
AITERLITE_DEVICE uint16_t* row_of(const Args& args, uint32_t part, uint32_t pair) {
  const uint64_t pairs = uint64_t{static_cast<uint32_t>(args.moe.tokens)} * static_cast<uint32_t>(args.moe.topk);
  return static_cast<uint16_t*>(args.moe.slots) + (part % kParts * pairs + pair) * kTileRows;
}

// A warp of a set: every kSetWarps-th column of its tiles. Lane j has the j-th of them.
AITERLITE_DEVICE void store(const Args& args, const Lists& lists, const Work& work, Shared& shared, uint32_t warp) {
  constexpr uint32_t kOwn = kColumns / kSetWarps;
  static_assert(kOwn <= kWaveSize);
  const uint32_t set = warp / kSetWarps, first_column = warp % kSetWarps, lane = lane_id();
  const auto width = static_cast<uint32_t>(args.moe.width);
  const uint64_t keep = keep_long();
  const auto tokens = static_cast<uint32_t>(args.moe.tokens);
  uint32_t free_parts = kParts;  // those before it may be written
  Tickets tickets;
  tickets.turn.advance(set);
  uint32_t parity = 0;
#pragma unroll 1
  for (uint32_t tile = tickets.pop(shared, kSets); tile < work.tiles; tile = tickets.pop(shared, kSets), parity ^= 1) {
    const uint32_t part = work.part(tile), first = work.block(tile) * kColumns + first_column;
    const uint32_t entry = lane < kOwn ? first + lane * kSetWarps : first;
    const uint32_t pair = lane < kOwn && lists.token(entry) != ~0u ? lists.pair(entry) : ~0u;
    const bool has_column = part * kTileRows + lane * 8 < width;
    uint16_t* rows = row_of(args, part, 0) + lane * 8;
    // How many tokens' rows of the part that lies there have been fetched; looked at when the tile is made.
    uint32_t* fetched = Counters{args.arrived}.fetched(part - (part < kParts ? 0 : kParts), work.parts);
    uint32_t count = part < free_parts ? tokens : load_latest(fetched);
    shared.rows_full[set].wait(parity);
    for (; shuffle(count, 0) < tokens; count = load_latest(fetched)) pause(50);
    free_parts = part < free_parts ? free_parts : part + 1;
#pragma unroll 4
    for (uint32_t i = 0; i < kOwn; ++i) {
      const uint32_t to = shuffle(pair, i);
      const Vector16 bytes = load_shared_16(&shared.rows[set][i * kSetWarps + first_column][lane * 8]);
      if (to != ~0u && has_column) store_keeping(rows + uint64_t{to} * kTileRows, bytes, keep);
    }
    wave_barrier();
    if (lane == 0) {
      shared.rows_empty[set].arrive();
      release_count(Counters{args.arrived}.stored(part));
    }
  }
}

// One lane: tells the workgroup how many parts are stored, so that not all who wait look at memory; they
// need no fences of their own then.
AITERLITE_DEVICE void watch(const Args& args, const Work& work, Shared& shared) {
#pragma unroll 1
  for (uint32_t part = 0; part < work.parts; ++part) {
    while (load_latest(Counters{args.arrived}.stored(part)) < work.blocks * kSetWarps) pause(100);
    accept_published();
    accept_for_engine();
    set_shared(&shared.stored, part + 1);
  }
}

// A warp: takes a token's 256 elements at a time, kBatch slots of which are fetched while the ones before are added.
AITERLITE_DEVICE void add(const Args& args, const Work& work, Shared& shared, uint32_t warp) {
  const uint32_t lane = lane_id();
  const auto tokens = static_cast<uint32_t>(args.moe.tokens), topk = static_cast<uint32_t>(args.moe.topk);
  const auto width = static_cast<uint32_t>(args.moe.width);
  const uint32_t batches = (topk + kBatch - 1) / kBatch, sums = tokens * work.parts;
  const auto take = [&] { return lane == 0 ? take_number(Counters{args.arrived}.sums()) : 0; };
  const auto is_stored = [&](uint32_t part) {
    return shuffle(static_cast<uint32_t>(part < look_at_shared(&shared.stored)), 0) != 0;
  };
  struct Batch {
    uint32_t part, token, first;  // its first slot
    int32_t local;                // of a lane's slot
  };
  const auto fetch = [&](uint32_t sum, uint32_t batch, uint32_t stage) {
    Batch made = {sum / tokens, sum % tokens, batch * kBatch, -1};
    const uint32_t pair = made.token * topk + made.first,
                   count = topk - made.first < kBatch ? topk - made.first : kBatch;
    if (lane < count) made.local = args.moe.local_topk_ids[pair + lane];
    if (lane == 0) {
      const uint32_t bytes = count * kTileRows * sizeof(uint16_t);
      Barrier& full = shared.fetched_full[warp][stage];
      full.arrive_expecting(bytes);
      copy_bytes(shared.fetched[warp][stage], row_of(args, made.part, pair), bytes, full);
    }
    return made;
  };
  const auto await_stored = [&](uint32_t part) {
    while (!is_stored(part)) pause(64);
  };

  // Batches from the one that is added on, of which so many are asked for.
  Batch ring[kFetches];
  uint32_t sum = shuffle(take(), 0), batch = 0, taken = take(), asked = 0, stage = 0, parity = 0;
  float value[8] = {};
#pragma unroll 1
  for (;;) {
    // Those that are ready; one at least.
#pragma unroll
    for (uint32_t i = 0; i < kFetches; ++i) {
      if (i != asked || sum >= sums) continue;
      if (i == 0) {
        await_stored(sum / tokens);
      } else if (!is_stored(sum / tokens)) {
        continue;
      }
      const uint32_t at = stage + i;
      ring[i] = fetch(sum, batch, at < kFetches ? at : at - kFetches);
      ++asked;
      if (++batch == batches) {
        batch = 0;
        sum = shuffle(taken, 0);
        taken = take();
      }
    }
    if (asked == 0) return;
    const Batch now = ring[0];
    const bool ends = now.first + kBatch >= topk;
    const LaneMask live = lanes_where(now.local >= 0 && now.local < args.moe.experts);
    shared.fetched_full[warp][stage].wait(parity);
    if (lane == 0 && ends) count_one(Counters{args.arrived}.fetched(now.part, work.parts));
#pragma unroll
    for (uint32_t i = 0; i < kBatch; ++i) {
      if (!(live >> i & 1)) continue;
      float of_slot[8];
      quant::widen(Out{}, load_shared_16(&shared.fetched[warp][stage][i][lane * 8]), of_slot);
#pragma unroll
      for (uint32_t j = 0; j < 8; ++j) value[j] += of_slot[j];
    }
    // Of the last parts, over which nothing is written.
    if (now.part + kParts >= work.parts && (live >> (lane / 4) & 1) != 0) {
      discard_line(row_of(args, now.part, now.token * topk + now.first + lane / 4) + lane % 4 * 64);
    }
    if (ends) {
      Vector16 made;
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) made.word[j] = pack_pair(Out{}, value[2 * j], value[2 * j + 1]);
      const uint32_t column = now.part * kTileRows + lane * 8;
      auto* to = static_cast<uint16_t*>(args.moe.out) + now.token * args.moe.stride_out + column;
      if (column < width) store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, made));
#pragma unroll
      for (float& one : value) one = 0.0f;
    }
    wave_barrier();  // all have read what is fetched over
#pragma unroll
    for (uint32_t i = 1; i < kFetches; ++i) ring[i - 1] = ring[i];
    --asked;
    if (++stage == kFetches) {
      stage = 0;
      parity ^= 1;
    }
  }
}

}  // namespace aiterlite::experts::join
