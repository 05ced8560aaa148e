// Arguments of the routing kernels, shared by host and device units so that one declaration fixes the layout.
#pragma once
#include <stdint.h>

// Chooses `topk` of the experts of each of gating[tokens, experts], and gives each a weight.
//
// Strides are those of rows, in elements; rows are dense. Null where absent: bias [experts], token_expert_indices.
// Columns of weights and ids behind `topk` are written only for shared experts: `shared_scored` says that there are
// logits of theirs behind those of a row's experts, whose sigmoids become weights; else they become ids from `experts`
// on, of weight 1. GPU kernels are compiled for the fields from `experts` on, and do not read these.
struct aiterlite_routing_args {
  const void* gating;
  const void* bias;
  float* weights;
  int32_t* ids;
  int32_t* token_expert_indices;
  int64_t stride_gating;
  int64_t stride_weights;
  int64_t stride_ids;
  int64_t stride_indices;
  float scale;
  int32_t tokens;
  int32_t experts;
  int32_t topk;
  int32_t groups;
  int32_t topk_groups;
  int32_t softmax;    // scores are the row's softmax; else sigmoids
  int32_t renorm;     // weights are divided by their sum
  int32_t bias_fp32;  // else bias is of gating's type
  int32_t shared;
  int32_t shared_scored;
  int32_t reserved;
};
