// A panel of 16 rows of an MXFP4 matrix times the tokens of an expert, in the tiles of cpu/mxfp4_tile.h.
//
// Traffic: codes and scales once for each kMxTokens tokens, from memory the first time; shuffled codes are put in rows
// first, 16 rows a strip. Order: strips of 4096 elements one after the other; the bits of a row times a token depend on
// these two only.
#pragma once
#include <aiterlite/cpu/mxfp4_tile.h>
#include <string.h>

namespace aiterlite::cpu {

constexpr int64_t kMxPanelRows = 16, kMxPanelTokens = 32;

// Of an expert, `k` columns. Scales are one matrix of all experts, `first_row` the expert's first in it.
struct MxMatrix {
  const uint8_t* codes;
  const uint8_t* scales;
  int64_t k;
  int64_t first_row;
  bool shuffled;

  static int64_t steps(int64_t k) { return (k + kMxStep - 1) / kMxStep; }
  ScaleRow scale_row(int64_t row) const {
    const int64_t blocks = k / 32, tiles = (blocks + 7) / 8 * 256;
    return ScaleRow::of(scales, first_row + row, shuffled ? tiles : blocks, 1, shuffled);
  }
  // `count` codes of a row from a step on, zeros up to whole steps; `held` where they do not lie so.
  const uint8_t* row(uint8_t* held, int64_t row, int64_t step, int64_t steps) const {
    const int64_t from = step * kMxStep / 2, room = steps * kMxStep / 2, left = k / 2 - from;
    const int64_t bytes = left < room ? left : room;
    if (!shuffled) {
      const uint8_t* at = codes + row * (k / 2) + from;
      if (bytes == room) return at;
      memcpy(held, at, bytes);
    } else {
      const uint8_t* at = codes + row / 16 * 16 * (k / 2) + row % 16 * 16;
      for (int64_t i = 0; i < bytes; i += 16) memcpy(held + i, at + (from + i) * 16, 16);
    }
    memset(held + bytes, 0, room - bytes);
    return held;
  }
};

// Element i of a step among the numbers that tiles read.
template <class Arithmetic>
int64_t mx_place(int64_t i) {
  constexpr int64_t kUnit = Arithmetic::kUnit;
  return i / kUnit * kUnit + Arithmetic::place(i % kUnit);
}

// sums[t][r] = row first + r times token t; `rows` of 16 exist, and the others are not written.
template <class Arithmetic>
void mxfp4_panel(const MxMatrix& matrix, int64_t first, int64_t rows, const typename Arithmetic::Number* const* x,
                 int64_t count, float (*sums)[kMxPanelRows]) {
  constexpr int kTiles = kMxPanelRows / kMxRows;
  constexpr int64_t kAhead = 1024;
  const int64_t steps = MxMatrix::steps(matrix.k);
  alignas(64) f32v lanes[kMxPanelTokens][kMxPanelRows];
  memset(lanes, 0, count * sizeof(lanes[0]));
  alignas(64) uint8_t held[kMxRows][kMxStripSteps * kMxStep / 2];
  alignas(64) float scale[kMxRows][kMxStripSteps * kMxStep / 32];
  // A tile takes one row of each quarter, so that the next tile goes on where this one ends.
  const auto row_of = [&](int tile, int r) {
    const int64_t row = r * kTiles + tile;
    return row < rows ? row : rows - 1;
  };
  for (int tile = 0; tile < kTiles; ++tile) {
    for (int64_t step = 0; step < steps; step += kMxStripSteps) {
      const int64_t strip = steps - step < kMxStripSteps ? steps - step : kMxStripSteps;
      const int64_t block = step * kMxStep / 32, room = strip * kMxStep / 32, left = matrix.k / 32 - block;
      const uint8_t* w[kMxRows];
      const float* by[kMxRows];
      for (int r = 0; r < kMxRows; ++r) {
        const int64_t row = first + row_of(tile, r);
        matrix.scale_row(row).read(scale[r], block, left < room ? left : room, room);
        w[r] = matrix.row(held[r], row, step, strip);
        by[r] = scale[r];
      }
      for (int64_t t = 0; t < count; t += kMxTokens) {
        const int here = static_cast<int>(count - t < kMxTokens ? count - t : kMxTokens);
        const typename Arithmetic::Number* tokens[kMxTokens];
        for (int i = 0; i < here; ++i) tokens[i] = x[t + i] + step * kMxStep;
        mxfp4_tile<Arithmetic>(here, w, by, tokens, strip, t == 0 ? kAhead : 0, lanes[t] + tile * kMxRows,
                               kMxPanelRows);
      }
    }
  }
  for (int64_t t = 0; t < count; ++t) {
    for (int tile = 0; tile < kTiles; ++tile) {
      const f32v* of = lanes[t] + tile * kMxRows;
      const f32q four = sum_lanes(of[0], of[1], of[2], of[3]);
      for (int r = 0; r < kMxRows; ++r) {
        if (r * kTiles + tile < rows) sums[t][r * kTiles + tile] = four[r];
      }
    }
  }
}

}  // namespace aiterlite::cpu
