// Merges normalised parts of MLA's rows by their log-sums, on a CPU: mla/args.h. A task is 4 heads of a row of o, or
// what a tile or a request has of rows; parts are added in their order, and those without tokens (-inf) are not read.
#include <aiterlite/cpu/element.h>
#include <aiterlite/host_abi.h>
#include <aiterlite/mla/work.h>
#include <math.h>

namespace {

using namespace aiterlite::mla;

constexpr int64_t kTaskHeads = 4;  // of a row of o

struct Call {
  const aiterlite_mla_reduce_args* args;
  int64_t head_dim;
  bool to_fp16;
  int32_t fold;
  int64_t row_tasks;  // of a row of o
};

void store_row(const Call& call, int64_t at, const float* values, float log_sum) {
  const aiterlite_mla_reduce_args& args = *call.args;
  if (args.lse != nullptr) args.lse[at] = log_sum;
  auto* to = static_cast<uint16_t*>(args.o) + at * call.head_dim;
  for (int64_t i = 0; i < call.head_dim; ++i) {
    to[i] = call.to_fp16 ? aiterlite::cpu::Fp16::from_float(values[i]) : aiterlite::cpu::Bf16::from_float(values[i]);
  }
}

// Heads [first, last) of a row. `part_of(j)` is the row of partial that is part j.
template <class PartOf>
void merge_heads(const Call& call, const Place& place, int64_t first, int64_t last, int32_t parts,
                 const PartOf& part_of) {
  const aiterlite_mla_reduce_args& args = *call.args;
  for (int64_t head = first; head < last && head < place.heads; ++head) {
    float most = -__builtin_inff();
    for (int32_t j = 0; j < parts; ++j) most = fmaxf(most, args.partial_lse[part_of(j) * place.heads + head]);
    const float base = most == -__builtin_inff() ? 0.0f : most;
    float total = 0.0f, sums[kValueDim] = {};
    for (int32_t j = 0; j < parts; ++j) {
      const int64_t at = part_of(j) * place.heads + head;
      if (args.partial_lse[at] == -__builtin_inff()) continue;
      const float weight = expf(args.partial_lse[at] - base);
      total += weight;
      const float* part = args.partial + at * call.head_dim;
      for (int64_t i = 0; i < call.head_dim; ++i) sums[i] += weight * part[i];
    }
    const float by = total == 0.0f ? 0.0f : 1.0f / total;
    for (int64_t i = 0; i < call.head_dim; ++i) sums[i] *= by;
    store_row(call, place.row * args.heads + place.head + head, sums, total == 0.0f ? most : base + logf(total));
  }
}

void merge_tile(const Call& call, int32_t number) {
  const aiterlite_mla_reduce_args& args = *call.args;
  const Tile tile = tile_of(args, number);
  for (int64_t row = 0; row < tile.rows && row < args.q_len; ++row) {
    const Place place = place_of(args, call.fold, tile.row + row);
    bool inside = place.row >= 0;
    const auto part_of = [&](int32_t j) { return load_int(args.reduce_partial_map, int64_t{tile.first} + j) + row; };
    for (int32_t j = 0; j < tile.parts && inside; ++j) inside = part_of(j) >= 0 && part_of(j) < args.partial_rows;
    if (inside) merge_heads(call, place, 0, place.heads, tile.parts, part_of);
  }
}

void clear_request(const Call& call, int32_t request) {
  const aiterlite_mla_reduce_args& args = *call.args;
  if (kv_length(args.kv_indptr, args.kv_last_page_lens, args.page_size, request) > 0) return;
  const float zeros[kValueDim] = {};
  const int64_t end = args.qo_indptr[request + 1];
  for (int64_t row = args.qo_indptr[request]; row < end && row < args.rows; ++row) {
    for (int64_t head = 0; head < args.heads; ++head)
      store_row(call, row * args.heads + head, zeros, -__builtin_inff());
  }
}

void run_tasks(int64_t begin, int64_t end, void* context) {
  const auto& call = *static_cast<const Call*>(context);
  const aiterlite_mla_reduce_args& args = *call.args;
  for (int64_t at = begin; at < end; ++at) {
    if (args.splits > 0) {
      const int64_t row = at / call.row_tasks, head = at % call.row_tasks * kTaskHeads;
      if (row < args.qo_indptr[0] || row >= args.qo_indptr[args.batch]) continue;  // no request's
      merge_heads(call, {row, 0, args.heads}, head, head + kTaskHeads, args.splits,
                  [&](int32_t j) { return row * args.splits + j; });
    } else if (at < args.tiles) {
      merge_tile(call, static_cast<int32_t>(at));
    } else {
      clear_request(call, static_cast<int32_t>(at - args.tiles));
    }
  }
}

int32_t run(const aiterlite_mla_reduce_args& args, int64_t head_dim, bool to_fp16, parallel_for_t parallel_for) {
  Call call = {&args, head_dim, to_fp16, args.fold, (int64_t{args.heads} + kTaskHeads - 1) / kTaskHeads};
  if (args.work_info_set != nullptr) call.fold = fold_of(args.work_info_set[7], args.fold);
  const int64_t requests = args.kv_indptr != nullptr ? args.batch : 0;
  const int64_t all = args.splits > 0 ? args.rows * call.row_tasks : args.tiles + requests;
  return all <= 0 ? 0 : parallel_for(0, all, 1, run_tasks, &call);
}

}  // namespace

#define MLA_REDUCE(dim, o, to_fp16)                                                                     \
  AITERLITE_EXPORT int32_t aiterlite_mla_reduce_cpu_##dim##_##o(const aiterlite_mla_reduce_args* args,  \
                                                                parallel_for_t parallel_for, int32_t) { \
    return run(*args, dim, to_fp16, parallel_for);                                                      \
  }
MLA_REDUCE(512, bf16, false)
MLA_REDUCE(512, fp16, true)
MLA_REDUCE(128, bf16, false)
MLA_REDUCE(128, fp16, true)
MLA_REDUCE(64, bf16, false)
MLA_REDUCE(64, fp16, true)
