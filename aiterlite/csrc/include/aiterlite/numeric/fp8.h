// Conversions between floats and the 8-bit formats, one, two or four at a time, the first in the lowest byte.
//
// To nearest, ties to even, from the exact float (bf16 and fp16 values are floats): denormals round like all others,
// and below half of the least one to zero, which keeps its sign where the format has it. A NaN becomes the format's one
// NaN, 0x7f or 0x80. What rounds beyond the largest (e4m3fn: above 464; e4m3fnuz: from 248), infinity too, becomes the
// largest under kSaturate and a NaN under kNan. Decoding is exact; either NaN of e4m3fn becomes a quiet NaN.
//
// By instruction: e4m3fn on sm_90 and gfx950, e4m3fnuz on gfx942. The other format is computed in integers
// (numeric/fp8_bits.h), 10 to 15 instructions a value, with the same bits. CDNA's instructions do not saturate and keep
// a NaN's sign, so values are clamped before, 3 instructions; e4m3fn overflows to a NaN by a compare and a select.
#pragma once
#include <aiterlite/numeric/fp8_bits.h>

namespace aiterlite {

template <class Fp8>
inline constexpr float kLargestFp8 = Fp8Format<Fp8>::kLargest;

template <class Fp8>
inline constexpr bool kIsNativeFp8 = Fp8Format<Fp8>::kHasNegativeZero ? kNativeFn : kNativeFnuz;

// What the target's instruction turns into the defined result.
template <class Fp8, Overflow kOverflow>
AITERLITE_DEVICE float prepare_fp8(float value) {
  constexpr float kLargest = kLargestFp8<Fp8>;
  const float nan = __builtin_bit_cast(float, 0x7fc00000u);
  if constexpr (kOverflow == Overflow::kSaturate && !kNativeFp8Saturates) {
    return value == value ? clamp(value, -kLargest, kLargest) : nan;
  } else if constexpr (kOverflow == Overflow::kNan && Fp8Format<Fp8>::kHasNegativeZero) {
    return __builtin_fabsf(value) <= 464.0f ? value : nan;
  } else {
    return value;
  }
}

template <class Fp8, Overflow kOverflow>
AITERLITE_DEVICE uint32_t pack_fp8(float a, float b, float c, float d) {
  if constexpr (kIsNativeFp8<Fp8>) {
    return native_pack_fp8(prepare_fp8<Fp8, kOverflow>(a), prepare_fp8<Fp8, kOverflow>(b),
                           prepare_fp8<Fp8, kOverflow>(c), prepare_fp8<Fp8, kOverflow>(d));
  } else {
    return encode_fp8_bits<Fp8, kOverflow>(a) | encode_fp8_bits<Fp8, kOverflow>(b) << 8 |
           encode_fp8_bits<Fp8, kOverflow>(c) << 16 | encode_fp8_bits<Fp8, kOverflow>(d) << 24;
  }
}
template <class Fp8, Overflow kOverflow>
AITERLITE_DEVICE uint16_t pack_fp8(float a, float b) {
  if constexpr (kIsNativeFp8<Fp8>) {
    return static_cast<uint16_t>(native_pack_fp8(prepare_fp8<Fp8, kOverflow>(a), prepare_fp8<Fp8, kOverflow>(b)));
  } else {
    return static_cast<uint16_t>(encode_fp8_bits<Fp8, kOverflow>(a) | encode_fp8_bits<Fp8, kOverflow>(b) << 8);
  }
}
template <class Fp8, Overflow kOverflow>
AITERLITE_DEVICE Fp8 to_fp8(float value) {
  return Fp8{static_cast<uint8_t>(pack_fp8<Fp8, kOverflow>(value, 0.0f))};
}

template <class Fp8>
AITERLITE_DEVICE void unpack_fp8(uint32_t word, float (&value)[4]) {
  if constexpr (kIsNativeFp8<Fp8>) {
    native_unpack_fp8(word, value);
  } else {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) value[i] = decode_fp8_bits<Fp8>(word >> (8 * i) & 0xffu);
  }
}
AITERLITE_DEVICE float to_float(e4m3fn value) {
  float all[4];
  unpack_fp8<e4m3fn>(value.bits, all);
  return all[0];
}
AITERLITE_DEVICE float to_float(e4m3fnuz value) {
  float all[4];
  unpack_fp8<e4m3fnuz>(value.bits, all);
  return all[0];
}

// Four 8-bit values as two words of two 16-bit ones, which hold them exactly. Two instructions for e4m3fn to fp16 on
// sm_90 and gfx950, and to bf16 on gfx950; elsewhere through floats.
template <class Fp8>
AITERLITE_DEVICE void widen_fp8(bf16, uint32_t word, uint32_t (&pair)[2]) {
#if defined(__gfx950__)
  if constexpr (kIsNativeFp8<Fp8>) return native_unpack_fp8_to_bf16(word, pair);
#endif
  float value[4];
  unpack_fp8<Fp8>(word, value);
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    pair[i] = pick_bytes<2, 3, 6, 7>(__builtin_bit_cast(uint32_t, value[2 * i]),
                                     __builtin_bit_cast(uint32_t, value[2 * i + 1]));
  }
}
template <class Fp8>
AITERLITE_DEVICE void widen_fp8(fp16, uint32_t word, uint32_t (&pair)[2]) {
#if AITERLITE_NVIDIA || defined(__gfx950__)
  if constexpr (kIsNativeFp8<Fp8>) return native_unpack_fp8_to_fp16(word, pair);
#endif
  float value[4];
  unpack_fp8<Fp8>(word, value);
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) pair[i] = pack_exact_fp16(value[2 * i], value[2 * i + 1]);
}

}  // namespace aiterlite
