// AMD: matrix instructions (MFMA), d += a b, of a wave. Float sums. Here 16 x 16.
//
// M x N x K: a lane holds K * M / 64 consecutive k, from one on that lane / M chooses, of row lane % M of a and of
// column lane % N of b. 16 x 16: d[i] is row 4 * (lane / 16) + i, column lane % 16. 32 x 32: d[i] is row 8 * (i / 4) +
// 4 * (lane / 32) + i % 4, column lane % 32. A permutation of k that both operands share leaves the product as it is,
// so the functions that take 16 or 32 bytes a lane say which k they hold only where scales make it matter.
#pragma once
#include <aiterlite/isa/amdgcn_memory.h>

namespace aiterlite {

namespace amdgcn {
using Halves = _Float16 __attribute__((ext_vector_type(4)));
using Halves8 = _Float16 __attribute__((ext_vector_type(8)));
using Shorts = int16_t __attribute__((ext_vector_type(4)));
using Bfloats8 = __bf16 __attribute__((ext_vector_type(8)));
}  // namespace amdgcn

// d[16x16] += a[16xK] b[Kx16]. A lane holds 16 bytes, 8 or 16 k values, of row (lane % 16) of a and of column
// (lane % 16) of b; which ones is free as long as both agree. d: row 4 * (lane / 16) + i, column lane % 16.
AITERLITE_DEVICE void mfma_16x16_bf16(float (&d)[4], const Vector16& a, const Vector16& b) {
  auto sum = __builtin_bit_cast(amdgcn::Floats, d);
#if defined(__gfx950__)
  sum = __builtin_amdgcn_mfma_f32_16x16x32_bf16(__builtin_bit_cast(amdgcn::Bfloats8, a),
                                                __builtin_bit_cast(amdgcn::Bfloats8, b), sum, 0, 0, 0);
#else
  struct Pair {
    amdgcn::Shorts part[2];
  };
  const auto a4 = __builtin_bit_cast(Pair, a);
  const auto b4 = __builtin_bit_cast(Pair, b);
  sum = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(a4.part[0], b4.part[0], sum, 0, 0, 0);
  sum = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(a4.part[1], b4.part[1], sum, 0, 0, 0);
#endif
  for (int i = 0; i < 4; ++i) d[i] = sum[i];
}
AITERLITE_DEVICE void mfma_16x16_fp16(float (&d)[4], const Vector16& a, const Vector16& b) {
  auto sum = __builtin_bit_cast(amdgcn::Floats, d);
#if defined(__gfx950__)
  sum = __builtin_amdgcn_mfma_f32_16x16x32_f16(__builtin_bit_cast(amdgcn::Halves8, a),
                                               __builtin_bit_cast(amdgcn::Halves8, b), sum, 0, 0, 0);
#else
  struct Pair {
    amdgcn::Halves part[2];
  };
  const auto a4 = __builtin_bit_cast(Pair, a);
  const auto b4 = __builtin_bit_cast(Pair, b);
  sum = __builtin_amdgcn_mfma_f32_16x16x16f16(a4.part[0], b4.part[0], sum, 0, 0, 0);
  sum = __builtin_amdgcn_mfma_f32_16x16x16f16(a4.part[1], b4.part[1], sum, 0, 0, 0);
#endif
  for (int i = 0; i < 4; ++i) d[i] = sum[i];
}
// e4m3fnuz on gfx942, e4m3fn on gfx950: one instruction, whose format is the chip's.
AITERLITE_DEVICE void mfma_16x16_fp8(float (&d)[4], const Vector16& a, const Vector16& b) {
  struct Pair {
    int64_t part[2];
  };
  auto sum = __builtin_bit_cast(amdgcn::Floats, d);
  // Vectors stay whole up to here: if told of the halves, the compiler loads one of them a second time by itself.
  auto a_words = __builtin_bit_cast(amdgcn::Words, a), b_words = __builtin_bit_cast(amdgcn::Words, b);
  asm("" : "+v"(a_words), "+v"(b_words));
  const auto a2 = __builtin_bit_cast(Pair, a_words);
  const auto b2 = __builtin_bit_cast(Pair, b_words);
  sum = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(a2.part[0], b2.part[0], sum, 0, 0, 0);
  sum = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(a2.part[1], b2.part[1], sum, 0, 0, 0);
  for (int i = 0; i < 4; ++i) d[i] = sum[i];
}

// 8 bytes a lane of each operand: 16 x 16 x 16, and 16 x 16 x 32 of 8 bits.
AITERLITE_DEVICE void mfma_16x16_bf16(float (&d)[4], const Vector8& a, const Vector8& b) {
  auto sum = __builtin_bit_cast(amdgcn::Floats, d);
  sum = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(__builtin_bit_cast(amdgcn::Shorts, a),
                                                  __builtin_bit_cast(amdgcn::Shorts, b), sum, 0, 0, 0);
  for (int i = 0; i < 4; ++i) d[i] = sum[i];
}
AITERLITE_DEVICE void mfma_16x16_fp16(float (&d)[4], const Vector8& a, const Vector8& b) {
  auto sum = __builtin_bit_cast(amdgcn::Floats, d);
  sum = __builtin_amdgcn_mfma_f32_16x16x16f16(__builtin_bit_cast(amdgcn::Halves, a),
                                              __builtin_bit_cast(amdgcn::Halves, b), sum, 0, 0, 0);
  for (int i = 0; i < 4; ++i) d[i] = sum[i];
}
AITERLITE_DEVICE void mfma_16x16_fp8(float (&d)[4], const Vector8& a, const Vector8& b) {
  auto sum = __builtin_bit_cast(amdgcn::Floats, d);
  sum = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(__builtin_bit_cast(int64_t, a), __builtin_bit_cast(int64_t, b), sum,
                                                   0, 0, 0);
  for (int i = 0; i < 4; ++i) d[i] = sum[i];
}

}  // namespace aiterlite
