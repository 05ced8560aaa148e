// MXFP4 codes (e2m1) as 16-bit floats, and their scales (e8m0) as floats, in registers. All of it is exact.
//
// A code is a sign and three bits, which are an exponent and a fraction: in the place of a 16-bit float's lowest
// exponent bits and its first fraction bit they are that number times a power of two, the subnormal 0.5 and zero
// included. So eight codes of a word become four pairs by shifts and masks, and what multiplies them applies the power.
// A pair is two codes that are 16 bits apart: codes i and i + 4, the first in the lower half.
#pragma once
#include <aiterlite/numeric/block_scale.h>
#include <aiterlite/numeric/types.h>

namespace aiterlite {

// What decoded numbers are to be multiplied by: 2^126 in bf16, 2^14 in fp16.
template <class Number>
inline constexpr int kE2m1Exponent = 126;
template <>
inline constexpr int kE2m1Exponent<fp16> = 14;

// Codes kPair and kPair + 4 of a word, times 2^-kE2m1Exponent<Number>.
template <class Number, uint32_t kPair>
AITERLITE_DEVICE uint32_t decode_e2m1_pair(uint32_t word) {
  static_assert(kPair < 4, "decode_e2m1_pair: a word has four pairs");
  constexpr uint32_t kSign = 0x80008000u;
  if constexpr (kE2m1Exponent<Number> == 14) {
    const uint32_t at_top = word << (12 - 4 * kPair);
    return (at_top & kSign) | ((at_top >> 3) & 0x0e000e00u);
  } else {
#if AITERLITE_NVIDIA
    // One multiplication, which has a pipe of its own, moves the code to both of its places.
    const uint32_t lower = kPair < 2 ? word : word >> 8, nibble = 4 * (kPair % 2);
    const uint32_t both = (lower & (0x000f000fu << nibble)) * ((1u << (12 - nibble)) + (1u << (6 - nibble)));
    return both & (kSign | 0x01c001c0u);
#else
    const uint32_t at_top = word << (12 - 4 * kPair);
    return (at_top & kSign) | ((at_top >> 6) & 0x01c001c0u);
#endif
  }
}

#if AITERLITE_AMD
// The numbers themselves, by look-ups of bytes, which AMD's permutation does by a byte each: pairs (0, 2), (4, 6), (1,
// 3) and (5, 7) of a word. (Its matrix units need not know subnormal numbers for that.)
AITERLITE_DEVICE void look_up_e2m1(bf16, uint32_t word, uint32_t (&pair)[4]) {
  const uint32_t even = word & 0x07070707u, odd = (word >> 4) & 0x07070707u;
  const uint32_t high_even = permute_bytes(0x40404040u, 0x3f3f3f00u, even) | ((word << 4) & 0x80808080u);
  const uint32_t high_odd = permute_bytes(0x40404040u, 0x3f3f3f00u, odd) | (word & 0x80808080u);
  const uint32_t low_even = permute_bytes(0xc0804000u, 0xc0800000u, even);
  const uint32_t low_odd = permute_bytes(0xc0804000u, 0xc0800000u, odd);
  pair[0] = pick_bytes<0, 4, 1, 5>(low_even, high_even);
  pair[1] = pick_bytes<2, 6, 3, 7>(low_even, high_even);
  pair[2] = pick_bytes<0, 4, 1, 5>(low_odd, high_odd);
  pair[3] = pick_bytes<2, 6, 3, 7>(low_odd, high_odd);
}
AITERLITE_DEVICE void look_up_e2m1(fp16, uint32_t word, uint32_t (&pair)[4]) {
  const uint32_t even = word & 0x07070707u, odd = (word >> 4) & 0x07070707u;
  const uint32_t high_even = permute_bytes(0x46444240u, 0x3e3c3800u, even) | ((word << 4) & 0x80808080u);
  const uint32_t high_odd = permute_bytes(0x46444240u, 0x3e3c3800u, odd) | (word & 0x80808080u);
  pair[0] = pick_bytes<0, 4, 1, 5>(0, high_even);
  pair[1] = pick_bytes<2, 6, 3, 7>(0, high_even);
  pair[2] = pick_bytes<0, 4, 1, 5>(0, high_odd);
  pair[3] = pick_bytes<2, 6, 3, 7>(0, high_odd);
}
// Eight 16-bit elements in that order.
AITERLITE_DEVICE Vector16 in_looked_up_order(const Vector16& x) {
  return {{pick_bytes<0, 1, 4, 5>(x.word[0], x.word[1]), pick_bytes<0, 1, 4, 5>(x.word[2], x.word[3]),
           pick_bytes<2, 3, 6, 7>(x.word[0], x.word[1]), pick_bytes<2, 3, 6, 7>(x.word[2], x.word[3])}};
}
#endif

template <class Number>
AITERLITE_DEVICE void decode_e2m1(Number, uint32_t word, uint32_t (&pair)[4]) {
  pair[0] = decode_e2m1_pair<Number, 0>(word);
  pair[1] = decode_e2m1_pair<Number, 1>(word);
  pair[2] = decode_e2m1_pair<Number, 2>(word);
  pair[3] = decode_e2m1_pair<Number, 3>(word);
}

#if AITERLITE_NVIDIA
// The same of bf16 in twelve instructions, all of which run where few do in a cycle: that is what bounds kernels that
// stream codes.
AITERLITE_DEVICE void decode_e2m1_of_bf16(uint32_t word, uint32_t (&pair)[4]) {
  constexpr uint32_t kBits = 0x81c081c0u;
  const uint32_t lower = word >> 6;
  pair[0] = ((word & 0x000f000fu) * 0x1040u) & kBits;
  pair[1] = ((word & 0x00f000f0u) * 0x0104u) & kBits;
  pair[2] = ((lower & 0x003c003cu) * 0x0410u) & kBits;
  pair[3] = (word & 0x80008000u) | (lower & 0x01c001c0u);
}

// What decoded pairs are multiplied by so that they are numbers: 2^126 times the scale, which is one bf16 up to 2.
// Beyond that it takes two, of which `rest` is the second; of 255 they make a NaN.
struct Bf16Scale {
  uint32_t factor;
  uint32_t rest;

  static constexpr uint32_t kGreat = 128;  // bytes from here on take two

  AITERLITE_DEVICE static uint32_t small(uint32_t byte) { return byte * 0x00800080u + 126 * 0x00800080u; }
  AITERLITE_DEVICE static Bf16Scale of(uint32_t byte) {
    const uint32_t first = byte < 127 ? byte : 127u;
    return {small(first), byte == 255 ? 0x7fc07fc0u : (byte - first + 127) * 0x00800080u};
  }
  AITERLITE_DEVICE uint32_t apply(uint32_t pair) const {
    return multiply_bf16_pair(multiply_bf16_pair(pair, factor), rest);
  }
};
#endif

// A scale times 2^kShift, which a finished sum is divided by again. Beyond the greatest power of a float it is that
// one; 255 is NaN.
template <int kShift>
AITERLITE_DEVICE float shifted_e8m0(uint32_t byte) {
  const uint32_t field = byte + static_cast<uint32_t>(kShift), finite = (field < 254 ? field : 254u) << 23;
  return __builtin_bit_cast(float, byte == 255 ? 0x7fc00000u : finite);
}

// Four scales of a word, all of them less than 2, times 2^kShift, which comes as `bias`, kShift << 23, in a register:
// then each takes two instructions.
AITERLITE_DEVICE void decode_small_e8m0(uint32_t word, uint32_t bias, float (&scale)[4]) {
  const uint32_t bits[4] = {
      (word & 0xffu) * (1u << 23) + bias,
      (word & 0xff00u) * (1u << 15) + bias,
      (word & 0xff0000u) * (1u << 7) + bias,
      ((word & 0xff000000u) >> 1) + bias,
  };
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) scale[i] = __builtin_bit_cast(float, bits[i]);
}

}  // namespace aiterlite
