// Arguments of the sorting of MX scales by experts, shared by host and device units so that one declaration fixes the
// layout.
#pragma once
#include <stdint.h>

// Scale bytes of rows, `blocks` of each, at row_scales[row * stride_row + block * stride_block], in the order of the
// entries that moe_sorting makes, slot << 24 | token: row token * topk + slot, or, where topk is 1, row token. `scales`
// are whole tiles (tile/mx_scale_tile.h), `row_tiles` by `block_tiles`, of `entries` entries. In tiles of which an
// entry is in use, before num_valid_ids, what is of no token, no slot or no block is zero; others are not written.
struct aiterlite_mxfp4_sort_args {
  const void* row_scales;
  void* scales;
  const int32_t* sorted_ids;
  const int32_t* num_valid_ids;
  int64_t stride_row;
  int64_t stride_block;
  int32_t tokens;
  int32_t topk;
  int32_t entries;
  int32_t blocks;
  int32_t row_tiles;
  int32_t block_tiles;
  int32_t spans;  // of four tiles beside each other; numbers are divided by them
  int32_t reserved;
  uint32_t multiplier;
  int32_t shift;
};
