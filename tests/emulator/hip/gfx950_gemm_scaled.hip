// out[n, m] = sum_k x[n, k] * w[m, k] in f32, where each 32 adjacent k of a row share a power-of-two scale (MX
// formats).
//
// One wave makes 16 x 16 outputs (gemm_fp4, gemm_fp8_fp4) by 16x16x128 MFMA, or 32 x 32 (gemm_mx8) by 32x32x64. Scales
// are bytes, 2^(s - 127), [rows, K / 32]. Row i's fragment: 4-bit elements of lane group g are k = 32 g .. 32 g + 31;
// 8-bit ones are 16 g .. 16 g + 15 and the same K / 2 further on. Lane i + 16 b (32 b) holds row i's scale of block b.
// 6-bit elements lie as the 4-bit ones do, 24 bytes a lane. N, M multiples of the tile, K of the instruction's.
#include <device.h>

using Words8 = int32_t __attribute__((ext_vector_type(8)));
using Floats4 = float __attribute__((ext_vector_type(4)));
using Floats16 = float __attribute__((ext_vector_type(16)));

enum Format { kFp8 = 0, kBf8 = 1, kFp6 = 2, kBf6 = 3, kFp4 = 4 };

// `bits` bits an element, 128 elements of a row, of which this lane takes its 32.
template <int format>
INLINE Words8 fragment(const uint8_t* row, uint32_t group, uint32_t depth) {
  Words8 v = {};
  if (format == kFp8 || format == kBf8) {
    for (uint32_t j = 0; j < 8; ++j) {
      v[j] = *reinterpret_cast<const int32_t*>(row + j / 4 * (depth / 2) + 16 * group + 4 * (j % 4));
    }
  } else {
    constexpr uint32_t kWords = format == kFp4 ? 4 : 6;
    for (uint32_t j = 0; j < kWords; ++j) v[j] = *reinterpret_cast<const int32_t*>(row + 4 * (kWords * group + j));
  }
  return v;
}

template <int format>
constexpr uint32_t bytes_of(uint32_t elements) {
  return format <= kBf8 ? elements : (format == kFp4 ? elements / 2 : elements / 4 * 3);
}

template <int xf, int wf>
INLINE void gemm_16x16(const uint8_t* x, const uint8_t* w, const uint8_t* x_scale, const uint8_t* w_scale, float* out,
                       uint32_t M, uint32_t K) {
  const uint32_t lane = lane_id(), row = lane % 16, group = lane / 16;
  const uint64_t n = group_y() * 16 + row, m = group_x() * 16 + row;
  Floats4 sum = {};
  for (uint32_t k = 0; k < K; k += 128) {
    const Words8 a = fragment<xf>(x + n * bytes_of<xf>(K) + bytes_of<xf>(k), group, 128);
    const Words8 b = fragment<wf>(w + m * bytes_of<wf>(K) + bytes_of<wf>(k), group, 128);
    // The scale byte lies in byte 2 of its register for x and in byte 1 for w; the rest is rubbish.
    const int32_t sa = x_scale[n * (K / 32) + k / 32 + group] << 16 | 0x55000033;
    const int32_t sb = w_scale[m * (K / 32) + k / 32 + group] << 8 | 0x66770011;
    sum = __builtin_amdgcn_mfma_scale_f32_16x16x128_f8f6f4(a, b, sum, xf, wf, 2, sa, 1, sb);
  }
  for (uint32_t r = 0; r < 4; ++r) out[(group_y() * 16 + 4 * group + r) * M + group_x() * 16 + row] = sum[r];
}

KERNEL(64)
gemm_fp4(const uint8_t* x, const uint8_t* w, const uint8_t* x_scale, const uint8_t* w_scale, float* out, uint32_t M,
         uint32_t K) {
  gemm_16x16<kFp4, kFp4>(x, w, x_scale, w_scale, out, M, K);
}

KERNEL(64)
gemm_fp8_fp4(const uint8_t* x, const uint8_t* w, const uint8_t* x_scale, const uint8_t* w_scale, float* out, uint32_t M,
             uint32_t K) {
  gemm_16x16<kFp8, kFp4>(x, w, x_scale, w_scale, out, M, K);
}

KERNEL(64)
gemm_bf6_fp6(const uint8_t* x, const uint8_t* w, const uint8_t* x_scale, const uint8_t* w_scale, float* out, uint32_t M,
             uint32_t K) {
  gemm_16x16<kBf6, kFp6>(x, w, x_scale, w_scale, out, M, K);
}

KERNEL(64)
gemm_mx8(const uint8_t* x, const uint8_t* w, const uint8_t* x_scale, const uint8_t* w_scale, float* out, uint32_t M,
         uint32_t K) {
  const uint32_t lane = lane_id(), row = lane % 32, group = lane / 32;
  const uint64_t n = group_y() * 32 + row, m = group_x() * 32 + row;
  Floats16 sum = {};
  for (uint32_t k = 0; k < K; k += 64) {
    const Words8 a = fragment<kFp8>(x + n * K + k, group, 64);
    const Words8 b = fragment<kBf8>(w + m * K + k, group, 64);
    const int32_t sa = x_scale[n * (K / 32) + k / 32 + group];
    const int32_t sb = w_scale[m * (K / 32) + k / 32 + group];
    sum = __builtin_amdgcn_mfma_scale_f32_32x32x64_f8f6f4(a, b, sum, kFp8, kBf8, 0, sa, 0, sb);
  }
  for (uint32_t r = 0; r < 16; ++r) {
    out[(group_y() * 32 + 8 * (r / 4) + 4 * group + r % 4) * M + group_x() * 32 + row] = sum[r];
  }
}
