// Vector compares: a lane mask into VCC or a scalar register pair, and into EXEC as well for v_cmpx.
#include <aiterlite/emulator/float.h>
#include <aiterlite/emulator/half.h>
#include <aiterlite/emulator/lanes.h>
#include <aiterlite/emulator/runtime.h>

namespace aiterlite::emulator {
namespace {

const MicroOp* deliver(Wave& w, const MicroOp* op, uint64_t result, uint64_t mask, bool to_exec) {
  w.set_pair(op->sdst, result & mask);
  if (to_exec) w.set_pair(exec_lo, result & mask);
  return next(op);
}

struct RawHalf {
  vf32 v;
};

template <class T>
inline auto operand(const Wave& w, const uint32_t* p) {
  if constexpr (__is_same(T, RawHalf)) {
    return raw_f16(load<vu32>(p));
  } else if constexpr (__is_same(T, Vu16) || __is_same(T, Vi16)) {
    return read_lanes<T>(w, p).v;
  } else {
    return load<T>(p);
  }
}

template <class T, auto F, bool kExec>
const MicroOp* compare(Wave& w, const MicroOp* op) {
  const uint32_t* s[2] = {vector_source(w, op, 0), vector_source(w, op, 1)};
  uint64_t mask = w.exec();
  if (__builtin_expect(op->flags & kPrepare, 0)) mask = prepare(w, op, s, 2);
  uint64_t result = 0;
  for (int i = 0; i < kWave; i += kLanes) {
    const vi32 m = F(operand<T>(w, s[0] + i), operand<T>(w, s[1] + i));
    result |= static_cast<uint64_t>(compress_mask(m)) << i;
  }
  return deliver(w, op, result, mask, kExec);
}

template <class T, auto F, bool kExec>
const MicroOp* compare_each(Wave& w, const MicroOp* op) {
  const uint32_t* s[2] = {vector_source(w, op, 0), vector_source(w, op, 1)};
  uint64_t mask = w.exec();
  if (op->flags & kPrepare) mask = prepare(w, op, s, 2);
  FloatGuard guard(w, __is_same(T, double));
  uint64_t result = 0;
  for (int l = 0; l < kWave; ++l) {
    result |= static_cast<uint64_t>(F(read_lane<T>(s[0] + l), read_lane<T>(s[1] + l))) << l;
  }
  return deliver(w, op, result, mask, kExec);
}

// Which class a float is in, as the bit of v_cmp_class's mask.
template <class B>
uint32_t float_class(B x, int exponent_bits, int mantissa_bits) {
  const bool negative = x >> (exponent_bits + mantissa_bits) & 1;
  const B e = x >> mantissa_bits & ((static_cast<B>(1) << exponent_bits) - 1);
  const B m = x & ((static_cast<B>(1) << mantissa_bits) - 1);
  if (e == (static_cast<B>(1) << exponent_bits) - 1) {
    if (m) return m >> (mantissa_bits - 1) & 1 ? 1 : 0;
    return negative ? 2 : 9;
  }
  if (e) return negative ? 3 : 8;
  if (m) return negative ? 4 : 7;
  return negative ? 5 : 6;
}

template <class B, int kExponent, int kMantissa, bool kExec>
const MicroOp* compare_class(Wave& w, const MicroOp* op) {
  const uint32_t* s[2] = {vector_source(w, op, 0), vector_source(w, op, 1)};
  uint64_t mask = w.exec();
  if (op->flags & kPrepare) mask = prepare(w, op, s, 2);
  uint64_t result = 0;
  for (int l = 0; l < kWave; ++l) {
    const B x = kExponent == 5 ? static_cast<B>(s[0][l] & 0xffff) : read_lane<B>(s[0] + l);
    result |= static_cast<uint64_t>(s[1][l] >> float_class<B>(x, kExponent, kMantissa) & 1) << l;
  }
  return deliver(w, op, result, mask, kExec);
}

constexpr auto kNever = [](auto a, auto b) { return (a == b) & (a != b); };
constexpr auto kAlways = [](auto a, auto b) { return (a == b) | ~(a == b); };
constexpr auto kEq = [](auto a, auto b) { return a == b; };
constexpr auto kNe = [](auto a, auto b) { return a != b; };
constexpr auto kLt = [](auto a, auto b) { return a < b; };
constexpr auto kLe = [](auto a, auto b) { return a <= b; };
constexpr auto kGt = [](auto a, auto b) { return a > b; };
constexpr auto kGe = [](auto a, auto b) { return a >= b; };
constexpr auto kLg = [](auto a, auto b) { return (a < b) | (a > b); };
constexpr auto kOrdered = [](auto a, auto b) { return (a == a) & (b == b); };
constexpr auto kUnordered = [](auto a, auto b) { return (a != a) | (b != b); };
template <auto F>
constexpr auto kNot = [](auto a, auto b) { return ~F(a, b); };
// The same for one lane, where ~ of a bool would not be its negation.
template <auto F>
constexpr auto kNotEach = [](auto a, auto b) { return !F(a, b); };
constexpr auto kNeverEach = [](auto, auto) { return false; };
constexpr auto kAlwaysEach = [](auto, auto) { return true; };

#define ONE(name, handler, T, F)                 \
  t.set(Op::v_cmp_##name, handler<T, F, false>); \
  t.set(Op::v_cmpx_##name, handler<T, F, true>)

#define FLOAT_COMPARES(suffix, handler, T, NEVER, ALWAYS, NOT) \
  ONE(f_##suffix, handler, T, NEVER);                          \
  ONE(lt_##suffix, handler, T, kLt);                           \
  ONE(eq_##suffix, handler, T, kEq);                           \
  ONE(le_##suffix, handler, T, kLe);                           \
  ONE(gt_##suffix, handler, T, kGt);                           \
  ONE(lg_##suffix, handler, T, kLg);                           \
  ONE(ge_##suffix, handler, T, kGe);                           \
  ONE(o_##suffix, handler, T, kOrdered);                       \
  ONE(u_##suffix, handler, T, kUnordered);                     \
  ONE(nge_##suffix, handler, T, NOT<kGe>);                     \
  ONE(nlg_##suffix, handler, T, NOT<kLg>);                     \
  ONE(ngt_##suffix, handler, T, NOT<kGt>);                     \
  ONE(nle_##suffix, handler, T, NOT<kLe>);                     \
  ONE(neq_##suffix, handler, T, NOT<kEq>);                     \
  ONE(nlt_##suffix, handler, T, NOT<kLt>);                     \
  ONE(tru_##suffix, handler, T, ALWAYS)

#define INTEGER_COMPARES(suffix, handler, T, NEVER, ALWAYS) \
  ONE(f_##suffix, handler, T, NEVER);                       \
  ONE(lt_##suffix, handler, T, kLt);                        \
  ONE(eq_##suffix, handler, T, kEq);                        \
  ONE(le_##suffix, handler, T, kLe);                        \
  ONE(gt_##suffix, handler, T, kGt);                        \
  ONE(ne_##suffix, handler, T, kNe);                        \
  ONE(ge_##suffix, handler, T, kGe);                        \
  ONE(t_##suffix, handler, T, ALWAYS)

}  // namespace

void register_vopc(HandlerTable& t) {
  FLOAT_COMPARES(f32, compare, vf32, kNever, kAlways, kNot);
  FLOAT_COMPARES(f16, compare, RawHalf, kNever, kAlways, kNot);
  FLOAT_COMPARES(f64, compare_each, double, kNeverEach, kAlwaysEach, kNotEach);
  INTEGER_COMPARES(i32, compare, vi32, kNever, kAlways);
  INTEGER_COMPARES(u32, compare, vu32, kNever, kAlways);
  INTEGER_COMPARES(i16, compare, Vi16, kNever, kAlways);
  INTEGER_COMPARES(u16, compare, Vu16, kNever, kAlways);
  INTEGER_COMPARES(i64, compare_each, int64_t, kNeverEach, kAlwaysEach);
  INTEGER_COMPARES(u64, compare_each, uint64_t, kNeverEach, kAlwaysEach);
  t.set(Op::v_cmp_class_f32, compare_class<uint32_t, 8, 23, false>);
  t.set(Op::v_cmpx_class_f32, compare_class<uint32_t, 8, 23, true>);
  t.set(Op::v_cmp_class_f64, compare_class<uint64_t, 11, 52, false>);
  t.set(Op::v_cmpx_class_f64, compare_class<uint64_t, 11, 52, true>);
  t.set(Op::v_cmp_class_f16, compare_class<uint32_t, 5, 10, false>);
  t.set(Op::v_cmpx_class_f16, compare_class<uint32_t, 5, 10, true>);
}

}  // namespace aiterlite::emulator
