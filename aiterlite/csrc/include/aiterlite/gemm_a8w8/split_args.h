// Arguments of the GEMM of 8-bit floats that splits K over workgroups, and of the sum that follows.
#pragma once
#include <aiterlite/gemm_a8w8/args.h>

struct aiterlite_gemm_a8w8_split_args {
  struct aiterlite_gemm_a8w8_args gemm;
  float* partial;       // [split][batch][token][pitch], where there is more than one split
  int32_t splits;       // of K
  int32_t split_steps;  // steps of 128 k of one; the last ones may have fewer, and have one
  int32_t pitch;        // rows of weights, up to a whole tile
  int32_t reserved;
};
