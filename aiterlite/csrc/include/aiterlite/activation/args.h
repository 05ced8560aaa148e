// Arguments of the activation kernels, shared by host and device units so that one declaration fixes the layout.
#pragma once
#include <stdint.h>

// Rows of x hold `width` gates, then `width` ups. out holds act(gate) * up in the type of x; or, quantised, the codes
// of that, and scales[row], or a scale for each group of elements: scales[row * groups + g], transposed scales[g * rows
// + row]. With a limit, a gate counts as at most that, and an up as within it.
//
// Rows are `stride_` elements apart. `tiles` of a row are what a team takes; a number is divided by them as
// (number * multiplier) >> shift.
struct aiterlite_activation_args {
  const void* x;
  void* out;
  float* scales;
  int64_t stride_x;
  int64_t stride_out;
  int32_t rows;
  int32_t width;
  int32_t group;  // 0: not quantised; the width: a scale a row
  int32_t transposed;
  int32_t activation;  // 0 silu, 1 gelu, 2 gelu_tanh
  float limit;         // 0: none
  int32_t tiles;
  uint32_t multiplier;
  int32_t shift;
};
