// Arguments of the CPU's GEMM of 8-bit floats, which has one kernel for a pair of types and all else as numbers.
#pragma once
#include <aiterlite/gemm_a8w8/args.h>

struct aiterlite_gemm_a8w8_cpu_args {
  struct aiterlite_gemm_a8w8_args gemm;
  int32_t x_groups;  // x has a scale for 128 k of a token, not for a token
  int32_t w_blocks;  // w has one for a block of 128 x 128, not for a row
  int32_t shuffled;
  int32_t quantise;  // x is of y's type, and has no scales yet
};
