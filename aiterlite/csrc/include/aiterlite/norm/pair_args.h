// Arguments of the kernels that normalise two tensors, shared by host and device units so that one declaration fixes
// the layout.
#pragma once
#include <stdint.h>

// As norm/args.h has rows of x: `out` holds the norm, `codes` and `scales` the same quantised; each may be null. Rows
// of the second tensor, where there is one, are normalised into second_out; workgroups from `first_grid` on are theirs.
//
// Rows are `stride_` elements apart.
struct aiterlite_norm_pair_args {
  const void* x;
  const void* weight;
  const void* residual_in;  // null: there is none
  void* residual_out;
  void* out;
  void* codes;
  float* scales;
  const void* second_x;  // null: there is none
  const void* second_weight;
  void* second_out;
  int64_t stride_x;
  int64_t stride_in;   // of residual_in
  int64_t stride_sum;  // of residual_out
  int64_t stride_out;
  int64_t stride_codes;
  int64_t second_stride_x;
  int64_t second_stride_out;
  int32_t rows;
  int32_t width;
  int32_t group;  // 0: not quantised; the width: a scale a row
  int32_t transposed;
  int32_t gemma;  // weights are one more than given
  int32_t second_width;
  int32_t first_grid;
  float epsilon;
  float inverse_width;
  float second_epsilon;
  float second_inverse_width;
  int32_t reserved;
};
