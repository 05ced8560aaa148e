// Storage types. Arithmetic happens in float; the only roundings are the conversions here (to nearest, ties to even).
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite {

struct bf16 {
  uint16_t bits;
};
struct fp16 {
  uint16_t bits;
};

// 8-bit floats of 4 exponent and 3 fraction bits; conversions: numeric/fp8.h. OCP's: bias 7, NaN where all
// bits but the sign are one. FNUZ: bias 8, no negative zero; its code is the only NaN. Zero is zero bits in both.
struct e4m3fn {
  uint8_t bits;
};
struct e4m3fnuz {
  uint8_t bits;
};

// The one that the target's matrix unit and conversions have.
#if defined(__gfx942__) || AITERLITE_HOST_SIM == 942
using NativeFp8 = e4m3fnuz;
#else
using NativeFp8 = e4m3fn;
#endif

AITERLITE_DEVICE float to_float(bf16 value) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(value.bits) << 16);
}
AITERLITE_DEVICE float to_float(fp16 value) { return half_bits_to_float(value.bits); }

template <class Element>
AITERLITE_DEVICE Element from_float(float value);

// In integers, so that every target gives the same bits: the carry of the rounding may run into the exponent, which is
// right also when it turns the largest finite value into infinity. A NaN must not: its low bits could carry it to zero.
template <>
AITERLITE_DEVICE bf16 from_float<bf16>(float value) {
  const auto bits = __builtin_bit_cast(uint32_t, value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return bf16{static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return bf16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
template <>
AITERLITE_DEVICE fp16 from_float<fp16>(float value) {
  return fp16{float_to_half_bits(value)};
}

}  // namespace aiterlite
