// Arguments of the GEMM of 8-bit floats with scales, shared by host and device units so that one declaration fixes the
// layout. What the tensors are is in ops/gemm_a8w8.py.
#pragma once
#include <stdint.h>

// y[b, n, m] = sum_k x[b, n, k] * w[b, m, k], scaled, + bias[b, m]. Strides are in elements, and the dimension that has
// none is dense. A scale of w is that of a block of 128 rows and 128 k, or that of a row; one of x that of 128 k of a
// token, or that of a token.
struct aiterlite_gemm_a8w8_args {
  const void* x;
  const void* w;     // rows of k, or shuffled, (16, 16)
  const void* bias;  // of y's type, or null
  void* y;
  const float* x_scale;
  const float* w_scale;
  int64_t stride_x;  // from token to token
  int64_t stride_x_batch;
  int64_t stride_w;  // from row to row
  int64_t stride_w_batch;
  int64_t stride_bias_batch;
  int64_t stride_y;  // from token to token
  int64_t stride_y_batch;
  int64_t stride_x_scale;        // from token to token
  int64_t stride_x_scale_group;  // from 128 k to the next; 0 where a token has one
  int64_t stride_x_scale_batch;
  int64_t stride_w_scale;  // from block of rows, or row, to the next
  int64_t stride_w_scale_batch;
  int32_t n;
  int32_t m;
  int32_t k;
  int32_t batch;
};
