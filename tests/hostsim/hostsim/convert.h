// Conversions: isa/ptx_convert.h or isa/amdgcn_convert.h. Included by hostsim/isa.h.
#pragma once

namespace aiterlite {

inline float fast_exp2(float x) { return exp2f(x); }
inline float fast_log2(float x) { return log2f(x); }
inline float fast_reciprocal(float x) { return 1.0f / x; }
inline float fast_reciprocal_sqrt(float x) { return 1.0f / sqrtf(x); }
inline float normal_reciprocal(float x) { return isinf(x) ? NAN : 1.0f / x; }

inline constexpr bool kPairMaxima = AITERLITE_NVIDIA;
template <class Widen>
uint32_t greater_pair_of(uint32_t a, uint32_t b, const Widen& widen) {
  uint32_t most = 0;
  for (uint32_t shift = 0; shift < 32; shift += 16) {
    const uint32_t x = a >> shift & 0xffff, y = b >> shift & 0xffff;
    most |= (isnan(widen(x)) || widen(y) > widen(x) ? y : x) << shift;
  }
  return most;
}
inline uint32_t greater_bf16_pair(uint32_t a, uint32_t b) { return greater_pair_of(a, b, Bf16Operand::decode); }
inline uint32_t greater_fp16_pair(uint32_t a, uint32_t b) { return greater_pair_of(a, b, Fp16Operand::decode); }

// Rounded once: a sum of two bf16 that are 2^16 apart or less is exact in a float, and others round the same way twice.
inline constexpr bool kBf16Pairs = AITERLITE_NVIDIA;
template <class Op>
uint32_t of_bf16_pair(uint32_t a, uint32_t b, const Op& op) {
  uint32_t found = 0;
  for (uint32_t shift = 0; shift < 32; shift += 16) {
    const float x = Bf16Operand::decode(a >> shift & 0xffff), y = Bf16Operand::decode(b >> shift & 0xffff);
    const auto bits = __builtin_bit_cast(uint32_t, op(x, y));
    const uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    found |= ((bits & 0x7fffffff) > 0x7f800000 ? 0x7fff : nearest) << shift;
  }
  return found;
}
inline uint32_t multiply_bf16_pair(uint32_t a, uint32_t b) {
  return of_bf16_pair(a, b, [](float x, float y) { return x * y; });
}
inline uint32_t add_bf16_pair(uint32_t a, uint32_t b) {
  return of_bf16_pair(a, b, [](float x, float y) { return x + y; });
}
inline uint32_t lesser_bf16_pair(uint32_t a, uint32_t b) {
  return of_bf16_pair(a, b, [](float x, float y) { return fminf(x, y); });
}

inline uint32_t greater_u16_pair(uint32_t a, uint32_t b) {
  const uint32_t low = (a & 0xffff) > (b & 0xffff) ? a : b, high = a >> 16 > b >> 16 ? a : b;
  return (low & 0xffff) | (high & 0xffff0000u);
}

template <uint32_t a, uint32_t b, uint32_t c, uint32_t d>
uint32_t pick_bytes(uint32_t low, uint32_t high) {
  const uint64_t all = static_cast<uint64_t>(high) << 32 | low;
  const auto byte = [all](uint32_t i) { return static_cast<uint32_t>(all >> (8 * i) & 0xff); };
  return byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24;
}

// No instruction converts 8-bit floats here, so what runs are the conversions in integers.
inline constexpr bool kNativeFnuz = false, kNativeFn = false, kNativeFp8Saturates = false;
AITERLITE_ABSENT(native_pack_fp8, "the simulation has no such instruction")
AITERLITE_ABSENT(native_unpack_fp8, "the simulation has no such instruction")
AITERLITE_ABSENT(native_unpack_fp8_to_fp16, "the simulation has no such instruction")

inline float clamp(float x, float least, float most) { return fminf(fmaxf(x, least), most); }

inline float product_apart(float product) { return product; }
inline uint32_t native_pack_fp16(float a, float b) {
  return float_to_half_bits(a) | static_cast<uint32_t>(float_to_half_bits(b)) << 16;
}
inline uint32_t pack_exact_fp16(float a, float b) { return native_pack_fp16(a, b); }

inline constexpr bool kNativeFp4 = false;
AITERLITE_ABSENT(native_pack_fp4_of_bf16, "the simulation has no such instruction")
AITERLITE_ABSENT(native_pack_fp4_of_fp16, "the simulation has no such instruction")

}  // namespace aiterlite
