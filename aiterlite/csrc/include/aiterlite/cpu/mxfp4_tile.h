// Rows of MXFP4 weights times tokens on a CPU: how codes become numbers, and a tile in registers.
//
// Codes are looked up where they lie: a register of the row is shifted by a code's place, and a table is asked for the
// low bits of each lane, the others being ignored. So lane j of the register that place i gives is element 8 j + i (4 j
// + i where lanes have 16 bits), and tokens are packed once a call in that order. The lanes of a block of 32 elements
// are then a quarter of 16 bytes of every such register: products of a unit are summed first, and each quarter of the
// sum times its scale is added to the row's.
//
// Traffic: a row's codes and scales once for every kTileTokens tokens, from memory the first time; tokens from L1 or
// L2. Order: units of 8 * kLanes elements (of 128 with VDPBF16PS) one after the other, lane by lane, then the lanes:
// the bits of a row times a token depend on these two only.
#pragma once
#include <aiterlite/cpu/arithmetic.h>
#include <aiterlite/numeric/mxfp4_layout.h>

namespace aiterlite::cpu {

constexpr int kMxRows = 4;  // of a tile
constexpr int kMxTokens = kVectorRegisters / 8;
constexpr int64_t kMxStep = 128;       // elements that rows and tokens are padded to
constexpr int64_t kMxStripSteps = 32;  // steps that one round of scales covers

constexpr float kE2m1[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

// Numbers in fp32: on every CPU, exact.
struct MxFloatProducts {  // the maskz forms: the plain ones warn in GCC 12's header
  using Number = float;
  using Codes = u32v;
  static constexpr int kVectors = 8;  // of a unit, one a code of a lane
  static constexpr int64_t kUnit = kVectors * kLanes;

  static Codes codes(const uint8_t* p) { return load<u32v>(p); }
  static f32v weights(Codes codes, int place) {
    const u32v at = codes >> (4 * place);
#if defined(AITERLITE_CPU_AVX512)
    alignas(64) static constexpr float kTable[16] = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                                                     -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    return (f32v)_mm512_maskz_permutexvar_ps((__mmask16)-1, (__m512i)at, _mm512_load_ps(kTable));
#else
    const u32v sign = (at << 28) & 0x80000000u;
#if defined(AITERLITE_CPU_AVX2)
    const u32v magnitude = (u32v)_mm256_permutevar8x32_ps(_mm256_loadu_ps(kE2m1), (__m256i)at);
#else
    // From 1 on the bits are an exponent and a fraction; below they are not.
    const u32v code = at & 7;
    const u32v normal = (code << 22) + (126u << 23), half = (u32v)(code == 1) & 0x3f000000u;
    const u32v is_normal = (u32v)(code > 1);
    const u32v magnitude = (is_normal & normal) | half;
#endif
    return (f32v)(magnitude | sign);
#endif
  }
  static f32v numbers(const float* p) { return load<f32v>(p); }
  static f32v add(f32v sum, f32v w, f32v x) { return multiply_add(w, x, sum); }
  static float number(float value) { return value; }
  // Element `at` of a unit among its numbers.
  static int64_t place(int64_t at) { return at % kVectors * kLanes + at / kVectors; }
};

#if AITERLITE_CPU_BF16_DOT
// Numbers in bf16, twice, since a look-up goes by five bits.
struct MxBf16Table {
  alignas(64) uint16_t word[32] = {};
  constexpr MxBf16Table() {
    for (uint32_t i = 0; i < 32; ++i) {
      word[i] = static_cast<uint16_t>(__builtin_bit_cast(uint32_t, kE2m1[i % 8]) >> 16 | i % 16 / 8 * 0x8000);
    }
  }
};
inline constexpr MxBf16Table kMxBf16Table;

// Numbers in bf16, as VDPBF16PS takes them, which counts subnormal ones as zero: for tokens without such.
struct MxDotProducts {
  using Number = uint16_t;
  using Codes = __m512i;
  static constexpr int kVectors = 4;
  static constexpr int64_t kUnit = 128;

  static Codes codes(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static u16v weights(Codes codes, int place) {
    return (u16v)_mm512_maskz_permutexvar_epi16((__mmask32)-1, _mm512_maskz_srli_epi16((__mmask32)-1, codes, 4 * place),
                                                _mm512_load_si512(kMxBf16Table.word));
  }
  static u16v numbers(const uint16_t* p) { return load<u16v>(p); }
  static f32v add(f32v sum, u16v w, u16v x) { return dot_bf16(sum, w, x); }
  static uint16_t number(float value) { return static_cast<uint16_t>(float_to_bits(value) >> 16); }
  static int64_t place(int64_t at) { return at % kVectors * 32 + at / kVectors; }
};
#endif

// The scales of a unit, each in the lanes of its block.
template <class Arithmetic>
inline f32v unit_scales(const float* scale) {
  static_assert(Arithmetic::kUnit == 8 * kLanes, "a unit has a block for four lanes");
#if defined(AITERLITE_CPU_AVX512)
  const __m512i of_lane = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
  return (f32v)_mm512_maskz_permutexvar_ps((__mmask16)-1, of_lane, _mm512_castps128_ps512(_mm_loadu_ps(scale)));
#elif defined(AITERLITE_CPU_AVX2)
  return (f32v)_mm256_set_m128(_mm_set1_ps(scale[1]), _mm_set1_ps(scale[0]));
#else
  return scale[0] - f32v{};
#endif
}

inline void ask_for(const void* at, int64_t ahead) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(at) + ahead), 0, 2);
}

// sums[t * stride + r] += w[r] * x[t] over `steps` steps of kMxStep elements; `scale` has 4 a step of each row. Lines
// of weights `ahead` bytes further are asked for.
template <class Arithmetic, int kTokens>
__attribute__((noinline)) void mxfp4_tile(const uint8_t* const (&w)[kMxRows], const float* const (&scale)[kMxRows],
                                          const typename Arithmetic::Number* const* x, int64_t steps, int64_t ahead,
                                          f32v* sums, int64_t stride) {
  constexpr int64_t kUnit = Arithmetic::kUnit, kUnits = kMxStep / kUnit;
  constexpr int kVectors = Arithmetic::kVectors;
  constexpr int64_t kVector = kUnit / kVectors;
  const typename Arithmetic::Number* tokens[kTokens];
  for (int t = 0; t < kTokens; ++t) tokens[t] = x[t];
  f32v total[kTokens][kMxRows];
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kMxRows; ++r) total[t][r] = sums[t * stride + r];
  }
  for (int64_t u = 0; u < steps * kUnits; ++u) {
    if (u % kUnits == 0) {
      for (int r = 0; r < kMxRows; ++r) ask_for(w[r] + u * kUnit / 2, ahead);
    }
    typename Arithmetic::Codes codes[kMxRows];
    for (int r = 0; r < kMxRows; ++r) codes[r] = Arithmetic::codes(w[r] + u * kUnit / 2);
    f32v part[kTokens][kMxRows] = {};
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      decltype(Arithmetic::numbers(tokens[0])) xs[kTokens];
      for (int t = 0; t < kTokens; ++t) xs[t] = Arithmetic::numbers(tokens[t] + u * kUnit + i * kVector);
      for (int r = 0; r < kMxRows; ++r) {
        const auto row = Arithmetic::weights(codes[r], i);
        for (int t = 0; t < kTokens; ++t) part[t][r] = Arithmetic::add(part[t][r], row, xs[t]);
      }
    }
    for (int r = 0; r < kMxRows; ++r) {
      const f32v by = unit_scales<Arithmetic>(scale[r] + u * (kUnit / 32));
      for (int t = 0; t < kTokens; ++t) total[t][r] = multiply_add(part[t][r], by, total[t][r]);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kMxRows; ++r) sums[t * stride + r] = total[t][r];
  }
}

// The tile for a count of tokens that is known at run time only, 1 to kMxTokens.
template <class Arithmetic>
inline void mxfp4_tile(int tokens, const uint8_t* const (&w)[kMxRows], const float* const (&scale)[kMxRows],
                       const typename Arithmetic::Number* const* x, int64_t steps, int64_t ahead, f32v* sums,
                       int64_t stride) {
  if constexpr (kMxTokens > 2) {
    if (tokens == 4) return mxfp4_tile<Arithmetic, 4>(w, scale, x, steps, ahead, sums, stride);
    if (tokens == 3) return mxfp4_tile<Arithmetic, 3>(w, scale, x, steps, ahead, sums, stride);
  }
  if (tokens == 2) return mxfp4_tile<Arithmetic, 2>(w, scale, x, steps, ahead, sums, stride);
  return mxfp4_tile<Arithmetic, 1>(w, scale, x, steps, ahead, sums, stride);
}

inline float e8m0_to_float(uint8_t byte) {
  return bits_to_float(byte == 255 ? 0x7fc00000u : byte == 0 ? 0x00400000u : static_cast<uint32_t>(byte) << 23);
}

// A row's scales, in rows or shuffled, as they lie in memory.
struct ScaleRow {
  const uint8_t* at;
  int64_t step;  // from block to block
  uint32_t row;  // of its tile, where they are shuffled
  bool shuffled;

  static ScaleRow of(const void* scales, int64_t row, int64_t stride, int64_t block, bool shuffled) {
    const auto* bytes = static_cast<const uint8_t*>(scales);
    if (shuffled) return {bytes + row / 32 * stride, 0, static_cast<uint32_t>(row % 32), true};
    return {bytes + row * stride, block, 0, false};
  }
  uint8_t byte(int64_t block) const {
    return shuffled ? at[shuffled_scale_at(row, static_cast<uint32_t>(block))] : at[block * step];
  }
  // Scales [first, first + count) as numbers, zeros up to `room`.
  void read(float* to, int64_t first, int64_t count, int64_t room) const {
    int64_t i = 0;
    if (!shuffled && step == 1) {
      constexpr int64_t kBytes = kLanes;
      typedef uint8_t bytes_v __attribute__((vector_size(kBytes)));
      for (; i + kBytes <= count; i += kBytes) {
        const u32v byte = __builtin_convertvector(load<bytes_v>(at + first + i), u32v);
        const u32v least = (u32v)(byte == 0) & 0x00400000u, nan = (u32v)(byte == 255) & 0x00400000u;
        store(to + i, (byte << 23) | least | nan);
      }
    }
    for (; i < count; ++i) to[i] = e8m0_to_float(byte(first + i));
    for (; i < room; ++i) to[i] = 0.0f;
  }
};

}  // namespace aiterlite::cpu
