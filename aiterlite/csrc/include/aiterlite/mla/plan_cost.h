// The planner `cost` (v1_1): requests in descending order of cost, each piece to the workgroup that has least to do,
// the lowest of equals. A tile takes what is missing to a limit that all workgroups share.
//
// Costs are 2 * rows + KV. Upstream's sort is not stable and its limit is computed in float; here ties go to the lowest
// request and the limit is exact. It is a sequence of steps by nature, a minimum over all workgroups each: one wave
// does it, whose lanes hold the workgroups' costs in registers. Twice, once to count and once to write.
//
// Until they are filled, the maps of the reduction hold what is needed meanwhile: reduce_final_map the order of the
// requests and, behind as many entries as there are slots, the first partial row of each slot; reduce_indptr the pieces
// of each.
#pragma once
#include <aiterlite/mla/plan.h>

namespace aiterlite::mla {

inline constexpr int32_t kMostUnits = 512;
inline constexpr int32_t kCostTail = 16;  // what would be left for the next workgroup, and is not worth a piece

AITERLITE_MLA_PLAN int32_t round_up(int32_t a, int32_t b) { return divide_up(a, b) * b; }

template <class Team>
AITERLITE_MLA_PLAN int32_t cost_of_request(const Team& team, const Args& args, int32_t request) {
  const int32_t begin = clamp(team.load(args.kv_indptr + request), 0, kMostEntries);
  const int32_t kv = clamp(team.load(args.kv_indptr + request + 1), begin, kMostEntries) - begin;
  int32_t q = args.uniform_q;
  if (q <= 0) {
    const int32_t first = clamp(team.load(args.qo_indptr + request), 0, kMostEntries);
    q = clamp(team.load(args.qo_indptr + request + 1), first, first + args.max_q) - first;
  }
  return kv + 2 * q * args.heads;
}

// The order of the requests: a request's place is the number of those that go before it.
template <class Team>
AITERLITE_MLA_PLAN void sort_requests(const Team& team, const Args& args) {
  for (int32_t request = team.thread(); request < args.batch; request += Team::kThreads) {
    const int32_t own = cost_of_request(team, args, request);
    int32_t before = 0;
    for (int32_t other = 0; other < args.batch; ++other) {
      const int32_t cost = cost_of_request(team, args, other);
      before += cost > own || (cost == own && other < request) ? 1 : 0;
    }
    for (int32_t i = 0; i < args.fold; ++i) {
      team.store(args.reduce_final_map + before * args.fold + i, request * args.fold + i);
    }
  }
}

// What a workgroup shall do, in cost, from the costs of all tiles.
AITERLITE_MLA_PLAN int32_t limit_of(const Args& args, int64_t sum) {
  const int64_t rows = args.uniform_q > 0 ? args.uniform_q : 128;
  const int64_t requests = int64_t{args.batch} * args.fold;
  const int64_t rest = sum - 2 * rows * requests;
  const int64_t average = rest > args.units ? (rest + args.units - 1) / args.units : 1;
  const int64_t base = average <= 8 ? 32 : average <= 16 ? 64 : average <= 32 ? 128 : average <= 64 ? 192 : average;
  // 10, and a hundredth for each request and for each of the average.
  const int64_t amplified = (2 * rows * (requests + average + 1000)) / 100;
  const int64_t limit = 2 * rows + base + amplified;
  return round_up(static_cast<int32_t>(limit < kMostBlocks ? limit : kMostBlocks), args.granularity);
}

// What the lanes of a wave hold of the workgroups: workgroup lane + kLanes * i at i.
template <class Team>
struct Units {
  static constexpr int32_t kHeld = kMostUnits / Team::kLanes;
  int32_t cost[kHeld];
  int32_t works[kHeld];  // counted, or the next row

  AITERLITE_MLA_PLAN Candidate least_busy(const Team& team, int32_t units) const {
    Candidate best = {0x7fffffff, 0x7fffffff};
#pragma unroll
    for (int32_t i = 0; i < kHeld; ++i) {
      const int32_t id = team.lane() + i * Team::kLanes;
      if (id < units && cost[i] < best.key) best = {cost[i], id};
    }
    return team.least_of_lanes(best);
  }
  // Charges the workgroup; in its own lane returns the number of works before, elsewhere -1.
  AITERLITE_MLA_PLAN int32_t charge(const Team& team, int32_t id, int32_t more) {
    int32_t before = -1;
#pragma unroll
    for (int32_t i = 0; i < kHeld; ++i) {
      if (id == team.lane() + i * Team::kLanes) {
        cost[i] = least(cost[i], kMostBlocks) + more;
        before = works[i]++;
      }
    }
    return before;
  }
};

template <bool kWrite, class Team>
AITERLITE_MLA_PLAN void deal(const Team& team, const Args& args, int32_t slots, int32_t limit, Units<Team>& held) {
  const int32_t requests = args.batch * args.fold;
  const int32_t tiles = requests > 0 ? slots / requests : 0;
  int32_t partials = 0;
#pragma unroll 1
  for (int32_t place = 0; place < slots; ++place) {
    const int32_t slot = team.load(args.reduce_final_map + place / tiles) * tiles + place % tiles;
    const Tile tile = tile_at(team, args, slot);
    const int32_t rows = 2 * tile.tokens * args.heads;
    const int32_t floor = round_up(divide_up(tile.visible, args.splits), args.granularity);
    const int32_t first = partials;
    int32_t left = tile.visible, pieces = 0;
    bool split = false;
#pragma unroll 1
    while (left > 0) {
      const Candidate unit = held.least_busy(team, args.units);
      const int32_t room = most(limit - unit.key - rows, floor);
      const int32_t rest = left > room ? left - room : 0;
      const int32_t taken = rest <= kCostTail ? left : room;
      if (pieces == 0) split = taken < left;
      const int32_t row = held.charge(team, unit.id, rows + taken);
      if constexpr (kWrite) {
        const int32_t start = tile.kv_begin + tile.visible - left;
        if (row >= 0) write_row(team, args, row, tile, split ? partials : -1, start, start + taken);
        partials += split ? tile.q_end - tile.q_start : 0;
      }
      left -= taken;
      ++pieces;
    }
    if constexpr (kWrite) {
      if (team.lane() == 0 && slot < args.reduce_tiles) {
        team.store(args.reduce_indptr + slot + 1, split ? pieces : 0);
        team.store(args.reduce_final_map + slots + slot, first);
      }
    }
  }
}

template <class Team>
AITERLITE_MLA_PLAN void plan_by_cost(Team& team, const Args& args) {
  const int32_t slots = slots_of(args);
  write_addresses(team, args);
  sort_requests(team, args);
  int64_t cost = 0;
  for (int32_t slot = team.thread(); slot < slots; slot += Team::kThreads) {
    const Tile tile = tile_at(team, args, slot);
    if (tile.visible > 0) cost += 2 * tile.tokens * args.heads + tile.visible;
  }
  const int32_t limit = limit_of(args, team.sum(cost));
  team.barrier();
  if (team.thread() < Team::kLanes) {
    Units<Team> held = {};
    deal<false>(team, args, slots, limit, held);
    int32_t works = 0;
#pragma unroll
    for (int32_t i = 0; i < Units<Team>::kHeld; ++i) {
      const auto before = team.scan_lanes(held.works[i]);
      const int32_t id = team.lane() + i * Team::kLanes;
      held.cost[i] = 0;
      held.works[i] = works + before.before;
      if (id < args.units) team.store(args.work_indptr + id, held.works[i]);
      works += before.all;
    }
    if (team.lane() == 0) team.store(args.work_indptr + args.units, works);
    deal<true>(team, args, slots, limit, held);
  }
  team.barrier();
  int32_t tiles = 0, entries = 0;
#pragma unroll 1
  for (int32_t base = 0; base < slots; base += Team::kThreads) {
    const int32_t slot = base + team.thread();
    const Tile tile = tile_at(team, args, slot);
    const int32_t pieces = tile.exists ? team.load(args.reduce_indptr + slot + 1) : 0;
    const int32_t first = tile.exists ? team.load(args.reduce_final_map + slots + slot) : 0;
    const auto exist = team.scan(tile.exists ? 1 : 0);
    const auto entry = team.scan(pieces);
    if (tile.exists) {
      const int32_t number = tiles + exist.before;
      team.store(args.reduce_indptr + number + 1, entries + entry.before + pieces);
      team.store(args.reduce_final_map + int64_t{number} * 2, tile.q_start);
      team.store(args.reduce_final_map + int64_t{number} * 2 + 1, tile.q_end);
      for (int32_t i = 0; i < pieces && entries + entry.before + i < args.partial_entries; ++i) {
        team.store(args.reduce_partial_map + entries + entry.before + i, first + i * (tile.q_end - tile.q_start));
      }
    }
    tiles += exist.all;
    entries += entry.all;
    team.barrier();
  }
  fill_tails(team, args, tiles, entries);
}

}  // namespace aiterlite::mla
