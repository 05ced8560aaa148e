// Arguments of the RMSNorm kernels, shared by host and device units so that one declaration fixes the layout.
#pragma once
#include <stdint.h>

// Rows of h: those of x, or, with a residual, of x + residual_in, rounded and written to residual_out. out holds
// h / sqrt(mean of h^2 + epsilon) * weight, in the type of x; or, quantised, the codes of that, dense, and scales[row],
// or a scale for each group of elements: scales[row * groups + g], transposed scales[g * rows + row].
//
// Rows are `stride_` elements apart. out may be x, and residual_out may be residual_in.
struct aiterlite_norm_args {
  const void* x;
  const void* weight;
  const void* residual_in;
  void* residual_out;
  void* out;
  float* scales;
  int64_t stride_x;
  int64_t stride_in;   // of residual_in
  int64_t stride_sum;  // of residual_out
  int64_t stride_out;
  int32_t rows;
  int32_t width;
  int32_t group;  // 0: not quantised; the width: a scale a row
  int32_t transposed;
  int32_t gemma;            // weights are one more than given
  int32_t model_sensitive;  // h / sqrt(...) is rounded before it is multiplied
  int32_t workgroups;       // that share the rows; norm/sm90_rows.hip alone
  float epsilon;
  float inverse_width;
};
