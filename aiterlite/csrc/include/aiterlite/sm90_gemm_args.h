// Arguments of the skinny GEMM that sm_90's copy engine feeds, shared by host and device units.
#pragma once
#include <aiterlite/gemm_args.h>
#include <aiterlite/tensor_map.h>

// The maps of w and x stand before what the kernel itself reads and writes.
struct aiterlite_sm90_gemm_args {
  aiterlite_tensor_map w_map;
  aiterlite_tensor_map x_map;
  struct aiterlite_gemm_args gemm;
};
