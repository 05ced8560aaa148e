// Conversions between f32 vectors and the 16- and 8-bit formats, by integer arithmetic: neither the host's rounding nor
// its flush-to-zero mode has a say, so that every level computes the same bits.
#pragma once
#include <aiterlite/emulator/level.h>
#include <aiterlite/emulator/numeric.h>

namespace aiterlite::emulator {

// The low 16 bits of each element, as f16.
inline vf32 f16_to_f32(vu32 h) {
#if AITERLITE_VECTOR_BYTES == 64
  return reinterpret_cast<vf32>(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(h))));
#else
  const vu32 sign = (h & 0x8000u) << 16;
  const vu32 e = h & 0x7c00u;
  const vu32 normal = ((h & 0x7fffu) << 13) + (112u << 23);
  const vu32 special = ((h & 0x7fffu) << 13) | 0x7f800000u;
  const vu32 quiet = special | select((h & 0x3ffu) != 0u, splat(0x00400000u), vu32{});
  const vf32 denormal = __builtin_convertvector(as_i32(h & 0x3ffu), vf32) * 0x1p-24f;
  vu32 r = select(e == 0x7c00u, quiet, normal);
  r = select(e == 0u, bits(denormal), r);
  return as_f32(r | sign);
#endif
}

inline vf32 bf16_lo_to_f32(vu32 h) { return as_f32(h << 16); }
inline vf32 bf16_hi_to_f32(vu32 h) { return as_f32(h & 0xffff0000u); }

// |x| rounded to a format of E exponent and M mantissa bits, as its code. Infinity, NaN and overflow are the caller's:
// the code just goes on counting past the largest finite one.
template <int E, int M, int Bias>
inline vu32 encode_magnitude(vu32 x, Rounding rounding) {
  constexpr int kMin = 128 - Bias;  // biased f32 exponent of the smallest normal number
  const vu32 e = (x >> 23) & 0xffu;
  const vu32 m = (x & 0x7fffffu) | select(e == 0u, vu32{}, splat(1u << 23));
  const vi32 below = as_i32(splat(static_cast<uint32_t>(kMin)) - e);
  vu32 shift = splat(23u - M) + select(below > 0, bits(below), vu32{});
  shift = select(shift > 31u, splat(31u), shift);
  const vu32 raise = select(below > 0, vu32{}, e - static_cast<uint32_t>(kMin));
  vu32 q = m >> shift;
  const vu32 rest = m & ((splat(1u) << shift) - 1u);
  if (rounding == Rounding::nearest_even) {
    const vu32 half = splat(1u) << (shift - 1u);
    const vi32 up = (rest > half) | ((rest == half) & ((q & 1u) != 0u));
    q -= bits(up);
  } else if (rounding == Rounding::up) {
    q -= bits((rest != 0u) & (as_i32(x) >= 0));
  } else if (rounding == Rounding::down) {
    q -= bits((rest != 0u) & (as_i32(x) < 0));
  }
  return q + (raise << M);
}

// f32 -> f16 in the low half of each element; `saturate` turns an overflow of a finite value into the largest one.
inline vu32 f32_to_f16(vf32 v, Rounding rounding, bool saturate) {
  const vu32 x = bits(v);
  const vu32 sign = (x >> 16) & 0x8000u;
#if AITERLITE_VECTOR_BYTES == 64
  if (rounding == Rounding::nearest_even && !saturate) {
    const __m256i h = _mm512_cvtps_ph(reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    // The instruction treats f32 denormals as zero under DAZ, which rounds to the same f16.
    return reinterpret_cast<vu32>(_mm512_cvtepu16_epi32(h));
  }
#endif
  const vu32 a = x & 0x7fffffffu;
  vu32 code = encode_magnitude<5, 10, 15>(x, rounding);
  vu32 limit = splat(0x7c00u);
  if (saturate || rounding == Rounding::zero) limit = splat(0x7bffu);
  if (rounding == Rounding::up && !saturate) limit = select(sign != 0u, splat(0x7bffu), limit);
  if (rounding == Rounding::down && !saturate) limit = select(sign == 0u, splat(0x7bffu), limit);
  code = select(code > 0x7bffu, limit, code);
  code = select(a >= 0x7f800000u, splat(0x7c00u), code);
  code = select(a > 0x7f800000u, 0x7e00u | ((a >> 13) & 0x1ffu), code);
  return code | sign;
}

// f32 -> bf16 in the low half of each element, nearest even.
inline vu32 f32_to_bf16(vf32 v) {
  const vu32 x = bits(v);
  const vu32 rounded = (x + 0x7fffu + ((x >> 16) & 1u)) >> 16;
  const vu32 nan = (x >> 16) | 0x40u;
  return select((x & 0x7fffffffu) > 0x7f800000u, nan, rounded);
}

enum class Fp8 : uint8_t { fp8_fnuz, bf8_fnuz, fp8_ocp, bf8_ocp };

// f32 -> 8 bits, nearest even; an overflow is NaN or infinity unless `saturate`.
inline vu32 f32_to_fp8(vf32 v, Fp8 format, bool saturate) {
  const vu32 x = bits(v);
  const vu32 a = x & 0x7fffffffu;
  const vu32 sign = (x >> 24) & 0x80u;
  vu32 code;
  switch (format) {
    case Fp8::fp8_fnuz:
      code = encode_magnitude<4, 3, 8>(x, Rounding::nearest_even);
      code = select(code > 0x7fu, saturate ? sign | 0x7fu : splat(0x80u), select(code == 0u, code, code | sign));
      break;
    case Fp8::bf8_fnuz:
      code = encode_magnitude<5, 2, 16>(x, Rounding::nearest_even);
      code = select(code > 0x7fu, saturate ? sign | 0x7fu : splat(0x80u), select(code == 0u, code, code | sign));
      break;
    case Fp8::fp8_ocp:
      code = encode_magnitude<4, 3, 7>(x, Rounding::nearest_even);
      code = select(code > 0x7eu, splat(saturate ? 0x7eu : 0x7fu), code) | sign;
      break;
    default:
      code = encode_magnitude<5, 2, 15>(x, Rounding::nearest_even);
      code = select(code > 0x7bu, splat(saturate ? 0x7bu : 0x7cu), code) | sign;
      break;
  }
  const bool fnuz = format == Fp8::fp8_fnuz || format == Fp8::bf8_fnuz;
  const vu32 nan = fnuz ? splat(0x80u) : sign | (format == Fp8::fp8_ocp ? 0x7fu : 0x7eu);
  const vu32 inf = format == Fp8::bf8_ocp ? sign | 0x7cu : nan;
  code = select(a == 0x7f800000u, inf, code);
  return select(a > 0x7f800000u, nan, code);
}

// 256 values each, indexed by the code.
struct Fp8Tables {
  float value[4][256];
  Fp8Tables() {
    const SmallFloat* formats[4] = {&kFp8Fnuz, &kBf8Fnuz, &kFp8Ocp, &kBf8Ocp};
    for (int f = 0; f < 4; ++f) {
      for (uint32_t c = 0; c < 256; ++c) value[f][c] = static_cast<float>(decode_small(*formats[f], c));
    }
  }
};
inline const float* fp8_table(Fp8 format) {
  static const Fp8Tables tables;
  return tables.value[static_cast<int>(format)];
}

}  // namespace aiterlite::emulator
