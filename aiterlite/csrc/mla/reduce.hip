// Merges normalised parts of MLA's rows by their log-sums: mla/args.h.
//
// A workgroup of 128 threads has up to four heads of one row of a tile, and goes on to further tiles; a thread has four
// neighbouring values. The weight of a part is relative to the largest log-sum; parts are added in their order, those
// of -inf are not read. Traffic: the parts once, o once. No atomics: same operands, same bits. Behind the tiles, where
// it is given the pages, requests without KV: they become zero.
#include <aiterlite/block/online_softmax.h>
#include <aiterlite/mla/work.h>
#include <aiterlite/numeric/types.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;
using Out = AITERLITE_OUT;

constexpr uint32_t kThreads = 128, kHeads = 4, kDim = AITERLITE_DIM;

AITERLITE_DEVICE void store_row(const aiterlite_mla_reduce_args& args, int64_t at, const float (&value)[4],
                                float log_sum) {
  const uint32_t dim = thread_id() * 4;
  auto* to = static_cast<Out*>(args.o) + at * kDim + dim;
#pragma unroll
  for (uint32_t w = 0; w < 2; ++w) {
    const uint32_t high = from_float<Out>(value[2 * w + 1]).bits;
    store_u32(to + 2 * w, from_float<Out>(value[2 * w]).bits | high << 16);
  }
  if (dim == 0 && args.lse != nullptr) store_u32(args.lse + at, __builtin_bit_cast(uint32_t, log_sum));
}

// `part_of(j)` is the row of partial that is part j.
template <class PartOf>
AITERLITE_DEVICE void merge_row(const aiterlite_mla_reduce_args& args, const mla::Place& place, uint32_t head,
                                int32_t parts, const PartOf& part_of) {
  float most = -__builtin_inff();
#pragma unroll 1
  for (int32_t j = 0; j < parts; ++j) {
    most = __builtin_fmaxf(most, load_f32(args.partial_lse + part_of(j) * place.heads + head));
  }
  const float base = most == -__builtin_inff() ? 0.0f : most;
  float total = 0.0f, sum[4] = {};
#pragma unroll 1
  for (int32_t j = 0; j < parts; ++j) {
    const int64_t at = part_of(j) * place.heads + head;
    const float log_sum = load_f32(args.partial_lse + at);
    if (log_sum == -__builtin_inff()) continue;
    const float weight = fast_exp2((log_sum - base) * kLog2E);
    const Vector16 part = load_vector<false>(args.partial + at * kDim + thread_id() * 4);
    total += weight;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) sum[i] += weight * __builtin_bit_cast(float, part.word[i]);
  }
  const float by = total == 0.0f ? 0.0f : 1.0f / total;
#pragma unroll
  for (float& value : sum) value *= by;
  const float log_sum = total == 0.0f ? -__builtin_inff() : base + fast_log2(total) * kLn2;
  store_row(args, place.row * args.heads + place.head + head, sum, log_sum);
}

AITERLITE_DEVICE void merge_tile(const aiterlite_mla_reduce_args& args, int32_t fold, int32_t number, uint32_t row,
                                 uint32_t first_head) {
  const mla::Tile tile = mla::tile_of(args, number);
  if (row >= tile.rows) return;
  const mla::Place place = mla::place_of(args, fold, tile.row + row);
  const auto part_of = [&](int32_t j) {
    return int64_t{mla::load_int(args.reduce_partial_map, int64_t{tile.first} + j)} + row;
  };
  bool inside = place.row >= 0;
#pragma unroll 1
  for (int32_t j = 0; j < tile.parts; ++j) inside = inside && part_of(j) >= 0 && part_of(j) < args.partial_rows;
  if (!inside) return;
#pragma unroll 1
  for (uint32_t h = first_head; h < first_head + kHeads && h < static_cast<uint32_t>(place.heads); ++h) {
    merge_row(args, place, h, tile.parts, part_of);
  }
}

AITERLITE_DEVICE void clear_request(const aiterlite_mla_reduce_args& args, int32_t request, uint32_t row,
                                    uint32_t first_head) {
  if (mla::kv_length(args.kv_indptr, args.kv_last_page_lens, args.page_size, request) > 0) return;
  const int64_t at = int64_t{mla::load_int(args.qo_indptr, request)} + row;
  if (at >= mla::load_int(args.qo_indptr, int64_t{request} + 1) || at >= args.rows) return;
  const float zeros[4] = {};
#pragma unroll 1
  for (uint32_t h = first_head; h < first_head + kHeads && h < static_cast<uint32_t>(args.heads); ++h) {
    store_row(args, at * args.heads + h, zeros, -__builtin_inff());
  }
}

}  // namespace

AITERLITE_KERNEL(kThreads)
aiterlite_mla_reduce(aiterlite_mla_reduce_args args) {
  await_predecessors();
  // Rows of 64 or 128 values leave threads idle.
  if (thread_id() * 4 >= kDim) return;
  const uint32_t chunks = (static_cast<uint32_t>(args.heads) + kHeads - 1) / kHeads;
  const uint32_t first_head = workgroup_id() % chunks * kHeads;
  if (args.splits > 0) {
    const int64_t row = workgroup_id() / chunks;
    if (row >= args.rows) return;
#pragma unroll 1
    for (uint32_t h = first_head; h < first_head + kHeads && h < static_cast<uint32_t>(args.heads); ++h) {
      merge_row(args, {row, 0, args.heads}, h, args.splits, [&](int32_t j) { return row * args.splits + j; });
    }
    return;
  }
  const uint32_t of_tile = static_cast<uint32_t>(args.q_len) * chunks;
  const uint32_t row = workgroup_id() / chunks % static_cast<uint32_t>(args.q_len);
  const int32_t requests = args.kv_indptr != nullptr ? args.batch : 0;
  int32_t fold = args.fold;
  if (args.work_info_set != nullptr) fold = mla::fold_of(mla::load_int(args.work_info_set, 7), fold);
#pragma unroll 1
  for (auto at = static_cast<int32_t>(workgroup_id() / of_tile); at < args.tiles + requests; at += args.workgroups) {
    if (at < args.tiles) {
      merge_tile(args, fold, at, row, first_head);
    } else {
      clear_request(args, at - args.tiles, row, first_head);
    }
  }
}
