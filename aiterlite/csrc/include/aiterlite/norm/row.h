// RMSNorm of a lane's pieces of a row: the arithmetic, in one order for every kernel, so that a row's bits are the same
// whichever kernel it meets.
#pragma once
#include <aiterlite/numeric/pack.h>
#include <aiterlite/quant/strip.h>

namespace aiterlite::norm {

template <class In>
AITERLITE_DEVICE Vector16 sum_of(const Vector16& a, const Vector16& b) {
  float x[8], y[8];
  quant::widen(In{}, a, x);
  quant::widen(In{}, b, y);
  Vector16 sum;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) sum.word[i] = pack_pair(In{}, x[2 * i] + y[2 * i], x[2 * i + 1] + y[2 * i + 1]);
  return sum;
}

template <class In>
AITERLITE_DEVICE float squares(const Vector16 (&parts)[2]) {
  float chain[4] = {};
#pragma unroll
  for (const Vector16& part : parts) {
    float value[8];
    quant::widen(In{}, part, value);
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) chain[i % 4] = __builtin_fmaf(value[i], value[i], chain[i % 4]);
  }
  return (chain[0] + chain[1]) + (chain[2] + chain[3]);
}

// `kGemma`: weights are one more than given. `kSensitive`: the quotient is rounded before it is multiplied by them.
template <class In, bool kGemma, bool kSensitive>
AITERLITE_DEVICE Vector16 normalised(const Vector16& h, const Vector16& weight, float by) {
  float value[8], factor[8];
  quant::widen(In{}, h, value);
  quant::widen(In{}, weight, factor);
  Vector16 result;
#pragma unroll
  for (float& one : value) one *= by;
  if constexpr (kSensitive) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) result.word[i] = pack_products(In{}, value[2 * i], value[2 * i + 1]);
    quant::widen(In{}, result, value);
  }
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) value[i] *= kGemma ? factor[i] + 1.0f : factor[i];
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) result.word[i] = pack_products(In{}, value[2 * i], value[2 * i + 1]);
  return result;
}

}  // namespace aiterlite::norm
