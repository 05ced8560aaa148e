// out[n, m] = sum_k x[n, k] * w[m, k] in f32 from bf16 operands, without matrix instructions.
//
// A workgroup of 256 makes 64 x 64 outputs over K tiles of 16, a work-item 4 x 4 of them. Both tiles lie in LDS as f32,
// k-major, so that a work-item's four rows and four columns are one 16-byte read each: 16 multiply-adds for two reads.
// Any N and M, K % 4 == 0 (past the ends zeros). The sums run over k in order, as one chain of multiply-adds.
#include <device.h>

struct alignas(16) Four {
  float v[4];
};
struct alignas(8) FourShorts {
  uint16_t v[4];
};

KERNEL(256) gemm_vector(const uint16_t* x, const uint16_t* w, float* out, uint32_t N, uint32_t M, uint32_t K) {
  SHARED(Four, x_tile, 16)[17];
  SHARED(Four, w_tile, 16)[17];
  const uint32_t t = thread_x();
  const uint32_t n = group_y() * 64, m = group_x() * 64;
  const uint32_t row = t / 4, part = t % 4 * 4;
  const uint32_t tn = t / 16, tm = t % 16;
  float sum[4][4] = {};
  for (uint32_t k = 0; k < K; k += 16) {
    FourShorts vx = {}, vw = {};
    if (n + row < N && k + part < K) {
      vx = *reinterpret_cast<const FourShorts*>(x + static_cast<uint64_t>(n + row) * K + k + part);
    }
    if (m + row < M && k + part < K) {
      vw = *reinterpret_cast<const FourShorts*>(w + static_cast<uint64_t>(m + row) * K + k + part);
    }
    for (uint32_t j = 0; j < 4; ++j) {
      x_tile[part + j][row / 4].v[row % 4] = bf16_to_float(vx.v[j]);
      w_tile[part + j][row / 4].v[row % 4] = bf16_to_float(vw.v[j]);
    }
    barrier();
#pragma unroll
    for (uint32_t j = 0; j < 16; ++j) {
      const Four a = x_tile[j][tn], b = w_tile[j][tm];
#pragma unroll
      for (uint32_t p = 0; p < 4; ++p) {
#pragma unroll
        for (uint32_t q = 0; q < 4; ++q) sum[p][q] += a.v[p] * b.v[q];
      }
    }
    barrier();
  }
  for (uint32_t p = 0; p < 4; ++p) {
    for (uint32_t q = 0; q < 4; ++q) {
      const uint32_t to_n = n + tn * 4 + p, to_m = m + tm * 4 + q;
      if (to_n < N && to_m < M) out[static_cast<uint64_t>(to_n) * M + to_m] = sum[p][q];
    }
  }
}
