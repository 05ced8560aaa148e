// GEMM of MXFP4 weights on AMD: y[b, n, m] = alpha * sum_k x[b, n, k] * w[b, m, k] + beta * bias (gemm_mxfp4/args.h).
// gfx942, gfx950.
//
// Tiling. A workgroup of four waves has AITERLITE_TOKENS tokens, 64 * AITERLITE_TILES rows of weights and a split of K;
// a wave has AITERLITE_TILES tiles of 16 rows, and shares nothing with the others. What a step of 128 k is, and what
// each target makes of it: gemm_mxfp4/amd_step.h. Where K is split, sums go to memory as floats, and sum.hip adds them.
//
// Traffic. Weights and scales once for each AITERLITE_TOKENS tokens, 16 bytes a lane (gfx942: 4 bytes, four times);
// tokens once a wave, from caches; y once. Of splits: N * M floats each, written and read.
//
// Order. Steps in order, then splits: the same call, the same bits, in every layout. Rows and tokens that do not exist
// read the last one that does, and write nothing. Grid: rows, then splits, tokens and batches.
#include <aiterlite/gemm_mxfp4/amd_step.h>
#include <aiterlite/gemm_mxfp4/output.h>
#include <aiterlite/gemm_mxfp4/split_args.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::gemm_mxfp4;

using Number = AITERLITE_NUMBER;
using Result = AITERLITE_RESULT;
constexpr uint32_t kTokens = AITERLITE_TOKENS, kTokenTiles = kTokens / 16, kRowTiles = AITERLITE_TILES;
constexpr bool kShuffled = AITERLITE_SHUFFLED, kSplit = AITERLITE_SPLIT, kPacked = AITERLITE_PACKED;
constexpr bool kXScaleTiles = AITERLITE_X_SCALE_SHUFFLED;
constexpr int kScales = AITERLITE_W_SCALES;
static_assert(kTokens == 16 || kTokens == 32 || kTokens == 64, "AITERLITE_TOKENS must be 16, 32 or 64");
static_assert(kRowTiles == 1 || kRowTiles == 2, "AITERLITE_TILES must be 1 or 2");

#if defined(__gfx950__)
constexpr bool kByBlocks = kPacked || __is_same(Number, bf16);
#else
constexpr bool kByBlocks = false;
#endif

template <bool>
struct StepOf {
  using Type = WordStep<Number, kPacked, kScales, kRowTiles, kTokenTiles>;
};
#if defined(__gfx950__)
template <>
struct StepOf<true> {
  using Type = BlockStep<Number, kPacked, kRowTiles, kTokenTiles>;
};
#endif
using Step = StepOf<kByBlocks>::Type;
using From =
    Source<kRowTiles, kTokenTiles, kShuffled, kScales == kShuffledScales, kXScaleTiles, kPacked, kByBlocks ? 1 : 4>;

constexpr uint32_t kWaves = 4, kWaveRows = 16 * kRowTiles, kRows = kWaves * kWaveRows, kThreads = kWaves * kWaveSize;

}  // namespace

AITERLITE_KERNEL_WAVES(kThreads, 2) aiterlite_gemm_mxfp4_mfma(aiterlite_gemm_mxfp4_split_args given) {
  const aiterlite_gemm_mxfp4_args& args = given.gemm;
  const auto n = static_cast<uint32_t>(args.n), m = static_cast<uint32_t>(args.m), k = static_cast<uint32_t>(args.k);
  const uint32_t row_tiles = (m + kRows - 1) / kRows, token_tiles = (n + kTokens - 1) / kTokens;
  const auto splits = static_cast<uint32_t>(given.splits);
  uint32_t rest = workgroup_id();
  const uint32_t row_tile = rest % row_tiles;
  rest /= row_tiles;
  const uint32_t split = rest % splits;
  rest /= splits;
  const uint32_t first_token = rest % token_tiles * kTokens, batch = rest / token_tiles;
  const uint32_t lane = lane_id(), first = row_tile * kRows + wave_id() * kWaveRows;
  uint32_t step = split * static_cast<uint32_t>(given.split_steps);
  const uint32_t end = lower(step + static_cast<uint32_t>(given.split_steps), (k + 127) / 128);

  const From from(args, first, first_token, batch);
  float sums[kRowTiles][kTokenTiles][4] = {};
  Step even, odd;
  even.load(from, step);
  // Two steps a turn, since a step that moved to other registers would have to arrive for that.
#pragma unroll 1
  for (; step + 2 < end; step += 2) {
    odd.load(from, step + 1);
    schedule_barrier();
    even.add(sums);
    even.load(from, step + 2);
    schedule_barrier();
    odd.add(sums);
  }
  if (step + 1 < end) {
    odd.load(from, step + 1);
    schedule_barrier();
    even.add(sums);
    odd.add(sums);
  } else {
    even.add(sums);
  }

  const Output<Result> out = {args, batch};
  const bool in_fours = out.comes_in_fours();
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
        out.store_four(sums[t][c], token, row, in_fours);
      }
    }
  }
}
