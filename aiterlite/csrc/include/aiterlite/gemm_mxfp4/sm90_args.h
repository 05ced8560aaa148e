// Arguments of the GEMM of MXFP4 weights that sm_90's copy engine feeds, shared by host and device units.
#pragma once
#include <aiterlite/gemm_mxfp4/args.h>
#include <aiterlite/tensor_map.h>

// The map of w stands before what the kernel itself reads and writes.
struct aiterlite_sm90_gemm_mxfp4_args {
  aiterlite_tensor_map w_map;
  struct aiterlite_gemm_mxfp4_args gemm;
};
