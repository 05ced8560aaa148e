// What layers apply to a gate, on a CPU, in vectors of float.
#pragma once
#include <aiterlite/cpu/attention.h>
#include <math.h>

namespace aiterlite::cpu {

// 1 / (1 + e^-x): zero, not NaN, far below zero.
inline f32v sigmoid(f32v x) {
  constexpr float kLog2E = 1.44269504088896340736f;
  const f32v power = x * -kLog2E;
  const f32v held = power > 126.0f ? f32v{} + 126.0f : power;
  return 1.0f / (1.0f + (power > 126.0f ? f32v{} + __builtin_inff() : exp2(held)));
}

inline f32v silu(f32v x) { return x * sigmoid(x); }

// By the error function.
inline f32v gelu(f32v x) {
  for (int i = 0; i < kLanes; ++i) x[i] *= 0.5f + 0.5f * erff(x[i] * 0.70710678118654752440f);
  return x;
}

// x/2 (1 + tanh(u)) is x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3), which does not cancel below zero.
inline f32v gelu_tanh(f32v x) { return x * sigmoid(1.59576912160573f * x * (1.0f + 0.044715f * x * x)); }

}  // namespace aiterlite::cpu
