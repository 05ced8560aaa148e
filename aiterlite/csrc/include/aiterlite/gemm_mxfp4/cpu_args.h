// Arguments of the CPU's GEMM of MXFP4 weights, which has one kernel for a kind of x and all else as numbers.
#pragma once
#include <aiterlite/gemm_mxfp4/args.h>

struct aiterlite_gemm_mxfp4_cpu_args {
  struct aiterlite_gemm_mxfp4_args gemm;
  int32_t w_shuffled;
  int32_t w_scale_shuffled;
  int32_t x_scale_shuffled;
  int32_t result;  // 0: bf16, 1: fp16, 2: float
};
