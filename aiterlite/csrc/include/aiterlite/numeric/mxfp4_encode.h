// MXFP4, encoding: the scale byte of a block of 32 elements (e8m0) and its 4-bit codes (e2m1), in the bits of
// aiterlite/reference/mxfp4.py on every target. What is decoded is in numeric/mxfp4_decode.h.
//
// Magnitudes of 16-bit floats are compared as whole numbers, so that a NaN is greater than all else. Codes are made in
// floats by an addition that rounds: halved values lie in [0, 3], and the last place of what is added is the distance
// of codes there. Where the byte is 255, halved values are NaN or infinite, and become 3.
#pragma once
#include <aiterlite/numeric/types.h>

namespace aiterlite {

// How a scale is chosen (MxScaleRoundMode): `carry` takes fractions from the mode's limit on to the next exponent,
// `least` is the least byte of what is not all zeros.
struct MxScaleRule {
  uint32_t carry;
  uint32_t least;
};

// The byte, of the bits of the greatest magnitude as a float.
AITERLITE_DEVICE uint32_t mx_scale_byte(uint32_t maximum, const MxScaleRule& rule) {
  const int32_t byte = static_cast<int32_t>((maximum + rule.carry) >> 23) - 2;
  const auto least = static_cast<int32_t>(maximum != 0 ? rule.least : 0);
  return maximum >= 0x7f800000u ? 255 : static_cast<uint32_t>(byte > least ? byte : least);
}

// 1 / (2 * scale); of 255, infinity. No block has byte 254.
AITERLITE_DEVICE float mx_half_reciprocal(uint32_t byte) {
  const uint32_t bits = byte >= 253 ? 0x00400000u : (253 - byte) << 23;
  return __builtin_bit_cast(float, byte == 255 ? 0x7f800000u : bits);
}

// The code of a magnitude, without its sign, in the three low bits; those above are anything.
AITERLITE_DEVICE uint32_t encode_e2m1(float magnitude, float half_reciprocal) {
  const float value = __builtin_fminf(magnitude * half_reciprocal, 3.0f);
  // 1 in the exponent's place stands for 22 binades, whose last place is a half of the binade's own power of two.
  const uint32_t binade = __builtin_bit_cast(uint32_t, __builtin_fmaxf(value, 0.5f)) & 0x7f800000u;
  const float rounded = value + __builtin_bit_cast(float, binade + (22u << 23));
  const auto bits = __builtin_bit_cast(uint32_t, rounded);
  // Codes of a binade count from twice its number on.
  return bits + (bits >> 22);
}

// The greater magnitudes of each half of two words, of which the signs are gone.
AITERLITE_DEVICE uint32_t greatest_halves(const Vector16& v) {
  constexpr uint32_t kMagnitudes = 0x7fff7fffu;
  return greater_u16_pair(greater_u16_pair(v.word[0] & kMagnitudes, v.word[1] & kMagnitudes),
                          greater_u16_pair(v.word[2] & kMagnitudes, v.word[3] & kMagnitudes));
}

// The bits of a magnitude of 16 bits as a float.
template <class In>
AITERLITE_DEVICE uint32_t float_bits_of(uint32_t magnitude) {
  return __builtin_bit_cast(uint32_t, to_float(In{static_cast<uint16_t>(magnitude)}));
}

// The signs of eight elements, at the places of their codes' highest bits.
AITERLITE_DEVICE uint32_t signs_of_eight(const Vector16& v) {
  const uint32_t first = pick_bytes<1, 5, 3, 7>(v.word[0], v.word[1]),
                 second = pick_bytes<1, 5, 3, 7>(v.word[2], v.word[3]);
  const uint32_t low = pick_bytes<0, 1, 4, 5>(first, second), high = pick_bytes<2, 3, 6, 7>(first, second);
  return (low >> 4 & 0x08080808u) | (high & 0x80808080u);
}

// The same of two bf16, whose arithmetic has all the places that codes need; codes are at bits 0 and 16. A template,
// since a target without these may not name them.
template <class Word>
AITERLITE_DEVICE Word encode_pair_e2m1(Word magnitudes, Word half_reciprocals) {
  const Word value = lesser_bf16_pair(multiply_bf16_pair(magnitudes, half_reciprocals), Word{0x40404040u});
  const Word binade = greater_bf16_pair(value, Word{0x3f003f00u}) & 0x7f807f80u;
  const Word rounded = add_bf16_pair(value, binade + 0x03000300u);
  return (rounded & 0x00070007u) + (rounded >> 6 & 0x00060006u);
}

template <class In>
inline constexpr bool kInPairs = false;
template <>
inline constexpr bool kInPairs<bf16> = kBf16Pairs;

// Eight elements as codes, the first in the lowest four bits.
template <class In>
AITERLITE_DEVICE uint32_t encode_eight_e2m1(const Vector16& v, float half_reciprocal) {
  if constexpr (kInPairs<In>) {
    const uint32_t upper = __builtin_bit_cast(uint32_t, half_reciprocal) >> 16, both = upper << 16 | upper;
    uint32_t pair[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) pair[i] = encode_pair_e2m1<uint32_t>(v.word[i] & 0x7fff7fffu, both);
    const uint32_t first = pair[0] | pair[1] << 8, second = pair[2] | pair[3] << 8;
    return pick_bytes<0, 1, 4, 5>(first, second) | pick_bytes<2, 3, 6, 7>(first, second) << 4 | signs_of_eight(v);
  }
  uint32_t codes = 0;
#pragma unroll
  for (uint32_t i = 8; i-- > 0;) {
    const auto bits = static_cast<uint16_t>(v.word[i / 2] >> (i % 2 * 16));
    const float magnitude = __builtin_fabsf(to_float(In{bits}));
    codes = (codes << 4) + (encode_e2m1(magnitude, half_reciprocal) & 7u);
  }
  return codes | signs_of_eight(v);
}

// By instruction, which a template asks for, since a target without it may not name it.
template <class Pairs>
AITERLITE_DEVICE uint32_t native_pack_fp4(bf16, const Pairs& pairs, uint32_t byte) {
  return native_pack_fp4_of_bf16(pairs, byte);
}
template <class Pairs>
AITERLITE_DEVICE uint32_t native_pack_fp4(fp16, const Pairs& pairs, uint32_t byte) {
  return native_pack_fp4_of_fp16(pairs, byte);
}

// The same by the byte of their scale, in the target's way.
template <class In>
AITERLITE_DEVICE uint32_t encode_eight_by(const Vector16& v, uint32_t byte) {
  if constexpr (kNativeFp4) {
    const uint32_t codes = native_pack_fp4(In{}, v.word, byte);
    return byte == 255 ? 0x77777777u | signs_of_eight(v) : codes;
  } else {
    return encode_eight_e2m1<In>(v, mx_half_reciprocal(byte));
  }
}

}  // namespace aiterlite
