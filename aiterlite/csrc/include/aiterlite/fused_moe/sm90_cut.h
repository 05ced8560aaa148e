// How the work of sm_90's expert GEMMs is cut, and what a thread has of it.
//
// A tile is a sorted block of kColumns entries by two boxes of 128 rows of weights. Its products come in steps of 128
// bytes of K. All steps of all tiles, in order, are cut into equal shares, one a workgroup, so that each streams as
// many bytes. Or tiles stay whole, where the last round of them leaves few workgroups idle: then neighbours are
// different workgroups' at the same time, so that two blocks of an expert read its weights from memory once.
#pragma once
#include <aiterlite/fused_moe/sm90_lists.h>
#include <aiterlite/numeric/types.h>

namespace aiterlite::experts {

inline constexpr uint32_t kRows = 128, kStepBytes = 128;
// Whether a warpgroup has 64 rows of one box, of four warpgroups, or of both, of two.
inline constexpr bool kSplit = AITERLITE_SPLIT;
inline constexpr uint32_t kMultipliers = kSplit ? 512 : 256, kSums = kColumns / 2;  // of a thread, of either box
inline constexpr bool kInterleaved = AITERLITE_INTERLEAVED;
// Whether a row's sum is scaled at its end, by a scale of its own (1) or of its tensor (2).
inline constexpr bool kRowScales = AITERLITE_ROW_SCALES, kTensorScales = AITERLITE_ROW_SCALES == 2;
inline constexpr bool kTiled = AITERLITE_TILED;  // h lies as stage 2 multiplies it (sm90_down_join.hip)
using Code = AITERLITE_CODE;                     // of weights, x and h
inline constexpr bool kIsFp8 = sizeof(Code) == 1;
inline constexpr uint32_t kStep = kStepBytes / sizeof(Code);

static_assert(kColumns == 8 || kColumns == 16 || kColumns == 24 || kColumns == 32 || kColumns == 48 || kColumns == 64,
              "AITERLITE_COLS must be 8, 16, 24, 32, 48 or 64");

// Part of a tile: `count` steps from `first` on.
struct Piece {
  uint32_t block, part, first, count;
  bool whole;
  uint32_t slot;  // where its partial sums go
};

struct Shares {
  uint32_t steps, parts, workgroups;  // steps of a tile, tiles of a block; that share
  uint32_t all, each, more;           // steps in all; of a share, one more of the first ones

  AITERLITE_DEVICE Shares(uint32_t steps, uint32_t parts, uint32_t blocks, uint32_t workgroups)
      : steps(steps), parts(parts), workgroups(workgroups), all(blocks * parts * steps) {
    each = all / workgroups;
    more = all - each * workgroups;
  }
  // The first step of a workgroup's share.
  AITERLITE_DEVICE uint32_t begin(uint32_t workgroup) const {
    return workgroup * each + (workgroup < more ? workgroup : more);
  }
  template <class Take>
  AITERLITE_DEVICE void for_each_piece(uint32_t workgroup, const Take& take) const {
    const uint32_t from = begin(workgroup), end = begin(workgroup + 1), tile = from / steps;
    uint32_t block = tile / parts, part = tile - block * parts, first = from - tile * steps;
#pragma unroll 1
    for (uint32_t at = from; at < end;) {
      const uint32_t count = end - at < steps - first ? end - at : steps - first;
      take(Piece{block, part, first, count, count == steps, 2 * workgroup + (at != from)});
      at += count;
      first = 0;
      if (++part == parts) {
        part = 0;
        ++block;
      }
    }
  }
};
struct WholeTiles {
  uint32_t steps, parts, workgroups, tiles;

  AITERLITE_DEVICE WholeTiles(uint32_t steps, uint32_t parts, uint32_t blocks, uint32_t workgroups)
      : steps(steps), parts(parts), workgroups(workgroups), tiles(blocks * parts) {}
  template <class Take>
  AITERLITE_DEVICE void for_each_piece(uint32_t workgroup, const Take& take) const {
#pragma unroll 1
    for (uint32_t tile = workgroup; tile < tiles; tile += workgroups) {
      const uint32_t block = tile / parts;
      take(Piece{block, tile - block * parts, 0, steps, true, 0});
    }
  }
};

// A thread of the two multiplying warpgroups, and what it has of a tile: rows row(0) and row(1), of either box of
// weights, columns column(j, 0) and column(j, 1) for each j < kColumns / 8, as fragment/sm90_wgmma.h has them.
struct Place {
  uint32_t thread, warp, lane;

  AITERLITE_DEVICE explicit Place(uint32_t thread)
      : thread(thread), warp(thread / kWaveSize), lane(thread % kWaveSize) {}
  AITERLITE_DEVICE uint32_t row(uint32_t i) const { return warp * 16 + lane / 4 + 8 * i; }
  AITERLITE_DEVICE uint32_t column(uint32_t j, uint32_t c) const { return 8 * j + lane % 4 * 2 + c; }
};
struct Tile {
  float first[kSums], second[kSums];
};

}  // namespace aiterlite::experts
