// Where the 16-byte vectors of a weight matrix lie: rows one after the other, or shuffled, in pieces of 16 rows by 16
// bytes (of 8 bits [N/16, K/32, 2, 16 rows, 16], of 16 bits [N/16, K/32, 4, 16 rows, 8]), which is one layout in bytes.
// A wave that reads vector v of 16 rows then reads 256 bytes in order.
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite::fused_moe {

template <bool kShuffled>
struct WeightLayout {
  static constexpr uint32_t kVectorStride = kShuffled ? 256 : 16;

  AITERLITE_DEVICE static uint32_t row(uint32_t row, uint32_t row_bytes) {
    return kShuffled ? row / 16 * 16 * row_bytes + row % 16 * 16 : row * row_bytes;
  }
};

// How products of 128 k become sums.
inline constexpr int kUnscaled = 0;      // as they are
inline constexpr int kRowScales = 1;     // x has a scale a group of 128, a weight row one, which the end multiplies by
inline constexpr int kBlockScales = 2;   // x has a scale a group of 128, weights one a block of 128 x 128
inline constexpr int kTensorScales = 3;  // as of rows, but an expert's w2 has one, and its w1 one, or gate's and up's

}  // namespace aiterlite::fused_moe
