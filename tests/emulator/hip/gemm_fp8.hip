// out[n, m] = x_scale[n] * w_scale[m] * sum_k x[n, k] * w[m, k] in bf16, from fp8 operands through 16x16x32 MFMA.
//
// The fp8 flavour is the target's: e4m3fnuz on gfx942, e4m3fn on gfx950. A workgroup of four waves makes 64 x 64
// outputs, a wave 16 rows x 64 columns in four accumulators. Operands go straight from memory to fragments, 8 bytes a
// lane: lane l holds k = 8 * (l / 16) + 0..7 of row or column l % 16; D is row 4 * (l / 16) + r, column l % 16.
// Any N and M (rows past the end re-read the last one), K % 32 == 0. x is read M / 64 times, w N / 64 times.
#include <device.h>

using Floats = float __attribute__((ext_vector_type(4)));

KERNEL(256)
gemm_fp8(const uint8_t* x, const uint8_t* w, const float* x_scale, const float* w_scale, uint16_t* out, uint32_t N,
         uint32_t M, uint32_t K) {
  const uint32_t lane = lane_id();
  const uint32_t n = group_y() * 64 + wave_id() * 16;
  const uint32_t m = group_x() * 64;
  const uint8_t* a = x + static_cast<uint64_t>(smaller(n + lane % 16, N - 1)) * K + 8 * (lane / 16);
  const uint8_t* b[4];
  Floats sum[4] = {};
  for (uint32_t t = 0; t < 4; ++t) {
    b[t] = w + static_cast<uint64_t>(smaller(m + 16 * t + lane % 16, M - 1)) * K + 8 * (lane / 16);
  }
  for (uint32_t k = 0; k < K; k += 32) {
    const long fragment = *reinterpret_cast<const long*>(a + k);
#pragma unroll
    for (uint32_t t = 0; t < 4; ++t) {
      sum[t] = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(fragment, *reinterpret_cast<const long*>(b[t] + k), sum[t], 0,
                                                          0, 0);
    }
  }
  for (uint32_t t = 0; t < 4; ++t) {
    const uint32_t column = m + 16 * t + lane % 16;
    for (uint32_t r = 0; r < 4; ++r) {
      const uint32_t row = n + 4 * (lane / 16) + r;
      if (row < N && column < M) {
        out[static_cast<uint64_t>(row) * M + column] = float_to_bf16(sum[t][r] * x_scale[row] * w_scale[column]);
      }
    }
  }
}
