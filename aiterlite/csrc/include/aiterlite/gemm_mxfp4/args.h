// Arguments of the GEMM of MXFP4 weights, shared by host and device units so that one declaration fixes the layout.
// What the tensors are is in ops/gemm_mxfp4.py.
#pragma once
#include <stdint.h>

// y[b, n, m] = alpha * sum_k x[b, n, k] * w[b, m, k] + beta * bias[n, m]. w is e2m1, two a byte, with a scale (e8m0)
// for 32 k of a row; x is that too, or 16 bits without scales. Strides are in elements of what a tensor holds, bytes of
// packed ones, and the dimension that has none is dense. Shuffled scales are one matrix of tiles of 32 rows by 8
// blocks; their stride is from one row of tiles to the next.
struct aiterlite_gemm_mxfp4_args {
  const void* x;
  const void* w;     // rows of k, or shuffled, (16, 16)
  const void* bias;  // of y's type, or float, or null
  void* y;
  const void* x_scale;  // or null
  const void* w_scale;
  int64_t stride_x;  // from token to token
  int64_t stride_x_batch;
  int64_t stride_w;  // from row to row
  int64_t stride_w_batch;
  int64_t stride_bias;  // from token to token; 0 where all have one
  int64_t stride_y;     // from token to token
  int64_t stride_y_batch;
  int64_t stride_x_scale;        // from token to token, or to the next 32
  int64_t stride_x_scale_block;  // from 32 k to the next; not of shuffled ones
  int64_t stride_x_scale_batch;
  int64_t stride_w_scale;
  int64_t stride_w_scale_block;
  int64_t stride_w_scale_batch;
  int32_t n;
  int32_t m;
  int32_t k;
  int32_t batch;
  int32_t bias_is_float;
  float alpha;
  float beta;
  int32_t reserved;
};
