// Scalar number formats: the 16-, 8-, 6- and 4-bit floats of gfx942 and gfx950, their encodings and their roundings.
//
// The 8-bit flavour depends on the target: gfx942 has the FNUZ formats (bias 8 and 16, no infinity, no negative zero,
// 0x80 is the only NaN), gfx950 the OCP ones (e4m3 without infinity, e5m2 as IEEE would have it).
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

namespace aiterlite::emulator {

struct SmallFloat {
  int exponent_bits;
  int mantissa_bits;
  int bias;
  uint32_t max_code;  // the largest finite magnitude
  int32_t inf_code;   // -1: no infinity
  int32_t nan_code;   // -1: no NaN
  bool fnuz;          // NaN is the code of negative zero
};

inline constexpr SmallFloat kF16{5, 10, 15, 0x7bff, 0x7c00, 0x7e00, false};
inline constexpr SmallFloat kBf16{8, 7, 127, 0x7f7f, 0x7f80, 0x7fc0, false};
inline constexpr SmallFloat kFp8Fnuz{4, 3, 8, 0x7f, -1, 0x80, true};
inline constexpr SmallFloat kBf8Fnuz{5, 2, 16, 0x7f, -1, 0x80, true};
inline constexpr SmallFloat kFp8Ocp{4, 3, 7, 0x7e, -1, 0x7f, false};
inline constexpr SmallFloat kBf8Ocp{5, 2, 15, 0x7b, 0x7c, 0x7e, false};
inline constexpr SmallFloat kFp6{2, 3, 1, 0x1f, -1, -1, false};
inline constexpr SmallFloat kBf6{3, 2, 3, 0x1f, -1, -1, false};
inline constexpr SmallFloat kFp4{2, 1, 1, 0x7, -1, -1, false};

enum class Rounding : uint8_t { nearest_even, up, down, zero, stochastic };

inline constexpr uint32_t sign_mask(const SmallFloat& f) { return 1u << (f.exponent_bits + f.mantissa_bits); }

inline float f32_from_bits(uint32_t b) {
  float f;
  memcpy(&f, &b, 4);
  return f;
}
inline uint32_t f32_bits(float f) {
  uint32_t b;
  memcpy(&b, &f, 4);
  return b;
}
inline double f64_from_bits(uint64_t b) {
  double f;
  memcpy(&f, &b, 8);
  return f;
}
inline uint64_t f64_bits(double f) {
  uint64_t b;
  memcpy(&b, &f, 8);
  return b;
}

// 2^e as a double, for e within the normal range.
inline double exp2i(int e) { return f64_from_bits(static_cast<uint64_t>(e + 1023) << 52); }

inline bool is_nan32(uint32_t b) { return (b & 0x7fffffff) > 0x7f800000; }
inline bool is_inf32(uint32_t b) { return (b & 0x7fffffff) == 0x7f800000; }
inline bool is_snan32(uint32_t b) { return is_nan32(b) && !(b & 0x00400000); }
inline bool is_nan64(uint64_t b) { return (b & 0x7fffffffffffffff) > 0x7ff0000000000000; }
inline bool is_snan64(uint64_t b) { return is_nan64(b) && !(b & 0x0008000000000000); }
inline bool is_nan16(uint32_t b) { return (b & 0x7fff) > 0x7c00; }
inline bool is_snan16(uint32_t b) { return is_nan16(b) && !(b & 0x0200); }

// f32 -> f64 by bits: the host's flush-to-zero mode has no say, and a signalling NaN becomes quiet.
inline double widen(uint32_t b) {
  const uint64_t sign = static_cast<uint64_t>(b >> 31) << 63;
  const uint32_t e = (b >> 23) & 0xff;
  const uint64_t m = b & 0x7fffff;
  if (e == 0xff) return f64_from_bits(sign | 0x7ff0000000000000 | (m << 29) | (m ? 0x0008000000000000 : 0));
  if (e != 0) return f64_from_bits(sign | (static_cast<uint64_t>(e + 896) << 52) | (m << 29));
  const double r = static_cast<double>(m) * 0x1p-149;
  return sign ? -r : r;
}

// The exact value of a code.
inline double decode_small(const SmallFloat& f, uint32_t code) {
  const uint32_t s = code & sign_mask(f);
  const uint32_t magnitude = code & (sign_mask(f) - 1);
  const double quiet = f64_from_bits(s && !f.fnuz ? 0xfff8000000000000 : 0x7ff8000000000000);
  const int nan = f.nan_code;
  const bool all_ones_nan = nan >= 0 && f.inf_code < 0 && magnitude == static_cast<uint32_t>(nan);
  if (f.fnuz ? code == static_cast<uint32_t>(nan) : all_ones_nan) return quiet;
  if (f.inf_code >= 0 && magnitude >= static_cast<uint32_t>(f.inf_code)) {
    if (magnitude > static_cast<uint32_t>(f.inf_code)) return quiet;
    return s ? -static_cast<double>(INFINITY) : static_cast<double>(INFINITY);
  }
  const int e = static_cast<int>(magnitude >> f.mantissa_bits);
  const uint32_t m = magnitude & ((1u << f.mantissa_bits) - 1);
  const double v = e == 0 ? m * exp2i(1 - f.bias - f.mantissa_bits)
                          : (m + (1u << f.mantissa_bits)) * exp2i(e - f.bias - f.mantissa_bits);
  return s ? -v : v;
}

// What becomes of a finite value whose rounded magnitude is past max_code.
enum class Overflow : uint8_t { special, saturate };  // special: infinity, else NaN, else the largest finite value

// Encodes `x`. `random` holds the bits added below the mantissa for Rounding::stochastic, left-aligned in 32 bits.
inline uint32_t encode_small(const SmallFloat& f, double x, Rounding rounding, Overflow overflow, uint32_t random = 0) {
  const uint64_t xb = f64_bits(x);
  const uint32_t sign = xb >> 63 ? sign_mask(f) : 0;
  const uint64_t magnitude = xb & 0x7fffffffffffffff;
  const auto special = [&]() -> uint32_t {
    if (f.inf_code >= 0) return sign | static_cast<uint32_t>(f.inf_code);
    if (f.fnuz) return static_cast<uint32_t>(f.nan_code);
    if (f.nan_code >= 0) return sign | static_cast<uint32_t>(f.nan_code);
    return sign | f.max_code;
  };
  if (magnitude > 0x7ff0000000000000) {
    if (f.fnuz) return static_cast<uint32_t>(f.nan_code);
    return f.nan_code >= 0 ? sign | static_cast<uint32_t>(f.nan_code) : f.max_code;
  }
  if (magnitude == 0x7ff0000000000000) return special();
  int e = static_cast<int>(magnitude >> 52) - 1023;
  uint64_t m = magnitude & 0xfffffffffffffull;
  if (e == -1023) {
    e = -1022;
  } else {
    m |= 1ull << 52;
  }
  const int emin = 1 - f.bias;
  int shift = 52 - f.mantissa_bits + (e < emin ? emin - e : 0);
  const int raise = e > emin ? e - emin : 0;
  if (shift > 60) {
    m = m != 0;
    shift = 60;
  }
  uint64_t q = m >> shift;
  const uint64_t rest = m & ((1ull << shift) - 1);
  const uint64_t half = 1ull << (shift - 1);
  switch (rounding) {
    case Rounding::nearest_even:
      q += rest > half || (rest == half && (q & 1));
      break;
    case Rounding::up:
      q += rest != 0 && !sign;
      break;
    case Rounding::down:
      q += rest != 0 && sign;
      break;
    case Rounding::zero:
      break;
    case Rounding::stochastic: {
      const uint64_t r = shift >= 32 ? static_cast<uint64_t>(random) << (shift - 32) : random >> (32 - shift);
      q += (rest + r) >> shift;
      break;
    }
  }
  const uint64_t code = q + (static_cast<uint64_t>(raise) << f.mantissa_bits);
  if (code > f.max_code) {
    const bool to_max = rounding == Rounding::zero || (rounding == Rounding::up && sign) ||
                        (rounding == Rounding::down && !sign) || overflow == Overflow::saturate;
    return to_max ? sign | f.max_code : special();
  }
  if (code == 0 && f.fnuz) return 0;
  return sign | static_cast<uint32_t>(code);
}

// Rounds a double to f32 as `rounding` says, by bits, with denormal results kept.
inline uint32_t round_to_f32(double x, Rounding rounding = Rounding::nearest_even) {
  static constexpr SmallFloat kF32{8, 23, 127, 0x7f7fffff, 0x7f800000, 0x7fc00000, false};
  return encode_small(kF32, x, rounding, Overflow::special);
}

inline float half_to_f32(uint32_t h) { return static_cast<float>(decode_small(kF16, h & 0xffff)); }

// v_prng_b32.
inline uint32_t prng(uint32_t x) { return (x << 1) ^ (x >> 31 ? 197u : 0u); }

}  // namespace aiterlite::emulator
