// One matrix instruction of each shape and type family on registers that come from memory as they are.
//
// a, b, c and d hold 64 lanes x the registers of the operand, lane-major; the model places rows and columns by the
// published maps. Floats are small integers, so that every order of summation gives the same bits.
#include <device.h>

using Floats4 = float __attribute__((ext_vector_type(4)));
using Floats16 = float __attribute__((ext_vector_type(16)));
using Floats32 = float __attribute__((ext_vector_type(32)));
using Floats2 = float __attribute__((ext_vector_type(2)));
using Doubles4 = double __attribute__((ext_vector_type(4)));
using Ints4 = int32_t __attribute__((ext_vector_type(4)));
using Ints2 = int32_t __attribute__((ext_vector_type(2)));
using Ints16 = int32_t __attribute__((ext_vector_type(16)));
using Halves4 = float16 __attribute__((ext_vector_type(4)));
using Halves8 = float16 __attribute__((ext_vector_type(8)));
using Shorts4 = int16_t __attribute__((ext_vector_type(4)));
using Shorts8 = int16_t __attribute__((ext_vector_type(8)));

#define MATRIX(name, A, B, D, builtin)                                 \
  KERNEL(64) matrix_##name(const A* a, const B* b, const D* c, D* d) { \
    const uint32_t t = thread_x();                                     \
    d[t] = builtin(a[t], b[t], c[t], 0, 0, 0);                         \
  }

MATRIX(f32_32x32x2, float, float, Floats16, __builtin_amdgcn_mfma_f32_32x32x2f32)
MATRIX(f32_16x16x4, float, float, Floats4, __builtin_amdgcn_mfma_f32_16x16x4f32)
MATRIX(f32_32x32x1_2b, float, float, Floats32, __builtin_amdgcn_mfma_f32_32x32x1f32)
MATRIX(f32_16x16x1_4b, float, float, Floats16, __builtin_amdgcn_mfma_f32_16x16x1f32)
MATRIX(f32_4x4x1_16b, float, float, Floats4, __builtin_amdgcn_mfma_f32_4x4x1f32)
MATRIX(f16_32x32x8, Halves4, Halves4, Floats16, __builtin_amdgcn_mfma_f32_32x32x8f16)
MATRIX(f16_4x4x4_16b, Halves4, Halves4, Floats4, __builtin_amdgcn_mfma_f32_4x4x4f16)
MATRIX(bf16_32x32x8, Shorts4, Shorts4, Floats16, __builtin_amdgcn_mfma_f32_32x32x8bf16_1k)
MATRIX(bf16_16x16x4_4b, Shorts4, Shorts4, Floats16, __builtin_amdgcn_mfma_f32_16x16x4bf16_1k)
MATRIX(i8_32x32x16, long, long, Ints16, __builtin_amdgcn_mfma_i32_32x32x16_i8)
MATRIX(i8_16x16x32, long, long, Ints4, __builtin_amdgcn_mfma_i32_16x16x32_i8)
MATRIX(bf8_32x32x16, long, long, Floats16, __builtin_amdgcn_mfma_f32_32x32x16_bf8_fp8)
MATRIX(f64_16x16x4, double, double, Doubles4, __builtin_amdgcn_mfma_f64_16x16x4f64)
MATRIX(f64_4x4x4_4b, double, double, double, __builtin_amdgcn_mfma_f64_4x4x4f64)
#if defined(__gfx942__)
MATRIX(xf32_16x16x8, Floats2, Floats2, Floats4, __builtin_amdgcn_mfma_f32_16x16x8_xf32)
#endif

// Sparse A: of every four k two are stored, the index names which.
KERNEL(64)
matrix_sparse_f16_16x16x32(const Halves4* a, const Halves8* b, const Floats4* c, Floats4* d, const int32_t* index) {
  const uint32_t t = thread_x();
  d[t] = __builtin_amdgcn_smfmac_f32_16x16x32_f16(a[t], b[t], c[t], index[t], 0, 0);
}
