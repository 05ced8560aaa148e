// Arguments of the quantisation to MXFP4, shared by host and device units so that one declaration fixes the layout.
#pragma once
#include <stdint.h>

// Rows of x, `stride_x` elements apart, as e2m1 codes in the dense `out`, two a byte, and a scale byte for each block
// of 32 elements: at scales[row * stride_row + block * stride_block]; or, shuffled, in whole tiles of 32 rows by 8
// blocks (tile/mx_scale_tile.h), `row_tiles` by `block_tiles` of them, whose padding becomes zero. `carry` and `least`
// say how a scale is chosen (numeric/mxfp4_encode.h).
//
// A row lies in parts of `part_blocks` blocks, `stride_part` elements apart. Where an activation is fused, a row of x
// holds as many gates, then as many ups, and what is quantised is act(gate) * up.
//
// Where num_rows is not null, only num_rows[0] * num_rows_factor rows are quantised. Of others nothing is read, and
// nothing is written but zeros in whole tiles.
struct aiterlite_mxfp4_quant_args {
  const void* x;
  void* out;
  void* scales;
  const int32_t* num_rows;
  int64_t stride_x;
  int64_t stride_part;
  int64_t stride_row;
  int64_t stride_block;
  int32_t rows;
  int32_t blocks;  // of a row
  int32_t part_blocks;
  int32_t num_rows_factor;
  int32_t row_tiles;
  int32_t block_tiles;
  uint32_t carry;
  uint32_t least;
  int32_t layout;      // 0 rows, 1 columns, 2 shuffled
  int32_t activation;  // -1 none, 0 silu, 1 gelu, 2 gelu_tanh
  uint32_t multiplier;
  int32_t shift;
};
