// Float arithmetic, one operation a row of the output: out[op, i] = op(a[i], b[i], c[i]).
//
// exact32: correctly rounded operations, including the expanded quotient and square root, on ordinary values,
// subnormals, infinities and NaN. transcendental32: what the compiler makes of exp, log, sin, cos, pow on ordinary
// values, and the hardware's own approximations (reciprocals, fraction, exponent and mantissa).
#include <device.h>

KERNEL(64) exact32(const float* a, const float* b, const float* c, float* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  const float x = a[i], y = b[i], z = c[i];
  float* o = out + i;
  uint32_t row = 0;
  auto put = [&](float value) { o[static_cast<uint64_t>(row++) * n] = value; };
  {
#pragma clang fp contract(off)
    put(x + y);
    put(x - y);
    put(x * y);
    put(x / y);
    put(__builtin_sqrtf(x));
    put(__builtin_fmaf(x, y, z));
    put(__builtin_fminf(x, y));
    put(__builtin_fmaxf(x, y));
    put(__builtin_fmaxf(__builtin_fminf(x, 1.0f), 0.0f));
    put(__builtin_floorf(x));
    put(__builtin_ceilf(x));
    put(__builtin_truncf(x));
    put(__builtin_rintf(x));
    put(__builtin_fabsf(x) + -y);
    put(-x * __builtin_fabsf(y));
    put(x < y ? x : z);
    put(!(x >= y) ? y : z);
    put(x != x ? 3.0f : 4.0f);
    put(x * 0.5f + y * 4.0f);
    put(__builtin_copysignf(x, y));
    put(__builtin_fmaxf(x, __builtin_fmaxf(y, z)));
    put(__builtin_fminf(x, __builtin_fminf(y, z)));
    put(x - __builtin_floorf(x));
    put((x + y) * 2.0f);
    const float low = __builtin_fminf(x, y);
    put(__builtin_fmaxf(__builtin_fminf(__builtin_fmaxf(x, y), __builtin_fmaxf(low, z)), low));
  }
}

#if !defined(CORPUS_HOST)
KERNEL(64) transcendental32(const float* a, const float* b, float* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  const float x = a[i], y = b[i];
  float* o = out + i;
  uint32_t row = 0;
  auto put = [&](float value) { o[static_cast<uint64_t>(row++) * n] = value; };
  put(__builtin_expf(x));
  put(__builtin_exp2f(x));
  put(__builtin_logf(y));
  put(__builtin_log2f(y));
  put(__builtin_log10f(y));
  put(__builtin_sinf(x));
  put(__builtin_cosf(x));
  put(__builtin_ldexpf(x, static_cast<int32_t>(i % 40) - 20));
  put(__builtin_amdgcn_fractf(x));
  put(__builtin_amdgcn_frexp_mantf(x));
  put(static_cast<float>(__builtin_amdgcn_frexp_expf(x)));
  const float normal = y < 1e-30f ? 1.0f : y;
  put(__builtin_amdgcn_rsqf(normal));
  put(__builtin_amdgcn_rcpf(normal));
  put(__builtin_amdgcn_fmed3f(x, y, 1.0f));
}
#endif
