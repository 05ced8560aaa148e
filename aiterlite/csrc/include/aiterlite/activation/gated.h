// act(gate) * up of eight elements, rounded to their type: the bits of activation/rows.hip, for whatever quantises
// them.
#pragma once
#include <aiterlite/fused_moe/activation.h>
#include <aiterlite/numeric/pack.h>
#include <aiterlite/quant/strip.h>

namespace aiterlite::activation {

// Numbers of AITERLITE_ACTIVATION.
inline constexpr int kNone = -1, kSilu = 0, kGelu = 1, kGeluTanh = 2;

template <int kActivation>
AITERLITE_DEVICE float activate(float x) {
  static_assert(kActivation == kSilu || kActivation == kGelu || kActivation == kGeluTanh,
                "AITERLITE_ACTIVATION must be 0 (silu), 1 (gelu) or 2 (gelu_tanh)");
  if constexpr (kActivation == kSilu) {
    return fused_moe::times_sigmoid(x, 1.0f);
  } else if constexpr (kActivation == kGelu) {
    return 0.5f * x * (1.0f + fused_moe::error_function(x * 0.70710678f));
  } else {
    // x/2 (1 + tanh(u)) is x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3), which does not cancel below zero.
    return fused_moe::times_sigmoid(x, 1.59576912f * __builtin_fmaf(0.044715f * x, x, 1.0f));
  }
}

// `kLimited`: a gate counts as at most `limit`, an up as within it.
template <class In, int kActivation, bool kLimited>
AITERLITE_DEVICE Vector16 gated(const Vector16& gate, const Vector16& up, [[maybe_unused]] float limit) {
  float x[8], y[8];
  quant::widen(In{}, gate, x);
  quant::widen(In{}, up, y);
  if constexpr (kLimited) {
    // Selected, so that a NaN stays one.
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      x[i] = x[i] > limit ? limit : x[i];
      y[i] = y[i] > limit ? limit : y[i] < -limit ? -limit : y[i];
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) x[i] = activate<kActivation>(x[i]) * y[i];
  Vector16 made;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) made.word[i] = pack_products(In{}, x[2 * i], x[2 * i + 1]);
  return made;
}

}  // namespace aiterlite::activation
