// Arguments of the GEMM of 8-bit floats that sm_90's copy engine feeds, shared by host and device units.
#pragma once
#include <aiterlite/gemm_a8w8/args.h>
#include <aiterlite/tensor_map.h>

// The maps of w and x stand before what the kernel itself reads and writes.
struct aiterlite_sm90_gemm_a8w8_args {
  aiterlite_tensor_map w_map;
  aiterlite_tensor_map x_map;
  struct aiterlite_gemm_a8w8_args gemm;
};
