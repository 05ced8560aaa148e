// What stage 1 makes of a gate and an up value: in float, on every target.
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite::fused_moe {

// Numbers of AITERLITE_ACTIVATION.
inline constexpr int kSilu = 0, kGelu = 1, kSwiglu = 2;

// x / (1 + e^-x') for x' = beta x; zero, not NaN, far below zero.
AITERLITE_DEVICE float times_sigmoid(float x, float beta) {
  return x * fast_reciprocal(1.0f + fast_exp2(-1.44269504f * beta * x));
}

// The error function, to 1e-7 of its value: an odd polynomial near zero, 1 - e^polynomial farther out.
AITERLITE_DEVICE float error_function(float x) {
  const float t = __builtin_fabsf(x), s = x * x;
  float near = -5.96761703e-4f;
  near = __builtin_fmaf(near, s, 4.99119423e-3f);
  near = __builtin_fmaf(near, s, -2.67681349e-2f);
  near = __builtin_fmaf(near, s, 1.12819925e-1f);
  near = __builtin_fmaf(near, s, -3.76125336e-1f);
  near = __builtin_fmaf(near, s, 1.28379166e-1f);
  near = __builtin_fmaf(near, x, x);
  float far = __builtin_fmaf(-1.72853470e-5f, t, 3.83197126e-4f);
  far = __builtin_fmaf(far, s, __builtin_fmaf(-3.88396438e-3f, t, 2.42546219e-2f));
  far = __builtin_fmaf(far, t, -1.06777877e-1f);
  far = __builtin_fmaf(far, t, -6.34846687e-1f);
  far = __builtin_fmaf(far, t, -1.28717512e-1f);
  far = __builtin_fmaf(far, t, -t);
  far = __builtin_copysignf(1.0f - fast_exp2(1.44269504f * far), x);
  return t > 0.927734375f ? (t > 4.0f ? __builtin_copysignf(1.0f, x) : far) : near;
}

struct Swiglu {
  float limit;
  float beta;
  float linear_beta;
};

template <int kActivation>
AITERLITE_DEVICE float activate(float gate, float up, [[maybe_unused]] const Swiglu& swiglu) {
  static_assert(kActivation == kSilu || kActivation == kGelu || kActivation == kSwiglu,
                "AITERLITE_ACTIVATION must be 0 (silu), 1 (gelu) or 2 (swiglu)");
  if constexpr (kActivation == kSilu) {
    return times_sigmoid(gate, 1.0f) * up;
  } else if constexpr (kActivation == kGelu) {
    return 0.5f * gate * (1.0f + error_function(gate * 0.70710678f)) * up;
  } else {
    // Selected, so that a NaN stays one.
    const float limit = swiglu.limit;
    const float below = gate > limit ? limit : gate;
    const float within = up > limit ? limit : up < -limit ? -limit : up;
    return times_sigmoid(below, swiglu.beta) * (within + swiglu.linear_beta);
  }
}

}  // namespace aiterlite::fused_moe
