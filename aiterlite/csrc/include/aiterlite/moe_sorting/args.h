// Arguments of the kernels of the sorting of tokens by experts, shared by host and device units so that one declaration
// fixes both. What the tensors are is in ops/moe_sorting.py.
#pragma once
#include <stdint.h>

// A pair is a token and one of its slots; pairs are numbered token by token. What may be null is not asked for: weights
// (both), expert_mask, num_local_tokens, token_nums, local_topk_ids, moe_buf.
struct aiterlite_moe_sorting_args {
  const void* topk_ids;
  const float* topk_weights;
  const int32_t* expert_mask;
  const int32_t* num_local_tokens;
  int32_t* sorted_ids;
  float* sorted_weights;
  int32_t* sorted_expert_ids;
  int32_t* num_valid_ids;
  int32_t* token_nums;
  int32_t* local_topk_ids;
  void* moe_buf;
  uint16_t* counts;  // workspace: of each tile, pairs of each expert
  int32_t* ranks;    // workspace: of each pair, those of its expert before it in its tile
  int64_t moe_buf_bytes;
  int64_t stride_ids;  // from token to token
  int64_t stride_weights;
  int32_t tokens;
  int32_t topk;
  int32_t experts;
  int32_t block_size;
  int32_t id_words;     // 1: topk_ids are int32; 2: int64
  int32_t padding;      // the entry that fills blocks
  int32_t valid_words;  // that num_valid_ids has: 1 or 2
  int32_t steps;        // pairs of each lane of a workgroup that sorts
  int32_t tiles;        // workgroups that sort; further ones, up to `groups` in all, clear moe_buf
  int32_t groups;
  int32_t local_experts;  // of those that count, so many: further ones, which a mask may name, do not
  int32_t reserved;
};

// Of each token, the sum over its slots in their order.
struct aiterlite_moe_sum_args {
  const void* input;
  void* output;
  int64_t stride_token;
  int64_t stride_slot;
  int64_t stride_out;
  int32_t tokens;
  int32_t topk;
  int32_t width;
  int32_t reserved;
};
