// gfx950: matrix instructions of 8-bit operands, 32 bytes a lane, plain or with scales of blocks; see
// isa/amdgcn_matrix.h.
//
// 16 x 16 x 128 and 32 x 32 x 64, at twice the rate of the shorter ones.
// Lane group g holds 16 k from 16 g on in its first 16 bytes, and those K / 2 further on in the others. Scaled: each 32
// neighbouring k of a row are a block, whose scale, a power of two (e8m0), is in the low byte of what lane i + 16 b
// gives for row i and block b; so a lane's scale is not always for its own k.
#pragma once
#include <aiterlite/isa/amdgcn_matrix_32x32.h>

namespace aiterlite {

#if defined(__gfx950__)
namespace amdgcn {
using Ints8 = int32_t __attribute__((ext_vector_type(8)));
AITERLITE_DEVICE Ints8 join(const Vector16 (&halves)[2]) { return __builtin_bit_cast(Ints8, halves); }
}  // namespace amdgcn
AITERLITE_DEVICE void mfma_16x16x128_fp8(float (&d)[4], const Vector16 (&a)[2], const Vector16 (&b)[2]) {
  const auto sum = __builtin_amdgcn_mfma_scale_f32_16x16x128_f8f6f4(
      amdgcn::join(a), amdgcn::join(b), __builtin_bit_cast(amdgcn::Floats, d), 0, 0, 0, 0, 0, 0);
  for (int i = 0; i < 4; ++i) d[i] = sum[i];
}
AITERLITE_DEVICE void mfma_32x32x64_fp8(float (&d)[16], const Vector16 (&a)[2], const Vector16 (&b)[2]) {
  const auto sum = __builtin_amdgcn_mfma_scale_f32_32x32x64_f8f6f4(
      amdgcn::join(a), amdgcn::join(b), __builtin_bit_cast(amdgcn::Floats16, d), 0, 0, 0, 0, 0, 0);
  for (int i = 0; i < 16; ++i) d[i] = sum[i];
}
AITERLITE_DEVICE void mfma_16x16x128_fp8_scaled(float (&d)[4], const Vector16 (&a)[2], const Vector16 (&b)[2],
                                                uint32_t scale_a, uint32_t scale_b) {
  const auto sum = __builtin_amdgcn_mfma_scale_f32_16x16x128_f8f6f4(
      amdgcn::join(a), amdgcn::join(b), __builtin_bit_cast(amdgcn::Floats, d), 0, 0, 0, static_cast<int>(scale_a), 0,
      static_cast<int>(scale_b));
  for (int i = 0; i < 4; ++i) d[i] = sum[i];
}
// 4-bit codes (e2m1), 16 bytes a lane: the 32 k from 32 g on, one block, whose scale is byte kByteA (kByteB) of what
// the lane gives.
template <int kByteA = 0, int kByteB = 0>
AITERLITE_DEVICE void mfma_16x16x128_fp4_scaled(float (&d)[4], const Vector16& a, const Vector16& b, uint32_t scale_a,
                                                uint32_t scale_b) {
  const Vector16 left[2] = {a, {}}, right[2] = {b, {}};
  constexpr int kFp4 = 4;
  const auto sum = __builtin_amdgcn_mfma_scale_f32_16x16x128_f8f6f4(
      amdgcn::join(left), amdgcn::join(right), __builtin_bit_cast(amdgcn::Floats, d), kFp4, kFp4, kByteA,
      static_cast<int>(scale_a), kByteB, static_cast<int>(scale_b));
  for (int i = 0; i < 4; ++i) d[i] = sum[i];
}
// The same of 32 rows and columns and 64 k: two blocks, lane / 32.
template <int kByteA = 0, int kByteB = 0>
AITERLITE_DEVICE void mfma_32x32x64_fp4_scaled(float (&d)[16], const Vector16& a, const Vector16& b, uint32_t scale_a,
                                               uint32_t scale_b) {
  const Vector16 left[2] = {a, {}}, right[2] = {b, {}};
  constexpr int kFp4 = 4;
  const auto sum = __builtin_amdgcn_mfma_scale_f32_32x32x64_f8f6f4(
      amdgcn::join(left), amdgcn::join(right), __builtin_bit_cast(amdgcn::Floats16, d), kFp4, kFp4, kByteA,
      static_cast<int>(scale_a), kByteB, static_cast<int>(scale_b));
  for (int i = 0; i < 16; ++i) d[i] = sum[i];
}
#else
AITERLITE_ABSENT(mfma_32x32x64_fp4_scaled, "gfx942 has no 4-bit codes; decode_e2m1 of numeric/mxfp4_decode.h")
AITERLITE_ABSENT(mfma_16x16x128_fp4_scaled, "gfx942 has no 4-bit codes; decode_e2m1 of numeric/mxfp4_decode.h")
AITERLITE_ABSENT(mfma_16x16x128_fp8, "gfx942 has none; multiply(NativeFp8{}, ..) of fragment/mfma.h takes four instead")
AITERLITE_ABSENT(mfma_32x32x64_fp8, "gfx942 has none; multiply(NativeFp8{}, ..) of fragment/mfma.h takes four instead")
AITERLITE_ABSENT(mfma_16x16x128_fp8_scaled, "gfx942 multiplies no scaled blocks; scale the float sums of each block")
#endif

}  // namespace aiterlite
