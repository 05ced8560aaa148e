// A sorted block of tokens times rows of its expert's weights, by a workgroup of four waves on AMD: what both stages of
// the two-stage path share.
//
// Tiling. Rows of weights are rows of 16 x 16 matrix products and tokens their columns, so that a lane holds four
// neighbouring features of one token (fragment/mfma.h). A wave has kRowTiles tiles of rows and all tokens. K runs in
// steps of 128 bytes of a row, which of 8 bits is a scale's group.
//
// Traffic. Weights: once a workgroup, 16 bytes a lane, straight to the registers of the wave that multiplies them; a
// step's are on their way while the step before is multiplied. Tokens: through registers to LDS, two steps of them, 16
// bytes a thread, since all waves read them; one barrier a step. Scales of a step: one a lane and token, and the
// weights' the same in all lanes.
//
// Order: the products of a step, times its scales, are added to float sums step by step. Rows that do not exist (the
// padding of a block) are the caller's to replace by one that does: a column of a product sees no other one.
#pragma once
#include <aiterlite/fragment/mfma.h>
#include <aiterlite/fused_moe/weights.h>
#include <aiterlite/tile/layout.h>
#include <aiterlite/vector.h>

namespace aiterlite::fused_moe {

template <class Element, uint32_t kRowTiles, uint32_t kTokenTiles, bool kShuffled, int kScales, uint32_t kRowScaleCount>
struct BlockProduct {
  static constexpr uint32_t kWaves = 4, kThreads = kWaves * kWaveSize, kTokens = 16 * kTokenTiles;
  static constexpr uint32_t kStepBytes = 128, kStepVectors = kStepBytes / 16;
  static constexpr uint32_t kFills = kTokens * kStepVectors > kThreads ? kTokens * kStepVectors / kThreads : 1;
  static constexpr bool kFillsAll = kTokens * kStepVectors >= kThreads;
  static_assert(kScales == kUnscaled || sizeof(Element) == 1, "BlockProduct: a step is a scale's group of 8-bit k");

  using Layout = WeightLayout<kShuffled>;
  using Tile = Swizzled<kTokens, kStepBytes>;
  using Tiles = Vector16[2][Tile::kBytes / 16];
  using Sums = float[kRowTiles][kTokenTiles][4];
  // Weights that no other block reads should not displace tokens from the caches.
  static constexpr Reuse kReuse = kTokenTiles == 1 ? Reuse::kNone : Reuse::kLikely;

  const char* weights;         // the expert's; the same in all lanes
  uint32_t row[kRowTiles];     // where this lane's row of each tile begins
  const char* tokens[kFills];  // the rows that this thread brings to LDS
  const float* token_scale[kTokenTiles];
  int64_t token_scale_step;
  const float* row_scale[kRowScaleCount];  // of tile t: t % kRowScaleCount; the same in all lanes

  // Which row of the block this thread brings.
  AITERLITE_DEVICE static uint32_t fill_row(uint32_t fill) {
    return (fill * kThreads + thread_id()) / kStepVectors % kTokens;
  }

  AITERLITE_DEVICE void run(Sums& sums, uint32_t steps, Tiles& tiles) const {
    Vector16 filling[kFills];
    Step even, odd;
    load_tokens(0, filling);
    load(0, even);
    store_tokens(tiles[0], filling);
    workgroup_barrier();
    uint32_t step = 0;
    // Two steps a turn, since a step that moved to other registers would have to arrive for that.
#pragma unroll 1
    for (; step + 2 < steps; step += 2) {
      advance(sums, even, tiles[0], step + 1, odd, tiles[1]);
      advance(sums, odd, tiles[1], step + 2, even, tiles[0]);
    }
    if (step + 1 < steps) {
      advance(sums, even, tiles[0], step + 1, odd, tiles[1]);
      add(sums, odd, tiles[1]);
    } else {
      add(sums, even, tiles[0]);
    }
  }

 private:
  struct Step {
    Vector16 weights[kRowTiles][2];
    float token_scale[kTokenTiles];
    float row_scale[kRowScaleCount];
  };

  // Adds a step while the next one is on its way.
  AITERLITE_DEVICE void advance(Sums& sums, const Step& now, const void* tile, uint32_t after, Step& next,
                                void* next_tile) const {
    Vector16 filling[kFills];
    load_tokens(after, filling);
    load(after, next);
    schedule_barrier();
    add(sums, now, tile);
    store_tokens(next_tile, filling);
    workgroup_barrier();
  }

  AITERLITE_DEVICE void load_tokens(uint32_t step, Vector16 (&held)[kFills]) const {
    if (!kFillsAll && thread_id() >= kTokens * kStepVectors) return;
#pragma unroll
    for (uint32_t fill = 0; fill < kFills; ++fill) {
      held[fill] =
          load_row_vector<Reuse::kLikely>(tokens[fill] + uint64_t{step} * kStepBytes + thread_id() % kStepVectors * 16);
    }
  }
  AITERLITE_DEVICE static void store_tokens(void* tile, const Vector16 (&held)[kFills]) {
    if (!kFillsAll && thread_id() >= kTokens * kStepVectors) return;
#pragma unroll
    for (uint32_t fill = 0; fill < kFills; ++fill) {
      const uint32_t at = Tile::at(fill_row(fill), thread_id() % kStepVectors * 16);
      store_shared_16(static_cast<char*>(tile) + at, held[fill]);
    }
  }

  AITERLITE_DEVICE void load(uint32_t step, Step& held) const {
    if constexpr (kScales != kUnscaled) {
#pragma unroll
      for (uint32_t c = 0; c < kTokenTiles; ++c) {
        held.token_scale[c] = load_f32(token_scale[c] + int64_t{step} * token_scale_step);
      }
    }
    if constexpr (kScales == kBlockScales) {
#pragma unroll
      for (uint32_t r = 0; r < kRowScaleCount; ++r) held.row_scale[r] = load_f32(row_scale[r] + step);
    }
    const char* from = weights + uint64_t{step} * kStepVectors * Layout::kVectorStride;
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (uint32_t j = 0; j < 2; ++j) {
        const uint32_t vector = lane_id() / 16 + 4 * j;
        held.weights[t][j] = load_row_vector<kReuse>(from + row[t] + vector * Layout::kVectorStride);
      }
    }
  }

  AITERLITE_DEVICE static void add(Sums& sums, const Step& step, const void* tile) {
    Vector16 w[kRowTiles][2];
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (uint32_t j = 0; j < 2; ++j) w[t][j] = opaque(step.weights[t][j]);
    }
    Held x = load_held(tile, 0);
#pragma unroll
    for (uint32_t c = 0; c < kTokenTiles; ++c) {
      Held after = x;
      if (c + 1 < kTokenTiles) after = load_held(tile, c + 1);
#pragma unroll
      for (uint32_t t = 0; t < kRowTiles; ++t) {
        if constexpr (kScales == kUnscaled) {
          multiply(Element{}, sums[t][c], w[t][0], x.part[0]);
          multiply(Element{}, sums[t][c], w[t][1], x.part[1]);
        } else {
          float product[4] = {};
          multiply_group(product, w[t], x.part);
          float scale = step.token_scale[c];
          if constexpr (kScales == kBlockScales) scale *= step.row_scale[t % kRowScaleCount];
#pragma unroll
          for (uint32_t i = 0; i < 4; ++i) sums[t][c][i] = __builtin_fmaf(product[i], scale, sums[t][c][i]);
        }
      }
      x = after;
      // Products of all tokens at once would take more registers than two waves of a SIMD have.
      if constexpr (kTokenTiles > 2) schedule_barrier();
    }
  }

  struct Held {
    Vector16 part[2];
  };
  AITERLITE_DEVICE static Held load_held(const void* tile, uint32_t c) {
    return {{opaque(Mfma<16>::operand<Tile>(tile, 16 * c, 0)), opaque(Mfma<16>::operand<Tile>(tile, 16 * c, 64))}};
  }

  AITERLITE_DEVICE static void multiply_group(float (&product)[4], const Vector16 (&w)[2], const Vector16 (&x)[2]) {
#if defined(__gfx950__)
    multiply(Element{}, product, w, x);
#else
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
#pragma unroll
      for (uint32_t i = 0; i < 4; i += 2) {
        multiply(Element{}, product, Vector8{{w[j].word[i], w[j].word[i + 1]}},
                 Vector8{{x[j].word[i], x[j].word[i + 1]}});
      }
    }
#endif
  }
};

}  // namespace aiterlite::fused_moe
