// Storage types as the CPU kernels see them: widening to fp32 vectors, and scalars both ways.
#pragma once
#include <aiterlite/cpu/simd.h>

namespace aiterlite::cpu {

// 2 * kLanes consecutive elements. Which lane holds which element is the element type's affair: a dot product only
// needs both operands to agree. Products are added in this order.
struct Pair {
  f32v first;
  f32v second;
};

inline float bits_to_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }
inline uint32_t float_to_bits(float value) { return __builtin_bit_cast(uint32_t, value); }

struct Bf16 {
  using Bits = uint16_t;

  // The odd elements, then the even ones: a mask and a shift, where unpacking in order would cost a permute. VDPBF16PS
  // adds in this order too, so that a CPU with it and one without give the same bits.
  static Pair widen(const uint16_t* p) {
    const u32v raw = load<u32v>(p);
    return {(f32v)(raw & 0xffff0000u), (f32v)(raw << 16)};
  }
  static u32v narrow_exactly(Pair p) { return ((u32v)p.second >> 16) | ((u32v)p.first & 0xffff0000u); }

  static float to_float(uint16_t h) { return bits_to_float((uint32_t)h << 16); }

  // Round to nearest, ties to even. A NaN is made quiet: truncated as it is, it could become an infinity.
  static uint16_t from_float(float f) {
    const uint32_t u = float_to_bits(f);
    const uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    return (uint16_t)(f != f ? (u >> 16) | 0x0040 : rounded);
  }
};

struct Fp16 {
  using Bits = uint16_t;

  static Pair widen(const uint16_t* p) {
    return {widen_half(load<u16v_half>(p)), widen_half(load<u16v_half>(p + kLanes))};
  }

  static float to_float(uint16_t h) {
    const uint32_t magnitude = h & 0x7fff;
    const uint32_t rebias = magnitude >= 0x7c00 ? 0x70000000 : 0x38000000;
    const uint32_t normal = (magnitude << 13) + rebias;
    const uint32_t subnormal = float_to_bits((float)(int32_t)magnitude * 0x1p-24f);
    return bits_to_float(((uint32_t)(h & 0x8000) << 16) | (magnitude < 0x0400 ? subnormal : normal));
  }

  // Round to nearest, ties to even; 65520 and above become infinity, below 2^-14 the result is subnormal.
  static uint16_t from_float(float f) {
    const uint32_t u = float_to_bits(f);
    const uint32_t magnitude = u & 0x7fffffff;
    const uint32_t sign = (u >> 16) & 0x8000;
    const uint32_t normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    // One unit in the last place of 0.5 is fp16's smallest subnormal, so this addition rounds where fp16 would.
    const uint32_t subnormal = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000;
    uint32_t result = magnitude < 0x38800000 ? subnormal : normal;
    result = magnitude >= 0x477ff000 ? 0x7c00 : result;
    result = magnitude > 0x7f800000 ? 0x7e00 : result;
    return (uint16_t)(sign | result);
  }

  static f32v widen_half(u16v_half halves) {
#if defined(AITERLITE_CPU_AVX512)
    return (f32v)_mm512_maskz_cvtph_ps((__mmask16)-1, (__m256i)halves);  // the plain form warns in GCC 12's header
#elif defined(AITERLITE_CPU_AVX2)
    return (f32v)_mm256_cvtph_ps((__m128i)halves);
#elif defined(__aarch64__)
    return (f32v)vcvt_f32_f16((float16x4_t)halves);
#else
    // to_float without branches. No step meets an fp32 subnormal: slow on some CPUs, and zero in a thread that
    // flushes them.
    const u32v h = __builtin_convertvector(halves, u32v);
    const u32v magnitude = h & 0x7fff;
    const u32v rebias = 0x38000000 + ((u32v)(magnitude >= 0x7c00) & 0x38000000);
    const u32v is_subnormal = (u32v)(magnitude < 0x0400);
    const u32v subnormal = (u32v)(__builtin_convertvector((i32v)magnitude, f32v) * 0x1p-24f);
    const u32v normal = (magnitude << 13) + rebias;
    return (f32v)(((h & 0x8000) << 16) | (is_subnormal & subnormal) | (~is_subnormal & normal));
#endif
  }
};

// 8-bit floats of 4 exponent and 3 fraction bits. FNUZ has bias 8, and a NaN where OCP's type has negative zero; OCP's
// NaNs are where all bits but the sign are one.
template <bool kFnuz>
struct E4m3 {
  using Bits = uint8_t;
  static constexpr int kBias = kFnuz ? 8 : 7;

  // The odd elements, then the even ones, times 2^(kBias - 15): moved to the places of a half's exponent and fraction,
  // subnormals included, the bits are those of that number. An arithmetic shift doubles the sign and leaves it in the
  // highest bit.
  static Pair widen(const uint8_t* p) {
    const i16v_half raw = load<i16v_half>(p);
    return {widen_part(raw), widen_part((i16v_half)((u16v_half)raw << 8))};
  }

  // The bf16 of a code without its sign, which is exact. FNUZ has no NaN at 0x7f, and its own is not asked for.
  static constexpr uint16_t to_bf16(int code) {
    int exponent = code >> 3, fraction = code & 7;
    if (!kFnuz && code == 0x7f) return 0x7fc0;
    if (code == 0) return 0;
    if (exponent == 0) {
      for (exponent = 1; fraction < 8; --exponent) fraction *= 2;
      fraction &= 7;
    }
    return static_cast<uint16_t>((exponent - kBias + 127) << 7 | fraction << 4);
  }

 private:
  static f32v widen_part(i16v_half in_high_byte) {
    const u16v_half half = (u16v_half)(in_high_byte >> 1) & 0xbf80;
    const u16v_half is_nan = (u16v_half)(kFnuz ? half == 0x8000 : (half & 0x7fff) == 0x3f80);
    return Fp16::widen_half(half | (is_nan & 0x7e00));
  }
};
using E4m3fn = E4m3<false>;
using E4m3fnuz = E4m3<true>;

}  // namespace aiterlite::cpu
