// 16 rows of weights times at most 16 rows of few tokens, for the part of k that a wave has, on AMD: what both kernels
// of the path for few tokens share. Weights go straight from memory to registers, 16 bytes a lane.
//
// K runs in blocks of 128 bytes of a row of weights, kUnroll of them at once; all their loads are on their way before
// the first product waits for one. Weights of 8 bits become the 16-bit type of x, exactly, unless x has 8 bits too.
// Blocks behind the end are not read (their offset is outside the resource), and not multiplied.
#pragma once
#include <aiterlite/fragment/mfma.h>
#include <aiterlite/fused_moe/weights.h>
#include <aiterlite/numeric/fp8.h>
#include <aiterlite/vector.h>

namespace aiterlite::fused_moe {

template <class Weight, class X, bool kShuffled, uint32_t kUnroll, bool kBlockScales>
struct FewProduct {
  static constexpr bool kWidens = sizeof(Weight) < sizeof(X), kScaledX = sizeof(X) == 1;
  // Of 8 bits, what a scale is of; of 16, as many bytes.
  static constexpr uint32_t kBlock = 128 / sizeof(Weight), kWeightVectors = kBlock * sizeof(Weight) / 64,
                            kXVectors = kBlock * sizeof(X) / 64;
  using Layout = WeightLayout<kShuffled>;
  using Sums = float[4];

  const Buffer& weights;
  uint32_t row;          // where this lane's row begins
  const char* x;         // this lane's row of x
  const float* x_scale;  // of 8-bit x
  int64_t x_scale_step;
  const float* low_scale;   // of weights: a block of the rows of sums 0 and 1, and of 2 and 3
  const float* high_scale;  // kept apart, since gate and up may be of two blocks

  AITERLITE_DEVICE void run(Sums& sums, uint32_t first, uint32_t stride, uint32_t blocks) const {
#pragma unroll 1
    for (; first < blocks; first += stride) add(sums, first, blocks);
  }

 private:
  struct Scales {
    float x;
    float low;
    float high;
  };

  AITERLITE_DEVICE void add(Sums& sums, uint32_t first, uint32_t blocks) const {
    Vector16 w[kUnroll][kWeightVectors], held[kUnroll][kXVectors];
    Scales scales[kUnroll];
#pragma unroll
    for (uint32_t u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (uint32_t j = 0; j < kWeightVectors; ++j) {
        const uint32_t vector = ((first + u) * kWeightVectors + j) * 4 + lane_id() / 16;
        w[u][j] = weights.load(first + u < blocks ? row + vector * Layout::kVectorStride : ~15u);
      }
    }
#pragma unroll
    for (uint32_t u = 0; u < kUnroll; ++u) {
      const uint32_t block = first + u < blocks ? first + u : first;
#pragma unroll
      for (uint32_t j = 0; j < kXVectors; ++j) held[u][j] = load_x(block, j);
      scales[u] = {1.0f, 1.0f, 1.0f};
      if constexpr (kScaledX) scales[u].x = load_f32(x_scale + block * x_scale_step);
      if constexpr (kBlockScales) {
        scales[u].low = load_f32(low_scale + block);
        scales[u].high = load_f32(high_scale + block);
      }
    }
    schedule_barrier();
#pragma unroll
    for (uint32_t u = 0; u < kUnroll; ++u) {
      if (first + u >= blocks) break;
      float product[4] = {};
      multiply_block(product, w[u], held[u]);
      const float low = scales[u].x * scales[u].low, high = scales[u].x * scales[u].high;
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) sums[i] = __builtin_fmaf(product[i], i < 2 ? low : high, sums[i]);
    }
  }

  // Of a lane's 16 k of a weight vector that is widened, x has two vectors of 8.
  AITERLITE_DEVICE Vector16 load_x(uint32_t block, uint32_t j) const {
    const uint32_t group = lane_id() / 16;
    const uint32_t vector = kWidens ? (j / 2 * 4 + group) * 2 + j % 2 : j * 4 + group;
    return load_row_vector<Reuse::kLikely>(x + uint64_t{block} * kBlock * sizeof(X) + vector * 16);
  }

  AITERLITE_DEVICE static void multiply_block(float (&product)[4], const Vector16 (&w)[kWeightVectors],
                                              const Vector16 (&held)[kXVectors]) {
    if constexpr (kWidens) {
#pragma unroll
      for (uint32_t j = 0; j < kXVectors; ++j) {
        uint32_t low[2], high[2];
        widen_fp8<Weight>(X{}, w[j / 2].word[j % 2 * 2], low);
        widen_fp8<Weight>(X{}, w[j / 2].word[j % 2 * 2 + 1], high);
        multiply(X{}, product, Vector16{{low[0], low[1], high[0], high[1]}}, held[j]);
      }
    } else if constexpr (sizeof(X) == 1) {
      multiply(X{}, product, w, held);
    } else {
#pragma unroll
      for (uint32_t j = 0; j < kXVectors; ++j) multiply(X{}, product, w[j], held[j]);
    }
  }
};

}  // namespace aiterlite::fused_moe
