// out[n, m] = sum_k x[n, k] * w[m, k] in f32 from bf16 operands, through MFMA with both tiles in LDS.
//
// A workgroup of four waves makes 64 x 64 outputs over K tiles of 32; a wave 32 x 32 of them in 2 x 2 accumulators of
// 16x16. Rows of a tile are padded from 64 to 80 bytes against bank conflicts. gfx942 takes two 16x16x16 MFMA a k step
// of 32, gfx950 one 16x16x32: a lane holds 8 adjacent k, of which gfx942 uses four at a time in both operands alike.
// Any N and M, K % 8 == 0 (16-byte loads; past the ends zeros). Each element of x is read M / 64 times from memory.
#include <device.h>

using Floats = float __attribute__((ext_vector_type(4)));
using Words = uint32_t __attribute__((ext_vector_type(4)));
using Shorts = int16_t __attribute__((ext_vector_type(4)));
using Bfloats = __bf16 __attribute__((ext_vector_type(8)));

constexpr uint32_t kStride = 40;  // elements

struct Halves {
  Shorts part[2];
};

INLINE Floats multiply(Words a, Words b, Floats sum) {
#if defined(__gfx950__)
  return __builtin_amdgcn_mfma_f32_16x16x32_bf16(__builtin_bit_cast(Bfloats, a), __builtin_bit_cast(Bfloats, b), sum, 0,
                                                 0, 0);
#else
  const auto ha = __builtin_bit_cast(Halves, a), hb = __builtin_bit_cast(Halves, b);
  sum = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(ha.part[0], hb.part[0], sum, 0, 0, 0);
  return __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(ha.part[1], hb.part[1], sum, 0, 0, 0);
#endif
}

KERNEL(256) gemm_bf16(const uint16_t* x, const uint16_t* w, float* out, uint32_t N, uint32_t M, uint32_t K) {
  SHARED(uint16_t, x_tile, 64 * kStride) __attribute__((aligned(16)));
  SHARED(uint16_t, w_tile, 64 * kStride) __attribute__((aligned(16)));
  const uint32_t t = thread_x(), lane = lane_id(), wave = wave_id();
  const uint32_t n = group_y() * 64, m = group_x() * 64;
  const uint32_t row = t / 4, part = t % 4 * 8;  // of the 8 elements that this work-item stages
  const bool in_x = n + row < N, in_w = m + row < M;
  const uint16_t* from_x = x + static_cast<uint64_t>(in_x ? n + row : 0) * K + part;
  const uint16_t* from_w = w + static_cast<uint64_t>(in_w ? m + row : 0) * K + part;
  const uint32_t a_at = (wave / 2 * 32 + lane % 16) * kStride + lane / 16 * 8;
  const uint32_t b_at = (wave % 2 * 32 + lane % 16) * kStride + lane / 16 * 8;
  Floats sum[2][2] = {};
  for (uint32_t k = 0; k < K; k += 32) {
    const bool in_k = k + part < K;
    Words vx = {}, vw = {};
    if (in_x && in_k) vx = *reinterpret_cast<const Words*>(from_x + k);
    if (in_w && in_k) vw = *reinterpret_cast<const Words*>(from_w + k);
    *reinterpret_cast<Words*>(x_tile + row * kStride + part) = vx;
    *reinterpret_cast<Words*>(w_tile + row * kStride + part) = vw;
    barrier();
    Words a[2], b[2];
    for (uint32_t i = 0; i < 2; ++i) {
      a[i] = *reinterpret_cast<const Words*>(x_tile + a_at + i * 16 * kStride);
      b[i] = *reinterpret_cast<const Words*>(w_tile + b_at + i * 16 * kStride);
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
      for (uint32_t j = 0; j < 2; ++j) sum[i][j] = multiply(a[i], b[j], sum[i][j]);
    }
    barrier();
  }
  for (uint32_t i = 0; i < 2; ++i) {
    for (uint32_t j = 0; j < 2; ++j) {
      for (uint32_t r = 0; r < 4; ++r) {
        const uint32_t to_n = n + wave / 2 * 32 + 16 * i + 4 * (lane / 16) + r;
        const uint32_t to_m = m + wave % 2 * 32 + 16 * j + lane % 16;
        if (to_n < N && to_m < M) out[static_cast<uint64_t>(to_n) * M + to_m] = sum[i][j][r];
      }
    }
  }
}
