// Arguments of RMSNorm with results of MXFP4, shared by host and device units so that one declaration fixes the layout.
#pragma once
#include <stdint.h>

// Rows of h, and their norms, as norm/args.h has them; norms, rounded, become e2m1 codes in the dense `out` and scale
// bytes as mxfp4/quant_args.h has them, and, where `plain` is not null, are written to it too.
//
// `scale_rows` rows of `scale_blocks` blocks have scales: shuffled more than there are, and those become zero.
struct aiterlite_mxfp4_norm_args {
  const void* x;
  const void* weight;
  const void* residual_in;
  void* residual_out;
  void* plain;
  void* out;
  void* scales;
  int64_t stride_x;
  int64_t stride_in;   // of residual_in
  int64_t stride_sum;  // of residual_out
  int64_t stride_plain;
  int64_t stride_row;
  int64_t stride_block;
  int32_t rows;
  int32_t width;
  int32_t scale_rows;
  int32_t scale_blocks;
  uint32_t carry;
  uint32_t least;
  int32_t layout;  // 0 rows, 1 columns, 2 shuffled
  float epsilon;
  float inverse_width;
  int32_t reserved;
};
