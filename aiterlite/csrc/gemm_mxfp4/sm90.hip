// GEMM of MXFP4 weights on sm_90: y[b, n, m] = alpha * sum_k x[b, n, k] * w[b, m, k] + beta * bias (gemm_mxfp4/args.h).
//
// Formulation. Weights are rows of the product, tokens its columns. Codes become bf16 in registers by shifts and masks,
// times their scales: what is multiplied are the weights themselves, which bf16 has, so that one chain of products sums
// all of K. fp16 tokens, which bf16 has not, are two columns each.
//
// Tiling. A cluster of AITERLITE_CLUSTER workgroups owns AITERLITE_ROWS weight rows, any multiple of 16, by
// AITERLITE_COLS tokens, and each of them one of as many neighbouring ranges of K. In a workgroup one lane asks the
// copy engine for weights, 128 bytes of each row a step of 256 k, into a ring of AITERLITE_STAGES; a warp fetches
// scales; AITERLITE_LOADERS warps bring tokens into the order of decoded codes (gemm_mxfp4/sm90_shape.h). Warpgroups
// multiply 64 rows each, or with AITERLITE_FOLD 2 32 rows of two chunks of a step at once, whose tokens are columns
// of their own; AITERLITE_TURNS of them take steps in turn. Decoding is 17 instructions for 8 codes and runs while the
// matrix unit, which reads tokens from shared memory itself, multiplies what was decoded before.
//
// Traffic. Weights and scales: 17 bytes for 32 codes, from memory once for each AITERLITE_COLS tokens. Tokens: 2 N K
// bytes (N K / 2 packed) for each AITERLITE_ROWS rows, from the L2. Sums: of all turns and folds but the first through
// shared memory, then of all ranks through distributed shared memory. No workspace, no atomics.
//
// Order. The products of a warp as the matrix unit adds them; then folds and turns, then ranks, ascending. So the bits
// of an output depend on its operands, K, AITERLITE_FOLD, AITERLITE_TURNS and AITERLITE_CLUSTER only, and plain and
// shuffled weights and scales give the same.
//
// Rows that do not exist are zeros; nothing past K is read, and arrives as zeros.
//
// Block: 128 threads for each warpgroup, and the warps that fill the ring. Grid: C * tiles, tiles of one piece of
// weights following each other.
#include <aiterlite/gemm_mxfp4/sm90_fill.h>
#include <aiterlite/gemm_mxfp4/sm90_multiply.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::gemm_mxfp4;

constexpr uint32_t kHandBarrier = 1;

// Ends a unit's sums: rows lane / 4 and 8 further on of a fragment, tokens 2 * (lane % 4) and the next.
AITERLITE_DEVICE void finish(const Args& args, const Work& work, uint32_t unit, uint32_t column_tiles,
                             const Quad& quad) {
  const End end = {args, work.batch};
  const uint32_t lane = lane_id(), tile = unit / column_tiles, column = unit % column_tiles * 8 + lane % 4 * 2;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t row = work.first_row + tile * kTileRows + row_of(lane / 4) + 8 * (i / 2);
    if (row >= static_cast<uint32_t>(args.m) || column + i % 2 >= work.tokens) continue;
    end.store(quad.value[i], work.first_token + column + i % 2, row);
  }
}

AITERLITE_DEVICE void add_quad(Quad& sum, const Quad& more) {
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) sum.value[i] += more.value[i];
}

// The multiplying warps.
AITERLITE_DEVICE void multiply(const Args& args, Shared& shared, const Work& work, uint32_t warp, Exchange& exchange,
                               uint32_t column_tiles, uint32_t owned) {
  const Place place(warp, lane_id());
  const uint32_t lane = place.lane, k_wave = place.k_wave();
  float sums[kSums];
  accumulate(sums, args, shared, work, place);
  // Sums of the K waves come together in the first of them.
  if constexpr (kKWaves > 1) {
    if (k_wave != 0 && place.has_rows()) {
#pragma unroll
      for (uint32_t j = 0; j < kColumns / 8; ++j) {
        if (j >= column_tiles) continue;
        shared.handed[((k_wave - 1) * kUnits + place.tile * column_tiles + j) * kWaveSize + lane] = {
            {sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]}};
      }
    }
    named_barrier_wait(kHandBarrier, kMultipliers);
  }
  exchange.await_start();
  if constexpr (kReuses) cluster_barrier();
  if (k_wave == 0 && place.has_rows()) {
#pragma unroll
    for (uint32_t j = 0; j < kColumns / 8; ++j) {
      if (j >= column_tiles) continue;
      const uint32_t unit = place.tile * column_tiles + j;
      Quad sum = {{sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]}};
#pragma unroll
      for (uint32_t other = 0; other + 1 < kKWaves; ++other) {
        add_quad(sum, shared.handed[(other * kUnits + unit) * kWaveSize + lane]);
      }
      if constexpr (kCluster == 1) {
        finish(args, work, unit, column_tiles, sum);
      } else {
        const uint32_t at = (unit / kCluster * kCluster + work.rank) * kWaveSize + lane;
        exchange.send(unit % kCluster, shared.sent_here() + at, sum);
      }
    }
  }
  if constexpr (kCluster > 1) {
    if (owned == 0) return;
    exchange.await();
#pragma unroll 1
    for (uint32_t own_unit = warp; own_unit < owned; own_unit += kMultipliers / kWaveSize) {
      const Quad* sent = shared.sent_here() + own_unit * kCluster * kWaveSize + lane;
      Quad sum = sent[0];
#pragma unroll
      for (uint32_t sender = 1; sender < kCluster; ++sender) add_quad(sum, sent[sender * kWaveSize]);
      finish(args, work, own_unit * kCluster + work.rank, column_tiles, sum);
    }
  }
}

}  // namespace

AITERLITE_KERNEL_RESIDENT(kThreads, AITERLITE_RESIDENT)
AITERLITE_CLUSTER_DIMS(AITERLITE_CLUSTER)
aiterlite_sm90_gemm_mxfp4(const __grid_constant__ aiterlite_sm90_gemm_mxfp4_args args) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  const Args& gemm = args.gemm;
  const uint32_t warp = shuffle(thread_id() / kWaveSize, 0);
  const Work work(gemm);
  const uint32_t column_tiles = (work.tokens + 7) / 8, units = kTiles * column_tiles;
  const uint32_t owned = (units + kCluster - 1 - work.rank) / kCluster;

  Exchange exchange(&shared.arrivals);
  if (thread_id() == 0) {
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      // Weights, each lane of scales, each token.
      shared.full[stage].open(1 + kWaveSize + work.tokens);
      shared.empty[stage].open(kRowGroups * kGroupWaves);
    }
    publish_barriers();
    fetch_map_early(map_of(args.w_map));
  }
  exchange.open(owned * kCluster * kWaveSize * 4);
  workgroup_barrier();
  if (thread_id() == kMultipliers) prefetch_weights(map_of(args.w_map), work);
  await_predecessors();
  // All of the grid that fits is running: where there is room, the next launch's workgroups come now.
  admit_successors();

  if (warp < kMultipliers / kWaveSize) {
    fetch_first_tokens(gemm, shared, work, warp, kMultipliers / kWaveSize + kLoaders);
    multiply(gemm, shared, work, warp, exchange, column_tiles, owned);
    return;
  }
  if (warp == kCopier) {
    if (lane_id() == 0) copy_weights(map_of(args.w_map), shared, work);
  } else if (warp == kScaler) {
    fetch_scales(gemm, shared, work);
  } else {
    const uint32_t loader = warp - kFirstLoader;
    fetch_first_tokens(gemm, shared, work, kMultipliers / kWaveSize + loader, kMultipliers / kWaveSize + kLoaders);
    fetch_tokens(gemm, shared, work, loader);
  }
  exchange.await_start();
  if constexpr (kReuses) cluster_barrier();
}
