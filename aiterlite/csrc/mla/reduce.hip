// Merges normalised parts of MLA's rows by their log-sums: mla/args.h.
//
// A workgroup has one head of one row of a tile, and goes on to further tiles. kSlices times kDim / 4 threads: a thread
// has four neighbouring values of every kSlices-th part, and asks for kAhead of them at once, since what this kernel
// waits for is the latency of its loads. The weight of a part is relative to the largest log-sum; the values of a part
// of -inf are selected away. A slice adds its parts in their order, then slices are added in theirs. Traffic: the parts
// once, o once. No atomics: same operands, same bits. Behind the tiles, where it is given the pages, requests without
// KV: they become zero.
//
// kMostParts parts of a row have their weights in LDS at a time; of more, these go round. Of AITERLITE_FEW_PARTS or
// fewer equal splits (0: never) each thread makes all weights itself, since to share them takes longer than to wait for
// memory.
#include <aiterlite/block/online_softmax.h>
#include <aiterlite/block/reduce.h>
#include <aiterlite/mla/work.h>
#include <aiterlite/numeric/types.h>
#include <aiterlite/overlap.h>

namespace {

#if !defined(AITERLITE_FEW_PARTS)
#define AITERLITE_FEW_PARTS 0
#endif

using namespace aiterlite;
using Out = AITERLITE_OUT;

constexpr uint32_t kDim = AITERLITE_DIM, kSlices = AITERLITE_SLICES, kSliceThreads = kDim / 4;
constexpr uint32_t kThreads = kSliceThreads * kSlices > kWaveSize ? kSliceThreads * kSlices : kWaveSize;
constexpr uint32_t kWaves = kThreads / kWaveSize;
constexpr uint32_t kAhead = 8, kMostParts = 128, kFewParts = AITERLITE_FEW_PARTS;

static_assert(kSlices == 1 || (kThreads == kSliceThreads * kSlices && kThreads <= 1024),
              "AITERLITE_SLICES of AITERLITE_DIM / 4 threads are whole waves, of at most 1024 threads");
static_assert(kFewParts <= kAhead * kSlices, "AITERLITE_FEW_PARTS are loaded at once");

// The largest log-sum of a row's parts, and whether one of them lies outside partial.
struct Survey {
  float most;
  uint32_t outside;
};
struct Join {
  AITERLITE_DEVICE Survey operator()(const Survey& a, const Survey& b) const {
    return {Max{}(a.most, b.most), a.outside | b.outside};
  }
};
struct Shared {
  float weight[kMostParts];
  float sums[kSlices][kDim];
  Survey of_waves[kWaves];
};

AITERLITE_DEVICE void store_row(const aiterlite_mla_reduce_args& args, int64_t at, uint32_t quad,
                                const float (&value)[4], float log_sum) {
  auto* to = static_cast<Out*>(args.o) + at * kDim + quad * 4;
#pragma unroll
  for (uint32_t w = 0; w < 2; ++w) {
    const uint32_t high = from_float<Out>(value[2 * w + 1]).bits;
    store_u32(to + 2 * w, from_float<Out>(value[2 * w]).bits | high << 16);
  }
  if (quad == 0 && args.lse != nullptr) store_u32(args.lse + at, __builtin_bit_cast(uint32_t, log_sum));
}

// `part_of(j)` is the row of partial that is part j.
template <class PartOf>
AITERLITE_DEVICE Survey survey(const aiterlite_mla_reduce_args& args, const mla::Place& place, uint32_t head,
                               int32_t parts, const PartOf& part_of, Shared& shared) {
  Survey found = {-__builtin_inff(), 0};
#pragma unroll 1
  for (auto j = static_cast<int32_t>(thread_id()); j < parts; j += kThreads) {
    const int64_t row = part_of(j);
    const bool inside = row >= 0 && row < args.partial_rows;
    found = Join{}(found, {inside ? load_f32(args.partial_lse + row * place.heads + head) : 0.0f, inside ? 0u : 1u});
  }
  workgroup_barrier();
  return reduce_workgroup<kWaves>(found, Join{}, shared.of_waves);
}

// A thread's values of the next parts of its slice; of those that there are not, zeros.
template <class PartOf>
AITERLITE_DEVICE void load_parts(const aiterlite_mla_reduce_args& args, const mla::Place& place, uint32_t head,
                                 int32_t parts, int32_t from, const PartOf& part_of, Vector16 (&part)[kAhead]) {
#pragma unroll
  for (uint32_t i = 0; i < kAhead; ++i) {
    const auto at = from + static_cast<int32_t>(i * kSlices);
    const int64_t row = part_of(at < parts ? at : parts - 1);
    const bool wanted = at < parts && row >= 0 && row < args.partial_rows;
    const int64_t held = wanted ? row * place.heads + head : 0;
    const float* values = args.partial + held * kDim + thread_id() % kSliceThreads * 4;
    part[i] = load_vector_if<false>(values, wanted, args.partial);
  }
}

// The sums of slices, added in their order, to o. `live`: the row is a request's; else nothing is written.
AITERLITE_DEVICE void finish_row(const aiterlite_mla_reduce_args& args, int64_t at, bool live, float base, float total,
                                 float (&sum)[4], Shared& shared) {
  const uint32_t slice = thread_id() / kSliceThreads, quad = thread_id() % kSliceThreads;
  if constexpr (kSlices > 1) {
    if (slice > 0) {
#pragma unroll
      for (uint32_t e = 0; e < 4; ++e) shared.sums[slice][quad * 4 + e] = sum[e];
      if (quad == 0) shared.sums[0][slice] = total;
    }
    workgroup_barrier();
    if (slice == 0) {
#pragma unroll
      for (uint32_t other = 1; other < kSlices; ++other) {
        total += shared.sums[0][other];
#pragma unroll
        for (uint32_t e = 0; e < 4; ++e) sum[e] += shared.sums[other][quad * 4 + e];
      }
    }
  }
  if (slice > 0 || !live) return;
  const float by = total == 0.0f ? 0.0f : 1.0f / total;
#pragma unroll
  for (float& value : sum) value *= by;
  const float log_sum = total == 0.0f ? -__builtin_inff() : base + fast_log2(total) * kLn2;
  store_row(args, at, quad, sum, log_sum);
}

// At most kFew splits of a row, which lie one behind the other.
template <uint32_t kFew>
AITERLITE_DEVICE void merge_few(const aiterlite_mla_reduce_args& args, int64_t row, bool live, uint32_t head,
                                Shared& shared) {
  const auto slice = static_cast<int32_t>(thread_id() / kSliceThreads);
  const auto part_of = [&](int32_t j) { return row * args.splits + j; };
  Vector16 part[kAhead];
  load_parts(args, {row, 0, args.heads}, head, args.splits, slice, part_of, part);
  float log_sum[kFew], base = -__builtin_inff();
#pragma unroll
  for (uint32_t j = 0; j < kFew; ++j) {
    const auto at = static_cast<int32_t>(j) < args.splits ? static_cast<int32_t>(j) : args.splits - 1;
    log_sum[j] = load_f32(args.partial_lse + part_of(at) * args.heads + head);
  }
#pragma unroll
  for (uint32_t j = 0; j < kFew; ++j) base = Max{}(base, log_sum[j]);
  base = base == -__builtin_inff() ? 0.0f : base;
  float total = 0.0f, sum[4] = {};
#pragma unroll
  for (uint32_t i = 0; i < kAhead; ++i) {
    const uint32_t at = i * kSlices + static_cast<uint32_t>(slice);
    float own = -__builtin_inff();
#pragma unroll
    for (uint32_t other = 0; other < kSlices; ++other) {
      const uint32_t j = i * kSlices + other;
      if (j < kFew && j == at && static_cast<int32_t>(j) < args.splits) own = log_sum[j < kFew ? j : 0];
    }
    const float weight = fast_exp2((own - base) * kLog2E);
    total += weight;
#pragma unroll
    for (uint32_t e = 0; e < 4; ++e) {
      const float value = weight != 0.0f ? __builtin_bit_cast(float, part[i].word[e]) : 0.0f;
      sum[e] += weight * value;
    }
  }
  finish_row(args, row * args.heads + head, live, base, total, sum, shared);
}

template <class PartOf>
AITERLITE_DEVICE void merge_row(const aiterlite_mla_reduce_args& args, const mla::Place& place, bool live,
                                uint32_t head, int32_t parts, const PartOf& part_of, Shared& shared) {
  const uint32_t slice = thread_id() / kSliceThreads, quad = thread_id() % kSliceThreads;
  // The first values are on their way while weights are made.
  Vector16 part[kAhead];
  load_parts(args, place, head, parts, static_cast<int32_t>(slice), part_of, part);
  const Survey found = survey(args, place, head, parts, part_of, shared);
  // Maps that do not fit the operands are never read wrongly.
  if (found.outside != 0) return;
  const float most = found.most, base = most == -__builtin_inff() ? 0.0f : most;
  float total = 0.0f, sum[4] = {};
#pragma unroll 1
  for (int32_t first = 0; first < parts; first += kMostParts) {
    const int32_t count = parts - first < static_cast<int32_t>(kMostParts) ? parts - first : kMostParts;
    workgroup_barrier();
#pragma unroll 1
    for (auto j = static_cast<int32_t>(thread_id()); j < count; j += kThreads) {
      const int64_t at = part_of(first + j) * place.heads + head;
      shared.weight[j] = fast_exp2((load_f32(args.partial_lse + at) - base) * kLog2E);
    }
    workgroup_barrier();
#pragma unroll 1
    for (auto j = static_cast<int32_t>(slice); j < count; j += kAhead * kSlices) {
      if (first + j != static_cast<int32_t>(slice)) load_parts(args, place, head, parts, first + j, part_of, part);
#pragma unroll
      for (uint32_t i = 0; i < kAhead; ++i) {
        const auto at = j + static_cast<int32_t>(i * kSlices);
        const float weight = at < count ? shared.weight[at] : 0.0f;
        total += weight;
#pragma unroll
        for (uint32_t e = 0; e < 4; ++e) {
          // Of a part without tokens nobody knows the values.
          const float value = weight != 0.0f ? __builtin_bit_cast(float, part[i].word[e]) : 0.0f;
          sum[e] += weight * value;
        }
      }
    }
  }
  finish_row(args, place.row * args.heads + place.head + head, live, base, total, sum, shared);
}

AITERLITE_DEVICE void merge_tile(const aiterlite_mla_reduce_args& args, int32_t fold, int32_t number, uint32_t row,
                                 uint32_t head, Shared& shared) {
  const mla::Tile tile = mla::tile_of(args, number);
  if (row >= tile.rows) return;
  const mla::Place place = mla::place_of(args, fold, tile.row + row);
  if (place.row < 0 || head >= static_cast<uint32_t>(place.heads)) return;
  const auto part_of = [&](int32_t j) {
    return int64_t{mla::load_int(args.reduce_partial_map, int64_t{tile.first} + j)} + row;
  };
  merge_row(args, place, true, head, tile.parts, part_of, shared);
}

AITERLITE_DEVICE void clear_request(const aiterlite_mla_reduce_args& args, int32_t request, uint32_t row,
                                    uint32_t head) {
  if (thread_id() >= kSliceThreads) return;
  if (mla::kv_length(args.kv_indptr, args.kv_last_page_lens, args.page_size, request) > 0) return;
  const int64_t at = int64_t{mla::load_int(args.qo_indptr, request)} + row;
  if (at >= mla::load_int(args.qo_indptr, int64_t{request} + 1) || at >= args.rows) return;
  const float zeros[4] = {};
  store_row(args, at * args.heads + head, thread_id(), zeros, -__builtin_inff());
}

// A row of each request's equal splits. Requests may begin behind the first row and end before the last; rows are no
// less than that from first to last, and what they are is loaded beside a workgroup's first parts, not before.
AITERLITE_DEVICE void merge_splits(const aiterlite_mla_reduce_args& args, uint32_t heads, uint32_t head,
                                   Shared& shared) {
  const int64_t first = mla::load_int(args.qo_indptr, 0), behind = mla::load_int(args.qo_indptr, args.batch);
  const int64_t step = int64_t{args.workgroups} * args.q_len;
  int64_t row = workgroup_id() / heads;
  if (row >= args.rows) return;
  for (;;) {
    const bool live = row >= first && row < behind;
    const auto part_of = [&](int32_t j) { return row * args.splits + j; };
    if constexpr (kFewParts > 0) {
      if (args.splits <= static_cast<int32_t>(kFewParts)) {
        merge_few<kFewParts>(args, row, live, head, shared);
      } else {
        merge_row(args, {row, 0, args.heads}, live, head, args.splits, part_of, shared);
      }
    } else {
      merge_row(args, {row, 0, args.heads}, live, head, args.splits, part_of, shared);
    }
    row += step;
    if (row >= behind || row >= args.rows) return;
    workgroup_barrier();
  }
}

}  // namespace

AITERLITE_KERNEL(kThreads)
aiterlite_mla_reduce(aiterlite_mla_reduce_args args) {
  AITERLITE_SHARED(Shared, shared, 1);
  await_predecessors();
  admit_successors();
  const auto heads = static_cast<uint32_t>(args.heads), head = workgroup_id() % heads;
  if (args.splits > 0) return merge_splits(args, heads, head, shared[0]);
  const uint32_t of_tile = static_cast<uint32_t>(args.q_len) * heads;
  const uint32_t row = workgroup_id() / heads % static_cast<uint32_t>(args.q_len);
  const int32_t requests = args.kv_indptr != nullptr ? args.batch : 0;
  int32_t fold = args.fold, tiles = args.tiles;
  if (args.work_info_set != nullptr) {
    fold = mla::fold_of(mla::load_int(args.work_info_set, 7), fold);
    // A tile has a row at least; entries behind as many are those of a larger batch.
    const int64_t most = int64_t{args.batch} * fold * args.q_len;
    tiles = most < tiles ? static_cast<int32_t>(most) : tiles;
  }
#pragma unroll 1
  for (auto at = static_cast<int32_t>(workgroup_id() / of_tile); at < tiles + requests; at += args.workgroups) {
    if (at < tiles) {
      merge_tile(args, fold, at, row, head, shared[0]);
    } else {
      clear_request(args, at - tiles, row, head);
    }
  }
}
