// Double arithmetic, one operation a row of the output: out[op, i] = op(a[i], b[i], c[i]).
//
// All rows are correctly rounded operations or exact ones, so the results have one right bit pattern each; quotients
// and square roots are sequences of a dozen instructions (v_div_scale, v_div_fmas, v_div_fixup, v_rsq). conversions:
// between double and 32- and 64-bit integers, f32; inputs of the integer conversions are in range.
#include <device.h>

KERNEL(64) float64(const double* a, const double* b, const double* c, double* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  const double x = a[i], y = b[i], z = c[i];
  double* o = out + i;
  uint32_t row = 0;
  auto put = [&](double value) { o[static_cast<uint64_t>(row++) * n] = value; };
  {
#pragma clang fp contract(off)
    put(x + y);
    put(x - y);
    put(x * y);
    put(x / y);
    put(__builtin_sqrt(x));
    put(__builtin_fma(x, y, z));
    put(__builtin_fmin(x, y));
    put(__builtin_fmax(x, y));
    put(__builtin_floor(x));
    put(__builtin_ceil(x));
    put(__builtin_trunc(x));
    put(__builtin_rint(x));
    put(__builtin_fabs(x));
    put(-x);
    put(x < y ? x : z);
    put(x >= y ? y : z);
    put(x == x ? 1.0 : 2.0);
    put(x * 0.5 + y * 4.0);
    put(__builtin_copysign(x, y));
    put(1.0 / x);
  }
}

KERNEL(64)
conversions(const double* a, const int64_t* b, double* doubles, int64_t* longs, int32_t* ints, float* floats,
            uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  const double x = a[i];
  const int64_t y = b[i];
  doubles[i] = static_cast<double>(y);
  doubles[n + i] = static_cast<double>(static_cast<uint64_t>(y));
  doubles[2 * n + i] = static_cast<double>(static_cast<int32_t>(y));
  doubles[3 * n + i] = static_cast<double>(static_cast<uint32_t>(y));
  doubles[4 * n + i] = static_cast<double>(static_cast<float>(x));
  longs[i] = static_cast<int64_t>(x);
  longs[n + i] = static_cast<int64_t>(static_cast<uint64_t>(__builtin_fabs(x)));
  ints[i] = static_cast<int32_t>(x * 0x1p-32);
  ints[n + i] = static_cast<int32_t>(static_cast<uint32_t>(__builtin_fabs(x) * 0x1p-31));
  floats[i] = static_cast<float>(x);
  floats[n + i] = static_cast<float>(y);
  floats[2 * n + i] = static_cast<float>(static_cast<uint64_t>(y));
}
