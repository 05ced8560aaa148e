// A plan of `fast` or `intra` brought forward by one token of each request, less the drafts that were rejected, and
// from queries of several tokens to queries of one. Cuts stay where they are, counted from a request's start; what is
// new is the last piece's. Where a request has become shorter than a cut, the pieces behind that are empty (kv_start is
// kv_end), and a reduction that ignores their -inf is right.
//
// A thread a row: 64 bytes a piece. Maps of a plan for one token stay as they are.
#pragma once
#include <aiterlite/mla/plan.h>

namespace aiterlite::mla {

template <class Team>
AITERLITE_MLA_PLAN void update(const Team& team, const aiterlite_mla_plan_update_args& args) {
  const int32_t works = least(team.load(args.work_indptr + args.units), args.work_rows);
  for (int32_t row = team.thread(); row < works; row += Team::kThreads) {
    int32_t* at = args.work_info_set + int64_t{row} * kRowWords;
    int32_t words[kRowWords];
    team.load_row(at, words);
    const int32_t folded = words[0], fold = words[7] & 0xffff;
    const int32_t request = fold > 0 ? folded / fold : folded;
    if (request < 0 || request >= args.batch) continue;
    const int32_t kv_begin = team.load(args.kv_indptr + request);
    const int32_t kv_end = most(team.load(args.kv_indptr + request + 1), kv_begin);
    const int32_t more = 1 - (args.rejected != nullptr ? team.load(args.rejected + request) : 0);
    const int32_t length = kv_end - kv_begin;
    // Where the request began when the plan was made: its end then, less its length then.
    const int32_t old_begin = words[5] + words[6] - (length - more);
    const int32_t start = least(most(words[4] - old_begin, 0), length);
    const int32_t until = words[6] == 0 ? length : least(most(words[5] - old_begin, start), length);
    const int32_t tokens = most(words[3] - words[2], 1);
    const int32_t updated[kRowWords] = {folded,
                                        words[1] < 0 ? -1 : words[1] / tokens,
                                        tokens > 1 ? folded : words[2],
                                        tokens > 1 ? folded + 1 : words[3],
                                        kv_begin + start,
                                        kv_begin + until,
                                        length - until,
                                        words[7]};
    team.store_row(at, updated);
  }
  if (args.max_q == 1) return;
  for (int32_t tile = team.thread(); tile < args.reduce_tiles; tile += Team::kThreads) {
    const int32_t first = team.load(args.reduce_indptr + tile);
    const int32_t after = least(team.load(args.reduce_indptr + tile + 1), args.partial_entries);
    if (after <= first) continue;
    int32_t* rows = args.reduce_final_map + int64_t{tile} * 2;
    const int32_t tokens = team.load(rows + 1) - team.load(rows);
    if (tokens <= 1) continue;
    team.store(rows, tile);
    team.store(rows + 1, tile + 1);
    for (int32_t entry = first; entry < after; ++entry) {
      const int32_t place = team.load(args.reduce_partial_map + entry);
      team.store(args.reduce_partial_map + entry, place < 0 ? -1 : place / tokens);
    }
  }
}

}  // namespace aiterlite::mla
