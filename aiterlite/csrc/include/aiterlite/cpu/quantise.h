// One vector of floats as 8-bit codes: quant/strip.h's conversions, the same bits, on a CPU.
#pragma once
#include <aiterlite/cpu/element.h>

namespace aiterlite::cpu {

typedef uint8_t u8v __attribute__((vector_size(kLanes)));

// Lanes in the order of memory.
inline f32v widen_in_order(Bf16, const uint16_t* p) {
  return (f32v)(__builtin_convertvector(load<u16v_half>(p), u32v) << 16);
}
inline f32v widen_in_order(Fp16, const uint16_t* p) { return Fp16::widen_half(load<u16v_half>(p)); }

inline u32v select(u32v mask, u32v yes, u32v no) { return (mask & yes) | (~mask & no); }

// To nearest, ties to even; beyond the largest, infinity too, the largest; a NaN becomes the format's one.
template <bool kFnuz>
struct EncodeE4m3 {
  static constexpr float kLargest = kFnuz ? 240.0f : 448.0f;

  static u32v encode(f32v value) {
    constexpr uint32_t kBias = kFnuz ? 8 : 7, kMost = kFnuz ? 0x7f : 0x7e, kNan = kFnuz ? 0x80 : 0x7f;
    constexpr uint32_t kLeastNormal = (128 - kBias) << 23, kSpacing = (127 + 21 - kBias) << 23;
    const u32v bits = (u32v)value, magnitude = bits & 0x7fffffffu;
    // Normal: 3 of 23 fraction bits stay. Denormal: in a float whose last place is their spacing, an addition rounds.
    const u32v normal = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20) - ((127 - kBias) << 3);
    const u32v least = (u32v)((f32v)magnitude + bits_to_float(kSpacing)) - kSpacing;
    u32v code = select((u32v)(magnitude >= kLeastNormal), normal, least);
    code = select((u32v)(code > kMost), u32v{} + kMost, code);
    const u32v sign = (bits >> 24) & 0x80u;
    code |= kFnuz ? (u32v)(code != 0) & sign : sign;
    return select((u32v)(magnitude > 0x7f800000u), u32v{} + kNan, code);
  }
};

// Whole numbers, to nearest, ties to even; beyond 127 that; a NaN becomes 0.
struct EncodeInt8 {
  static constexpr float kLargest = 127.0f;

  static u32v encode(f32v value) {
    const u32v bits = (u32v)value, magnitude = bits & 0x7fffffffu;
    const u32v most = u32v{} + float_to_bits(kLargest);
    const u32v inside = select((u32v)(magnitude > most), most, magnitude);
    const u32v number = (u32v)(magnitude <= 0x7f800000u) & (inside | (bits & 0x80000000u));
    // In a float whose last place is 1 an addition rounds; the code is the low byte.
    return (u32v)((f32v)number + 0x1.8p23f) & 0xffu;
  }
};

// The greatest magnitude of `count` elements, as bits; NaN does not count.
template <class In>
uint32_t greatest(const uint16_t* x, int64_t count) {
  u32v most = {};
  const auto meet = [&](f32v value) {
    u32v magnitude = (u32v)value & 0x7fffffffu;
    magnitude &= (u32v)(magnitude <= 0x7f800000u);
    most = select((u32v)(magnitude > most), magnitude, most);
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) meet(widen_in_order(In{}, x + i));
  if (i < count) {
    uint16_t rest[kLanes] = {};
    memcpy(rest, x + i, (count - i) * sizeof *x);
    meet(widen_in_order(In{}, rest));
  }
  uint32_t all = 0;
  for (int lane = 0; lane < kLanes; ++lane) all = most[lane] > all ? most[lane] : all;
  return all;
}

// Each element, scaled, as a code.
template <class In, class Out, class Scaling>
void encode_all(uint8_t* to, const uint16_t* x, int64_t count, const Scaling& scaled) {
  const auto codes = [&](const uint16_t* p) {
    return __builtin_convertvector(Out::encode(scaled(widen_in_order(In{}, p))), u8v);
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, codes(x + i));
  if (i < count) {
    uint16_t rest[kLanes] = {};
    memcpy(rest, x + i, (count - i) * sizeof *x);
    const u8v last = codes(rest);
    memcpy(to + i, &last, count - i);
  }
}

}  // namespace aiterlite::cpu
