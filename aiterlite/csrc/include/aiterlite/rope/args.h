// Arguments of the kernels of rope and of the cache of latents, shared by host and device units so that one declaration
// fixes the layout.
#pragma once
#include <stdint.h>

// Two sides, q and k, of tokens and heads. A row of a side is a head of a token: `nope` elements that are copied and
// `rope` that are rotated, read from two places and written side by side: [nope, rope], or [rope, nope] where not
// nope_first. In place, nope is 0, and what is read is what is written.
//
// A token's position is positions[token], offsets[token] more where there are offsets, or, where there are no
// positions, its number (that of its outer dimension). With slots, a row of k goes to slots[token] of k_out, and a
// token whose slot is none of the cache (-1) writes nothing. Strides are in elements.
struct aiterlite_rope_args {
  const void* q_nope;
  const void* q_pe;
  void* q_out;
  const void* k_nope;
  const void* k_pe;
  void* k_out;
  const void* cos;
  const void* sin;
  const void* positions;
  const void* offsets;
  const void* slots;
  const float* q_scale;  // null: 1; codes are of x / scale
  const float* k_scale;
  void* q_pe_out;  // dense: the rotated part of the first `copied` tokens of q
  void* q_zeros;   // dense: zeros, as many as these have nope
  void* k_pe_out;  // dense: the rotated part of k
  int64_t q_nope_token;
  int64_t q_nope_head;
  int64_t q_pe_token;
  int64_t q_pe_head;
  int64_t q_out_token;
  int64_t q_out_head;
  int64_t q_in_inner;  // of the inner one of two dimensions of tokens
  int64_t q_out_inner;
  int64_t k_nope_token;
  int64_t k_nope_head;
  int64_t k_pe_token;
  int64_t k_pe_head;
  int64_t k_out_token;  // of a slot in its block
  int64_t k_out_head;
  int64_t k_in_inner;
  int64_t k_out_inner;
  int64_t k_block;
  int64_t cos_row;
  int64_t sin_row;
  int32_t q_tokens;
  int32_t k_tokens;
  int32_t q_heads;
  int32_t k_heads;
  int32_t inner;  // tokens are [outer, inner]
  int32_t table_rows;
  int32_t cache_slots;
  int32_t block_size;
  int32_t rotated;  // tokens of k whose rope is rotated; it is copied for others
  int32_t copied;
  int32_t q_groups;  // workgroups of q
  int32_t nope;
  int32_t rope;
  int32_t nope_first;
  int32_t neox;           // pairs are halves, else neighbours
  int32_t half_table;     // a row of cos has an element a pair, else one for each of its two
  int32_t position_bits;  // 0: no positions
  int32_t slot_bits;      // 0: no slots
  int32_t q_needs_slot;   // q of a token without a slot is left alone, too
  int32_t nearest;        // a position outside the table counts as the nearest inside, else nothing is rotated
  int32_t q_code;         // 0: the type of the input; 1: e4m3fn; 2: e4m3fnuz
  int32_t k_code;
};
