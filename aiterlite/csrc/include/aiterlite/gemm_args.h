// Arguments of the skinny-GEMM kernels, shared by host and device units so that one declaration fixes the layout.
#pragma once
#include <stdint.h>

// y[n, m] = sum_k x[n, k] * weight[m, k] + bias. Strides are in elements, between rows; the last dimension is dense.
// bias is null, or row n of it starts at bias + n * stride_bias (0 broadcasts one row).
struct aiterlite_gemm_args {
  const void* x;
  const void* weight;
  const void* bias;
  void* y;
  int64_t stride_x;
  int64_t stride_w;
  int64_t stride_bias;
  int64_t stride_y;
  int32_t n;
  int32_t m;
  int32_t k;
  int32_t reserved;  // keeps the size a multiple of 8 on every compiler; always 0
};

// `batch` such products; the operands of the next one begin stride_*_batch elements on.
struct aiterlite_batched_gemm_args {
  struct aiterlite_gemm_args first;
  int64_t stride_x_batch;
  int64_t stride_w_batch;
  int64_t stride_bias_batch;
  int64_t stride_y_batch;
  int64_t batch;
};

// y[n, m] = (sum_k x[n, k] * weight[m, k]) * scale_x[n] * scale_w[m] + bias, x and weight of 8-bit floats. scale_x is
// one float for each row of x, stride_scale_x elements apart (0: one for all); scale_w is the same of weight.
struct aiterlite_scaled_gemm_args {
  const void* x;
  const void* weight;
  const void* bias;
  void* y;
  const void* scale_x;
  const void* scale_w;
  int64_t stride_x;
  int64_t stride_w;
  int64_t stride_bias;
  int64_t stride_y;
  int64_t stride_scale_w;
  int32_t n;
  int32_t m;
  int32_t k;
  int32_t reserved;  // as above
  int64_t stride_scale_x;
};
