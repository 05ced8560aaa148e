// GEMM of MXFP4 weights and MXFP4 tokens: y[b, n, m] = alpha * sum_k x[b, n, k] * w[b, m, k] + beta * bias
// (gemm_mxfp4/args.h). gfx950.
//
// Tiling. A workgroup of AITERLITE_WAVES waves has AITERLITE_TOKENS tokens, 16 * AITERLITE_TILES rows of weights and a
// split of K; its waves have all of these rows and take steps of 256 k in turn (gemm_mxfp4/code_step.h), so that
// tokens, too, are read once a workgroup. Their sums meet in LDS. Where K is split, sums go to memory as floats, and
// the last of a piece's workgroups to arrive, by a counter that it leaves at zero again, adds them.
//
// Traffic. Weights and scales once for each AITERLITE_TOKENS tokens, 16 and 4 bytes a lane; tokens once a workgroup,
// from caches; y once. Of splits: N * M floats each, written and read. A step is under way while another is multiplied.
//
// Order. Steps of a wave in order, then waves, then splits: the same call, the same bits, in every layout. Grid:
// splits, then rows, tokens and batches.
#include <aiterlite/gemm_mxfp4/code_step.h>
#include <aiterlite/gemm_mxfp4/output.h>
#include <aiterlite/gemm_mxfp4/split_args.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::gemm_mxfp4;

using Result = AITERLITE_RESULT;
constexpr uint32_t kTokens = AITERLITE_TOKENS, kTokenTiles = kTokens / 16, kRowTiles = AITERLITE_TILES;
constexpr uint32_t kWaves = AITERLITE_WAVES, kSplits = AITERLITE_SPLITS, kTail = AITERLITE_TAIL;
constexpr bool kScaleTiles = AITERLITE_W_SCALES == kShuffledScales;
static_assert(kTokens == 16 || kTokens == 32 || kTokens == 64, "AITERLITE_TOKENS must be 16, 32 or 64");
static_assert(kRowTiles >= 1 && kRowTiles <= 8, "AITERLITE_TILES must be 1 to 8");

using Step = CodeStep<kRowTiles, kTokenTiles, AITERLITE_SHUFFLED, kScaleTiles, AITERLITE_X_SCALE_SHUFFLED>;
constexpr uint32_t kTiles = kRowTiles * kTokenTiles, kRows = 16 * kRowTiles, kThreads = kWaves * kWaveSize;
constexpr bool kStreamed = AITERLITE_STREAMS, kOne = AITERLITE_ONE;

// Steps of a wave: the most, where they are fewer than 4, and the least, up to 2.
constexpr uint32_t kRounds = AITERLITE_ROUNDS, kLeast = AITERLITE_LEAST;

}  // namespace

AITERLITE_KERNEL(kThreads) aiterlite_gemm_mxfp4_codes(aiterlite_gemm_mxfp4_split_args given) {
  AITERLITE_SHARED(Quad, shared, (kWaves * kTiles * kWaveSize));
  const aiterlite_gemm_mxfp4_args& args = given.gemm;
  const auto n = static_cast<uint32_t>(args.n), m = static_cast<uint32_t>(args.m), k = static_cast<uint32_t>(args.k);
  const uint32_t split = workgroup_id() % kSplits;
  uint32_t row_tile = workgroup_id() / kSplits, first_token = 0, batch = 0;
  if constexpr (!kOne) {
    const uint32_t row_tiles = (m + kRows - 1) / kRows, token_tiles = (n + kTokens - 1) / kTokens;
    const uint32_t rest = row_tile / row_tiles;
    row_tile %= row_tiles;
    first_token = rest % token_tiles * kTokens, batch = rest / token_tiles;
  }
  const uint32_t lane = lane_id(), wave = wave_id(), first = row_tile * kRows;
  const uint32_t whole = k / 256, begin = split * static_cast<uint32_t>(given.split_steps);
  const uint32_t end = kSplits == 1 ? whole : lower(begin + static_cast<uint32_t>(given.split_steps), whole);

  const Step::Source from(args, first, lower(m - first, kRows), first_token, lower(n - first_token, kTokens), batch);
  float sums[kRowTiles][kTokenTiles][4] = {};
  add_steps<Step, kWaves, kRounds, kLeast, kStreamed>(from, sums, begin + wave, end);
  // The blocks behind the last whole step are the turn of one wave.
  if constexpr (kTail) {
    const bool is_last = kSplits == 1 || begin + static_cast<uint32_t>(given.split_steps) > whole;
    if (is_last && (whole - begin) % kWaves == wave) {
      Step last;
      last.load<kStreamed, true>(from, whole);
      last.add(from, sums);
    }
  }

#pragma unroll
  for (uint32_t i = 0; i < kTiles; ++i) {
    const float (&tile)[4] = sums[i / kTokenTiles][i % kTokenTiles];
    store_shared_16(&shared[(wave * kTiles + i) * kWaveSize + lane],
                    __builtin_bit_cast(Vector16, Quad{{tile[0], tile[1], tile[2], tile[3]}}));
  }
  workgroup_barrier();
  const Output<Result, AITERLITE_BIAS> out = {args, batch};
  const bool in_fours = out.comes_in_fours();
  const uint32_t piece = workgroup_id() / kSplits;
  float* const sums_of_piece = given.partial + AITERLITE_MXFP4_COUNTERS + uint64_t{piece} * kSplits * kTiles * 256;
#pragma unroll 1
  for (uint32_t tile = wave; tile < kTiles; tile += kWaves) {
    const Quad* of = &shared[tile * kWaveSize + lane];
    Quad total = __builtin_bit_cast(Quad, load_shared_16(of));
#pragma unroll
    for (uint32_t w = 1; w < kWaves; ++w) {
      add_quad(total, __builtin_bit_cast(Quad, load_shared_16(of + w * kTiles * kWaveSize)));
    }
    const uint32_t token = first_token + tile % kTokenTiles * 16 + lane % 16;
    const uint32_t row = first + tile / kTokenTiles * 16 + lane / 16 * 4;
    if (token >= n) continue;
    if constexpr (kSplits > 1) {
      publish(sums_of_piece + ((split * kTiles + tile) * kWaveSize + lane) * 4, total);
    } else {
      out.store_four(total.value, token, row, in_fours);
    }
  }
  if constexpr (kSplits > 1) {
    complete_published();
    workgroup_barrier();
    auto* const counter = reinterpret_cast<uint32_t*>(given.partial) + piece;
    float& earlier = shared[0].value[0];
    if (thread_id() == 0) earlier = __builtin_bit_cast(float, count_in(counter));
    workgroup_barrier();
    if (__builtin_bit_cast(uint32_t, earlier) + 1 != kSplits) return;
    accept_published();
#pragma unroll 1
    for (uint32_t tile = wave; tile < kTiles; tile += kWaves) {
      const uint32_t token = first_token + tile % kTokenTiles * 16 + lane % 16;
      const uint32_t row = first + tile / kTokenTiles * 16 + lane / 16 * 4;
      if (token >= n) continue;
      Quad parts[kSplits];
#pragma unroll
      for (uint32_t s = 0; s < kSplits; ++s) {
        parts[s] = load_published(sums_of_piece + ((s * kTiles + tile) * kWaveSize + lane) * 4);
      }
#pragma unroll
      for (uint32_t s = 1; s < kSplits; ++s) add_quad(parts[0], parts[s]);
      out.store_four(parts[0].value, token, row, in_fours);
    }
    if (thread_id() == 0) store_u32(counter, 0);
  }
}
