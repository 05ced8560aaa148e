// Rotary embeddings, and latents on their way to a cache, on a CPU: rope/args.h. A task is some tokens of both sides; a
// token's cosines and sines are widened once for all its heads, in pieces that lie on the stack.
#include <aiterlite/cpu/quantise.h>
#include <aiterlite/host_abi.h>
#include <aiterlite/rope/args.h>

namespace {

using namespace aiterlite::cpu;

// Elements below which a thread of its own costs more than it saves, and pairs that are rotated at once.
constexpr int64_t kTask = 16384;
constexpr int64_t kPairs = 256;

struct Fp32 {
  using Bits = float;
  static float to_float(float value) { return value; }
};

struct Multiply {
  float by;
  f32v operator()(f32v x) const { return x * by; }
};

// One side of a call, whichever it is.
struct Side {
  const uint16_t* nope;
  const uint16_t* rope;
  void* out;
  int64_t nope_token, nope_head, rope_token, rope_head, out_token, out_head, in_inner, out_inner;
  int64_t tokens, heads;
  int32_t code;
  bool scaled;
  float by;
};

float reciprocal_of(const float* scale) { return scale != nullptr ? 1.0f / *scale : 1.0f; }

Side side_of_q(const aiterlite_rope_args& a) {
  return {static_cast<const uint16_t*>(a.q_nope),
          static_cast<const uint16_t*>(a.q_pe),
          a.q_out,
          a.q_nope_token,
          a.q_nope_head,
          a.q_pe_token,
          a.q_pe_head,
          a.q_out_token,
          a.q_out_head,
          a.q_in_inner,
          a.q_out_inner,
          a.q_tokens,
          a.q_heads,
          a.q_code,
          a.q_code != 0,
          reciprocal_of(a.q_code != 0 ? a.q_scale : nullptr)};
}
Side side_of_k(const aiterlite_rope_args& a) {
  return {static_cast<const uint16_t*>(a.k_nope),
          static_cast<const uint16_t*>(a.k_pe),
          a.k_out,
          a.k_nope_token,
          a.k_nope_head,
          a.k_pe_token,
          a.k_pe_head,
          a.k_out_token,
          a.k_out_head,
          a.k_in_inner,
          a.k_out_inner,
          a.k_tokens,
          a.k_heads,
          a.k_code,
          a.k_scale != nullptr,
          reciprocal_of(a.k_scale)};
}

template <class In>
void emit(const Side& side, int64_t at, const uint16_t* from, int64_t count) {
  if (side.code == 1) {
    encode_all<In, EncodeE4m3<false>>(static_cast<uint8_t*>(side.out) + at, from, count, Multiply{side.by});
  } else if (side.code == 2) {
    encode_all<In, EncodeE4m3<true>>(static_cast<uint8_t*>(side.out) + at, from, count, Multiply{side.by});
  } else if (side.scaled) {
    auto* to = static_cast<uint16_t*>(side.out) + at;
    for (int64_t i = 0; i < count; ++i) to[i] = In::from_float(In::to_float(from[i]) * side.by);
  } else {
    memmove(static_cast<uint16_t*>(side.out) + at, from, count * sizeof *from);
  }
}

int64_t index_at(const void* p, int32_t bits, int64_t at) {
  return bits == 64 ? static_cast<const int64_t*>(p)[at] : static_cast<const int32_t*>(p)[at];
}

struct Angles {
  float first[kPairs], second[kPairs];
};

template <class Table>
void widen_angles(const aiterlite_rope_args& args, const void* table, int64_t row, int64_t begin, int64_t count,
                  Angles& angles) {
  const auto* from = static_cast<const typename Table::Bits*>(table) + row;
  const int64_t half = args.rope / 2;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t pair = begin + i;
    const bool beside = !args.half_table && !args.neox;
    angles.first[i] = Table::to_float(from[beside ? 2 * pair : pair]);
    angles.second[i] = args.half_table ? angles.first[i] : Table::to_float(from[beside ? 2 * pair + 1 : half + pair]);
  }
}

template <class In>
void rotate(bool neox, const uint16_t* first, const uint16_t* second, int64_t count, const Angles& cos,
            const Angles& sin, uint16_t* to) {
  const int64_t step = neox ? 1 : 2;
  uint16_t x[kPairs], y[kPairs];
  for (int64_t i = 0; i < count; ++i) x[i] = first[i * step];
  for (int64_t i = 0; i < count; ++i) y[i] = second[i * step];
  float turned[2][kPairs];
  for (int64_t i = 0; i < count; ++i) {
    const float a = In::to_float(x[i]), b = In::to_float(y[i]);
    turned[0][i] = a * cos.first[i] - b * sin.first[i];
    turned[1][i] = b * cos.second[i] + a * sin.second[i];
  }
  for (int64_t i = 0; i < count; ++i) to[neox ? i : 2 * i] = In::from_float(turned[0][i]);
  for (int64_t i = 0; i < count; ++i) to[neox ? count + i : 2 * i + 1] = In::from_float(turned[1][i]);
}

template <class In, class Table>
__attribute__((noinline)) void run_token(const aiterlite_rope_args& args, const Side& side, bool is_q, int64_t token) {
  int64_t slot = 0;
  if (args.slot_bits != 0 && (!is_q || args.q_needs_slot)) {
    slot = index_at(args.slots, args.slot_bits, token);
    if (slot < 0 || slot >= args.cache_slots) return;
  }
  const int64_t inner = args.inner > 1 ? args.inner : 1, outer = token / inner, beside = token % inner;
  const auto at = [&](int64_t of_token, int64_t of_inner) { return outer * of_token + beside * of_inner; };
  int64_t place = at(side.out_token, side.out_inner);
  if (!is_q && args.slot_bits != 0) {
    place = slot / args.block_size * args.k_block + slot % args.block_size * side.out_token;
  }
  const int64_t nope = args.nope, rope = args.rope, half = rope / 2;
  const bool extra = is_q ? args.q_pe_out != nullptr && token < args.copied : args.k_pe_out != nullptr;
  for (int64_t head = 0; head < (nope != 0 ? side.heads : 0); ++head) {
    const uint16_t* from = side.nope + at(side.nope_token, side.in_inner) + head * side.nope_head;
    emit<In>(side, place + head * side.out_head + (args.nope_first ? 0 : rope), from, nope);
    if (extra && is_q) {
      memset(static_cast<uint16_t*>(args.q_zeros) + (token * side.heads + head) * nope, 0, nope * sizeof(uint16_t));
    }
  }
  bool turns = args.cos != nullptr && (is_q || token < args.rotated);
  int64_t position = outer;
  if (turns && args.position_bits != 0) {
    position = index_at(args.positions, args.position_bits, token);
    if (args.offsets != nullptr) position += index_at(args.offsets, args.position_bits, token);
  }
  if (args.nearest) {
    position = position < 0 ? 0 : position < args.table_rows ? position : args.table_rows - 1;
  } else {
    turns = turns && position >= 0 && position < args.table_rows;
  }
  Angles cos, sin;
  for (int64_t begin = 0; begin < half; begin += kPairs) {
    const int64_t count = half - begin < kPairs ? half - begin : kPairs;
    if (turns) {
      widen_angles<Table>(args, args.cos, position * args.cos_row, begin, count, cos);
      widen_angles<Table>(args, args.sin, position * args.sin_row, begin, count, sin);
    }
    // The two parts of a piece, each `part` elements long.
    const int64_t part = args.neox ? count : 2 * count, start = args.neox ? begin : 2 * begin;
    for (int64_t head = 0; head < side.heads; ++head) {
      const uint16_t* from = side.rope + at(side.rope_token, side.in_inner) + head * side.rope_head;
      const uint16_t* second = from + (args.neox ? half + begin : 2 * begin + 1);
      const int64_t to = place + head * side.out_head + (args.nope_first ? nope : 0);
      uint16_t made[2 * kPairs];
      if (turns) {
        rotate<In>(args.neox != 0, from + start, second, count, cos, sin, made);
      } else {
        memcpy(made, from + start, part * sizeof *made);
        if (args.neox) memcpy(made + count, from + half + begin, count * sizeof *made);
      }
      emit<In>(side, to + start, made, part);
      if (args.neox) emit<In>(side, to + half + begin, made + count, count);
      if (!extra) continue;
      auto* more = static_cast<uint16_t*>(is_q ? args.q_pe_out : args.k_pe_out) + (token * side.heads + head) * rope;
      memcpy(more + start, made, part * sizeof *made);
      if (args.neox) memcpy(more + half + begin, made + count, count * sizeof *made);
    }
  }
}

struct Call {
  const aiterlite_rope_args* args;
  Side q, k;
};

template <class In, class Table>
void run_tokens(int64_t begin, int64_t end, void* context) {
  const Call& call = *static_cast<const Call*>(context);
  for (int64_t i = begin; i < end; ++i) {
    const bool is_q = i < call.q.tokens;
    run_token<In, Table>(*call.args, is_q ? call.q : call.k, is_q, is_q ? i : i - call.q.tokens);
  }
}

template <class In, class Table>
int32_t run(const aiterlite_rope_args* args, parallel_for_t parallel_for) {
  Call call = {args, side_of_q(*args), side_of_k(*args)};
  if (call.q.heads == 0) call.q.tokens = 0;
  if (call.k.heads == 0) call.k.tokens = 0;
  const int64_t width = (call.q.heads + call.k.heads) * int64_t{args->nope + args->rope};
  const int64_t grain = width < kTask ? kTask / (width > 0 ? width : 1) : 1;
  return parallel_for(0, call.q.tokens + call.k.tokens, grain, run_tokens<In, Table>, &call);
}

}  // namespace

#define AITERLITE_ROPE(name, In, Table)                                                                            \
  AITERLITE_EXPORT int32_t aiterlite_rope_cpu_##name(const aiterlite_rope_args* args, parallel_for_t parallel_for, \
                                                     int32_t) {                                                    \
    return run<In, Table>(args, parallel_for);                                                                     \
  }
AITERLITE_ROPE(bf16_bf16, Bf16, Bf16)
AITERLITE_ROPE(bf16_fp32, Bf16, Fp32)
AITERLITE_ROPE(fp16_fp16, Fp16, Fp16)
AITERLITE_ROPE(fp16_fp32, Fp16, Fp32)
