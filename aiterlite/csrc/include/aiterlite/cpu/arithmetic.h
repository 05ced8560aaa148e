// How a step of K is read and multiplied: a policy of the register tile for each kind of weight.
//
// A policy has kStep, the elements of K in a step; Operand, a step of one row as the tile holds it; how weights are
// read from memory and tokens from where pack() has put them, kStep numbers of 2 bytes a step; and add(), which adds a
// step's products to the lanes of a sum. kFactor, a power of two, is what both operands leave out: a finished sum is
// multiplied by it. kFlushes says that add() takes subnormal numbers for zero. kRows is the weight rows of a tile: with
// few, tokens are read too often, with many, registers run out.
#pragma once
#include <aiterlite/cpu/element.h>

namespace aiterlite::cpu {

// Both operands widened to fp32, two multiply-adds a vector. Runs everywhere and loses nothing.
template <class Weight>
struct MultiplyAdd {
  using Bits = typename Weight::Bits;
  using Operand = Pair;
  static constexpr int kStep = 2 * kLanes;
  static constexpr float kFactor = 1.0f;
  static constexpr bool kFlushes = false;
  static constexpr int kRows = 4;
  static Operand weights(const Bits* p) { return Weight::widen(p); }
  static Operand tokens(const uint16_t* p) { return Weight::widen(p); }
  static void pack(uint16_t* to, const Bits* from) { memcpy(to, from, kStep * sizeof(Bits)); }
  static f32v add(f32v sum, const Operand& w, const Operand& x) {
    return multiply_add(w.second, x.second, multiply_add(w.first, x.first, sum));
  }
};

// Tokens of 8 bits are packed as bf16, which costs less to widen.
template <bool kFnuz>
struct MultiplyAdd<E4m3<kFnuz>> : MultiplyAdd<Bf16> {
  using Bits = uint8_t;
  static constexpr float kFactor = kFnuz ? 0x1p14f : 0x1p16f;
  static Pair weights(const uint8_t* p) { return E4m3<kFnuz>::widen(p); }
  static void pack(uint16_t* to, const uint8_t* from) { store(to, Bf16::narrow_exactly(E4m3<kFnuz>::widen(from))); }
};

#if AITERLITE_CPU_BF16_DOT

// AVX512_BF16 and AVX512_VBMI are no part of x86-64-v4, and a level of their own would double what is built for one
// instruction each: so a unit asks the CPU, and spells the two instructions itself.
inline bool has_bf16_dot() { return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi"); }

// sum[i] + w[2i+1] * x[2i+1] + w[2i] * x[2i], each addition rounded. Subnormal operands and results count as zero.
inline f32v dot_bf16(f32v sum, u16v w, u16v x) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  return sum;
}

// table[i & 127] for each byte i.
inline __m512i look_up_bytes(__m512i i, const uint8_t (&table)[128]) {
  asm("vpermi2b %2, %1, %0" : "+v"(i) : "v"(_mm512_load_si512(table)), "v"(_mm512_load_si512(table + 64)));
  return i;
}

// VDPBF16PS: 32 multiply-adds in the time of 16, and nothing to widen.
template <class Weight>
struct DotBf16;

template <>
struct DotBf16<Bf16> {
  using Bits = uint16_t;
  using Operand = u16v;
  static constexpr int kStep = 2 * kLanes;
  static constexpr float kFactor = 1.0f;
  static constexpr bool kFlushes = true;
  static constexpr int kRows = 6;
  static Operand weights(const uint16_t* p) { return load<u16v>(p); }
  static Operand tokens(const uint16_t* p) { return load<u16v>(p); }
  static void pack(uint16_t* to, const uint16_t* from) { memcpy(to, from, 2 * kStep); }
  static f32v add(f32v sum, const Operand& w, const Operand& x) { return dot_bf16(sum, w, x); }
};

// Both operands become bf16 numbers by two look-ups of a byte for each code: exactly, and none of them, nor a sum of
// their products, is subnormal in bf16. Bytes are then paired in each 16-byte quarter, so that a step's first vector
// holds the lower 8 elements of every 16, and the second the upper 8.
template <bool kFnuz>
struct DotBf16<E4m3<kFnuz>> {
  struct Operand {
    u16v first;
    u16v second;
  };
  using Bits = uint8_t;
  static constexpr int kStep = 4 * kLanes;
  static constexpr float kFactor = 1.0f;
  static constexpr bool kFlushes = false;
  static constexpr int kRows = 4;

  static Operand weights(const uint8_t* p) {
    const __m512i codes = _mm512_loadu_si512(p);
    __m512i low = look_up_bytes(codes, kLow.byte);
    __m512i high = look_up_bytes(codes, kHigh.byte);
    high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8(-128), 0xf8);  // high | codes & 0x80
    if constexpr (kFnuz) {
      const __mmask64 is_nan = _mm512_cmpeq_epi8_mask(codes, _mm512_set1_epi8(-128));
      low = _mm512_mask_mov_epi8(low, is_nan, _mm512_set1_epi8(-64));
      high = _mm512_mask_mov_epi8(high, is_nan, _mm512_set1_epi8(127));
    }
    return {(u16v)_mm512_unpacklo_epi8(low, high), (u16v)_mm512_unpackhi_epi8(low, high)};
  }
  static Operand tokens(const uint16_t* p) { return {load<u16v>(p), load<u16v>(p + 2 * kLanes)}; }
  static void pack(uint16_t* to, const uint8_t* from) {
    const Operand numbers = weights(from);
    store(to, numbers.first);
    store(to + 2 * kLanes, numbers.second);
  }
  static f32v add(f32v sum, const Operand& w, const Operand& x) {
    return dot_bf16(dot_bf16(sum, w.first, x.first), w.second, x.second);
  }

 private:
  struct Table {
    alignas(64) uint8_t byte[128] = {};
    constexpr explicit Table(int shift) {
      for (int code = 0; code < 128; ++code) byte[code] = static_cast<uint8_t>(E4m3<kFnuz>::to_bf16(code) >> shift);
    }
  };
  static constexpr Table kLow{0};
  static constexpr Table kHigh{8};
};

#endif  // AITERLITE_CPU_BF16_DOT

}  // namespace aiterlite::cpu
