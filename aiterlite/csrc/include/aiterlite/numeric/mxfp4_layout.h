// Where the scale of a block lies, on every target.
#pragma once
#include <stdint.h>

#if !defined(AITERLITE_DEVICE)
#define AITERLITE_MXFP4_LAYOUT inline
#else
#define AITERLITE_MXFP4_LAYOUT AITERLITE_DEVICE
#endif

namespace aiterlite {

inline constexpr uint32_t kMxBlock = 32;  // elements that share a scale

// Within a row of tiles of 32 rows by 8 blocks, shuffled: the scale of a row of these and of a block.
AITERLITE_MXFP4_LAYOUT uint32_t shuffled_scale_at(uint32_t row, uint32_t block) {
  return block / 8 * 256 + block % 4 * 64 + row % 16 * 4 + block % 8 / 4 * 2 + row % 32 / 16;
}

}  // namespace aiterlite
