// What a piece of MLA decode is: which rows of q and which tokens, and where the result goes. One source for host and
// device, in integers; nothing is read or written that the buffers do not have.
//
// A row of a plan: batch_idx, partial_qo_loc, qo_start, qo_end, kv_start, kv_end, kv_offset, stamp. Folded by f, a
// request is f requests of heads / f heads, and batch_idx and qo rows count those; all requests then have as many rows.
// The stamp says f (kStamp), so that a plan is read as it was made, whatever it was made for; where there is none, the
// table's fold is the arguments' `fold`. A row that does not fit the operands is no work: it is never read wrongly.
#pragma once
#include <aiterlite/mla/args.h>

#if defined(AITERLITE_DEVICE)
#define AITERLITE_MLA_INLINE AITERLITE_DEVICE
#else
#define AITERLITE_MLA_INLINE inline
#endif

namespace aiterlite::mla {

// A type by a condition.
template <bool kFirst, class A, class>
struct Choose {
  using Type = A;
};
template <class A, class B>
struct Choose<false, A, B> {
  using Type = B;
};

constexpr int32_t kKeyDim = 576, kValueDim = 512;
constexpr uint32_t kStamp = 0x4d4c0000u;
// Pieces of requests that no plan cut are multiples of so many tokens.
constexpr int32_t kSplitTokens = 32;

AITERLITE_MLA_INLINE int32_t load_int(const int32_t* p, int64_t at) {
#if defined(AITERLITE_DEVICE)
  return load_constant_i32(p + at);
#else
  return p[at];
#endif
}

struct Work {
  int32_t request;      // -1: nothing to do
  int32_t rows;         // of q, from first_row on
  int32_t head, heads;  // the heads of each
  int32_t begin, end;   // tokens of the request
  int32_t limit;        // tokens that the first row sees, from the request's first one
  int32_t limit_step;   // how many more each further row sees
  int64_t first_row;
  int64_t first_index;   // of the request, in kv_indices
  int64_t partial;       // the first row's place in partial; -1: o itself
  int64_t partial_step;  // from row to row
};

AITERLITE_MLA_INLINE int32_t fold_of(int32_t stamp, int32_t otherwise) {
  const auto word = static_cast<uint32_t>(stamp);
  return (word & 0xffff0000u) == kStamp && (word & 0xffffu) != 0 ? static_cast<int32_t>(word & 0xffffu) : otherwise;
}

// All loads come before anything is decided, so that they wait for memory once.
AITERLITE_MLA_INLINE int32_t kv_length(const int32_t* kv_indptr, const int32_t* last_page_lens, int32_t page_size,
                                       int32_t request) {
  const int32_t first = load_int(kv_indptr, request), behind = load_int(kv_indptr, int64_t{request} + 1);
  int32_t last = page_size == 1 ? 1 : load_int(last_page_lens, request);
  last = last < 0 ? 0 : last > page_size ? page_size : last;
  return behind > first ? (behind - first - 1) * page_size + last : 0;
}

AITERLITE_MLA_INLINE Work no_work() { return {-1, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, 0}; }

// The whole of a request: all its rows and heads, all its tokens.
AITERLITE_MLA_INLINE Work whole_request(const aiterlite_mla_decode_args& args, int32_t request) {
  const int32_t first = load_int(args.qo_indptr, request), behind = load_int(args.qo_indptr, int64_t{request} + 1);
  const int32_t first_index = load_int(args.kv_indptr, request);
  const int32_t length = kv_length(args.kv_indptr, args.kv_last_page_lens, args.page_size, request);
  const int32_t rows = behind - first;
  if (first < 0 || rows <= 0 || int64_t{first} + rows > args.rows) return no_work();
  const bool causal = args.causal != 0;
  const int32_t limit = causal ? length - rows + 1 : length;
  return {request, rows, 0, args.heads, 0, length, limit, causal ? 1 : 0, first, first_index, -1, 0};
}

// Piece `split` of a request.
AITERLITE_MLA_INLINE Work split_work(const aiterlite_mla_decode_args& args, int32_t request, int32_t split) {
  Work work = whole_request(args, request);
  if (work.request < 0) return work;
  int32_t pieces = args.splits;
  if (args.splits_indptr != nullptr) {
    const int32_t wanted = load_int(args.splits_indptr, int64_t{request} + 1) - load_int(args.splits_indptr, request);
    pieces = wanted < 1 ? 1 : wanted < pieces ? wanted : pieces;
  }
  const auto length = static_cast<uint32_t>(work.end), count = static_cast<uint32_t>(pieces);
  const uint32_t even = length / count + (length % count != 0);
  const int64_t piece = (int64_t{even} + kSplitTokens - 1) / kSplitTokens * kSplitTokens;
  const int64_t begin = split < pieces ? piece * split : length;
  work.begin = static_cast<int32_t>(begin < length ? begin : length);
  work.end = static_cast<int32_t>(begin + piece < length ? begin + piece : length);
  if (args.splits > 1) {
    work.partial = work.first_row * args.splits + split;
    work.partial_step = args.splits;
  }
  return work;
}

// Row `item` of a plan.
AITERLITE_MLA_INLINE Work planned_work(const aiterlite_mla_decode_args& args, int32_t item) {
  if (item < 0 || item >= args.work_rows) return no_work();
  const int64_t at = int64_t{item} * 8;
  const int32_t fold = fold_of(load_int(args.work_info_set, at + 7), args.fold);
  const int32_t folded = load_int(args.work_info_set, at);
  // Divisions cost a GPU more than all the rest, and most plans need none.
  const int32_t request = fold == 1 ? folded : folded / fold;
  if (folded < 0 || request >= args.batch || (fold != 1 && args.heads % fold != 0)) return no_work();
  Work work = whole_request(args, request);
  if (work.request < 0) return work;
  const int32_t partial = load_int(args.work_info_set, at + 1);
  const int32_t qo_start = load_int(args.work_info_set, at + 2), qo_end = load_int(args.work_info_set, at + 3);
  // Folded rows are numbered as though each folded request had rows of its own.
  const int64_t in_request = fold == 1 ? qo_start - work.first_row : qo_start - int64_t{folded} * args.q_len;
  if (in_request < 0 || qo_end <= qo_start || in_request + (qo_end - qo_start) > work.rows) return no_work();
  if (partial >= 0 && int64_t{partial} + (qo_end - qo_start) > args.partial_rows) return no_work();
  const auto row = static_cast<int32_t>(in_request);
  if (fold != 1) {
    work.heads = args.heads / fold;
    work.head = folded % fold * work.heads;
  }
  work.first_row += row;
  work.rows = qo_end - qo_start;
  work.limit += work.limit_step * row;
  const int64_t begin = (load_int(args.work_info_set, at + 4) - work.first_index) * args.page_size;
  const int64_t end = (load_int(args.work_info_set, at + 5) - work.first_index) * args.page_size;
  const int64_t length = work.end;
  work.begin = static_cast<int32_t>(begin < 0 ? 0 : begin < length ? begin : length);
  work.end = static_cast<int32_t>(end < work.begin ? work.begin : end < length ? end : length);
  work.partial = partial;
  work.partial_step = 1;
  return work;
}

// How many of the work's tokens, counted from the request's first one, row `row` of it sees.
AITERLITE_MLA_INLINE int32_t visible(const Work& work, int32_t row) {
  const int32_t limit = work.limit + work.limit_step * row;
  return limit < work.end ? limit : work.end;
}

// The page of a token, as kv_indices names it, and its place there.
struct Slot {
  int32_t page;  // -1: kv_indices has no entry
  int32_t number;
};
AITERLITE_MLA_INLINE Slot token_slot(const aiterlite_mla_decode_args& args, const Work& work, int32_t token) {
  const int32_t page_of = args.page_size == 1 ? token : token / args.page_size;
  const int64_t index = work.first_index + page_of;
  if (index < 0 || index >= args.indices) return {-1, 0};
  return {load_int(args.kv_indices, index), token - page_of * args.page_size};
}

// Where the row of KV of a slot starts, in elements; -1 where there is no such page.
AITERLITE_MLA_INLINE int64_t slot_offset(const aiterlite_mla_decode_args& args, const Slot& slot) {
  if (slot.page < 0 || slot.page >= args.pages) return -1;
  return slot.page * args.stride_page + slot.number * args.stride_slot;
}

AITERLITE_MLA_INLINE int64_t token_offset(const aiterlite_mla_decode_args& args, const Work& work, int32_t token) {
  return slot_offset(args, token_slot(args, work, token));
}

// Where row `row` of a merge goes: the row of o, its first head, how many. Folded rows as above.
struct Place {
  int64_t row;  // -1: nowhere
  int32_t head, heads;
};
AITERLITE_MLA_INLINE Place place_of(const aiterlite_mla_reduce_args& args, int32_t fold, int64_t row) {
  if (row < 0 || args.heads % fold != 0) return {-1, 0, 0};
  const int32_t heads = args.heads / fold;
  if (fold == 1) return {row < args.rows ? row : -1, 0, heads};
  if (args.q_len <= 0) return {-1, 0, 0};
  const int64_t folded = row / args.q_len;
  if (folded / fold >= args.batch) return {-1, 0, 0};
  const int64_t out = load_int(args.qo_indptr, folded / fold) + row % args.q_len;
  return {out < args.rows ? out : -1, static_cast<int32_t>(folded % fold) * heads, heads};
}

// The parts of a merge's tile, and its rows.
struct Tile {
  int32_t first, parts;  // in reduce_partial_map
  int64_t row, rows;
};
AITERLITE_MLA_INLINE Tile tile_of(const aiterlite_mla_reduce_args& args, int32_t tile) {
  const int32_t first = load_int(args.reduce_indptr, tile), last = load_int(args.reduce_indptr, int64_t{tile} + 1);
  if (first < 0 || last - first < 2 || last > args.map_rows) return {0, 0, 0, 0};
  if (args.reduce_final_map != nullptr) {
    const int64_t row = load_int(args.reduce_final_map, int64_t{tile} * 2);
    return {first, last - first, row, load_int(args.reduce_final_map, int64_t{tile} * 2 + 1) - row};
  }
  const int64_t rows = load_int(args.reduce_partial_map, int64_t{first} + 1) - load_int(args.reduce_partial_map, first);
  return {first, last - first, tile * rows, rows};
}

}  // namespace aiterlite::mla
