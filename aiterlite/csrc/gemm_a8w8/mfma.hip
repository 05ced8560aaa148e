// GEMM of 8-bit floats with scales on AMD: y[b, n, m] = sum_k x[b, n, k] * w[b, m, k], scaled, + bias
// (gemm_a8w8/args.h). gfx942, gfx950.
//
// Tiling. A workgroup of four waves has AITERLITE_TOKENS tokens, 64 * AITERLITE_TILES rows of weights, and a split of
// K; a wave has AITERLITE_TILES tiles of 16 rows. The loop over k is fused_moe/block_product.h. Where K is split, sums
// go to memory as floats, and sum.hip adds them.
//
// Traffic. Weights once for each AITERLITE_TOKENS tokens, 16 bytes a lane, straight to the registers of the wave that
// multiplies them; tokens once a workgroup, through LDS; y once. Of splits: N * M floats each, written and read.
//
// Order. The products of 128 k, times their scales, are added to float sums step by step, then splits in order: the
// same call, the same bits, for plain and shuffled weights. Rows and tokens that do not exist read the last one that
// does, and write nothing. Grid: rows, then splits, tokens and batches.
#include <aiterlite/fused_moe/block_product.h>
#include <aiterlite/gemm_a8w8/output.h>
#include <aiterlite/gemm_a8w8/split_args.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::fused_moe;

using Result = AITERLITE_RESULT;
constexpr uint32_t kTokens = AITERLITE_TOKENS, kTokenTiles = kTokens / 16, kRowTiles = AITERLITE_TILES;
constexpr bool kShuffled = AITERLITE_SHUFFLED, kSplit = AITERLITE_SPLIT;
constexpr bool kGroupsOfX = AITERLITE_X_GROUPS, kBlocksOfW = AITERLITE_W_BLOCKS;
static_assert(kTokens == 16 || kTokens == 32 || kTokens == 64, "AITERLITE_TOKENS must be 16, 32 or 64");
static_assert(kRowTiles == 1 || kRowTiles == 2 || kRowTiles == 4, "AITERLITE_TILES must be 1, 2 or 4");
static_assert(kGroupsOfX || !kBlocksOfW, "blocks of weights have scales where 128 k of a token have them");

constexpr int kScales = kBlocksOfW ? kBlockScales : kGroupsOfX ? kRowScales : kUnscaled;
using Product = BlockProduct<NativeFp8, kRowTiles, kTokenTiles, kShuffled, kScales, 1>;
using End = gemm_a8w8::Output<Result, !kGroupsOfX, !kBlocksOfW>;
constexpr uint32_t kWaveRows = 16 * kRowTiles, kRows = Product::kWaves * kWaveRows;

AITERLITE_DEVICE uint32_t lower(uint32_t a, uint32_t b) { return a < b ? a : b; }

}  // namespace

AITERLITE_KERNEL_WAVES(Product::kThreads, 2) aiterlite_gemm_a8w8_mfma(aiterlite_gemm_a8w8_split_args given) {
  AITERLITE_SHARED(Product::Tiles, tiles, 1);
  const aiterlite_gemm_a8w8_args& args = given.gemm;
  const auto n = static_cast<uint32_t>(args.n), m = static_cast<uint32_t>(args.m), k = static_cast<uint32_t>(args.k);
  const uint32_t row_tiles = (m + kRows - 1) / kRows, token_tiles = (n + kTokens - 1) / kTokens;
  const auto splits = static_cast<uint32_t>(given.splits);
  uint32_t rest = workgroup_id();
  const uint32_t row_tile = rest % row_tiles;
  rest /= row_tiles;
  const uint32_t split = rest % splits;
  rest /= splits;
  const uint32_t first_token = rest % token_tiles * kTokens, batch = rest / token_tiles;

  const uint32_t lane = lane_id(), tile_row = row_tile * kRows, first = tile_row + wave_id() * kWaveRows;
  const uint32_t first_step = split * static_cast<uint32_t>(given.split_steps);
  const uint32_t steps = lower(static_cast<uint32_t>(given.split_steps), k / 128 - first_step);

  Product product;
  // From the workgroup's rows on, so that offsets of a lane are small. Shuffled rows come in whole tiles.
  const auto stride = static_cast<uint32_t>(kShuffled ? k : args.stride_w);
  product.weights = static_cast<const char*>(args.w) + batch * args.stride_w_batch + uint64_t{tile_row} * stride +
                    uint64_t{first_step} * Product::kStepVectors * Product::Layout::kVectorStride;
#pragma unroll
  for (uint32_t t = 0; t < kRowTiles; ++t) {
    const uint32_t row = lower(first + 16 * t + lane % 16, kShuffled ? m - 16 + lane % 16 : m - 1);
    product.row[t] = Product::Layout::row(row - tile_row, stride);
  }
  const auto* x = static_cast<const char*>(args.x) + batch * args.stride_x_batch + uint64_t{first_step} * 128;
#pragma unroll
  for (uint32_t fill = 0; fill < Product::kFills; ++fill) {
    product.tokens[fill] = x + lower(first_token + Product::fill_row(fill), n - 1) * args.stride_x;
  }
  if constexpr (kGroupsOfX) {
    const float* scale = args.x_scale + batch * args.stride_x_scale_batch + first_step * args.stride_x_scale_group;
#pragma unroll
    for (uint32_t c = 0; c < kTokenTiles; ++c) {
      const uint32_t token = lower(first_token + 16 * c + Mfma<16>::sum_column(lane), n - 1);
      product.token_scale[c] = scale + token * args.stride_x_scale;
    }
    product.token_scale_step = args.stride_x_scale_group;
  }
  if constexpr (kBlocksOfW) {
    const uint32_t block = lower(first, m - 1) / 128;
    product.row_scale[0] = args.w_scale + batch * args.stride_w_scale_batch + block * args.stride_w_scale + first_step;
  }

  Product::Sums sums = {};
  product.run(sums, steps, tiles[0]);

  const End end = {args, batch};
  const bool in_fours = end.comes_in(4);
#pragma unroll
  for (uint32_t c = 0; c < kTokenTiles; ++c) {
    const uint32_t token = first_token + 16 * c + Mfma<16>::sum_column(lane);
    if (token >= n) continue;
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
      const uint32_t row = first + 16 * t + Mfma<16>::sum_row(lane, 0);
      if constexpr (kSplit) {
        const uint64_t at = (uint64_t{split} * static_cast<uint32_t>(args.batch) + batch) * n + token;
        store_quad(given.partial + at * static_cast<uint32_t>(given.pitch) + row,
                   {{sums[t][c][0], sums[t][c][1], sums[t][c][2], sums[t][c][3]}});
      } else {
        end.store_four(token, row, sums[t][c], in_fours);
      }
    }
  }
}
