// Stage 2 of the two-stage path of a mixture of experts on AMD: slots[pair] = weight * h[pair] w2^T, rounded, for the
// pairs of a sorted block, by the block's expert (fused_moe/args.h). A sum over the slots follows. gfx942, gfx950.
//
// Tiling. A workgroup of four waves has AITERLITE_TOKENS entries of a block and 64 * AITERLITE_TILES features of the
// result; a wave has AITERLITE_TILES tiles of 16 rows of w2. The loop over k is fused_moe/block_product.h, with rows of
// h for tokens. Results cross by LDS, so that rows of slots leave 16 bytes a thread and 128 bytes or more together.
//
// Traffic. w2 once a block of its expert; h and its scales once a block and tile of features, from the caches; w2's
// scales once a wave; slots once. What is padding reads the row of an entry that is not, and writes nothing.
//
// Order. As in stage 1: the same operands, the same bits. Grid: blocks that there may be, times tiles of features.
#include <aiterlite/fused_moe/block_product.h>
#include <aiterlite/fused_moe/row_scales.h>
#include <aiterlite/fused_moe/sorted_block.h>
#include <aiterlite/numeric/pack.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::fused_moe;

using Element = AITERLITE_ELEMENT;
using Result = AITERLITE_RESULT;
constexpr uint32_t kTokenTiles = AITERLITE_TOKENS / 16, kTokens = AITERLITE_TOKENS, kRowTiles = AITERLITE_TILES;
constexpr bool kShuffled = AITERLITE_SHUFFLED, kWeighted = AITERLITE_WEIGHTED, kMarks = AITERLITE_MARKS,
               kBiased = AITERLITE_BIASED;
constexpr int kScales = AITERLITE_SCALES;
static_assert(AITERLITE_TOKENS == 16 || AITERLITE_TOKENS == 32 || AITERLITE_TOKENS == 64,
              "AITERLITE_TOKENS must be 16, 32 or 64");
static_assert(kRowTiles == 2 || kRowTiles == 4, "AITERLITE_TILES must be 2 or 4");

using Product = BlockProduct<Element, kRowTiles, kTokenTiles, kShuffled, kScales, 1>;
constexpr uint32_t kThreads = Product::kThreads;
constexpr uint32_t kWaveFeatures = 16 * kRowTiles, kFeatures = Product::kWaves * kWaveFeatures;
constexpr uint32_t kRowBytes = kFeatures * 2, kRowVectors = kRowBytes / 16;
using Made = Padded<kTokens, kRowBytes, kRowBytes + 16>;

struct Shared {
  union {
    Product::Tiles tiles;
    Vector16 made[Made::kBytes / 16];
  };
  int32_t pair[kTokens];
  float weight[kTokens];  // what the routing gives it
};

}  // namespace

AITERLITE_KERNEL_WAVES(kThreads, 2) aiterlite_fused_moe_stage2(aiterlite_fused_moe_args args) {
  AITERLITE_SHARED(Shared, memory, 1);
  Shared& shared = memory[0];
  const auto width = static_cast<uint32_t>(args.width), inter = static_cast<uint32_t>(args.inter);
  const uint32_t tiles = width / kFeatures;
  const uint32_t first_feature = workgroup_id() % tiles * kFeatures;
  const auto part = Part<kTokens>::of(args, workgroup_id() / tiles);
  const Entries entries = Entries::of<!kMarks>(args, part);
  if (!entries.any()) return;

  const uint32_t lane = lane_id(), first = first_feature + wave_id() * kWaveFeatures;
  const uint32_t row_bytes = inter * sizeof(Element);
  const auto expert = static_cast<uint32_t>(entries.expert);

  Product product;
  product.weights = static_cast<const char*>(args.w2) + uint64_t{expert} * width * row_bytes;
#pragma unroll
  for (uint32_t t = 0; t < kRowTiles; ++t) {
    product.row[t] = WeightLayout<kShuffled>::row(first + 16 * t + lane % 16, row_bytes);
  }
#pragma unroll
  for (uint32_t fill = 0; fill < Product::kFills; ++fill) {
    const uint64_t pair = entries.pair_of(Product::fill_row(fill));
    product.tokens[fill] = static_cast<const char*>(args.h) + pair * row_bytes;
  }
  if constexpr (kScales != kUnscaled) {
#pragma unroll
    for (uint32_t c = 0; c < kTokenTiles; ++c) {
      const uint32_t index = 16 * c + Mfma<16>::sum_column(lane);
      product.token_scale[c] = args.h_scale + uint64_t{entries.pair_of(index)} * (inter / 128);
    }
  }
  product.token_scale_step = 1;
  if constexpr (kScales == kBlockScales) {
    const uint32_t scale_row = expert * (width / 128) + first / 128;
    product.row_scale[0] = args.w2_scale + uint64_t{scale_row} * (inter / 128);
  }
  if (thread_id() < kTokens) {
    shared.pair[thread_id()] = entries.own_pair();
    if (!kWeighted) shared.weight[thread_id()] = load_f32(args.sorted_weights + part.index(thread_id()));
  }

  Product::Sums sums = {};
  product.run(sums, row_bytes / Product::kStepBytes, shared.tiles);

  if constexpr (kScales == kRowScales || kScales == kTensorScales) {
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t row = first + 16 * t + Mfma<16>::sum_row(lane, i);
        const float scale = load_f32(scale_of_w2<kScales == kTensorScales>(args, expert, row));
#pragma unroll
        for (uint32_t c = 0; c < kTokenTiles; ++c) sums[t][c][i] *= scale;
      }
    }
  }
  if constexpr (kBiased) {
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t row = first + 16 * t + Mfma<16>::sum_row(lane, i);
        const float bias = load_f32(args.bias2 + uint64_t{expert} * width + row);
#pragma unroll
        for (uint32_t c = 0; c < kTokenTiles; ++c) sums[t][c][i] += bias;
      }
    }
  }
  // Where the last tokens were read, results come to lie.
  workgroup_barrier();
  auto* made = reinterpret_cast<char*>(shared.made);
#pragma unroll
  for (uint32_t c = 0; c < kTokenTiles; ++c) {
    const float weight = kWeighted ? 1.0f : shared.weight[16 * c + Mfma<16>::sum_column(lane)];
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
      float value[4];
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) value[i] = sums[t][c][i] * weight;
      const uint32_t feature = first - first_feature + 16 * t + Mfma<16>::sum_row(lane, 0);
      store_shared_8(made + Made::at(16 * c + Mfma<16>::sum_column(lane), 2 * feature),
                     {{pack_pair(Result{}, value[0], value[1]), pack_pair(Result{}, value[2], value[3])}});
    }
  }
  workgroup_barrier();
#pragma unroll
  for (uint32_t first_vector = 0; first_vector < kTokens * kRowVectors; first_vector += kThreads) {
    const uint32_t index = first_vector + thread_id(), row = index / kRowVectors, byte = index % kRowVectors * 16;
    if (shared.pair[row] < 0) continue;
    char* to = static_cast<char*>(args.slots) + (int64_t{shared.pair[row]} * width + first_feature) * 2;
    store_quad(reinterpret_cast<float*>(to + byte),
               __builtin_bit_cast(Quad, load_shared_16(made + Made::at(row, byte))));
  }
}
