// Arguments of the skinny GEMM that sm_90's copy engine feeds, shared by host and device units.
#pragma once
#include <aiterlite/gemm_args.h>

// Two CUtensorMap of the driver, over w and x, before what the kernel itself reads and writes.
struct aiterlite_sm90_gemm_args {
  struct alignas(64) {
    uint64_t opaque[16];
  } w_map, x_map;
  struct aiterlite_gemm_args gemm;
};
