// AMD: conversions between number formats, powers of two, and bytes picked from registers.
#pragma once
#include <aiterlite/isa/amdgcn_core.h>

namespace aiterlite {

AITERLITE_DEVICE float half_bits_to_float(uint16_t bits) { return __builtin_bit_cast(_Float16, bits); }
AITERLITE_DEVICE uint16_t float_to_half_bits(float value) {
  return __builtin_bit_cast(uint16_t, static_cast<_Float16>(value));
}

// 2^x and log2(x) to about one unit in the last place; results below 2^-126 may be zero.
AITERLITE_DEVICE float fast_exp2(float x) { return __builtin_amdgcn_exp2f(x); }
AITERLITE_DEVICE float fast_log2(float x) { return __builtin_amdgcn_logf(x); }
// 1 / x to about one unit in the last place; results below 2^-126 may be zero.
AITERLITE_DEVICE float fast_reciprocal(float x) { return __builtin_amdgcn_rcpf(x); }

// 1 / sqrt(x) to about one unit in the last place; of zero, infinity.
AITERLITE_DEVICE float fast_reciprocal_sqrt(float x) { return __builtin_amdgcn_rsqf(x); }

// 1 / x to nearest, for x from 2^-100 to 2^125.
AITERLITE_DEVICE float normal_reciprocal(float x) { return 1.0f / x; }

// Floats take magnitudes and three operands at once here, and bf16 has no maximum.
inline constexpr bool kPairMaxima = false;
AITERLITE_ABSENT(greater_bf16_pair, "AMD has no maximum of bf16; widen, and take that of floats")
AITERLITE_ABSENT(greater_fp16_pair, "widen, and take the maximum of floats, as for bf16")

inline constexpr bool kBf16Pairs = false;
AITERLITE_ABSENT(multiply_bf16_pair, "AMD has no arithmetic of bf16; widen")
AITERLITE_ABSENT(add_bf16_pair, "AMD has no arithmetic of bf16; widen")
AITERLITE_ABSENT(lesser_bf16_pair, "AMD has no arithmetic of bf16; widen")

// Of two words of two 16-bit numbers without a sign, the greater in each half.
AITERLITE_DEVICE uint32_t greater_u16_pair(uint32_t a, uint32_t b) {
  using Pair = uint16_t __attribute__((ext_vector_type(2)));
  return __builtin_bit_cast(uint32_t,
                            __builtin_elementwise_max(__builtin_bit_cast(Pair, a), __builtin_bit_cast(Pair, b)));
}

// Bytes a, b, c and d, lowest first, of the eight of `low` (0 to 3) and `high` (4 to 7).
template <uint32_t a, uint32_t b, uint32_t c, uint32_t d>
AITERLITE_DEVICE uint32_t pick_bytes(uint32_t low, uint32_t high) {
  return __builtin_amdgcn_perm(high, low, a | b << 8 | c << 16 | d << 24);
}

// Byte i is that of the eight of `low` (0 to 3) and `high` (4 to 7) which byte i of `which` numbers.
AITERLITE_DEVICE uint32_t permute_bytes(uint32_t high, uint32_t low, uint32_t which) {
  return __builtin_amdgcn_perm(high, low, which);
}

// The chip's own 8-bit format, e4m3fnuz on gfx942 and e4m3fn on gfx950; what rounds beyond the largest becomes a NaN.
#if defined(__gfx950__)
inline constexpr bool kNativeFnuz = false, kNativeFn = true;
#else
inline constexpr bool kNativeFnuz = true, kNativeFn = false;
#endif
// It has no saturating form that keeps NaN, and a NaN keeps its sign.
inline constexpr bool kNativeFp8Saturates = false;
AITERLITE_DEVICE uint32_t native_pack_fp8(float a, float b, float c, float d) {
  const int low = __builtin_amdgcn_cvt_pk_fp8_f32(a, b, 0, false);
  return static_cast<uint32_t>(__builtin_amdgcn_cvt_pk_fp8_f32(c, d, low, true));
}
AITERLITE_DEVICE uint32_t native_pack_fp8(float a, float b) {
  return static_cast<uint32_t>(__builtin_amdgcn_cvt_pk_fp8_f32(a, b, 0, false)) & 0xffffu;
}
AITERLITE_DEVICE void native_unpack_fp8(uint32_t word, float (&value)[4]) {
  const auto low = __builtin_amdgcn_cvt_pk_f32_fp8(static_cast<int>(word), false);
  const auto high = __builtin_amdgcn_cvt_pk_f32_fp8(static_cast<int>(word), true);
  value[0] = low[0], value[1] = low[1], value[2] = high[0], value[3] = high[1];
}

#if defined(__gfx950__)
// Four e4m3fn to two words of two 16-bit floats, two instructions; their scale is 1.
AITERLITE_DEVICE void native_unpack_fp8_to_fp16(uint32_t word, uint32_t (&pair)[2]) {
  pair[0] = __builtin_bit_cast(uint32_t, __builtin_amdgcn_cvt_scalef32_pk_f16_fp8(word, 1.0f, false));
  pair[1] = __builtin_bit_cast(uint32_t, __builtin_amdgcn_cvt_scalef32_pk_f16_fp8(word, 1.0f, true));
}
AITERLITE_DEVICE void native_unpack_fp8_to_bf16(uint32_t word, uint32_t (&pair)[2]) {
  pair[0] = __builtin_bit_cast(uint32_t, __builtin_amdgcn_cvt_scalef32_pk_bf16_fp8(word, 1.0f, false));
  pair[1] = __builtin_bit_cast(uint32_t, __builtin_amdgcn_cvt_scalef32_pk_bf16_fp8(word, 1.0f, true));
}
#endif

#if defined(__gfx950__)
// Eight e2m1 codes of a word, times a scale, to four words of two bf16, in order.
AITERLITE_DEVICE void native_unpack_fp4_to_bf16(uint32_t word, float scale, uint32_t (&pair)[4]) {
  pair[0] = __builtin_bit_cast(uint32_t, __builtin_amdgcn_cvt_scalef32_pk_bf16_fp4(word, scale, 0));
  pair[1] = __builtin_bit_cast(uint32_t, __builtin_amdgcn_cvt_scalef32_pk_bf16_fp4(word, scale, 1));
  pair[2] = __builtin_bit_cast(uint32_t, __builtin_amdgcn_cvt_scalef32_pk_bf16_fp4(word, scale, 2));
  pair[3] = __builtin_bit_cast(uint32_t, __builtin_amdgcn_cvt_scalef32_pk_bf16_fp4(word, scale, 3));
}
#endif

// The nearest to x between least and most; not for NaN, which it turns into a number.
AITERLITE_DEVICE float clamp(float x, float least, float most) { return __builtin_amdgcn_fmed3f(x, least, most); }

// Two floats as a word of two 16-bit ones, to nearest even, the first in the lower half. gfx942 has no bf16 conversion.
#if defined(__gfx950__)
AITERLITE_DEVICE uint32_t native_pack_bf16(float a, float b) {
  using Floats2 = float __attribute__((ext_vector_type(2)));
  using Bfloats2 = __bf16 __attribute__((ext_vector_type(2)));
  return __builtin_bit_cast(uint32_t, __builtin_convertvector(Floats2{a, b}, Bfloats2));
}
#endif
// A product that is not converted in one instruction with its multiplication: the compiler has that one add +0, which
// makes 0 of -0.
AITERLITE_DEVICE float product_apart(float product) {
  asm("" : "+v"(product));
  return product;
}
AITERLITE_DEVICE uint32_t native_pack_fp16(float a, float b) {
  return float_to_half_bits(a) | static_cast<uint32_t>(float_to_half_bits(b)) << 16;
}
// For floats that halves represent exactly, in one instruction.
AITERLITE_DEVICE uint32_t pack_exact_fp16(float a, float b) {
  return __builtin_bit_cast(uint32_t, __builtin_amdgcn_cvt_pkrtz(a, b));
}

// Eight 16-bit floats to e2m1 codes, the first in the lowest four bits, divided by 2^(byte - 127), four instructions;
// to nearest even, beyond the largest that. Of byte 255, which is no power of two for them, anything. Each writes a
// byte of the word, and whatever takes the register next has to wait, which the compiler does not see of the lowest
// byte's.
#if defined(__gfx950__)
inline constexpr bool kNativeFp4 = true;
#define AITERLITE_PACK_FP4(type)                                                                  \
  AITERLITE_DEVICE uint32_t native_pack_fp4_of_##type(const uint32_t (&pair)[4], uint32_t byte) { \
    uint32_t codes;                                                                               \
    asm("v_cvt_scalef32_pk_fp4_" AITERLITE_FP4_##type                                             \
        " %0, %1, %5\n\ts_nop 0\n\t"                                                              \
        "v_cvt_scalef32_pk_fp4_" AITERLITE_FP4_##type                                             \
        " %0, %2, %5 op_sel:[0,0,1,0]\n\ts_nop 0\n\t"                                             \
        "v_cvt_scalef32_pk_fp4_" AITERLITE_FP4_##type                                             \
        " %0, %3, %5 op_sel:[0,0,0,1]\n\ts_nop 0\n\t"                                             \
        "v_cvt_scalef32_pk_fp4_" AITERLITE_FP4_##type " %0, %4, %5 op_sel:[0,0,1,1]\n\ts_nop 0"   \
        : "=&v"(codes)                                                                            \
        : "v"(pair[0]), "v"(pair[1]), "v"(pair[2]), "v"(pair[3]), "v"(byte << 23));               \
    return codes;                                                                                 \
  }
#define AITERLITE_FP4_bf16 "bf16"
#define AITERLITE_FP4_fp16 "f16"
AITERLITE_PACK_FP4(bf16)
AITERLITE_PACK_FP4(fp16)
#undef AITERLITE_PACK_FP4
#else
inline constexpr bool kNativeFp4 = false;
AITERLITE_ABSENT(native_pack_fp4_of_bf16, "gfx942 converts no 4-bit floats; numeric/mxfp4_encode.h does by arithmetic")
AITERLITE_ABSENT(native_pack_fp4_of_fp16, "gfx942 converts no 4-bit floats; numeric/mxfp4_encode.h does by arithmetic")
#endif

}  // namespace aiterlite
