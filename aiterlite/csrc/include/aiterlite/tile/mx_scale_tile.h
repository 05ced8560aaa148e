// The order of MX scales that gfx950's matrix unit reads: tiles of 32 rows by 8 blocks, 256 bytes, all tiles of 32 rows
// one after the other. A lane's word of a tile holds rows r and r + 16 of blocks b and b + 4.
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite {

inline constexpr uint32_t kScaleTileRows = 32, kScaleTileBlocks = 8, kScaleTileBytes = 256;

// The byte of a row and a block of a tile.
AITERLITE_DEVICE uint32_t place_in_scale_tile(uint32_t row, uint32_t block) {
  return block % 4 * 64 + row % 16 * 4 + block / 4 * 2 + row / 16;
}

}  // namespace aiterlite
