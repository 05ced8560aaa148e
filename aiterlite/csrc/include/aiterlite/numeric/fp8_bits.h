// The 8-bit formats in integers and float additions, for targets whose instructions have the other one. The same bits
// as numeric/fp8.h defines, on every target.
#pragma once
#include <aiterlite/numeric/types.h>

namespace aiterlite {

// What a value beyond the largest becomes: the largest, or a NaN.
enum class Overflow { kSaturate, kNan };

template <class Fp8>
struct Fp8Format;
template <>
struct Fp8Format<e4m3fn> {
  static constexpr uint32_t kBias = 7, kMost = 0x7e, kNan = 0x7f;
  static constexpr float kLargest = 448.0f;
  static constexpr bool kHasNegativeZero = true;
};
template <>
struct Fp8Format<e4m3fnuz> {
  static constexpr uint32_t kBias = 8, kMost = 0x7f, kNan = 0x80;
  static constexpr float kLargest = 240.0f;
  static constexpr bool kHasNegativeZero = false;
};

template <class Fp8, Overflow kOverflow>
AITERLITE_DEVICE uint32_t encode_fp8_bits(float value) {
  using Format = Fp8Format<Fp8>;
  const auto bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return Format::kNan;
  // Normal: 3 of 23 fraction bits stay, and the carry of the rounding may run into the exponent. Denormal: in a float
  // whose last place is the spacing of denormals, an addition rounds, and the fraction is the code.
  constexpr uint32_t kLeastNormal = (128 - Format::kBias) << 23;
  constexpr uint32_t kSpacing = (127 + 21 - Format::kBias) << 23;
  const uint32_t normal = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20) - ((127 - Format::kBias) << 3);
  const float shifted = __builtin_bit_cast(float, magnitude) + __builtin_bit_cast(float, kSpacing);
  uint32_t code = magnitude >= kLeastNormal ? normal : __builtin_bit_cast(uint32_t, shifted) - kSpacing;
  if (code > Format::kMost) {
    if (kOverflow == Overflow::kNan) return Format::kNan;
    code = Format::kMost;
  }
  if (code == 0 && !Format::kHasNegativeZero) return 0;
  return code | ((bits >> 24) & 0x80u);
}

template <class Fp8>
AITERLITE_DEVICE float decode_fp8_bits(uint32_t code) {
  using Format = Fp8Format<Fp8>;
  const bool is_nan = Format::kHasNegativeZero ? (code & 0x7fu) == Format::kNan : code == Format::kNan;
  if (is_nan) return __builtin_bit_cast(float, 0x7fc00000u);
  // The fraction over a one: taking the one away again normalizes what is denormal.
  constexpr uint32_t kOne = (128 - Format::kBias) << 23;
  const uint32_t magnitude = (code & 0x7fu) << 20;
  const float least = __builtin_bit_cast(float, kOne | magnitude) - __builtin_bit_cast(float, kOne);
  const float normal = __builtin_bit_cast(float, magnitude + ((127 - Format::kBias) << 23));
  const float value = magnitude >= 1u << 23 ? normal : least;
  return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, value) | (code & 0x80u) << 24);
}

}  // namespace aiterlite
