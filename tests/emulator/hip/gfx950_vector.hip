// Vector instructions that only gfx950 has: lane swaps, a random number step, any function of three bits, packed
// conversions with and without a scale.
//
// swaps: pairs of registers exchange rows of 16 or halves of 32 lanes. bits: prng, bitop3. scaled: f32 pairs to fp4 and
// fp8 and back with a power-of-two scale. bfloat: pairs of f32 to bf16. bounds: minimum and maximum that keep a NaN.
#include <device.h>

using Pair = uint32_t __attribute__((ext_vector_type(2)));
using Floats2 = float __attribute__((ext_vector_type(2)));
using Bfloats2 = __bf16 __attribute__((ext_vector_type(2)));
using Shorts2 = int16_t __attribute__((ext_vector_type(2)));

KERNEL(64) swaps(const uint32_t* a, const uint32_t* b, uint32_t* out) {
  const uint32_t t = thread_x();
  const auto rows = __builtin_amdgcn_permlane16_swap(a[t], b[t], false, false);
  const auto halves = __builtin_amdgcn_permlane32_swap(a[t], b[t], false, false);
  out[t] = rows[0];
  out[64 + t] = rows[1];
  out[128 + t] = halves[0];
  out[192 + t] = halves[1];
}

KERNEL(64) bits(const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  const uint32_t x = a[i], y = b[i], z = c[i];
  out[i] = __builtin_amdgcn_prng_b32(x);
  out[n + i] = static_cast<uint32_t>(
      __builtin_amdgcn_bitop3_b32(static_cast<int32_t>(x), static_cast<int32_t>(y), static_cast<int32_t>(z), 0x96));
  out[2 * n + i] = static_cast<uint32_t>(
      __builtin_amdgcn_bitop3_b32(static_cast<int32_t>(x), static_cast<int32_t>(y), static_cast<int32_t>(z), 0x2d));
  // Three operands that the compiler itself turns into one instruction.
  out[3 * n + i] = (x & y) ^ ~z;
}

KERNEL(64) scaled(const float* x, const float* scale, uint32_t* codes, float* back, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  const float a = x[2 * i], b = x[2 * i + 1], s = scale[i];
  uint32_t fp4 = 0xffffffffu;
  fp4 = __builtin_amdgcn_cvt_scalef32_pk_fp4_f32(fp4, a, b, s, 1);
  Shorts2 fp8 = {0x1234, 0x5678};
  fp8 = __builtin_amdgcn_cvt_scalef32_pk_fp8_f32(fp8, a, b, s, true);
  codes[i] = fp4;
  codes[n + i] = __builtin_bit_cast(uint32_t, fp8);
  const Floats2 from4 = __builtin_amdgcn_cvt_scalef32_pk_f32_fp4(fp4, s, 1);
  const Floats2 from8 = __builtin_amdgcn_cvt_scalef32_pk_f32_fp8(__builtin_bit_cast(uint32_t, fp8), s, true);
  back[2 * i] = from4.x;
  back[2 * i + 1] = from4.y;
  back[2 * n + 2 * i] = from8.x;
  back[2 * n + 2 * i + 1] = from8.y;
}

KERNEL(64) bfloat(const Floats2* x, Bfloats2* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i < n) out[i] = __builtin_convertvector(x[i], Bfloats2);
}

KERNEL(64) bounds(const float* a, const float* b, const float* c, float* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  const float x = a[i], y = b[i], z = c[i];
  out[i] = __builtin_elementwise_minimum(__builtin_elementwise_minimum(x, y), z);
  out[n + i] = __builtin_elementwise_maximum(__builtin_elementwise_maximum(x, y), z);
}
