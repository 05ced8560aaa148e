// What the ways of decoding on a CPU share: a call, the rows of q and of KV of a task, and where results go.
#pragma once
#include <aiterlite/cpu/attention.h>
#include <aiterlite/mla/work.h>
#include <math.h>

namespace aiterlite::mla {

constexpr int64_t kGroupHeads = 16, kTaskGroups = 4;
constexpr float kLog2E = 1.44269504088896340736f, kLn2 = 0.69314718055994530942f;

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
inline void widen_row(uint16_t* to, const uint8_t* from, int64_t count) {
  constexpr int64_t kStep = 2 * cpu::kLanes;
  constexpr float kFactor = kFnuz ? 0x1p7f : 0x1p8f;  // what E4m3::widen leaves out
  for (int64_t i = 0; i < count; i += kStep) {
    cpu::Pair pair = cpu::E4m3<kFnuz>::widen(from + i);
    pair.first *= kFactor;
    pair.second *= kFactor;
    cpu::store(to + i, cpu::Bf16::narrow_exactly(pair));
  }
}

template <class Element>
inline void widen_row(uint16_t* to, const uint8_t* from, int64_t count, Kind kind) {
  if constexpr (__is_same(Element, cpu::Bf16)) {
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

struct Group {
  int64_t row;   // of q and o
  int32_t head;  // the first one
  int32_t heads;
  int32_t seen;     // tokens of the request
  int64_t partial;  // -1: o
};

// The rows of KV of a block's tokens, those that exist.
template <int64_t kMost>
struct Rows {
  const uint16_t* of[kMost];
  int32_t token[kMost];
  int64_t count = 0;

  // Of the tokens from `begin` on, at most kMost; returns the token behind them.
  int64_t find(const Call& call, const Work& work, int64_t begin) {
    const int64_t size = call.kv == Kind::k16 ? 2 : 1;
    const int64_t end = begin + kMost < work.end ? begin + kMost : work.end;
    count = 0;
    const int64_t page = call.args->page_size;
    for (int64_t at = begin; at < end;) {
      const int64_t behind = (at / page + 1) * page, last = behind < end ? behind : end;
      const int64_t offset = token_offset(*call.args, work, static_cast<int32_t>(at));
      const char* row = static_cast<const char*>(call.args->kv_buffer) + offset * size;
      if (offset < 0) at = last;
      for (; at < last; ++at, row += call.args->stride_slot * size) {
        of[count] = reinterpret_cast<const uint16_t*>(row);
        token[count++] = static_cast<int32_t>(at);
      }
    }
    return end;
  }
  // How many of them a row of q sees that sees the tokens before `limit`.
  int64_t seen(int32_t limit) const {
    int64_t those = count;
    while (those > 0 && token[those - 1] >= limit) --those;
    return those;
  }
};

inline float scale_of(const float* scale) { return scale == nullptr ? 1.0f : *scale; }

// What scores are multiplied by, which are then logarithms to base 2.
inline float score_scale(const Call& call) {
  float scale = call.args->scale * kLog2E;
  if (call.q != Kind::k16) scale *= scale_of(call.args->q_scale);
  if (call.kv != Kind::k16) scale *= scale_of(call.args->kv_scale);
  return scale;
}

inline Work work_of(const Call& call, int64_t item) {
  const aiterlite_mla_decode_args& args = *call.args;
  const auto at = static_cast<int32_t>(item);
  return args.splits > 0 ? split_work(args, at / args.splits, at % args.splits) : planned_work(args, at);
}

// The groups of heads of task `task` of a piece; returns how many.
inline int64_t find_groups(const Work& work, int64_t task, Group (&groups)[kTaskGroups]) {
  const int64_t of_row = (work.heads + kGroupHeads - 1) / kGroupHeads;
  const int64_t first = task * kTaskGroups, last = (task + 1) * kTaskGroups;
  int64_t count = 0;
  for (int64_t at = first; at < last && at < of_row * work.rows; ++at, ++count) {
    const auto row = static_cast<int32_t>(at / of_row), head = static_cast<int32_t>(at % of_row * kGroupHeads);
    const auto heads = static_cast<int32_t>(work.heads - head < kGroupHeads ? work.heads - head : kGroupHeads);
    const int64_t partial = work.partial < 0 ? -1 : (work.partial + row * work.partial_step) * work.heads + head;
    groups[count] = {work.first_row + row, work.head + head, heads, visible(work, row), partial};
  }
  return count;
}

// Stores head `h` of a group: `sums_to(out)` leaves its sums, column by column, not yet divided by `total`.
template <class SumsTo>
inline void store_head(const Call& call, const Group& group, int64_t h, float maximum, float total,
                       const SumsTo& sums_to) {
  const aiterlite_mla_decode_args& args = *call.args;
  const float value_scale = call.kv == Kind::k16 ? 1.0f : scale_of(args.kv_scale);
  const float by = total == 0.0f ? 0.0f : value_scale / total;
  const float log_sum = total == 0.0f ? -__builtin_inff() : (maximum + log2f(total)) * kLn2;
  // As many heads side by side as the piece has; a row may go unread, but its log-sum not.
  float narrow[kValueDim];
  float* out = group.partial < 0 ? narrow : args.partial + (group.partial + h) * kValueDim;
  if (total == 0.0f) {
    memset(out, 0, sizeof(narrow));
  } else {
    sums_to(out);
    for (int64_t i = 0; i < kValueDim; ++i) out[i] *= by;
  }
  if (group.partial >= 0) {
    args.partial_lse[group.partial + h] = log_sum;
    return;
  }
  const int64_t at = group.row * args.heads + group.head + h;
  if (args.lse != nullptr) args.lse[at] = log_sum;
  auto* to = static_cast<uint16_t*>(args.o) + at * kValueDim;
  for (int64_t i = 0; i < kValueDim; ++i) {
    to[i] = call.to_fp16 ? cpu::Fp16::from_float(out[i]) : cpu::Bf16::from_float(out[i]);
  }
}

}  // namespace aiterlite::mla
