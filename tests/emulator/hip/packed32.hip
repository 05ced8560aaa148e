// Pairs of f32 and of 16-bit integers in one instruction (v_pk_fma_f32, v_pk_add_u16, ...), with swapped halves, and
// dot products of 4-bit and 8-bit integers.
//
// out[op, i] holds a pair. Pairs of f32 use correctly rounded operations only.
#include <device.h>

using float2 = float __attribute__((ext_vector_type(2)));
using short2 = int16_t __attribute__((ext_vector_type(2)));
using ushort2 = uint16_t __attribute__((ext_vector_type(2)));

KERNEL(64) float_pairs(const float2* a, const float2* b, const float2* c, float2* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  const float2 x = a[i], y = b[i], z = c[i];
  float2* o = out + i;
  uint32_t row = 0;
  auto put = [&](float2 value) { o[static_cast<uint64_t>(row++) * n] = value; };
  {
#pragma clang fp contract(off)
    put(x + y);
    put(x * y);
    put(__builtin_elementwise_fma(x, y, z));
    put(__builtin_elementwise_fma(x, float2{y.y, y.x}, z));
    put(__builtin_elementwise_fma(x, float2{y.x, y.x}, -z));
    put(x * float2{y.y, y.y});
    put(x - float2{y.y, y.x});
    put(float2{x.y, z.x});
  }
}

KERNEL(64)
integer_pairs(const ushort2* a, const ushort2* b, const ushort2* c, ushort2* out, int32_t* dots, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  const ushort2 x = a[i], y = b[i], z = c[i];
  const short2 sx = __builtin_bit_cast(short2, x), sy = __builtin_bit_cast(short2, y);
  ushort2* o = out + i;
  uint32_t row = 0;
  auto put = [&](ushort2 value) { o[static_cast<uint64_t>(row++) * n] = value; };
  put(x + y);
  put(x - y);
  put(x * y);
  put(x * y + z);
  put(x << (y & static_cast<uint16_t>(15)));
  put(x >> (y & static_cast<uint16_t>(15)));
  put(__builtin_bit_cast(ushort2, static_cast<short2>(sx >> (sy & static_cast<int16_t>(15)))));
  put(__builtin_elementwise_max(x, y));
  put(__builtin_elementwise_min(x, y));
  put(__builtin_bit_cast(ushort2, __builtin_elementwise_max(sx, sy)));
  put(__builtin_bit_cast(ushort2, __builtin_elementwise_min(sx, sy)));
  put(__builtin_elementwise_add_sat(x, y));
  put(ushort2{x.y, y.x});
  const int32_t wx = __builtin_bit_cast(int32_t, x), wy = __builtin_bit_cast(int32_t, y);
  const int32_t wz = __builtin_bit_cast(int32_t, z);
  dots[i] = __builtin_amdgcn_sdot4(wx, wy, wz, false);
  dots[n + i] = static_cast<int32_t>(__builtin_amdgcn_udot4(wx, wy, wz, false));
  dots[2 * n + i] = __builtin_amdgcn_sdot8(wx, wy, wz, false);
  dots[3 * n + i] = __builtin_amdgcn_sdot2(sx, sy, wz, false);
}
