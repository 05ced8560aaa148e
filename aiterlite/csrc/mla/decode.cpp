// MLA decode on a CPU: softmax(scale * q k^T) v over paged rows of KV, for a plan's pieces or for equal splits
// (mla/args.h); bf16, fp16 and both 8-bit formats.
//
// A task is a piece of KV and up to four groups of at most 16 heads of one row of q, and runs over its tokens in
// blocks: scores (cpu/attention.h), online softmax, sums of values. So a block's KV comes from memory once and then
// from the cache, 24 or 48 KiB; a further block is asked for while scores are made. 8-bit KV becomes 16-bit, exactly, a
// block at a time; 8-bit q once a task. Products and sums are fp32, weights too; the result is rounded once.
//
// Traffic: a token's row once a task. Rows of KV that a row of q does not see, and indices that name no page, are not
// among a block's rows for it: nothing is read of them. Bits depend on the pieces only, not on threads.
#include <aiterlite/cpu/attention.h>
#include <aiterlite/host_abi.h>
#include <aiterlite/mla/work.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

namespace {

using namespace aiterlite::cpu;
using aiterlite::mla::kKeyDim;
using aiterlite::mla::kValueDim;
using aiterlite::mla::Work;

constexpr int64_t kBlock = 48;  // tokens whose weights are made together
constexpr int64_t kGroupHeads = 16, kTaskGroups = 4;
constexpr int64_t kStep = 2 * kLanes, kSteps = kKeyDim / kStep;
constexpr int64_t kHeadsPacked = (kGroupHeads + kScoreHeads - 1) / kScoreHeads * kScoreHeads;
constexpr float kLog2E = 1.44269504088896340736f, kLn2 = 0.69314718055994530942f;
static_assert(kKeyDim % kStep == 0 && kValueDim % kStep == 0 && kBlock % kScoreRows == 0 && kBlock % kLanes == 0);
static_assert(kGroupHeads % kValueHeads == 0 && kHeadsPacked == kGroupHeads);

enum class Kind { k16, kE4m3fn, kE4m3fnuz };

// The 16-bit code of each 8-bit one, exactly.
template <class Element>
struct Codes {
  uint16_t of[256];
  explicit Codes(bool fnuz) {
    for (int code = 0; code < 256; ++code) {
      const int exponent = code >> 3 & 15, fraction = code & 7, bias = fnuz ? 8 : 7;
      float value = exponent == 0 ? ldexpf(static_cast<float>(fraction), -2 - bias)
                                  : ldexpf(static_cast<float>(8 + fraction), exponent - 3 - bias);
      if (code & 0x80) value = -value;
      if (fnuz ? code == 0x80 : (code & 0x7f) == 0x7f) value = __builtin_nanf("");
      of[code] = Element::from_float(value);
    }
  }
};

template <bool kFnuz>
void widen_row(uint16_t* to, const uint8_t* from, int64_t count) {
  constexpr float kFactor = kFnuz ? 0x1p7f : 0x1p8f;  // what E4m3::widen leaves out
  for (int64_t i = 0; i < count; i += kStep) {
    Pair pair = E4m3<kFnuz>::widen(from + i);
    pair.first *= kFactor;
    pair.second *= kFactor;
    store(to + i, Bf16::narrow_exactly(pair));
  }
}

template <class Element>
void widen_row(uint16_t* to, const uint8_t* from, int64_t count, Kind kind) {
  if constexpr (__is_same(Element, Bf16)) {
    if (kind == Kind::kE4m3fn) return widen_row<false>(to, from, count);
    return widen_row<true>(to, from, count);
  } else {
    static const Codes<Element> fn(false), fnuz(true);
    const Codes<Element>& codes = kind == Kind::kE4m3fn ? fn : fnuz;
    for (int64_t i = 0; i < count; ++i) to[i] = codes.of[from[i]];
  }
}

struct Call {
  const aiterlite_mla_decode_args* args;
  Kind q, kv;
  bool to_fp16;   // what o is
  int64_t items;  // pieces of KV
  int64_t tasks;  // of each
  int32_t status;
};

// What one thread works in.
struct Scratch {
  uint16_t q[kTaskGroups][kGroupHeads * kKeyDim];
  float sums[kTaskGroups][kGroupHeads][kValueDim];
  float maximum[kTaskGroups][kGroupHeads];
  float total[kTaskGroups][kGroupHeads];
  float scores[kGroupHeads][kBlock];
  float weights[kGroupHeads / kValueHeads][kBlock][kValueHeads];
  float factors[kGroupHeads];
  uint16_t wide[kBlock][kKeyDim];
};

struct Group {
  int64_t row;   // of q and o
  int32_t head;  // the first one
  int32_t heads;
  int32_t seen;     // tokens of the request
  int64_t partial;  // -1: o
};

// The rows of KV of a block's tokens, those that exist.
struct Rows {
  const uint16_t* of[kBlock];
  int32_t token[kBlock];
  int64_t count;
};

float scale_of(const float* scale) { return scale == nullptr ? 1.0f : *scale; }

template <class Element>
void pack_q(const Call& call, const Group& group, uint16_t* out) {
  uint16_t row[kKeyDim];
  for (int64_t h = 0; h < kGroupHeads; ++h) {
    const int64_t at = (group.row * call.args->heads + group.head + (h < group.heads ? h : 0)) * kKeyDim;
    if (call.q == Kind::k16) {
      memcpy(row, static_cast<const uint16_t*>(call.args->q) + at, sizeof(row));
    } else {
      widen_row<Element>(row, static_cast<const uint8_t*>(call.args->q) + at, kKeyDim, call.q);
    }
    uint16_t* to = out + h / kScoreHeads * kScoreHeads * kKeyDim + h % kScoreHeads * kStep;
    for (int64_t i = 0; i < kSteps; ++i) memcpy(to + i * kScoreHeads * kStep, row + i * kStep, kStep * sizeof(*row));
  }
}

int64_t find_rows(const Call& call, const Work& work, int64_t begin, Rows& rows) {
  const int64_t size = call.kv == Kind::k16 ? 2 : 1;
  const int64_t end = begin + kBlock < work.end ? begin + kBlock : work.end;
  rows.count = 0;
  for (int64_t token = begin; token < end; ++token) {
    const int64_t offset = aiterlite::mla::token_offset(*call.args, work, static_cast<int32_t>(token));
    if (offset < 0) continue;
    rows.of[rows.count] =
        reinterpret_cast<const uint16_t*>(static_cast<const char*>(call.args->kv_buffer) + offset * size);
    rows.token[rows.count++] = static_cast<int32_t>(token);
  }
  return end;
}

template <class Element>
void widen_block(const Call& call, const Rows& next, Rows& rows, Scratch& scratch) {
  for (int64_t r = 0; r < rows.count; ++r) {
    if (r < next.count) {
      const auto* line = reinterpret_cast<const char*>(next.of[r]);
      for (int64_t byte = 0; byte < kKeyDim; byte += 64) __builtin_prefetch(line + byte, 0, 2);
    }
    widen_row<Element>(scratch.wide[r], reinterpret_cast<const uint8_t*>(rows.of[r]), kKeyDim, call.kv);
    rows.of[r] = scratch.wide[r];
  }
}

// scores[head][row] of the first `count` rows, in log2; rows behind them up to a multiple of kScoreRows are repeats.
template <class Element>
void make_scores(const Rows& rows, const Rows& next, int64_t count, int64_t heads, const uint16_t* q, float scale,
                 bool ahead, float (&scores)[kGroupHeads][kBlock]) {
  const int64_t tiles = (heads + kScoreHeads - 1) / kScoreHeads;
  for (int64_t r = 0; r < count; r += kScoreRows) {
    const uint16_t *of[kScoreRows], *following[kScoreRows];
    for (int64_t i = 0; i < kScoreRows; ++i) {
      of[i] = rows.of[r + i < count ? r + i : count - 1];
      following[i] = r + i < next.count ? next.of[r + i] : of[i];
    }
    for (int64_t tile = 0; tile < tiles; ++tile) {
      f32v lanes[kScoreHeads][kScoreRows];
      const int first = ahead ? static_cast<int>(kScoreRows * tile / tiles) : 0;
      const int last = ahead ? static_cast<int>(kScoreRows * (tile + 1) / tiles) : 0;
      score_tile<Element>(of, q + tile * kScoreHeads * kKeyDim, kSteps, following, first, last, lanes);
      for (int64_t h = 0; h < kScoreHeads; ++h) {
        const f32q four = sum_lanes(lanes[h][0], lanes[h][1], lanes[h][2], lanes[h][3]) * scale;
        store(&scores[tile * kScoreHeads + h][r], four);
      }
    }
  }
}

// Scores to weights, relative to the maximum so far.
void make_weights(int64_t count, int64_t heads, Scratch& scratch, float* maximum, float* total) {
  const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
  for (int64_t h = 0; h < kGroupHeads; ++h) {
    float* weight = &scratch.weights[h / kValueHeads][0][h % kValueHeads];
    if (h >= heads) {
      scratch.factors[h] = 0.0f;
      for (int64_t r = 0; r < count; ++r) weight[r * kValueHeads] = 0.0f;
      continue;
    }
    float* scores = scratch.scores[h];
    for (int64_t r = count; r < padded; ++r) scores[r] = -__builtin_inff();
    f32v most = load<f32v>(scores);
    for (int64_t r = kLanes; r < padded; r += kLanes) {
      const f32v other = load<f32v>(scores + r);
      most = other > most ? other : most;
    }
    const float piece = largest(most), before = maximum[h];
    maximum[h] = piece > before ? piece : before;
    const float base = maximum[h] == -__builtin_inff() ? 0.0f : maximum[h];
    f32v sums = {};
    for (int64_t r = 0; r < padded; r += kLanes) {
      const f32v value = aiterlite::cpu::exp2(load<f32v>(scores + r) - base);
      sums += value;
      store(scores + r, value);
    }
    scratch.factors[h] = exp2f(before - base);
    total[h] = total[h] * scratch.factors[h] + sum(sums);
    for (int64_t r = 0; r < count; ++r) weight[r * kValueHeads] = scores[r];
  }
}

template <class Element>
void add_values(const Rows& rows, int64_t count, int64_t heads, const Scratch& scratch,
                float (&sums)[kGroupHeads][kValueDim]) {
  for (int64_t column = 0; column < kValueDim; column += kStep) {
    for (int64_t tile = 0; tile * kValueHeads < heads; ++tile) {
      value_tile<Element>(rows.of, column, count, &scratch.weights[tile][0][0], scratch.factors + tile * kValueHeads,
                          &sums[tile * kValueHeads][column], kValueDim);
    }
  }
}

template <class Element>
void store_group(const Call& call, const Group& group, Scratch& scratch, int64_t number) {
  const aiterlite_mla_decode_args& args = *call.args;
  const float value_scale = call.kv == Kind::k16 ? 1.0f : scale_of(args.kv_scale);
  for (int64_t h = 0; h < group.heads; ++h) {
    const float total = scratch.total[number][h];
    const float by = total == 0.0f ? 0.0f : value_scale / total;
    const float log_sum = total == 0.0f ? -__builtin_inff() : (scratch.maximum[number][h] + log2f(total)) * kLn2;
    const float* sums = scratch.sums[number][h];
    float out[kValueDim];
    for (int64_t i = 0; i < kValueDim; ++i) {
      const int at = static_cast<int>(i % kStep);
      out[i - at + column_of<Element>(at)] = total == 0.0f ? 0.0f : sums[i] * by;
    }
    if (group.partial >= 0) {
      // As many heads side by side as the piece has; a row may go unread, but its log-sum not.
      args.partial_lse[group.partial + h] = log_sum;
      memcpy(args.partial + (group.partial + h) * kValueDim, out, sizeof(out));
      continue;
    }
    const int64_t at = group.row * args.heads + group.head + h;
    if (args.lse != nullptr) args.lse[at] = log_sum;
    auto* to = static_cast<uint16_t*>(args.o) + at * kValueDim;
    for (int64_t i = 0; i < kValueDim; ++i) to[i] = call.to_fp16 ? Fp16::from_float(out[i]) : Bf16::from_float(out[i]);
  }
}

template <class Element>
void run_task(const Call& call, const Work& work, int64_t task, Scratch& scratch) {
  const aiterlite_mla_decode_args& args = *call.args;
  const int64_t of_row = (work.heads + kGroupHeads - 1) / kGroupHeads;
  const int64_t first = task * kTaskGroups, last = (task + 1) * kTaskGroups;
  Group groups[kTaskGroups];
  int64_t count = 0;
  for (int64_t at = first; at < last && at < of_row * work.rows; ++at, ++count) {
    const auto row = static_cast<int32_t>(at / of_row), head = static_cast<int32_t>(at % of_row * kGroupHeads);
    const auto heads = static_cast<int32_t>(work.heads - head < kGroupHeads ? work.heads - head : kGroupHeads);
    const int64_t partial = work.partial < 0 ? -1 : (work.partial + row * work.partial_step) * work.heads + head;
    groups[count] = {work.first_row + row, work.head + head, heads, aiterlite::mla::visible(work, row), partial};
    pack_q<Element>(call, groups[count], scratch.q[count]);
    for (int64_t h = 0; h < kGroupHeads; ++h) {
      scratch.maximum[count][h] = -__builtin_inff();
      scratch.total[count][h] = 0.0f;
    }
    memset(scratch.sums[count], 0, sizeof(scratch.sums[count]));
  }
  if (count == 0) return;
  float scale = args.scale * kLog2E;
  if (call.q != Kind::k16) scale *= scale_of(args.q_scale);
  if (call.kv != Kind::k16) scale *= scale_of(args.kv_scale);
  const bool wide = call.kv == Kind::k16;
  Rows two[2];
  int64_t end = find_rows(call, work, work.begin, two[0]);
  for (int64_t number = 0, begin = work.begin; begin < work.end; ++number) {
    Rows &rows = two[number % 2], &next = two[1 - number % 2];
    begin = end;
    end = find_rows(call, work, begin, next);
    if (!wide) widen_block<Element>(call, next, rows, scratch);
    for (int64_t g = 0; g < count; ++g) {
      int64_t seen = rows.count;
      while (seen > 0 && rows.token[seen - 1] >= groups[g].seen) --seen;
      if (seen == 0) continue;
      make_scores<Element>(rows, next, seen, groups[g].heads, scratch.q[g], scale, wide && g == 0, scratch.scores);
      make_weights(seen, groups[g].heads, scratch, scratch.maximum[g], scratch.total[g]);
      add_values<Element>(rows, seen, groups[g].heads, scratch, scratch.sums[g]);
    }
  }
  for (int64_t g = 0; g < count; ++g) store_group<Element>(call, groups[g], scratch, g);
}

template <class Element>
void run_tasks(int64_t begin, int64_t end, void* context) {
  auto& call = *static_cast<Call*>(context);
  const aiterlite_mla_decode_args& args = *call.args;
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, sizeof(Scratch)) != 0) {
    __atomic_store_n(&call.status, kNoMemory, __ATOMIC_RELAXED);
    return;
  }
  for (int64_t at = begin; at < end; ++at) {
    const auto item = static_cast<int32_t>(at / call.tasks);
    const Work work = args.splits > 0 ? aiterlite::mla::split_work(args, item / args.splits, item % args.splits)
                                      : aiterlite::mla::planned_work(args, item);
    if (work.request >= 0) run_task<Element>(call, work, at % call.tasks, *static_cast<Scratch*>(memory));
  }
  free(memory);
}

template <class Element>
int32_t run(const aiterlite_mla_decode_args& args, Kind q, Kind kv, bool to_fp16, parallel_for_t parallel_for) {
  const int64_t groups = (int64_t{args.heads} + kGroupHeads - 1) / kGroupHeads * args.q_len;
  Call call = {&args, q, kv, to_fp16, 0, (groups + kTaskGroups - 1) / kTaskGroups, 0};
  const int32_t planned = args.splits > 0 ? 0 : args.work_indptr[args.workgroups];
  call.items = args.splits > 0            ? int64_t{args.batch} * args.splits
               : planned < args.work_rows ? planned
                                          : args.work_rows;
  const int64_t all = call.items * call.tasks;
  if (all <= 0) return 0;
  const int32_t status = parallel_for(0, all, 1, run_tasks<Element>, &call);
  return status != 0 ? status : call.status;
}

}  // namespace

#define MLA_DECODE(q, kv, o, element, q_kind, kv_kind, to_fp16)                                              \
  AITERLITE_EXPORT int32_t aiterlite_mla_decode_cpu_##q##_##kv##_##o(const aiterlite_mla_decode_args* args,  \
                                                                     parallel_for_t parallel_for, int32_t) { \
    return run<element>(*args, Kind::q_kind, Kind::kv_kind, to_fp16, parallel_for);                          \
  }
MLA_DECODE(bf16, bf16, bf16, Bf16, k16, k16, false)
MLA_DECODE(fp16, fp16, fp16, Fp16, k16, k16, true)
MLA_DECODE(bf16, e4m3fn, bf16, Bf16, k16, kE4m3fn, false)
MLA_DECODE(bf16, e4m3fnuz, bf16, Bf16, k16, kE4m3fnuz, false)
MLA_DECODE(fp16, e4m3fn, fp16, Fp16, k16, kE4m3fn, true)
MLA_DECODE(fp16, e4m3fnuz, fp16, Fp16, k16, kE4m3fnuz, true)
MLA_DECODE(e4m3fn, e4m3fn, bf16, Bf16, kE4m3fn, kE4m3fn, false)
MLA_DECODE(e4m3fn, e4m3fn, fp16, Bf16, kE4m3fn, kE4m3fn, true)
MLA_DECODE(e4m3fnuz, e4m3fnuz, bf16, Bf16, kE4m3fnuz, kE4m3fnuz, false)
MLA_DECODE(e4m3fnuz, e4m3fnuz, fp16, Bf16, kE4m3fnuz, kE4m3fnuz, true)
