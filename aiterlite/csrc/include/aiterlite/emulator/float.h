// f32 arithmetic as the vector ALU does it, on whole vectors: what the host's instructions leave open (NaN payloads,
// signed zeros in min and max, out-of-range conversions) is settled here, the same at every level.
#pragma once
#include <aiterlite/emulator/level.h>
#include <aiterlite/emulator/numeric.h>

namespace aiterlite::emulator {

inline vi32 is_nan(vf32 v) { return v != v; }

// A NaN result is the first NaN operand made quiet, or 0x7fc00000 if no operand was NaN.
[[gnu::noinline]] inline vf32 settle_nan(vf32 r, vf32 a, vf32 b, vf32 c) {
  const vu32 quiet = splat(0x00400000u);
  vu32 nan = splat(0x7fc00000u);
  nan = select(is_nan(c), bits(c) | quiet, nan);
  nan = select(is_nan(b), bits(b) | quiet, nan);
  nan = select(is_nan(a), bits(a) | quiet, nan);
  return select(is_nan(r), as_f32(nan), r);
}
inline vf32 with_nan(vf32 r, vf32 a, vf32 b) {
  if (__builtin_expect(any(is_nan(r)), 0)) return settle_nan(r, a, b, vf32{});
  return r;
}
inline vf32 with_nan(vf32 r, vf32 a, vf32 b, vf32 c) {
  if (__builtin_expect(any(is_nan(r)), 0)) return settle_nan(r, a, b, c);
  return r;
}
inline vf32 with_nan(vf32 r, vf32 a) { return with_nan(r, a, vf32{}); }

// a*b + c to double precision with the last bit made sticky ("round to odd"), so that one more rounding to f32 is
// right.
inline vf64 fma_odd(vf64 a, vf64 b, vf64 c) {
  const vf64 p = a * b;  // exact: 24 + 24 bits
  const vf64 s = p + c;
  const vf64 t = s - p;
  const vf64 error = (p - (s - t)) + (c - t);
  const vi64 inexact = (error != 0.0) & ((bits(s) & 1u) == 0u) & (error == error);
  const vi64 grows = (error > 0.0) == (s > 0.0);
  const vi64 step = inexact & (grows ? vi64{} + 1 : vi64{} - 1);
  return as_f64(reinterpret_cast<vi64&>(const_cast<vf64&>(s)) + step);
}

// a*b + c with one rounding.
inline vf32 fma_raw(vf32 a, vf32 b, vf32 c) {
#if AITERLITE_VECTOR_BYTES == 64
  return reinterpret_cast<vf32>(
      _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif AITERLITE_VECTOR_BYTES == 32
  return reinterpret_cast<vf32>(
      _mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
  return join(to_f32(fma_odd(to_f64(lower(a)), to_f64(lower(b)), to_f64(lower(c)))),
              to_f32(fma_odd(to_f64(upper(a)), to_f64(upper(b)), to_f64(upper(c)))));
#endif
}
inline vf32 fma(vf32 a, vf32 b, vf32 c) { return with_nan(fma_raw(a, b, c), a, b, c); }

// f16 fused multiply-add on f32 values that are f16s: the product is exact in f32, and the sum is rounded to odd, so
// that the rounding to f16 which follows is the only one.
inline vf32 fma_f16(vf32 a, vf32 b, vf32 c) {
  const vf32 p = a * b;
  const vf32 s = p + c;
  const vf32 t = s - p;
  const vf32 error = (p - (s - t)) + (c - t);
  const vi32 inexact = (error != 0.0f) & ((bits(s) & 1u) == 0u) & (error == error);
  const vi32 grows = (error > 0.0f) == (s > 0.0f);
  const vi32 step = inexact & (grows ? splat(1) : splat(-1));
  return with_nan(as_f32(as_i32(s) + step), a, b, c);
}

inline vf32 flush(vf32 v) {
  const vu32 x = bits(v);
  return as_f32(select((x & 0x7f800000u) == 0u, x & 0x80000000u, x));
}

inline vf32 quiet(vf32 v) { return as_f32(bits(v) | select(is_nan(v), splat(0x00400000u), vu32{})); }

inline vi32 is_signalling(vf32 v) { return is_nan(v) & ((bits(v) & 0x00400000u) == 0u); }

// The IEEE mode bit makes a signalling NaN operand win, made quiet; any other NaN loses against a number.
[[gnu::noinline]] inline vf32 settle_minmax(vf32 r, vf32 a, vf32 b, bool ieee) {
  r = select(is_nan(a), b, r);
  r = select(is_nan(b) & ~is_nan(a), a, r);
  if (ieee) {
    r = select(is_signalling(b), quiet(b), r);
    r = select(is_signalling(a), quiet(a), r);
  }
  return r;
}
inline vf32 vmax(vf32 a, vf32 b, bool ieee) {
  vf32 r = select(a > b, a, b);
  r = select(a == b, as_f32(bits(a) & bits(b)), r);  // +0 is the larger zero
  if (__builtin_expect(any(is_nan(a) | is_nan(b)), 0)) r = settle_minmax(r, a, b, ieee);
  return r;
}
inline vf32 vmin(vf32 a, vf32 b, bool ieee) {
  vf32 r = select(a < b, a, b);
  r = select(a == b, as_f32(bits(a) | bits(b)), r);
  if (__builtin_expect(any(is_nan(a) | is_nan(b)), 0)) r = settle_minmax(r, a, b, ieee);
  return r;
}
inline vf32 vmed3(vf32 a, vf32 b, vf32 c, bool ieee) {
  const vf32 low = vmin(vmin(a, b, ieee), c, ieee);
  const vf32 top = vmax(vmax(a, b, ieee), c, ieee);
  vf32 r = select(top == a, vmax(b, c, ieee), select(top == b, vmax(a, c, ieee), vmax(a, b, ieee)));
  return select(is_nan(a) | is_nan(b) | is_nan(c), low, r);
}
// v_minimum3/v_maximum3: IEEE 754-2019 minimum and maximum; any NaN operand makes a quiet NaN.
inline vf32 vmaximum(vf32 a, vf32 b) {
  const vf32 r = select(is_nan(b), quiet(b), vmax(a, b, false));
  return select(is_nan(a), quiet(a), r);
}
inline vf32 vminimum(vf32 a, vf32 b) {
  const vf32 r = select(is_nan(b), quiet(b), vmin(a, b, false));
  return select(is_nan(a), quiet(a), r);
}

// Rounding to integral values, for any host rounding mode.
inline vf32 with_sign(vf32 magnitude, vf32 of) {
  return as_f32((bits(magnitude) & 0x7fffffffu) | (bits(of) & 0x80000000u));
}
inline vf32 vtrunc(vf32 v) {
  const vi32 small = (bits(v) & 0x7fffffffu) < 0x4b000000u;  // below 2^23
  const vf32 clipped = select(small, v, vf32{});
  const vf32 whole = __builtin_convertvector(__builtin_convertvector(clipped, vi32), vf32);
  return select(small, with_sign(whole, v), quiet(v));
}
inline vf32 vfloor(vf32 v) {
  const vf32 t = vtrunc(v);
  return select(t > v, t - 1.0f, t);
}
inline vf32 vceil(vf32 v) {
  const vf32 t = vtrunc(v);
  return select(t < v, with_sign(t + 1.0f, v), t);
}
inline vf32 vrndne(vf32 v) {
  const vf32 t = vtrunc(v);
  const vf32 rest = as_f32(bits(v - t) & 0x7fffffffu);
  const vi32 small = (bits(v) & 0x7fffffffu) < 0x4b000000u;
  const vi32 odd = (__builtin_convertvector(select(small, t, vf32{}), vi32) & 1) != 0;
  const vi32 up = (rest > 0.5f) | ((rest == 0.5f) & odd);
  return select(up, t + with_sign(splat(1.0f), v), t);
}

// f32 -> integer, towards zero, saturating, NaN to 0.
inline vi32 f32_to_i32(vf32 v) {
  const vi32 over = v >= 2147483648.0f;
  const vi32 fits = (v < 2147483648.0f) & (v >= -2147483648.0f);
  const vi32 r = __builtin_convertvector(select(fits, v, vf32{}), vi32);
  const vi32 under = v < -2147483648.0f;
  return select(over, splat(0x7fffffff), select(under, splat(static_cast<int32_t>(0x80000000u)), r));
}
inline vu32 f32_to_u32(vf32 v) {
  const vi32 big = v >= 2147483648.0f;
  const vi32 fits = (v > 0.0f) & (v < 4294967296.0f);
  const vf32 clipped = select(fits, v, vf32{});
  const vf32 lowered = select(big, clipped - 2147483648.0f, clipped);
  const vf32 safe = select(fits, lowered, vf32{});
  const vu32 r = bits(__builtin_convertvector(safe, vi32)) + select(big, splat(0x80000000u), vu32{});
  return select(v >= 4294967296.0f, splat(0xffffffffu), select(fits, r, vu32{}));
}
inline vf32 i32_to_f32(vi32 v) { return __builtin_convertvector(v, vf32); }
inline vf32 u32_to_f32(vu32 v) {
  const vf32 high = i32_to_f32(as_i32(v >> 16)) * 65536.0f;  // exact, so that the sum rounds once
  return high + i32_to_f32(as_i32(v & 0xffffu));
}

// f32 -> normalised 16-bit integers.
inline vu32 snorm(vf32 v) {
  const vf32 clipped = select(v > -1.0f, select(v < 1.0f, v, splat(1.0f)), splat(-1.0f));
  return bits(f32_to_i32(vrndne(select(is_nan(v), vf32{}, clipped) * 32767.0f))) & 0xffffu;
}
inline vu32 unorm(vf32 v) {
  const vf32 clipped = select(v > 0.0f, select(v < 1.0f, v, splat(1.0f)), vf32{});
  return f32_to_u32(vrndne(clipped * 65535.0f));
}

// 2^x and log2 x to within an ulp of f32, computed in double precision. The hardware's flush denormals whatever the
// mode.
inline vf64 exp2_f64(vf64 x) {
  x = select(x < -1000.0, vf64{} - 1000.0, select(x > 1000.0, vf64{} + 1000.0, x));
  const double magic = 0x1.8p52;
  const vf64 shifted = x + magic;
  const vf64 f = x - (shifted - magic);
  vf64 p = vf64{} + 1.3215486790144309e-06;
  p = p * f + 1.5252733804059841e-05;
  p = p * f + 1.5403530393381609e-04;
  p = p * f + 1.3333558146428443e-03;
  p = p * f + 9.6181291076284772e-03;
  p = p * f + 5.5504108664821580e-02;
  p = p * f + 2.4022650695910071e-01;
  p = p * f + 6.9314718055994531e-01;
  p = p * f + 1.0;
  return as_f64(bits(p) + (bits(shifted) << 52));
}
inline vf32 vexp2(vf32 v) {
  const vf32 r = join(to_f32(exp2_f64(to_f64(lower(v)))), to_f32(exp2_f64(to_f64(upper(v)))));
  return with_nan(select(is_nan(v), v, flush(r)), v);
}
inline vf64 log2_f64(vf64 x) {  // finite, positive, normal
  const vu64 b = bits(x);
  // The exponent that brings the mantissa into [sqrt(1/2), sqrt(2)).
  const vu64 biased = b - 0x3fe6a09e667f3bcdull;
  const vi64 e = reinterpret_cast<const vi64&>(biased) >> 52;
  const vf64 m = as_f64(b - (reinterpret_cast<const vu64&>(e) << 52));
  const vf64 s = (m - 1.0) / (m + 1.0);
  const vf64 z = s * s;
  vf64 p = vf64{} + 0.22195308321368667;
  p = p * z + 0.26230818925253880;
  p = p * z + 0.32059889797532520;
  p = p * z + 0.41219858311113240;
  p = p * z + 0.57707801635558536;
  p = p * z + 0.96179669392597555;
  p = p * z + 2.88539008177792681;
  return p * s + __builtin_convertvector(e, vf64);
}
inline vf32 vlog2(vf32 raw) {
  const vf32 v = flush(raw);
  const vi32 ordinary = (v > 0.0f) & (bits(v) < 0x7f800000u);
  const vf32 x = select(ordinary, v, splat(1.0f));
  vf32 r = join(to_f32(log2_f64(to_f64(lower(x)))), to_f32(log2_f64(to_f64(upper(x)))));
  r = select(v == 0.0f, splat(-INFINITY), r);
  r = select(v < 0.0f, as_f32(splat(0x7fc00000u)), r);
  r = select(bits(v) == 0x7f800000u, v, r);
  return select(is_nan(v), quiet(v), r);
}

// Reciprocal and reciprocal square root: correctly rounded here (1 ulp on the chip), denormals flushed both ways.
inline vf32 vrcp(vf32 raw) {
  const vf32 v = flush(raw);
  return with_nan(flush(1.0f / v), v);
}
inline vf32 vsqrt_raw(vf32 v) {
#if AITERLITE_VECTOR_BYTES == 64
  return reinterpret_cast<vf32>(_mm512_sqrt_ps(reinterpret_cast<__m512>(v)));
#elif AITERLITE_VECTOR_BYTES == 32
  return reinterpret_cast<vf32>(_mm256_sqrt_ps(reinterpret_cast<__m256>(v)));
#else
  vf32 r;
  for (int i = 0; i < kLanes; ++i) r[i] = __builtin_sqrtf(v[i]);
  return r;
#endif
}
inline vf32 vsqrt(vf32 v) { return with_nan(vsqrt_raw(v), v); }
inline vf32 vrsq(vf32 raw) {
  const vf32 v = flush(raw);
  vf32 r;
  for (int i = 0; i < kLanes; ++i) r[i] = static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(v[i])));
  return with_nan(r, v);
}

// x * 2^n with one rounding.
inline vf32 vldexp(vf32 v, vi32 n) {
  const vi32 capped = select(n > 400, splat(400), select(n < -400, splat(-400), n));
  vf32 r;
  for (int i = 0; i < kLanes; ++i) r[i] = static_cast<float>(static_cast<double>(v[i]) * exp2i(capped[i]));
  return with_nan(r, v);
}

}  // namespace aiterlite::emulator
