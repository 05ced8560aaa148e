// Arguments of the GEMM of MXFP4 weights that splits K over workgroups, and of the sum that follows.
#pragma once
#include <aiterlite/gemm_mxfp4/args.h>

// Of codes.hip, `partial` begins with so many counters, which are zero whenever no launch runs on it.
#define AITERLITE_MXFP4_COUNTERS 4096

struct aiterlite_gemm_mxfp4_split_args {
  struct aiterlite_gemm_mxfp4_args gemm;
  float* partial;       // [split][batch][token][pitch], where there is more than one split
  int32_t splits;       // of K
  int32_t split_steps;  // steps of 128 k of one; the last ones may have fewer, and have one
  int32_t pitch;        // rows of weights, up to a whole tile
  int32_t unused;
};
