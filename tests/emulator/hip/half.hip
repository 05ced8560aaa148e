// 16-bit float arithmetic, alone and in pairs, one operation a row of the output.
//
// half_exact: correctly rounded f16 operations (subnormals included; a kernel keeps them by default). half_pairs:
// packed arithmetic on two f16 and dot products into f32; out[op, i] holds a pair. mixed: f32 arithmetic with f16
// inputs.
#include <device.h>

using half2 = float16 __attribute__((ext_vector_type(2)));

KERNEL(64) half_exact(const float16* a, const float16* b, const float16* c, float16* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  const float16 x = a[i], y = b[i], z = c[i];
  float16* o = out + i;
  uint32_t row = 0;
  auto put = [&](float16 value) { o[static_cast<uint64_t>(row++) * n] = value; };
  {
#pragma clang fp contract(off)
    put(x + y);
    put(x - y);
    put(x * y);
    put(x / y);
    put(__builtin_fmaf16(x, y, z));
    put(__builtin_sqrtf16(x));
    put(__builtin_fminf16(x, y));
    put(__builtin_fmaxf16(x, y));
    put(__builtin_fmaxf16(x, __builtin_fmaxf16(y, z)));
    put(__builtin_floorf16(x));
    put(__builtin_rintf16(x));
    put(__builtin_fabsf16(x) - y);
    put(x < y ? x : z);
    put(static_cast<float16>(static_cast<int16_t>(i * 37)));
    put(static_cast<float16>(static_cast<float>(x) * 3.0f));
  }
}

KERNEL(64) half_pairs(const half2* a, const half2* b, const half2* c, half2* out, float* dots, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  const half2 x = a[i], y = b[i], z = c[i];
  const half2 flipped = {y.y, y.x};
  half2* o = out + i;
  uint32_t row = 0;
  auto put = [&](half2 value) { o[static_cast<uint64_t>(row++) * n] = value; };
  {
#pragma clang fp contract(off)
    put(x + y);
    put(x * flipped);
    put(x - flipped);
    put(__builtin_elementwise_fma(x, y, z));
    put(__builtin_elementwise_fma(x, flipped, -z));
    put(__builtin_elementwise_max(x, y));
    put(__builtin_elementwise_min(-x, y));
  }
  dots[i] = __builtin_amdgcn_fdot2(x, y, 1.5f, false);
  dots[n + i] = __builtin_fmaf(static_cast<float>(x.x), static_cast<float>(y.y), static_cast<float>(z.x));
  dots[2 * n + i] = static_cast<float>(x.y) * static_cast<float>(y.x) + 0.25f;
}
