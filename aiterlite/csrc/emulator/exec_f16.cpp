// 16-bit vector instructions. An f16 is widened to f32, where its sums and products are exact or round once more
// harmlessly (24 bits are more than twice 11 and two), and rounded back.
#include <aiterlite/emulator/float.h>
#include <aiterlite/emulator/half.h>
#include <aiterlite/emulator/lanes.h>

namespace aiterlite::emulator {
namespace {

bool ieee(const Wave& w) { return w.mode & kModeIeee; }

vf32 mul_then_add(const Wave& w, vf32 a, vf32 b, vf32 c) {
  const vf32 product = f16_to_f32(f32_to_f16(with_nan(a * b, a, b), f16_rounding(w), false));
  return with_nan(product + c, product, c);
}

vu32 wrap(vu32 v) { return v & 0xffffu; }
Vu16 clip_u16(vi32 v) { return {bits(select(v < 0, vi32{}, select(v > 0xffff, splat(0xffff), v)))}; }
Vi16 clip_i16(vi32 v) { return {select(v < -32768, splat(-32768), select(v > 32767, splat(32767), v))}; }
vi32 imin(vi32 a, vi32 b) { return select(a < b, a, b); }
vi32 imax(vi32 a, vi32 b) { return select(a > b, a, b); }
vu32 umin(vu32 a, vu32 b) { return select(a < b, a, b); }
vu32 umax(vu32 a, vu32 b) { return select(a > b, a, b); }

vf32 frexp_mant(vf32 v) {
  vf32 r;
  for (int i = 0; i < kLanes; ++i) {
    int e;
    r[i] = __builtin_isfinite(v[i]) ? __builtin_frexpf(v[i], &e) : v[i];
  }
  return r;
}
vi32 frexp_exp(vf32 v) {
  vi32 r;
  for (int i = 0; i < kLanes; ++i) {
    int e = 0;
    if (__builtin_isfinite(v[i])) __builtin_frexpf(v[i], &e);
    r[i] = e;
  }
  return r;
}

vf32 revolve(vf32 v, bool cosine) {
  vf32 r;
  for (int i = 0; i < kLanes; ++i) {
    const double x = static_cast<double>(v[i]);
    if (!__builtin_isfinite(x)) {
      r[i] = f32_from_bits(0x7fc00000u);
    } else if (__builtin_fabs(x) > 256.0) {
      r[i] = cosine ? 1.0f : 0.0f;
    } else {
      const double turn = (x - __builtin_rint(x)) * 6.283185307179586476925;
      r[i] = static_cast<float>(cosine ? __builtin_cos(turn) : __builtin_sin(turn));
    }
  }
  return with_nan(r, v);
}

// exp2, log2 and reciprocals of f16 values are no f32 denormals on the way in, so the f32 functions serve.
vf32 rcp(vf32 v) { return with_nan(1.0f / v, v); }

vf32 div_fixup(vf32 q, vf32 d, vf32 n) {
  const vu32 sign = (bits(d) ^ bits(n)) & 0x80000000u;
  const auto magnitude = [](vf32 v) { return as_f32(bits(v) & 0x7fffffffu); };
  const vf32 an = magnitude(n), ad = magnitude(d);
  const vf32 inf = splat(INFINITY);
  const vf32 invalid = as_f32(splat(0xffc00000u));
  vf32 r = as_f32(bits(magnitude(q)) | sign);
  r = select((ad == inf) | (n == 0.0f), as_f32(sign), r);
  r = select((d == 0.0f) | (an == inf), as_f32(bits(inf) | sign), r);
  r = select(((d == 0.0f) & (n == 0.0f)) | ((ad == inf) & (an == inf)), invalid, r);
  r = select(is_nan(d), quiet(d), r);
  return select(is_nan(n), quiet(n), r);
}

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
  V(v_add_u16, [](vu32 a, vu32 b) { return wrap(a + b); });
  V(v_sub_u16, [](vu32 a, vu32 b) { return wrap(a - b); });
  V(v_subrev_u16, [](vu32 a, vu32 b) { return wrap(b - a); });
  V(v_mul_lo_u16, [](vu32 a, vu32 b) { return wrap(a * b); });
  V(v_add_i16, [](vu32 a, vu32 b) { return wrap(a + b); });
  V(v_sub_i16, [](vu32 a, vu32 b) { return wrap(a - b); });
  VC(v_add_u16, [](Vu16 a, Vu16 b) { return clip_u16(as_i32(a.v + b.v)); });
  VC(v_sub_u16, [](Vu16 a, Vu16 b) { return clip_u16(as_i32(a.v - b.v)); });
  VC(v_subrev_u16, [](Vu16 a, Vu16 b) { return clip_u16(as_i32(b.v - a.v)); });
  VC(v_add_i16, [](Vi16 a, Vi16 b) { return clip_i16(a.v + b.v); });
  VC(v_sub_i16, [](Vi16 a, Vi16 b) { return clip_i16(a.v - b.v); });
  V(v_lshlrev_b16, [](vu32 a, vu32 b) { return wrap(b << (a & 15u)); });
  V(v_lshrrev_b16, [](vu32 a, Vu16 b) { return wrap(b.v >> (a & 15u)); });
  V(v_ashrrev_i16, [](vu32 a, Vi16 b) { return Vi16{b.v >> as_i32(a & 15u)}; });
  V(v_max_u16, [](Vu16 a, Vu16 b) { return umax(a.v, b.v); });
  V(v_min_u16, [](Vu16 a, Vu16 b) { return umin(a.v, b.v); });
  V(v_max_i16, [](Vi16 a, Vi16 b) { return Vi16{imax(a.v, b.v)}; });
  V(v_min_i16, [](Vi16 a, Vi16 b) { return Vi16{imin(a.v, b.v)}; });
  V(v_min3_i16, [](Vi16 a, Vi16 b, Vi16 c) { return Vi16{imin(imin(a.v, b.v), c.v)}; });
  V(v_max3_i16, [](Vi16 a, Vi16 b, Vi16 c) { return Vi16{imax(imax(a.v, b.v), c.v)}; });
  V(v_med3_i16, [](Vi16 a, Vi16 b, Vi16 c) { return Vi16{imax(imin(a.v, b.v), imin(imax(a.v, b.v), c.v))}; });
  V(v_min3_u16, [](Vu16 a, Vu16 b, Vu16 c) { return umin(umin(a.v, b.v), c.v); });
  V(v_max3_u16, [](Vu16 a, Vu16 b, Vu16 c) { return umax(umax(a.v, b.v), c.v); });
  V(v_med3_u16, [](Vu16 a, Vu16 b, Vu16 c) { return umax(umin(a.v, b.v), umin(umax(a.v, b.v), c.v)); });
  for (Op op : {Op::v_mad_u16, Op::v_mad_legacy_u16, Op::v_mad_i16, Op::v_mad_legacy_i16}) {
    t.set(op, vop<[](vu32 a, vu32 b, vu32 c) { return wrap(a * b + c); }>);
  }
  for (Op op : {Op::v_mad_u16, Op::v_mad_legacy_u16}) {
    t.set_clamped(op, vop<[](Vu16 a, Vu16 b, Vu16 c) {
                    const vu32 product = umin(a.v * b.v, splat(0xffffu));
                    return Vu16{umin(product + c.v, splat(0xffffu))};
                  }>);
  }
  for (Op op : {Op::v_mad_i16, Op::v_mad_legacy_i16}) {
    t.set_clamped(op, vop<[](Vi16 a, Vi16 b, Vi16 c) { return clip_i16(a.v * b.v + c.v); }>);
  }
}

void register_convert(HandlerTable& t) {
  V(v_cvt_f16_f32, [](Wave& w, vf32 a) {
    const vf32 v = mode_denorm_f16_f64(w.mode) & 2 ? a : flush_f16(a);
    return f32_to_f16(v, f16_rounding(w), w.mode & kModeFp16Ovfl);
  });
  V(v_cvt_f32_f16, [](Half a) { return a.v; });
  V(v_cvt_f16_u16, [](Vu16 a) { return Half{i32_to_f32(as_i32(a.v))}; });
  V(v_cvt_f16_i16, [](Vi16 a) { return Half{i32_to_f32(a.v)}; });
  V(v_cvt_u16_f16, [](Half a) { return Vu16{umin(f32_to_u32(a.v), splat(0xffffu))}; });
  V(v_cvt_i16_f16, [](Half a) { return clip_i16(f32_to_i32(a.v)); });
  V(v_cvt_norm_i16_f16, [](Half a) { return snorm(a.v); });
  V(v_cvt_norm_u16_f16, [](Half a) { return unorm(a.v); });
  V(v_cvt_pknorm_i16_f16, [](Half a, Half b) { return snorm(a.v) | snorm(b.v) << 16; });
  V(v_cvt_pknorm_u16_f16, [](Half a, Half b) { return unorm(a.v) | unorm(b.v) << 16; });
  V(v_pack_b32_f16, [](vu32 a, vu32 b) { return (a & 0xffffu) | b << 16; });
}

}  // namespace

void register_f16(HandlerTable& t) {
  register_integer(t);
  register_convert(t);
  V(v_add_f16, [](Half a, Half b) { return Half{with_nan(a.v + b.v, a.v, b.v)}; });
  V(v_sub_f16, [](Half a, Half b) { return Half{with_nan(a.v - b.v, a.v, b.v)}; });
  V(v_subrev_f16, [](Half a, Half b) { return Half{with_nan(b.v - a.v, a.v, b.v)}; });
  V(v_mul_f16, [](Half a, Half b) { return Half{with_nan(a.v * b.v, a.v, b.v)}; });
  // v_mac_f16, v_madmk_f16 and v_madak_f16 are missing: the manual clears the other half of their destination, LLVM
  // found by experiment that it stays.
  for (Op op : {Op::v_mad_f16, Op::v_mad_legacy_f16}) {
    t.set(op, vop<[](Wave& w, Half a, Half b, Half c) { return Half{mul_then_add(w, a.v, b.v, c.v)}; }>);
  }
  for (Op op : {Op::v_fma_f16, Op::v_fma_legacy_f16}) {
    t.set(op, vop<[](Half a, Half b, Half c) { return Half{fma_f16(a.v, b.v, c.v)}; }>);
  }
  for (Op op : {Op::v_div_fixup_f16, Op::v_div_fixup_legacy_f16}) {
    t.set(op, vop<[](Half a, Half b, Half c) { return Half{div_fixup(a.v, b.v, c.v)}; }>);
  }
  V(v_max_f16, [](Wave& w, vu32 a, vu32 b) { return picked_f16(w, vmax(raw_f16(a), raw_f16(b), ieee(w))); });
  V(v_min_f16, [](Wave& w, vu32 a, vu32 b) { return picked_f16(w, vmin(raw_f16(a), raw_f16(b), ieee(w))); });
  V(v_max3_f16, [](Wave& w, vu32 a, vu32 b, vu32 c) {
    return picked_f16(w, vmax(vmax(raw_f16(a), raw_f16(b), ieee(w)), raw_f16(c), ieee(w)));
  });
  V(v_min3_f16, [](Wave& w, vu32 a, vu32 b, vu32 c) {
    return picked_f16(w, vmin(vmin(raw_f16(a), raw_f16(b), ieee(w)), raw_f16(c), ieee(w)));
  });
  V(v_med3_f16,
    [](Wave& w, vu32 a, vu32 b, vu32 c) { return picked_f16(w, vmed3(raw_f16(a), raw_f16(b), raw_f16(c), ieee(w))); });
  V(v_ldexp_f16, [](Half a, Vi16 b) { return Half{vldexp(a.v, b.v)}; });
  V(v_rcp_f16, [](Half a) { return Half{rcp(a.v)}; });
  V(v_sqrt_f16, [](Half a) { return Half{vsqrt(a.v)}; });
  V(v_rsq_f16, [](Half a) { return Half{vrsq(a.v)}; });
  V(v_log_f16, [](Half a) { return Half{vlog2(a.v)}; });
  V(v_exp_f16, [](Half a) { return Half{vexp2(a.v)}; });
  V(v_sin_f16, [](Half a) { return Half{revolve(a.v, false)}; });
  V(v_cos_f16, [](Half a) { return Half{revolve(a.v, true)}; });
  V(v_floor_f16, [](Half a) { return Half{vfloor(a.v)}; });
  V(v_ceil_f16, [](Half a) { return Half{vceil(a.v)}; });
  V(v_trunc_f16, [](Half a) { return Half{vtrunc(a.v)}; });
  V(v_rndne_f16, [](Half a) { return Half{vrndne(a.v)}; });
  V(v_fract_f16, [](Half a) { return Half{with_nan(a.v - vfloor(a.v), a.v)}; });
  V(v_frexp_mant_f16, [](Half a) { return Half{frexp_mant(a.v)}; });
  V(v_frexp_exp_i16_f16, [](Half a) { return Vi16{frexp_exp(a.v)}; });
}

}  // namespace aiterlite::emulator
