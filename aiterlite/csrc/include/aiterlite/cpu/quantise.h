// Rows of 16-bit floats as 8-bit codes: quant/strip.h's conversions, the same bits, on a CPU.
#pragma once
#include <aiterlite/cpu/element.h>

#include <utility>

namespace aiterlite::cpu {

typedef uint8_t u8v __attribute__((vector_size(4 * kLanes)));
typedef int16_t i16v __attribute__((vector_size(4 * kLanes)));

// Lanes in the order of memory.
inline f32v widen_in_order(Bf16, const uint16_t* p) {
  return (f32v)(__builtin_convertvector(load<u16v_half>(p), u32v) << 16);
}
inline f32v widen_in_order(Fp16, const uint16_t* p) { return Fp16::widen_half(load<u16v_half>(p)); }

inline constexpr int16_t infinity_of(Bf16) { return 0x7f80; }
inline constexpr int16_t infinity_of(Fp16) { return 0x7c00; }

// Magnitudes are compared as signed numbers, for which every level has an instruction.
inline constexpr int32_t kInfinity = 0x7f800000;

// To nearest, ties to even; beyond the largest, infinity too, the largest; a NaN becomes the format's one.
template <bool kFnuz>
struct EncodeE4m3 {
  static constexpr float kLargest = kFnuz ? 240.0f : 448.0f;

  static u32v encode(f32v value) {
    constexpr int32_t kBias = kFnuz ? 8 : 7, kLeastNormal = (128 - kBias) << 23, kSpacing = (127 + 21 - kBias) << 23;
    constexpr int32_t kMost = kFnuz ? 0x43700000 : 0x43e00000;  // the bits of kLargest
    const i32v all = (i32v)value & 0x7fffffff;
    const i32v magnitude = all < kMost ? all : i32v{} + kMost;
    // Normal: 3 of 23 fraction bits stay. Denormal: in a float whose last place is their spacing, an addition rounds.
    const i32v normal = (magnitude + ((magnitude >> 20) & 1) + (0x7ffff - ((127 - kBias) << 23))) >> 20;
    const i32v least = (i32v)((f32v)magnitude + bits_to_float(kSpacing)) - kSpacing;
    i32v code = magnitude < kLeastNormal ? least : normal;
    const i32v sign = (i32v)((u32v)value >> 24) & 0x80;
    code |= kFnuz ? (code != 0) & sign : sign;
    return (u32v)(all > kInfinity ? i32v{} + (kFnuz ? 0x80 : 0x7f) : code);
  }
};

// Whole numbers, to nearest, ties to even; beyond 127 that; a NaN becomes 0.
struct EncodeInt8 {
  static constexpr float kLargest = 127.0f;

  static u32v encode(f32v value) {
    constexpr int32_t kMost = 0x42fe0000;  // the bits of kLargest
    const i32v bits = (i32v)value, all = bits & 0x7fffffff;
    const i32v magnitude = all < kMost ? all : i32v{} + kMost;
    const i32v number = (all <= kInfinity) & (magnitude | (bits & ~0x7fffffff));
    // In a float whose last place is 1 an addition rounds; the code is the low byte.
    return (u32v)((f32v)number + 0x1.8p23f) & 0xffu;
  }
};

// The greatest magnitude of `count` elements; NaN does not count. In 16 bits, whose order is that of the numbers.
template <class In>
float greatest(const uint16_t* x, int64_t count) {
  i16v most = {};
  const auto meet = [&](i16v bits) {
    i16v magnitude = bits & 0x7fff;
    magnitude &= magnitude <= infinity_of(In{});
    most = magnitude > most ? magnitude : most;
  };
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) meet(load<i16v>(x + i));
  if (i < count) {
    uint16_t rest[2 * kLanes] = {};
    memcpy(rest, x + i, (count - i) * sizeof *x);
    meet(load<i16v>(rest));
  }
  int16_t all = 0;
  for (int lane = 0; lane < 2 * kLanes; ++lane) all = most[lane] > all ? most[lane] : all;
  return In::to_float(static_cast<uint16_t>(all));
}

// The low bytes of four vectors, one behind the other. Written as one shuffle of bytes: left to convert lanes to bytes,
// GCC moves each by itself.
template <size_t... kByte>
u8v low_bytes(const u32v (&code)[4], std::index_sequence<kByte...>) {
  const auto mixed = (u8v)(code[0] | code[1] << 8 | code[2] << 16 | code[3] << 24);
  return __builtin_shufflevector(mixed, mixed, (kByte % kLanes * 4 + kByte / kLanes)...);
}

// Each element, scaled, as a code.
template <class In, class Out, class Scaling>
void encode_all(uint8_t* to, const uint16_t* x, int64_t count, const Scaling& scaled) {
  constexpr int64_t kStep = 4 * kLanes;
  const auto codes = [&](const uint16_t* p) {
    u32v code[4];
    for (int i = 0; i < 4; ++i) code[i] = Out::encode(scaled(widen_in_order(In{}, p + i * kLanes)));
    return low_bytes(code, std::make_index_sequence<kStep>{});
  };
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) store(to + i, codes(x + i));
  if (i < count) {
    uint16_t rest[kStep] = {};
    memcpy(rest, x + i, (count - i) * sizeof *x);
    const u8v last = codes(rest);
    memcpy(to + i, &last, count - i);
  }
}

}  // namespace aiterlite::cpu
