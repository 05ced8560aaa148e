// Blocks of 32 elements as MXFP8 has them: codes of e4m3fn by a scale of e8m0 (RoundUp, aiterlite/reference/mxfp8.py).
// What codes and scales stand for is a bf16 number, but for what is below 2^-126: with it matrix units for 16 bits give
// the products of the codes.
#pragma once
#include <aiterlite/block/quad.h>
#include <aiterlite/numeric/mxfp4_encode.h>
#include <aiterlite/numeric/pack.h>

namespace aiterlite {

// The byte of a scale, of the bits of the greatest magnitude as a float.
AITERLITE_DEVICE uint32_t mxfp8_scale_byte(uint32_t maximum) {
  const int32_t byte = static_cast<int32_t>((maximum + 0x1fffffu) >> 23) - 8, least = maximum != 0;
  return maximum >= 0x7f800000u ? 255 : static_cast<uint32_t>(byte > least ? byte : least);
}

// A number by its block's byte.
AITERLITE_DEVICE float rounded_to_mxfp8(float value, uint32_t byte) {
  const float by = __builtin_bit_cast(float, (254u - byte) << 23), scale = __builtin_bit_cast(float, byte << 23);
  const float magnitude = __builtin_fabsf(value) * by;
  // The last place of what is added is the distance of codes there, which below 2^-6 is the same.
  const uint32_t binade = __builtin_bit_cast(uint32_t, __builtin_fmaxf(magnitude, 0x1p-6f)) & 0x7f800000u;
  const uint32_t sum = __builtin_bit_cast(uint32_t, magnitude + __builtin_bit_cast(float, binade + (20u << 23)));
  const float distance = __builtin_bit_cast(float, binade - (3u << 23));
  const float rounded = static_cast<float>(sum & 0x7fffffu) * distance;
  return byte == 255 ? __builtin_bit_cast(float, 0x7fc00000u) : __builtin_copysignf(rounded * scale, value);
}

// Eight elements of a block of which the lane's quad has all: bf16.
template <class In>
AITERLITE_DEVICE Vector16 round_quad_to_mxfp8(const Vector16& v) {
  const uint32_t both = greatest_halves(v), most = greater_u16_pair(both, both >> 16) & 0xffffu;
  const uint32_t byte = mxfp8_scale_byte(float_bits_of<In>(greatest_in_quad(most) & 0xffffu));
  Vector16 made;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    float value[2];
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
      value[j] = rounded_to_mxfp8(to_float(In{static_cast<uint16_t>(v.word[i] >> (16 * j))}), byte);
    }
    made.word[i] = pack_pair(bf16{}, value[0], value[1]);
  }
  return made;
}

}  // namespace aiterlite
