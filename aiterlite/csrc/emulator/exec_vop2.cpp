// Two-source 32-bit vector instructions, and the three-source ones made of the same integer arithmetic.
#include <aiterlite/emulator/float.h>
#include <aiterlite/emulator/lanes.h>

namespace aiterlite::emulator {
namespace {

vu32 mul_hi_u32(vu32 a, vu32 b) {
  vu32 r;
  for (int i = 0; i < kLanes; ++i) r[i] = static_cast<uint32_t>(static_cast<uint64_t>(a[i]) * b[i] >> 32);
  return r;
}
vi32 mul_hi_i32(vi32 a, vi32 b) {
  vi32 r;
  for (int i = 0; i < kLanes; ++i) r[i] = static_cast<int32_t>(static_cast<int64_t>(a[i]) * b[i] >> 32);
  return r;
}
vu32 u24(vu32 a) { return a & 0xffffffu; }
vi32 i24(vi32 a) { return (a << 8) >> 8; }

vu32 umin(vu32 a, vu32 b) { return select(a < b, a, b); }
vu32 umax(vu32 a, vu32 b) { return select(a > b, a, b); }
vi32 imin(vi32 a, vi32 b) { return select(a < b, a, b); }
vi32 imax(vi32 a, vi32 b) { return select(a > b, a, b); }

vu32 saturating_add(vu32 a, vu32 b) {
  const vu32 r = a + b;
  return select(r < a, splat(~0u), r);
}
vu32 saturating_sub(vu32 a, vu32 b) { return select(b > a, vu32{}, a - b); }
vi32 saturating_add(vi32 a, vi32 b) {
  const vi32 r = as_i32(bits(a) + bits(b));
  const vi32 over = (a ^ r) & (b ^ r);
  return select(over < 0, as_i32(splat(0x7fffffffu) + (bits(a) >> 31)), r);
}
vi32 saturating_sub(vi32 a, vi32 b) {
  const vi32 r = as_i32(bits(a) - bits(b));
  const vi32 over = (a ^ b) & (a ^ r);
  return select(over < 0, as_i32(splat(0x7fffffffu) + (bits(a) >> 31)), r);
}

vu32 popcount(vu32 v) {
  v = v - (v >> 1 & 0x55555555u);
  v = (v & 0x33333333u) + (v >> 2 & 0x33333333u);
  v = (v + (v >> 4)) & 0x0f0f0f0fu;
  return (v * 0x01010101u) >> 24;
}

// Bits of the lanes below this one in a 32-bit half of the wave.
template <int kHalf>
const MicroOp* mbcnt(Wave& w, const MicroOp* op) {
  const uint32_t* s[2] = {vector_source(w, op, 0), vector_source(w, op, 1)};
  uint64_t mask = w.exec();
  if (op->flags & kPrepare) mask = prepare(w, op, s, 2);
  for (int i = 0; i < kWave; i += kLanes) {
    vu32 below;
    for (int j = 0; j < kLanes; ++j) {
      const int in_half = i + j - 32 * kHalf;
      below[j] = in_half <= 0 ? 0 : in_half >= 32 ? ~0u : (1u << in_half) - 1;
    }
    store(w.out[0] + i, popcount(load<vu32>(s[0] + i) & below) + load<vu32>(s[1] + i));
  }
  finish(w, op, mask);
  return next(op);
}

uint64_t condition(Wave& w, const MicroOp* op) { return scalar64(w, op->src[2]); }

const MicroOp* cndmask(Wave& w, const MicroOp* op) {
  const uint32_t* s[2] = {vector_source(w, op, 0), vector_source(w, op, 1)};
  uint64_t mask = w.exec();
  if (__builtin_expect(op->flags & kPrepare, 0)) mask = prepare(w, op, s, 2);
  const uint64_t which = condition(w, op);
  const bool direct = mask == ~0ull && !(op->flags & kFinish);
  uint32_t* out = direct ? w.at(op->dst) : w.out[0];
  for (int i = 0; i < kWave; i += kLanes) {
    store(out + i, select(expand_mask(step_mask(which, i)), load<vu32>(s[1] + i), load<vu32>(s[0] + i)));
  }
  if (!direct) finish(w, op, mask);
  return next(op);
}

// Add and subtract with carry out (and in): F(a, b, carry_in, &carry_out), carries as lane masks.
template <bool kCarryIn, auto F>
const MicroOp* carry(Wave& w, const MicroOp* op) {
  const uint32_t* s[2] = {vector_source(w, op, 0), vector_source(w, op, 1)};
  uint64_t mask = w.exec();
  if (__builtin_expect(op->flags & kPrepare, 0)) mask = prepare(w, op, s, 2);
  const uint64_t in = kCarryIn ? condition(w, op) : 0;
  uint64_t carries = 0;
  for (int i = 0; i < kWave; i += kLanes) {
    vi32 carry_out;
    vu32 carry_in = {};
    if (kCarryIn) carry_in = 0u - bits(expand_mask(step_mask(in, i)));
    store(w.out[0] + i, F(load<vu32>(s[0] + i), load<vu32>(s[1] + i), carry_in, carry_out));
    carries |= static_cast<uint64_t>(compress_mask(carry_out)) << i;
  }
  if (op->inst->clamp) {
    // A clamped result saturates towards the side that overflowed: the carry tells.
    const bool adds = op->inst->op == Op::v_add_co_u32 || op->inst->op == Op::v_addc_co_u32;
    for (int i = 0; i < kWave; i += kLanes) {
      const vi32 over = expand_mask(step_mask(carries, i));
      store(w.out[0] + i, select(over, adds ? splat(~0u) : vu32{}, load<vu32>(w.out[0] + i)));
    }
  }
  finish(w, op, mask);
  w.set_pair(op->sdst, carries & mask);
  return next(op);
}

constexpr auto kAdd = [](vu32 a, vu32 b, vu32 c, vi32& out) {
  const vu32 t = a + b;
  const vu32 r = t + c;
  out = (t < a) | (r < t);
  return r;
};
constexpr auto kSub = [](vu32 a, vu32 b, vu32 c, vi32& out) {
  const vu32 t = a - b;
  const vu32 r = t - c;
  out = (a < b) | (t < c);
  return r;
};
constexpr auto kSubRev = [](vu32 a, vu32 b, vu32 c, vi32& out) { return kSub(b, a, c, out); };

bool ieee(const Wave& w) { return w.mode & kModeIeee; }
vf32 denorm(const Wave& w, vf32 v) { return w.flushes_f32() ? flush(v) : v; }

// The lambda is named before it becomes a template argument: g++ 12 reads a > inside one as the end of the list.
#define V(name, ...)                \
  do {                              \
    constexpr auto f = __VA_ARGS__; \
    t.set(Op::name, vop<f>);        \
  } while (0)
#define VC(name, ...)                \
  do {                               \
    constexpr auto f = __VA_ARGS__;  \
    t.set_clamped(Op::name, vop<f>); \
  } while (0)

void register_integer(HandlerTable& t) {
  V(v_add_u32, [](vu32 a, vu32 b) { return a + b; });
  V(v_sub_u32, [](vu32 a, vu32 b) { return a - b; });
  V(v_subrev_u32, [](vu32 a, vu32 b) { return b - a; });
  V(v_add_i32, [](vu32 a, vu32 b) { return a + b; });
  V(v_sub_i32, [](vu32 a, vu32 b) { return a - b; });
  VC(v_add_u32, [](vu32 a, vu32 b) { return saturating_add(a, b); });
  VC(v_sub_u32, [](vu32 a, vu32 b) { return saturating_sub(a, b); });
  VC(v_subrev_u32, [](vu32 a, vu32 b) { return saturating_sub(b, a); });
  VC(v_add_i32, [](vi32 a, vi32 b) { return saturating_add(a, b); });
  VC(v_sub_i32, [](vi32 a, vi32 b) { return saturating_sub(a, b); });
  V(v_mul_i32_i24, [](vi32 a, vi32 b) { return bits(i24(a)) * bits(i24(b)); });
  V(v_mul_hi_i32_i24, [](vi32 a, vi32 b) { return mul_hi_i32(i24(a), i24(b)); });
  V(v_mul_u32_u24, [](vu32 a, vu32 b) { return u24(a) * u24(b); });
  V(v_mul_hi_u32_u24, [](vu32 a, vu32 b) { return mul_hi_u32(u24(a), u24(b)); });
  V(v_mul_lo_u32, [](vu32 a, vu32 b) { return a * b; });
  V(v_mul_hi_u32, [](vu32 a, vu32 b) { return mul_hi_u32(a, b); });
  V(v_mul_hi_i32, [](vi32 a, vi32 b) { return mul_hi_i32(a, b); });
  V(v_min_i32, [](vi32 a, vi32 b) { return imin(a, b); });
  V(v_max_i32, [](vi32 a, vi32 b) { return imax(a, b); });
  V(v_min_u32, [](vu32 a, vu32 b) { return umin(a, b); });
  V(v_max_u32, [](vu32 a, vu32 b) { return umax(a, b); });
  V(v_lshrrev_b32, [](vu32 a, vu32 b) { return b >> (a & 31u); });
  V(v_ashrrev_i32, [](vu32 a, vi32 b) { return b >> as_i32(a & 31u); });
  V(v_lshlrev_b32, [](vu32 a, vu32 b) { return b << (a & 31u); });
  V(v_and_b32, [](vu32 a, vu32 b) { return a & b; });
  V(v_or_b32, [](vu32 a, vu32 b) { return a | b; });
  V(v_xor_b32, [](vu32 a, vu32 b) { return a ^ b; });
  V(v_xnor_b32, [](vu32 a, vu32 b) { return ~(a ^ b); });
  V(v_bfm_b32, [](vu32 a, vu32 b) { return ((splat(1u) << (a & 31u)) - 1u) << (b & 31u); });
  V(v_bcnt_u32_b32, [](vu32 a, vu32 b) { return popcount(a) + b; });
  t.set(Op::v_mbcnt_lo_u32_b32, mbcnt<0>);
  t.set(Op::v_mbcnt_hi_u32_b32, mbcnt<1>);
  t.set(Op::v_cndmask_b32, cndmask);
  for (auto setter : {&HandlerTable::set, &HandlerTable::set_clamped}) {
    (t.*setter)(Op::v_add_co_u32, carry<false, kAdd>);
    (t.*setter)(Op::v_sub_co_u32, carry<false, kSub>);
    (t.*setter)(Op::v_subrev_co_u32, carry<false, kSubRev>);
    (t.*setter)(Op::v_addc_co_u32, carry<true, kAdd>);
    (t.*setter)(Op::v_subb_co_u32, carry<true, kSub>);
    (t.*setter)(Op::v_subbrev_co_u32, carry<true, kSubRev>);
  }
}

void register_three(HandlerTable& t) {
  V(v_mad_i32_i24, [](vi32 a, vi32 b, vu32 c) { return bits(i24(a)) * bits(i24(b)) + c; });
  V(v_mad_u32_u24, [](vu32 a, vu32 b, vu32 c) { return u24(a) * u24(b) + c; });
  V(v_mad_u32_u16, [](Vu16 a, Vu16 b, vu32 c) { return a.v * b.v + c; });
  V(v_mad_i32_i16, [](Vi16 a, Vi16 b, vi32 c) { return a.v * b.v + c; });
  VC(v_mad_u32_u16, [](Vu16 a, Vu16 b, vu32 c) { return saturating_add(a.v * b.v, c); });
  VC(v_mad_i32_i16, [](Vi16 a, Vi16 b, vi32 c) { return saturating_add(a.v * b.v, c); });
  V(v_bfe_u32, [](vu32 a, vu32 b, vu32 c) { return (a >> (b & 31u)) & ((splat(1u) << (c & 31u)) - 1u); });
  V(v_bfe_i32, [](vi32 a, vu32 b, vu32 c) {
    const vu32 width = c & 31u;
    const vu32 field = bits(a >> as_i32(b & 31u)) & ((splat(1u) << width) - 1u);
    const vu32 up = (32u - width) & 31u;
    return select(width == 0u, vu32{}, bits(as_i32(field << up) >> as_i32(up)));
  });
  V(v_bfi_b32, [](vu32 a, vu32 b, vu32 c) { return (a & b) | (~a & c); });
  V(v_alignbit_b32, [](vu32 a, vu32 b, vu32 c) {
    const vu32 n = c & 31u;
    return select(n == 0u, b, (b >> n) | (a << ((32u - n) & 31u)));
  });
  V(v_alignbyte_b32, [](vu32 a, vu32 b, vu32 c) {
    const vu32 n = (c & 3u) << 3;
    return select(n == 0u, b, (b >> n) | (a << ((32u - n) & 31u)));
  });
  V(v_min3_i32, [](vi32 a, vi32 b, vi32 c) { return imin(imin(a, b), c); });
  V(v_max3_i32, [](vi32 a, vi32 b, vi32 c) { return imax(imax(a, b), c); });
  V(v_med3_i32, [](vi32 a, vi32 b, vi32 c) { return imax(imin(a, b), imin(imax(a, b), c)); });
  V(v_min3_u32, [](vu32 a, vu32 b, vu32 c) { return umin(umin(a, b), c); });
  V(v_max3_u32, [](vu32 a, vu32 b, vu32 c) { return umax(umax(a, b), c); });
  V(v_med3_u32, [](vu32 a, vu32 b, vu32 c) { return umax(umin(a, b), umin(umax(a, b), c)); });
  V(v_xad_u32, [](vu32 a, vu32 b, vu32 c) { return (a ^ b) + c; });
  V(v_lshl_add_u32, [](vu32 a, vu32 b, vu32 c) { return (a << (b & 31u)) + c; });
  V(v_add_lshl_u32, [](vu32 a, vu32 b, vu32 c) { return (a + b) << (c & 31u); });
  V(v_add3_u32, [](vu32 a, vu32 b, vu32 c) { return a + b + c; });
  V(v_lshl_or_b32, [](vu32 a, vu32 b, vu32 c) { return (a << (b & 31u)) | c; });
  V(v_and_or_b32, [](vu32 a, vu32 b, vu32 c) { return (a & b) | c; });
  V(v_or3_b32, [](vu32 a, vu32 b, vu32 c) { return a | b | c; });
}

void register_float(HandlerTable& t) {
  V(v_add_f32, [](vf32 a, vf32 b) { return with_nan(a + b, a, b); });
  V(v_sub_f32, [](vf32 a, vf32 b) { return with_nan(a - b, a, b); });
  V(v_subrev_f32, [](vf32 a, vf32 b) { return with_nan(b - a, a, b); });
  V(v_mul_f32, [](vf32 a, vf32 b) { return with_nan(a * b, a, b); });
  V(v_mul_legacy_f32, [](vf32 a, vf32 b) { return select((a == 0.0f) | (b == 0.0f), vf32{}, with_nan(a * b, a, b)); });
  V(v_min_f32, [](Wave& w, vf32 a, vf32 b) { return denorm(w, vmin(a, b, ieee(w))); });
  V(v_max_f32, [](Wave& w, vf32 a, vf32 b) { return denorm(w, vmax(a, b, ieee(w))); });
  V(v_min3_f32, [](Wave& w, vf32 a, vf32 b, vf32 c) { return denorm(w, vmin(vmin(a, b, ieee(w)), c, ieee(w))); });
  V(v_max3_f32, [](Wave& w, vf32 a, vf32 b, vf32 c) { return denorm(w, vmax(vmax(a, b, ieee(w)), c, ieee(w))); });
  V(v_med3_f32, [](Wave& w, vf32 a, vf32 b, vf32 c) { return denorm(w, vmed3(a, b, c, ieee(w))); });
  V(v_minimum3_f32, [](Wave& w, vf32 a, vf32 b, vf32 c) { return denorm(w, vminimum(vminimum(a, b), c)); });
  V(v_maximum3_f32, [](Wave& w, vf32 a, vf32 b, vf32 c) { return denorm(w, vmaximum(vmaximum(a, b), c)); });
  V(v_fma_f32, [](vf32 a, vf32 b, vf32 c) { return fma(a, b, c); });
  V(v_fmamk_f32, [](vf32 a, vf32 k, vf32 b) { return fma(a, k, b); });
  V(v_fmaak_f32, [](vf32 a, vf32 b, vf32 k) { return fma(a, b, k); });
  t.set(Op::v_fmac_f32, vop_accumulate<[](vf32 a, vf32 b, vf32 d) { return fma(a, b, d); }>);
  V(v_ldexp_f32, [](vf32 a, vi32 b) { return vldexp(a, b); });
}

}  // namespace

void register_vop2(HandlerTable& t) {
  register_integer(t);
  register_three(t);
  register_float(t);
}

}  // namespace aiterlite::emulator
