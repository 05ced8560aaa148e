// Blocks of 32 floats as MXFP8 has them, on a CPU: the numbers of aiterlite/reference/mxfp8.py.
#pragma once
#include <aiterlite/cpu/element.h>
#include <stdint.h>

namespace aiterlite::cpu {

// The byte of a block's scale, of the bits of its greatest magnitude.
inline uint8_t mxfp8_scale_byte(uint32_t maximum) {
  if (maximum >= 0x7f800000u) return 255;
  const int32_t byte = static_cast<int32_t>((maximum + 0x1fffffu) >> 23) - 8, least = maximum != 0;
  return static_cast<uint8_t>(byte > least ? byte : least);
}

// A block as its codes and their scale stand for.
inline void round_to_mxfp8(float* values) {
  constexpr int64_t kBlock = 32;
  uint32_t most = 0;
  for (int64_t i = 0; i < kBlock; ++i) {
    const uint32_t magnitude = float_to_bits(values[i]) & 0x7fffffffu;
    most = magnitude > most ? magnitude : most;
  }
  const uint8_t byte = mxfp8_scale_byte(most);
  const float by = bits_to_float(uint32_t(254 - byte) << 23);
  const float scale = bits_to_float(byte == 0 ? 0x00400000u : static_cast<uint32_t>(byte) << 23);
  for (int64_t i = 0; i < kBlock; ++i) {
    const uint32_t bits = float_to_bits(values[i]);
    const float magnitude = bits_to_float(bits & 0x7fffffffu) * by;
    // The last place of what is added is the distance of codes there, which below 2^-6 is the same.
    const uint32_t binade = float_to_bits(magnitude > 0x1p-6f ? magnitude : 0x1p-6f) & 0x7f800000u;
    const float shift = bits_to_float(binade + (20u << 23)), rounded = (magnitude + shift) - shift;
    values[i] =
        byte == 255 ? bits_to_float(0x7fc00000u) : bits_to_float(float_to_bits(rounded * scale) | (bits & 0x80000000u));
  }
}

// An e4m3fn code as a number.
inline float e4m3fn_to_float(uint8_t code) {
  const uint32_t magnitude = code & 0x7fu, sign = (code & 0x80u) << 24;
  if (magnitude == 0x7f) return bits_to_float(0x7fc00000u);
  const float value =
      magnitude < 8 ? static_cast<float>(magnitude) * 0x1p-9f : bits_to_float((magnitude << 20) + (120u << 23));
  return bits_to_float(float_to_bits(value) | sign);
}

}  // namespace aiterlite::cpu
