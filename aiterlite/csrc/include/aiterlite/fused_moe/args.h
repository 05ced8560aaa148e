// Arguments of the expert GEMMs of a mixture of experts, shared by host and device units so that one declaration fixes
// both. What the tensors are is in ops/fused_moe.py.
//
// Stage 1: of each pair of a token and one of its slots, h = act(x w1_gate^T) * (x w1_up^T), by the slot's expert.
// Stage 2: out[token] = sum over its slots of weight * h w2^T.
// Biases are added to products before the activation, and before the weight of the result; behind a weight on x.
#pragma once
#include <stdint.h>

// Weights of MXFP4 are two codes a byte, with a scale byte (e8m0) for 32 elements of a row, [experts * rows, columns /
// 32] or, beside shuffled weights, in tiles of 32 rows by 8 blocks (numeric/mxfp4_layout.h). So are x, where it comes
// quantised, and h; their scales lie in rows, whose strides are in bytes.
//
// What may be null is not there: scales (operands that have none), expert_mask, num_local_tokens, what the sorting
// makes (kernels that go by topk_ids), and the buffers that a kernel does not use.
struct aiterlite_fused_moe_args {
  const void* x;               // [tokens, width], as stage 1 multiplies it
  const float* x_scale;        // of token t and group g, at t * stride_scale_token + g * stride_scale_group
  const void* w1;              // [experts, 2 * inter, width]
  const float* w1_scale;       // [experts, 2 * inter / 128, width / 128], [experts, 2 * inter], [experts, w1_scales]
  const void* w2;              // [experts, width, inter]
  const float* w2_scale;       // [experts, width / 128, inter / 128], [experts, width], [experts]
  const void* topk_ids;        // [tokens, topk], of `id_words` words
  const float* topk_weights;   // [tokens, topk]
  const int32_t* expert_mask;  // [global_experts]: 1 for those whose weights are here, in their order
  const int32_t* num_local_tokens;
  const int32_t* sorted_ids;  // slot << 24 | token; padding has token == tokens (moe_sorting)
  const float* sorted_weights;
  const int32_t* sorted_expert_ids;
  const int32_t* num_valid_ids;
  const int32_t* local_topk_ids;  // [tokens, topk]: the number of the expert here, below 0 where there is none
  void* h;                        // between the stages
  float* h_scale;
  void* slots;  // [tokens, topk, width]: what stage 2 makes of each pair: where a sum follows, or the result itself
  void* out;    // [tokens, width], or [tokens, topk, width], whose rows lie one behind the other
  int64_t stride_x;  // from token to token, in elements
  int64_t stride_out;
  int64_t stride_ids;
  int64_t stride_weights;
  int64_t stride_scale_token;
  int64_t stride_scale_group;
  int32_t tokens;
  int32_t topk;
  int32_t experts;         // whose weights are here
  int32_t global_experts;  // that topk_ids may name
  int32_t id_words;        // 1: topk_ids are int32; 2: int64
  int32_t width;
  int32_t inter;
  int32_t block_size;      // entries of a sorted block
  int32_t gate_step;       // gate row i of w1 is row i * gate_step of its expert
  int32_t up_offset;       // and up row i that many rows after it
  float limit;             // swiglu: gate at most this, up within it; infinity for none
  float beta;              // swiglu: gate * sigmoid(beta * gate)
  float linear_beta;       // swiglu: times (up + linear_beta)
  int32_t sorted_entries;  // of sorted buffers that a call brings: what num_valid_ids says beyond is not there
  const float* bias1;      // [experts, 2 * inter], by rows of w1 as they lie; null where there is none
  const float* bias2;      // [experts, width]
  int32_t w1_scales;       // of scales of tensors: 1, or 2, gate's and up's
};

// The same for the CPU's kernel, which has one symbol for a type of elements and of weights, and all else as numbers.
// Its pairs are those of sorted_ids, where that is not null, and its sums go onto what `out` holds, where `add` is set.
struct aiterlite_fused_moe_cpu_args {
  struct aiterlite_fused_moe_args call;
  int32_t activation;  // 0 silu, 1 gelu, 2 swiglu
  int32_t quant;       // scales of weights: 0 none, 1 one a row, 2 one a block of 128 x 128, 3 MXFP4's, 4 one a tensor
  int32_t shuffled;    // weights lie as shuffle_weight puts them, (16, 16)
  int32_t weighted_input;  // the routing weight goes on x, not on the result
  int32_t quantised;  // x is of the weights' code, with x_scale for each 128 elements of a token (strides may be 0),
                      // or 32 of MXFP4 (of e4m3fn where h becomes MXFP8)
  int32_t add;
  int32_t rounded;   // MXFP4: x, where it is not quantised, and h become MXFP4 (1) or MXFP8 (2) too
  int32_t by_slots;  // out has a row a slot
};
