// AMD: matrix instructions of 32 x 32; see isa/amdgcn_matrix.h.
#pragma once
#include <aiterlite/isa/amdgcn_matrix.h>

namespace aiterlite {

namespace amdgcn {
using Floats16 = float __attribute__((ext_vector_type(16)));
}

// 32 x 32 with 16 bytes a lane: one instruction of 16-bit operands on gfx950, two on gfx942; two of 8-bit ones.
AITERLITE_DEVICE void mfma_32x32_bf16(float (&d)[16], const Vector16& a, const Vector16& b) {
  auto sum = __builtin_bit_cast(amdgcn::Floats16, d);
#if defined(__gfx950__)
  sum = __builtin_amdgcn_mfma_f32_32x32x16_bf16(__builtin_bit_cast(amdgcn::Bfloats8, a),
                                                __builtin_bit_cast(amdgcn::Bfloats8, b), sum, 0, 0, 0);
#else
  struct Pair {
    amdgcn::Shorts part[2];
  };
  const auto a4 = __builtin_bit_cast(Pair, a);
  const auto b4 = __builtin_bit_cast(Pair, b);
  sum = __builtin_amdgcn_mfma_f32_32x32x8bf16_1k(a4.part[0], b4.part[0], sum, 0, 0, 0);
  sum = __builtin_amdgcn_mfma_f32_32x32x8bf16_1k(a4.part[1], b4.part[1], sum, 0, 0, 0);
#endif
  for (int i = 0; i < 16; ++i) d[i] = sum[i];
}
AITERLITE_DEVICE void mfma_32x32_fp16(float (&d)[16], const Vector16& a, const Vector16& b) {
  auto sum = __builtin_bit_cast(amdgcn::Floats16, d);
#if defined(__gfx950__)
  sum = __builtin_amdgcn_mfma_f32_32x32x16_f16(__builtin_bit_cast(amdgcn::Halves8, a),
                                               __builtin_bit_cast(amdgcn::Halves8, b), sum, 0, 0, 0);
#else
  struct Pair {
    amdgcn::Halves part[2];
  };
  const auto a4 = __builtin_bit_cast(Pair, a);
  const auto b4 = __builtin_bit_cast(Pair, b);
  sum = __builtin_amdgcn_mfma_f32_32x32x8f16(a4.part[0], b4.part[0], sum, 0, 0, 0);
  sum = __builtin_amdgcn_mfma_f32_32x32x8f16(a4.part[1], b4.part[1], sum, 0, 0, 0);
#endif
  for (int i = 0; i < 16; ++i) d[i] = sum[i];
}
AITERLITE_DEVICE void mfma_32x32_fp8(float (&d)[16], const Vector16& a, const Vector16& b) {
  struct Pair {
    int64_t part[2];
  };
  auto sum = __builtin_bit_cast(amdgcn::Floats16, d);
  const auto a2 = __builtin_bit_cast(Pair, a);
  const auto b2 = __builtin_bit_cast(Pair, b);
  sum = __builtin_amdgcn_mfma_f32_32x32x16_fp8_fp8(a2.part[0], b2.part[0], sum, 0, 0, 0);
  sum = __builtin_amdgcn_mfma_f32_32x32x16_fp8_fp8(a2.part[1], b2.part[1], sum, 0, 0, 0);
  for (int i = 0; i < 16; ++i) d[i] = sum[i];
}

}  // namespace aiterlite
