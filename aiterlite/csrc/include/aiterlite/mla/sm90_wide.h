// How mla/sm90_decode_wide.hip cuts its work: what its groups of warps have of a piece, and what lies in shared memory.
#pragma once
#include <aiterlite/mla/sm90_boxes.h>
#include <aiterlite/tile/sm90_barrier.h>

namespace aiterlite::mla::wide {

inline constexpr uint32_t kRows = kGroupRows, kTokens = kTileTokens, kStages = 2;
inline constexpr uint32_t kCopyWarps = kSlabs, kCopyThreads = kCopyWarps * kWaveSize,
                          kThreads = kMultipliers + kCopyThreads;
inline constexpr uint32_t kBoxes = kKeyDim / 64, kOwnBoxes = kValueDim / 64 / kGroups;
inline constexpr uint32_t kScores = kTokens / 2;
// A product of all 256 columns of a group would need more registers than the compiler counts on.
inline constexpr uint32_t kHalves = 2, kValues = kOwnBoxes / kHalves * 32;
// What of a tile is copied, and given back, as one: half of a group's values, of the groups in turn; and the rest.
inline constexpr uint32_t kHalfBoxes = kOwnBoxes / kHalves, kParts = kGroups * kHalves + 1;
AITERLITE_DEVICE constexpr uint32_t panels_of(uint32_t part) {
  return part + 1 < kParts ? kHalfBoxes : kBoxes % kHalfBoxes;
}
// Part i of a stage's tile in the order in which parts are given back: the group that makes the tile's weights, which
// is numbered as the stage is, keeps its values for longest.
AITERLITE_DEVICE constexpr uint32_t part_of(uint32_t stage, uint32_t i) {
  if (i + 1 == kParts) return i;
  return i / kHalves == 0 ? 1 - stage + kGroups * i : stage + kGroups * (i - kHalves);
}
// Of a stage's tile: the first and the second part of the weights are there; the other group has asked for its next
// scores.
inline constexpr uint32_t kWeightsBarrier = kGroupBarrier + kGroups, kLowBarrier = kWeightsBarrier + kStages,
                          kTurnBarrier = kLowBarrier + kStages;

// 64 rows of 64 elements; 16-byte chunks of a row are permuted by its number.
struct alignas(1024) Box {
  char bytes[64 * 128];

  AITERLITE_DEVICE char* at(uint32_t row, uint32_t chunk) { return bytes + row * 128 + (chunk ^ (row & 7)) * 16; }
  template <class Element>
  AITERLITE_DEVICE const Element& element(uint32_t row, uint32_t column) const {
    return reinterpret_cast<const Element*>(bytes + row * 128 + (column / 8 ^ (row & 7)) * 16)[column % 8];
  }
};
struct Shared {
  Box kv[kStages][kBoxes];
  Box q[kBoxes];
  Box low;  // of each stage a half of every row
  Barrier full[kStages][kParts];
  Barrier empty[kStages][kParts];
  Vector16 exist[kStages];         // four rows a byte
  float relative[kStages][kRows];  // of a tile's weights
  Vector8 which[kStages][kGroupWaves][kWaveSize / 2];
  float of_group[kGroups][kRows];
  Destination destination[kRows];
  int32_t seen[kRows];  // tokens of the piece

  // The weights of a stage's tile lie where the last elements of its keys were, which nobody needs when there are
  // scores.
  AITERLITE_DEVICE Box& weights(uint32_t stage) { return kv[stage][kBoxes - 1]; }
  // Box `box` of a group's values.
  AITERLITE_DEVICE Box& value(uint32_t stage, uint32_t group, uint32_t box) {
    return kv[stage][(box / kHalfBoxes * kGroups + group) * kHalfBoxes + box % kHalfBoxes];
  }
};
static_assert(sizeof(Box) == Sm90Boxes<bf16>::kPanelBytes, "a box is a panel of the copy engine's boxes");

struct WidePlace {
  uint32_t group, warp, lane;

  // Of the two rows that a thread has.
  AITERLITE_DEVICE uint32_t row(uint32_t i) const { return warp * 16 + lane / 4 + 8 * i; }
  // Score k is of row(k / 2 % 2) and of this token of a tile.
  AITERLITE_DEVICE uint32_t token(uint32_t k) const { return k / 4 * 8 + lane % 4 * 2 + k % 2; }
};

// What a thread has of its two rows: sums of weighted values, its part of the sums of its group's weights, what both
// are relative to.
struct State {
  float values[kHalves][kValues];
  float weights[2], relative[2];
};

}  // namespace aiterlite::mla::wide
