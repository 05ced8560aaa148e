// Where a CPU stores the scale byte of a row and a block: tile/mx_scale_tile.h, or by strides.
#pragma once
#include <stdint.h>

namespace aiterlite::cpu {

inline constexpr int64_t kScaleTileRows = 32, kScaleTileBlocks = 8, kScaleTileBytes = 256;
enum { kShuffledScales = 2 };  // layout of the argument structs

struct MxScalePlaces {
  bool shuffled;
  int64_t stride_row, stride_block;
  int64_t block_tiles;

  int64_t at(int64_t row, int64_t block) const {
    if (!shuffled) return row * stride_row + block * stride_block;
    const int64_t tile = row / kScaleTileRows * block_tiles + block / kScaleTileBlocks;
    const int64_t r = row % kScaleTileRows, b = block % kScaleTileBlocks;
    return tile * kScaleTileBytes + b % 4 * 64 + r % 16 * 4 + b / 4 * 2 + r / 16;
  }
};

}  // namespace aiterlite::cpu
