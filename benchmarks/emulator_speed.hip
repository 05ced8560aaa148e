// Two loops that an interpreter of vector code spends its time in, for bench_emulator.py.
//
// valu_loop: sixteen vector instructions a turn, floats and integers, no memory. mfma_loop: four independent fp8
// 16x16x32 matrix products a turn. One result a work-item, so that nothing is optimised away; any grid.
#include <stdint.h>

#define KERNEL(threads) \
  extern "C" __attribute__((global, visibility("default"), amdgpu_flat_work_group_size(threads, threads))) void

using Floats = float __attribute__((ext_vector_type(4)));

KERNEL(256) valu_loop(uint32_t* out, uint32_t turns, float scale) {
  const uint32_t i = __builtin_amdgcn_workgroup_id_x() * 256 + __builtin_amdgcn_workitem_id_x();
  float a = static_cast<float>(i), b = 1, c = 2, d = 3;
  uint32_t p = i, q = i * 3, r = i * 5, s = i * 7;
#pragma unroll 1
  for (uint32_t t = 0; t < turns; ++t) {
    a = a * scale + b;
    b = b * scale + c;
    c = c * scale + d;
    d = d * scale - a;
    p += q ^ r;
    q = (q << 3) + s;
    r ^= p + 77;
    s = (s & p) | r;
    a = a + d;
    b = b * c;
    q ^= t;
    s += q;
  }
  out[i] = p + q + r + s + __builtin_bit_cast(uint32_t, a + b + c + d);
}

KERNEL(256) mfma_loop(const long* x, float* out, uint32_t turns) {
  const uint32_t i = __builtin_amdgcn_workgroup_id_x() * 256 + __builtin_amdgcn_workitem_id_x();
  const long a = x[i % 64], b = x[64 + i % 64];
  Floats sum[4] = {};
#pragma unroll 1
  for (uint32_t t = 0; t < turns; ++t) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[j] = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(a, b, sum[j], 0, 0, 0);
  }
  const Floats total = sum[0] + sum[1] + sum[2] + sum[3];
  out[i] = total.x + total.y + total.z + total.w;
}
