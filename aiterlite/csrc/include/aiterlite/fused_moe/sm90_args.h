// Arguments of the kernels of expert GEMMs on sm_90, shared by host and device units.
#pragma once
#include <aiterlite/fused_moe/args.h>
#include <aiterlite/tensor_map.h>

// Pairs are sorted, in blocks of `block_size` entries; an entry's number is its row of h.
struct aiterlite_sm90_moe_args {
  struct aiterlite_fused_moe_args moe;
  uint8_t* codes;       // [tokens, width]: x as stage 1 multiplies it
  float* code_scale;    // of token t and group g, at t * stride_scale_token + g * stride_scale_group
  float* partial;       // stage 1: two tiles of each workgroup, cut off before their last product
  int32_t workgroups;   // that stage 1 is cut for
  int32_t entry_pitch;  // of h_scale: [inter / 128][entry_pitch]
  uint32_t* arrived;    // counters of sm90_down_join.hip, which begin as zeros
  int32_t arrivals;     // words of those that are to be made zeros; 0: none
  int32_t reserved;
};

// With the weights of a kernel's stage as the copy engine sees them.
struct aiterlite_sm90_moe_gemm_args {
  aiterlite_tensor_map w_map;
  struct aiterlite_sm90_moe_args experts;
};
