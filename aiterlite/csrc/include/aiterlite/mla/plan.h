// The planners of MLA decode, in integers: which workgroup reads which KV of which request. One source for host and
// device, so that both give the same bits.
//
// A plan deals *tiles* (a folded request's queries, or a part of them) to `units` workgroups. A tile's KV is cut into
// pieces; the pieces of one that is cut leave partial results, which a reduction merges. What stands in each buffer is
// in ops/mla_plan.py.
//
//   fast   (v1_2)  every workgroup has the same budget of blocks, and takes tiles in order; a tile that does not fit is
//                  cut, and goes on in the next workgroup
//   intra  (v1_0)  every tile is cut into as many pieces as its own length asks for, and pieces are dealt evenly
//   cost   (v1_1)  the longest tiles first, each to the workgroup that has least to do: mla/plan_cost.h
//
// A budget that is walked workgroup by workgroup has a short form. Let a workgroup have taken `at` blocks of its budget
// B when a tile of n blocks begins. Cuts are B - at, B - at + B, ... blocks behind the tile's start, as many as are not
// behind its last allowed cut L: (L + at) / B. The next tile begins `overhead` blocks behind the end of this one, or in
// a fresh workgroup if B is reached. With L / B and L % B at hand, that is a comparison, a subtraction and another
// comparison a tile; it is all that is done in sequence. Everything else is scans, and a thread a piece.
//
// Team: what runs a plan together, one thread on the host (mla/plan.cpp), a workgroup on a GPU (mla/plan.hip).
#pragma once
#include <aiterlite/mla/plan_args.h>

#if defined(AITERLITE_MLA_HOST)
#define AITERLITE_MLA_PLAN inline
#else
#include <aiterlite/platform.h>
#define AITERLITE_MLA_PLAN AITERLITE_DEVICE
#endif

namespace aiterlite::mla {

using Args = aiterlite_mla_plan_args;

inline constexpr int32_t kRowWords = 8;
inline constexpr int32_t kStamp = 0x4d4c0000;
// KV entries and blocks that no chip has memory for, below which sums of two do not overflow. Only what is no prefix
// sum gets there, as in a graph that is captured before its indices are filled; for that nothing is promised but an
// end, and that no write leaves its buffer.
inline constexpr int32_t kMostEntries = 1 << 30;
inline constexpr int32_t kMostBlocks = 1 << 29;
inline constexpr int32_t kShortTail = 4;        // intra: such a last piece is joined to the one before
inline constexpr int32_t kIntraTokens = 196;    // intra: KV that a piece is worth
inline constexpr int32_t kOverheadTokens = 16;  // fast: what a piece costs besides its KV

AITERLITE_MLA_PLAN int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }
AITERLITE_MLA_PLAN int32_t most(int32_t a, int32_t b) { return a > b ? a : b; }
AITERLITE_MLA_PLAN int32_t clamp(int32_t value, int32_t low, int32_t high) { return least(most(value, low), high); }
// Of numbers that are not negative; their sum may pass 2^31.
AITERLITE_MLA_PLAN int32_t divide_up(int32_t a, int32_t b) {
  return static_cast<int32_t>((static_cast<uint32_t>(a) + static_cast<uint32_t>(b) - 1) / static_cast<uint32_t>(b));
}

// Of several, the one with the least key, and of equals the one with the least id, is chosen.
struct Candidate {
  int32_t key;
  int32_t id;
};

// One tile. KV in entries of kv_indptr (tokens, or pages).
struct Tile {
  int32_t request;
  int32_t folded;  // the request's number in the plan
  int32_t q_start;
  int32_t q_end;
  int32_t tokens;  // of each tile of the request but, maybe, the last
  int32_t kv_begin;
  int32_t kv_end;   // of the request
  int32_t visible;  // entries from kv_begin on that some token of the tile sees; 0: no work
  bool exists;
};

// Slots number all tiles that requests can have; a shorter request leaves some empty.
AITERLITE_MLA_PLAN int32_t tiles_of(const Args& args, int32_t q_len) { return divide_up(q_len, args.tile_tokens); }
AITERLITE_MLA_PLAN int32_t slots_of(const Args& args) {
  return args.batch * args.fold * tiles_of(args, args.uniform_q > 0 ? args.uniform_q : args.max_q);
}

template <class Team>
AITERLITE_MLA_PLAN Tile tile_at(const Team& team, const Args& args, int32_t slot) {
  const int32_t tiles_most = tiles_of(args, args.uniform_q > 0 ? args.uniform_q : args.max_q);
  Tile tile = {};
  if (slot >= args.batch * args.fold * tiles_most) return tile;
  const auto number = static_cast<uint32_t>(slot) / static_cast<uint32_t>(tiles_most);
  const int32_t index = slot - static_cast<int32_t>(number) * tiles_most;
  tile.folded = static_cast<int32_t>(number);
  tile.request = static_cast<int32_t>(number / static_cast<uint32_t>(args.fold));
  int32_t q_begin = tile.folded * args.max_q;
  int32_t q_len = args.uniform_q;
  if (args.uniform_q > 0) {
    if (args.fold == 1) q_begin = tile.request * args.uniform_q;
  } else {
    const int32_t first = clamp(team.load(args.qo_indptr + tile.request), 0, kMostEntries);
    q_len = clamp(team.load(args.qo_indptr + tile.request + 1), first, first + args.max_q) - first;
    if (args.fold == 1) q_begin = first;
  }
  const int32_t tiles = tiles_of(args, q_len);
  tile.exists = index < tiles;
  if (!tile.exists) return tile;
  tile.tokens = divide_up(q_len, tiles);
  tile.q_start = q_begin + least(index * tile.tokens, q_len);
  tile.q_end = least(tile.q_start + tile.tokens, q_begin + q_len);
  tile.kv_begin = clamp(team.load(args.kv_indptr + tile.request), 0, kMostEntries);
  tile.kv_end = clamp(team.load(args.kv_indptr + tile.request + 1), tile.kv_begin, kMostEntries);
  // The queries are the last tokens of the KV, so the tiles before the last one see less of it.
  const int32_t tail = args.trim ? tiles - 1 - index : 0;
  tile.visible = tile.q_end > tile.q_start ? most(tile.kv_end - tile.kv_begin - tail, 0) : 0;
  return tile;
}

// Where a tile is cut: `count` times, `first` blocks behind its start and then every `step` blocks.
struct Cuts {
  int32_t first;
  int32_t step;
  int32_t count;
};

AITERLITE_MLA_PLAN int32_t blocks_of(const Args& args, const Tile& tile) {
  return tile.visible > 0 ? divide_up(tile.kv_end - tile.kv_begin, args.granularity) : 0;
}
AITERLITE_MLA_PLAN int32_t overhead_of(const Args& args) { return most(1, divide_up(kOverheadTokens, args.page_size)); }

// fast ---------------------------------------------------------------------------------------------------------------

// A tile in a budget of `budget` blocks a workgroup.
struct Step {
  int32_t whole;  // L / B
  int32_t rest;   // L % B
  int32_t moves;  // from the start to where the next tile begins, less whole budgets; 0 with `rest` kNothing: no work
};
inline constexpr int32_t kNothing = -(1 << 29);

AITERLITE_MLA_PLAN Step step_of(const Args& args, const Tile& tile, int32_t budget) {
  if (tile.visible == 0) return {0, kNothing, 0};
  const int32_t blocks = blocks_of(args, tile);
  int32_t last_cut = blocks - 1;
  if (args.page_size == 1) {
    // What is left behind a cut has at least as many tokens as there are queries: so that a piece that ends where the
    // tile's first token sees its last KV is never empty.
    const int32_t length = tile.kv_end - tile.kv_begin;
    last_cut = least(last_cut, length < args.max_q ? 0 : (length - args.max_q) / args.granularity);
  }
  const int32_t whole = last_cut / budget;
  return {whole, last_cut - whole * budget, blocks - whole * budget + overhead_of(args)};
}

struct Moved {
  int32_t at;
  int32_t cuts;
  int32_t units;  // how many workgroups further
};
AITERLITE_MLA_PLAN Moved move(const Step& step, int32_t at, int32_t budget) {
  const bool cut = at >= budget - step.rest;
  const int32_t end = at + (cut ? step.moves - budget : step.moves);
  const bool full = end >= budget;
  const int32_t cuts = step.whole + (cut ? 1 : 0);
  return {full ? 0 : end, cuts, cuts + (full ? 1 : 0)};
}

// Where each tile of a chunk begins, of which the first begins at `at`; returns where the one behind them does. All
// that one thread does alone: on a GPU some 20 cycles a tile.
template <class Team>
AITERLITE_MLA_PLAN int32_t walk(Team& team, int32_t count, int32_t at, int32_t budget) {
  constexpr int32_t kAhead = Team::kThreads < 8 ? Team::kThreads : 8;
  auto& shared = team.shared();
  for (int32_t base = 0; base < count; base += kAhead) {
    Step step[kAhead];
    int32_t begin[kAhead];
#pragma unroll
    for (int32_t i = 0; i < kAhead; ++i) step[i] = {0, shared.rest[base + i], shared.moves[base + i]};
#pragma unroll
    for (int32_t i = 0; i < kAhead; ++i) {
      begin[i] = at;
      at = move(step[i], at, budget).at;
    }
#pragma unroll
    for (int32_t i = 0; i < kAhead; ++i) shared.at[base + i] = begin[i];
  }
  return at;
}

template <class Team>
AITERLITE_MLA_PLAN int32_t budget_of(Team& team, const Args& args, int32_t slots) {
  int64_t blocks = 0;
  for (int32_t slot = team.thread(); slot < slots; slot += Team::kThreads) {
    const Tile tile = tile_at(team, args, slot);
    if (tile.visible > 0) blocks += blocks_of(args, tile) + overhead_of(args);
  }
  const int64_t each = (team.sum(blocks) + args.splits - 1) / args.splits;
  return static_cast<int32_t>(each < 1 ? 1 : each < kMostBlocks ? each : kMostBlocks);
}

// intra --------------------------------------------------------------------------------------------------------------

AITERLITE_MLA_PLAN Cuts intra_cuts(const Args& args, const Tile& tile, int32_t slots) {
  if (tile.visible == 0) return {0, 0, 0};
  const int32_t share = least(tile.visible / kIntraTokens, divide_up(args.units, slots));
  const int32_t pieces = most(1, least(args.fixed_splits > 0 ? args.fixed_splits : share, args.splits));
  const int32_t blocks = divide_up(tile.visible, args.granularity);
  const int32_t step = divide_up(blocks, pieces);
  const int32_t count = divide_up(blocks, step) - 1;
  const int32_t tail = tile.visible - count * step * args.granularity;
  const bool joined = count > 0 && tail <= kShortTail && tail < step * args.granularity;
  return {step, step, joined ? count - 1 : count};
}

// What both share ----------------------------------------------------------------------------------------------------

template <class Team>
AITERLITE_MLA_PLAN void write_row(const Team& team, const Args& args, int32_t row, const Tile& tile, int32_t partial,
                                  int32_t kv_start, int32_t kv_end) {
  if (row >= args.work_rows) return;
  const int32_t left = tile.kv_end - kv_end;
  int32_t offset = left;
  if (args.page_size > 1 && left > 0) {
    offset = (left - 1) * args.page_size + team.load(args.kv_last_page_lens + tile.request);
  }
  const int32_t words[kRowWords] = {tile.folded, partial, tile.q_start, tile.q_end,
                                    kv_start,    kv_end,  offset,       kStamp | args.fold};
  team.store_row(args.work_info_set + int64_t{row} * kRowWords, words);
}

// The first of `ends`, which do not fall, that is greater than `piece`.
template <int32_t kCount>
AITERLITE_MLA_PLAN int32_t owner(const int32_t (&ends)[kCount], int32_t piece) {
  int32_t found = 0;
#pragma unroll
  for (int32_t half = kCount / 2; half > 0; half /= 2) {
    if (ends[found + half - 1] <= piece) found += half;
  }
  return found;
}

template <class Team>
AITERLITE_MLA_PLAN void write_addresses(const Team& team, const Args& args) {
  if (team.thread() != 0) return;
  team.store_address(args.work_metadata_ptrs, args.work_indptr);
  team.store_address(args.work_metadata_ptrs + 1, args.work_info_set);
  team.store(args.reduce_indptr, 0);
}

template <class Team>
AITERLITE_MLA_PLAN void fill_tails(const Team& team, const Args& args, int32_t tiles, int32_t entries) {
  for (int32_t tile = tiles + 1 + team.thread(); tile <= args.reduce_tiles; tile += Team::kThreads) {
    team.store(args.reduce_indptr + tile, entries);
  }
}

// Tiles go in chunks of one a thread.
template <bool kFast, class Team>
AITERLITE_MLA_PLAN void plan_in_order(Team& team, const Args& args) {
  const int32_t slots = slots_of(args);
  write_addresses(team, args);
  const int32_t budget = kFast ? budget_of(team, args, slots) : 1;
  // Ragged tiles have different sizes; a piece then has room for the longest.
  const int32_t stride = args.uniform_q > 0 ? divide_up(args.uniform_q, tiles_of(args, args.uniform_q)) : args.max_q;
  auto& shared = team.shared();
  int32_t tiles = 0, works = 0, entries = 0, partials = 0, unit = 0, begin = 0;
#pragma unroll 1
  for (int32_t base = 0; base < slots; base += Team::kThreads) {
    const int32_t thread = team.thread();
    const Tile tile = tile_at(team, args, base + thread);
    Cuts cuts = {};
    int32_t here = 0;
    bool fresh = false;
    if constexpr (kFast) {
      const Step step = step_of(args, tile, budget);
      shared.rest[thread] = step.rest;
      shared.moves[thread] = step.moves;
      team.barrier();
      if (thread == 0) shared.next = walk(team, least(slots - base, Team::kThreads), begin, budget);
      team.barrier();
      begin = shared.next;
      // Behind the last slot nobody wrote one.
      const int32_t at = tile.visible > 0 ? shared.at[thread] : 0;
      const Moved moved = move(step, at, budget);
      cuts = {budget - at, budget, tile.visible > 0 ? moved.cuts : 0};
      const auto units = team.scan(tile.visible > 0 ? moved.units : 0);
      here = unit + units.before;
      fresh = at == 0;
      unit += units.all;
    } else {
      cuts = intra_cuts(args, tile, slots);
    }
    const int32_t pieces = tile.visible > 0 ? cuts.count + 1 : 0;
    const bool split = cuts.count > 0;
    const int32_t merged = split || !kFast ? pieces : 0;
    const auto exist = team.scan(tile.exists ? 1 : 0);
    const auto work = team.scan(pieces);
    const auto entry = kFast ? team.scan(merged) : work;
    const auto partial = kFast ? team.scan(merged * tile.tokens) : work;
    if (tile.exists) {
      const int32_t number = tiles + exist.before;
      if (number < args.reduce_tiles) {
        team.store(args.reduce_indptr + number + 1, entries + entry.before + merged);
        if (split || !kFast) {
          team.store(args.reduce_final_map + int64_t{number} * 2, tile.q_start);
          team.store(args.reduce_final_map + int64_t{number} * 2 + 1, tile.q_end);
        }
      }
    }
    shared.ends[thread] = work.before + pieces;
    shared.first[thread] = fresh ? -cuts.first : cuts.first;
    shared.unit[thread] = here;
    shared.entry[thread] = entry.before;
    shared.partial[thread] = partial.before;
    team.barrier();
    // A thread a piece.
#pragma unroll 1
    for (int32_t piece = thread; piece < work.all; piece += Team::kThreads) {
      const int32_t of = owner(shared.ends, piece);
      const Tile tile = tile_at(team, args, base + of);
      const int32_t before = of > 0 ? shared.ends[of - 1] : 0;
      const int32_t number = piece - before;
      const int32_t last = shared.ends[of] - before - 1;
      const int32_t first = shared.first[of] < 0 ? -shared.first[of] : shared.first[of];
      const int32_t step = kFast ? budget : first;
      const int32_t from = number > 0 ? (first + (number - 1) * step) * args.granularity : 0;
      const int32_t until = number < last ? (first + number * step) * args.granularity : tile.visible;
      const int32_t row = works + piece;
      int32_t place = -1;
      if (last > 0) place = kFast ? partials + shared.partial[of] + number * tile.tokens : row * stride;
      write_row(team, args, row, tile, place, tile.kv_begin + from, tile.kv_begin + until);
      const int32_t at = entries + shared.entry[of] + number;
      if ((last > 0 || !kFast) && at < args.partial_entries) team.store(args.reduce_partial_map + at, place);
      if constexpr (kFast) {
        const int32_t mine = shared.unit[of] + number;
        if ((number > 0 || shared.first[of] < 0) && mine <= args.units) team.store(args.work_indptr + mine, row);
      }
    }
    tiles += exist.all;
    works += work.all;
    entries += entry.all;
    partials += partial.all;
    team.barrier();
  }
  fill_tails(team, args, tiles, entries);
  if constexpr (kFast) {
    // The last workgroup that has work is `unit`, or the one before if that is full.
    const int32_t used = unit + (begin > 0 ? 1 : 0);
    for (int32_t at = used + team.thread(); at <= args.units; at += Team::kThreads) {
      team.store(args.work_indptr + at, works);
    }
  } else {
    const int32_t each = works / args.units, more = works % args.units;
    for (int32_t at = team.thread(); at <= args.units; at += Team::kThreads) {
      team.store(args.work_indptr + at, at * each + least(at, more));
    }
  }
}

}  // namespace aiterlite::mla
