// NVIDIA: conversions between number formats, powers of two, and bytes picked from registers.
#pragma once
#include <aiterlite/isa/ptx_core.h>

namespace aiterlite {

AITERLITE_DEVICE float half_bits_to_float(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
AITERLITE_DEVICE uint16_t float_to_half_bits(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// 2^x and log2(x) to about two units in the last place.
AITERLITE_DEVICE float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
AITERLITE_DEVICE float fast_log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 1 / x to about one unit in the last place; results below 2^-126 are zero.
AITERLITE_DEVICE float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / sqrt(x) to about one unit in the last place; of zero, infinity.
AITERLITE_DEVICE float fast_reciprocal_sqrt(float x) {
  float y;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x to nearest, for x from 2^-100 to 2^125: the instructions of the division without the branch to what they do not
// serve. Of infinity, NaN.
AITERLITE_DEVICE float normal_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  const float residue = __builtin_fmaf(x, y, -1.0f);
  return __builtin_fmaf(-residue, y, y);
}

// Of two words of two bf16 or two fp16, the greater in each half; a NaN gives way to any number.
inline constexpr bool kPairMaxima = true;
AITERLITE_DEVICE uint32_t greater_bf16_pair(uint32_t a, uint32_t b) {
  uint32_t most;
  asm("max.bf16x2 %0, %1, %2;" : "=r"(most) : "r"(a), "r"(b));
  return most;
}
AITERLITE_DEVICE uint32_t greater_fp16_pair(uint32_t a, uint32_t b) {
  uint32_t most;
  asm("max.f16x2 %0, %1, %2;" : "=r"(most) : "r"(a), "r"(b));
  return most;
}

// Products, sums and the lesser of two bf16, in each half of a word; products and sums are rounded to nearest even.
// Subnormal numbers count; in the lesser a NaN gives way to any number.
inline constexpr bool kBf16Pairs = true;
AITERLITE_DEVICE uint32_t multiply_bf16_pair(uint32_t a, uint32_t b) {
  uint32_t product;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
  return product;
}
AITERLITE_DEVICE uint32_t add_bf16_pair(uint32_t a, uint32_t b) {
  uint32_t sum;
  asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
  return sum;
}
AITERLITE_DEVICE uint32_t lesser_bf16_pair(uint32_t a, uint32_t b) {
  uint32_t least;
  asm("min.bf16x2 %0, %1, %2;" : "=r"(least) : "r"(a), "r"(b));
  return least;
}

// Of two words of two 16-bit numbers without a sign, the greater in each half.
AITERLITE_DEVICE uint32_t greater_u16_pair(uint32_t a, uint32_t b) {
  uint32_t most;
  asm("max.u16x2 %0, %1, %2;" : "=r"(most) : "r"(a), "r"(b));
  return most;
}

// Bytes a, b, c and d, lowest first, of the eight of `low` (0 to 3) and `high` (4 to 7).
template <uint32_t a, uint32_t b, uint32_t c, uint32_t d>
AITERLITE_DEVICE uint32_t pick_bytes(uint32_t low, uint32_t high) {
  return __byte_perm(low, high, a | b << 4 | c << 8 | d << 12);
}

// The chip's own 8-bit format is e4m3fn, on sm_89 and later. Beyond the largest it saturates; a NaN becomes 0x7f.
inline constexpr bool kNativeFnuz = false, kNativeFn = true, kNativeFp8Saturates = true;
AITERLITE_DEVICE uint32_t native_pack_fp8(float a, float b) {
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(b), "f"(a));
  return pair;
}
AITERLITE_DEVICE uint32_t native_pack_fp8(float a, float b, float c, float d) {
  uint32_t word;
  asm("{\n"
      ".reg .b16 low, high;\n"
      "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
      "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
      "mov.b32 %0, {low, high};\n"
      "}"
      : "=r"(word)
      : "f"(a), "f"(b), "f"(c), "f"(d));
  return word;
}
// Four e4m3fn to four halves, two instructions: a word of the lower two, and one of the upper two.
AITERLITE_DEVICE void native_unpack_fp8_to_fp16(uint32_t word, uint32_t (&pair)[2]) {
  asm("{\n"
      ".reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, low;\n"
      "cvt.rn.f16x2.e4m3x2 %1, high;\n"
      "}"
      : "=r"(pair[0]), "=r"(pair[1])
      : "r"(word));
}
AITERLITE_DEVICE void native_unpack_fp8(uint32_t word, float (&value)[4]) {
  uint32_t pair[2];
  native_unpack_fp8_to_fp16(word, pair);
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    value[i] = half_bits_to_float(static_cast<uint16_t>(pair[i / 2] >> (16 * (i % 2))));
  }
}

// The nearest to x between least and most; not for NaN, which it turns into a number.
AITERLITE_DEVICE float clamp(float x, float least, float most) { return fminf(fmaxf(x, least), most); }

// Two floats as a word of two 16-bit ones, to nearest even, the first in the lower half.
AITERLITE_DEVICE uint32_t native_pack_bf16(float a, float b) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(b), "f"(a));
  return word;
}
AITERLITE_DEVICE float product_apart(float product) { return product; }
AITERLITE_DEVICE uint32_t native_pack_fp16(float a, float b) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(b), "f"(a));
  return word;
}
AITERLITE_DEVICE uint32_t pack_exact_fp16(float a, float b) { return native_pack_fp16(a, b); }

inline constexpr bool kNativeFp4 = false;
AITERLITE_ABSENT(native_pack_fp4_of_bf16, "sm_90 converts no 4-bit floats; numeric/mxfp4_encode.h does by arithmetic")
AITERLITE_ABSENT(native_pack_fp4_of_fp16, "sm_90 converts no 4-bit floats; numeric/mxfp4_encode.h does by arithmetic")

}  // namespace aiterlite
