// Conversions between f32 and the two 8-bit floats, in the target's flavour (FNUZ on gfx942, OCP on gfx950).
//
// decode: all 256 codes of both formats, by byte selection and in pairs; 64 items, four codes each.
// encode: to nearest, each result in all of the four places of a word. encode_random: stochastic rounding, with the
// random bits given.
#include <device.h>

using Pair = float __attribute__((ext_vector_type(2)));

KERNEL(64) decode_fp8(const int32_t* words, float* out) {
  const uint32_t i = thread_x();
  const int32_t v = words[i];
  float* fp8 = out + 4 * i;
  float* bf8 = out + 256 + 4 * i;
  fp8[0] = __builtin_amdgcn_cvt_f32_fp8(v, 0);
  fp8[1] = __builtin_amdgcn_cvt_f32_fp8(v, 1);
  fp8[2] = __builtin_amdgcn_cvt_f32_fp8(v, 2);
  fp8[3] = __builtin_amdgcn_cvt_f32_fp8(v, 3);
  bf8[0] = __builtin_amdgcn_cvt_f32_bf8(v, 0);
  bf8[1] = __builtin_amdgcn_cvt_f32_bf8(v, 1);
  bf8[2] = __builtin_amdgcn_cvt_f32_bf8(v, 2);
  bf8[3] = __builtin_amdgcn_cvt_f32_bf8(v, 3);
  Pair* pairs = reinterpret_cast<Pair*>(out + 512) + 4 * i;
  pairs[0] = __builtin_amdgcn_cvt_pk_f32_fp8(v, false);
  pairs[1] = __builtin_amdgcn_cvt_pk_f32_fp8(v, true);
  pairs[2] = __builtin_amdgcn_cvt_pk_f32_bf8(v, false);
  pairs[3] = __builtin_amdgcn_cvt_pk_f32_bf8(v, true);
}

KERNEL(64) encode_fp8(const float* x, const int32_t* before, int32_t* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i + 1 >= n) return;
  const float a = x[i], b = x[i + 1];
  out[i] = __builtin_amdgcn_cvt_pk_fp8_f32(a, b, before[i], false);
  out[n + i] = __builtin_amdgcn_cvt_pk_fp8_f32(a, b, before[i], true);
  out[2 * n + i] = __builtin_amdgcn_cvt_pk_bf8_f32(a, b, before[i], false);
  out[3 * n + i] = __builtin_amdgcn_cvt_pk_bf8_f32(a, b, before[i], true);
}

KERNEL(64) encode_random(const float* x, const int32_t* random, const int32_t* before, int32_t* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  int32_t fp8 = before[i], bf8 = before[i];
  fp8 = __builtin_amdgcn_cvt_sr_fp8_f32(x[i], random[i], fp8, 0);
  fp8 = __builtin_amdgcn_cvt_sr_fp8_f32(x[i], random[i] ^ 0x5a5a5a5a, fp8, 2);
  bf8 = __builtin_amdgcn_cvt_sr_bf8_f32(x[i], random[i], bf8, 1);
  bf8 = __builtin_amdgcn_cvt_sr_bf8_f32(x[i], random[i] ^ 0x5a5a5a5a, bf8, 3);
  out[i] = fp8;
  out[n + i] = bf8;
}
