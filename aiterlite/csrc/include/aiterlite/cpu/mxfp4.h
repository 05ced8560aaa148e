// Blocks of 32 16-bit floats as MXFP4: the bits of numeric/mxfp4_encode.h, on a CPU.
#pragma once
#include <aiterlite/cpu/quantise.h>

#include <utility>

namespace aiterlite::cpu {

inline constexpr int kMxBlock = 32;

// numeric/mxfp4_encode.h: mx_scale_byte.
inline uint8_t mx_scale_byte(uint32_t maximum, uint32_t carry, uint32_t least_byte) {
  if (maximum >= 0x7f800000u) return 255;
  const int32_t byte = static_cast<int32_t>((maximum + carry) >> 23) - 2;
  const int32_t least = maximum != 0 ? static_cast<int32_t>(least_byte) : 0;
  return static_cast<uint8_t>(byte > least ? byte : least);
}

// The bits of a block's greatest magnitude as a float; a NaN is greater than all else.
template <class In>
uint32_t greatest_bits(const uint16_t* x) {
  i16v most = {};
  for (int i = 0; i < kMxBlock; i += 2 * kLanes) {
    const i16v magnitude = load<i16v>(x + i) & 0x7fff;
    most = magnitude > most ? magnitude : most;
  }
  uint16_t all = 0;
  for (int lane = 0; lane < 2 * kLanes; ++lane) {
    const auto bits = static_cast<uint16_t>(most[lane]);
    all = bits > all ? bits : all;
  }
  return float_to_bits(In::to_float(all));
}

// Codes with their signs. Magnitudes are compared as whole numbers, for which every level has an instruction.
inline u32v encode_e2m1(f32v x, float half_reciprocal) {
  constexpr int32_t kMost = 0x40400000, kLeastNormal = 0x3f000000;  // 3 and 0.5
  const f32v scaled = (f32v)((i32v)x & 0x7fffffff) * half_reciprocal;
  const i32v bits = (i32v)scaled & 0x7fffffff, value = bits < kMost ? bits : i32v{} + kMost;
  const i32v binade = (value > kLeastNormal ? value : i32v{} + kLeastNormal) & 0x7f800000;
  const i32v rounded = (i32v)((f32v)value + (f32v)(binade + (22 << 23)));
  return (u32v)((rounded + (rounded >> 22)) & 7) | ((u32v)x >> 28 & 8u);
}

template <size_t... kLane>
u32v every_other(u32v a, u32v b, std::integer_sequence<size_t, 0>, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(a, b, (2 * kLane)...);
}
template <size_t... kLane>
u32v every_other(u32v a, u32v b, std::integer_sequence<size_t, 1>, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(a, b, (2 * kLane + 1)...);
}

// 2 * kLanes elements as kLanes bytes, one a lane. Of a bf16 a word holds two, so that no lane moves.
inline u32v encode_pairs(Bf16, const uint16_t* x, float half_reciprocal) {
  const Pair pair = Bf16::widen(x);
  return encode_e2m1(pair.second, half_reciprocal) | encode_e2m1(pair.first, half_reciprocal) << 4;
}
inline u32v encode_pairs(Fp16, const uint16_t* x, float half_reciprocal) {
  const u32v a = encode_e2m1(widen_in_order(Fp16{}, x), half_reciprocal);
  const u32v b = encode_e2m1(widen_in_order(Fp16{}, x + kLanes), half_reciprocal);
  constexpr auto kAll = std::make_index_sequence<kLanes>{};
  return every_other(a, b, std::integer_sequence<size_t, 0>{}, kAll) |
         every_other(a, b, std::integer_sequence<size_t, 1>{}, kAll) << 4;
}

// 1 / (2 * scale); of 255, infinity.
inline float mx_half_reciprocal(uint8_t byte) {
  return bits_to_float(byte == 255 ? 0x7f800000u : byte >= 253 ? 0x00400000u : uint32_t(253 - byte) << 23);
}

// `count` blocks that lie beside each other: their codes, and a byte each.
template <class In>
void encode_blocks(uint8_t* codes, uint8_t* bytes, const uint16_t* x, int64_t count, uint32_t carry, uint32_t least) {
  // Four vectors of bytes at once: one, two or four blocks.
  constexpr int kVectors = kMxBlock / (2 * kLanes), kAtOnce = 4 / kVectors;
  for (int64_t i = 0; i < count; i += kAtOnce) {
    u32v code[4] = {};
    for (int b = 0; b < kAtOnce && i + b < count; ++b) {
      const uint16_t* block = x + (i + b) * kMxBlock;
      bytes[i + b] = mx_scale_byte(greatest_bits<In>(block), carry, least);
      const float by = mx_half_reciprocal(bytes[i + b]);
      for (int v = 0; v < kVectors; ++v) code[b * kVectors + v] = encode_pairs(In{}, block + v * 2 * kLanes, by);
    }
    const u8v packed = low_bytes(code, std::make_index_sequence<4 * kLanes>{});
    const int64_t left = (count - i) * (kMxBlock / 2);
    memcpy(codes + i * (kMxBlock / 2), &packed, left < 4 * kLanes ? left : 4 * kLanes);
  }
}

}  // namespace aiterlite::cpu
