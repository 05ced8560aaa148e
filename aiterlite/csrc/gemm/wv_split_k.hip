// Skinny GEMM: y[n, m] = sum_k x[n, k] * w[m, k] + bias, for few tokens (N <= 16), 16-bit operands, float sums.
// With 8-bit operands (AITERLITE_RESULT is defined, and names the type of y and bias) the kernel is
// aiterlite_wv_split_k_q, and the sum is multiplied by the scales of x's row and of w's before the bias is added. With
// AITERLITE_FLOAT y is float, and sums are not rounded. With AITERLITE_BATCHED it is aiterlite_batched_gemm: the y of a
// grid are products of their own, of operands that lie apart.
//
// Tiling. The weights are read once and dominate, so everything serves to have many 16-byte weight loads in flight. A
// matrix instruction multiplies 16 tile rows (weights) by 8 or 16 tile columns (tokens); each lane loads its operands
// straight from global memory in fragment order (fragment/row_tile.h), with no staging and no barrier before the sums
// are complete. A workgroup owns R tiles of rows and splits K over its W waves in chunks of U tiles, and over the C
// workgroups of a cluster (sm_90).
// With S > 1 slices a tile holds 16 / S weight rows, each as S adjacent pieces of K (tile row = row * S + slice), and
// tile column = token * S + slice; the products of unequal slices are discarded. A few tokens thus use columns that
// would be idle to spread a small M over S times more workgroups and to read S times longer pieces of a row.
//
// Traffic. Weights: M * K elements from memory, once. Tokens: N * K elements from the caches for each R * 16 / S weight
// rows, that is N * S / (16 * R) elements per weight. Sums: W * R * 16 * COLS / S floats through LDS a workgroup, and
// with a cluster 1 / W of that through distributed shared memory. Scales, bias and y once. No workspace, no
// atomics.
//
// Order. Each output is summed over k inside a wave, then over waves, slices and cluster ranks in fixed order: the same
// launch gives the same bits. N <= COLS / S; workgroup W waves; grid C * ceil(M / (R * 16 / S)) workgroups, exactly
// (by the number of products, where it is batched).
// Nothing is read beyond the K elements of a row: lanes past the end of K, M or N read an element that exists, or none.
#include <aiterlite/block/mailbox.h>
#include <aiterlite/fragment/row_tile.h>
#include <aiterlite/gemm_args.h>
#include <aiterlite/numeric/types.h>
#include <aiterlite/overlap.h>
#include <aiterlite/vector.h>

namespace {

using Element = aiterlite::AITERLITE_ELEMENT;
using Bits = decltype(Element::bits);
#if defined(AITERLITE_RESULT)
#define AITERLITE_WV_SPLIT_K aiterlite_wv_split_k_q
using Result = aiterlite::AITERLITE_RESULT;
using Args = aiterlite_scaled_gemm_args;
using Given = Args;
#else
using Result = Element;
using Args = aiterlite_gemm_args;
#if defined(AITERLITE_BATCHED)
#define AITERLITE_WV_SPLIT_K aiterlite_batched_gemm
using Given = aiterlite_batched_gemm_args;
#else
#define AITERLITE_WV_SPLIT_K aiterlite_wv_split_k
using Given = Args;
#endif
#endif
using aiterlite::kLaneRows;
using aiterlite::kTileColumns;
using aiterlite::kTileRows;
using aiterlite::Vector16;

constexpr uint32_t kVectorElements = aiterlite::kVectorElements<Element>;
constexpr uint32_t kColumns = AITERLITE_COLS;
constexpr uint32_t kSlices = AITERLITE_SLICES;
constexpr uint32_t kWaves = AITERLITE_WAVES;
constexpr uint32_t kUnroll = AITERLITE_UNROLL;
constexpr uint32_t kTiles = AITERLITE_TILES;
constexpr uint32_t kCluster = AITERLITE_CLUSTER;
constexpr bool kAligned = AITERLITE_ALIGNED;
using Mailbox = aiterlite::Mailbox<kCluster>;

constexpr bool power_of_two(uint32_t value) { return value > 0 && (value & (value - 1)) == 0; }

static_assert(kColumns == 8 || kColumns == 16, "AITERLITE_COLS must be 8 or 16");
static_assert(kColumns % kTileColumns == 0,
              "AITERLITE_COLS must be 16 on AMD: its matrix instructions have 16 columns");
static_assert(power_of_two(kSlices) && kSlices <= kColumns, "AITERLITE_SLICES must be 1, 2, 4, 8 or 16, at most COLS");
static_assert(kWaves >= 1 && kWaves * aiterlite::kWaveSize <= 1024, "AITERLITE_WAVES must fit 1024 threads");
static_assert(kUnroll >= 1 && kUnroll <= 16, "AITERLITE_UNROLL must be 1 to 16");
static_assert(kAligned || kUnroll == 1,
              "AITERLITE_UNROLL must be 1 where AITERLITE_ALIGNED is 0: element-wise loads "
              "take four times the registers");
static_assert(kTiles >= 1 && kTiles <= 8, "AITERLITE_TILES must be 1 to 8");
static_assert(kAligned || sizeof(Bits) == 2 || (kTiles == 1 && kWaves <= 8),
              "AITERLITE_TILES must be 1 and AITERLITE_WAVES at most 8 where 8-bit elements are not AITERLITE_ALIGNED: "
              "each takes a register");
static_assert(power_of_two(kCluster) && kCluster <= 8, "AITERLITE_CLUSTER must be 1, 2, 4 or 8");
static_assert(kCluster == 1 || AITERLITE_NVIDIA, "AITERLITE_CLUSTER must be 1 on AMD: it has no clusters");

constexpr uint32_t kThreads = kWaves * aiterlite::kWaveSize;
constexpr uint32_t kColumnTiles = kColumns / kTileColumns;
constexpr uint32_t kTokens = kColumns / kSlices;
constexpr uint32_t kTileSums = kTiles * kTileRows;  // sums that a wave holds for a token, slices apart
constexpr uint32_t kRows = kTileSums / kSlices;     // weight rows of a workgroup
constexpr uint32_t kStep = aiterlite::kTileVectors * kVectorElements * kSlices;  // k that one tile covers
constexpr uint32_t kBatch = kStep * kUnroll;                                     // k that a wave has in flight
// Accumulators of neighbouring tokens are written together; the 4 spread them over the LDS banks.
constexpr uint32_t kTokenStride = kTileSums + 4;
constexpr uint32_t kWaveStride = kTokens * kTokenStride;
constexpr uint32_t kOutputs = kTokens * kRows;
constexpr uint32_t kShare = (kOutputs + kCluster - 1) / kCluster;  // outputs that one workgroup of a cluster finishes
constexpr uint32_t kPartials = kWaves * kWaveStride;
constexpr uint32_t kReceived = kCluster * kShare;

// Registers of a lane: the operands of a batch, the sums, and what addresses and temporaries take. Where they do not
// fit, compilers spill, or use the first loads before the last are issued.
constexpr uint32_t kHeldRegisters = 4 * (kUnroll * (kTiles * kLaneRows + kColumnTiles) + kTiles * kColumnTiles);
constexpr uint32_t kWavesOnSimd = (kWaves + 3) / 4;
static_assert(kHeldRegisters <= 184 &&
                  (kHeldRegisters + 40) * kWavesOnSimd * aiterlite::kWaveSize <= aiterlite::kSimdRegisters,
              "AITERLITE_UNROLL * AITERLITE_TILES * AITERLITE_WAVES is too large: a batch does not fit the registers");
static_assert((kPartials + kReceived) * sizeof(float) <= 48 * 1024,
              "AITERLITE_WAVES * AITERLITE_TILES is too large: the partial sums exceed 48 KiB of LDS");

// One lane's share of one operand: a row, and where in each tile's worth of it the lane reads.
struct Operand {
  const Bits* row;
  uint32_t offset;
  bool live;  // false: a token column that does not exist; row is another one, and what is read of it is not used
};

struct Sums {
  float tile[kTiles][kColumnTiles][4];
};

enum class Bounds { kInside, kChecked };

// What the lane holds of the tiles at k + ahead. `ahead` is a constant, and becomes part of the load instruction.
template <Bounds bounds, aiterlite::Reuse reuse>
AITERLITE_DEVICE Vector16 load(const Operand& operand, uint32_t k, uint32_t ahead, uint32_t k_end) {
  const Bits* at = operand.row + operand.offset + k + ahead;
  if constexpr (!kAligned) {
    return aiterlite::gather_row_vector<bounds == Bounds::kChecked>(operand.row, operand.offset + k + ahead, k_end);
  } else if constexpr (bounds == Bounds::kChecked) {
    const bool wanted = operand.live & (operand.offset + k + ahead < k_end);
    return aiterlite::load_row_vector_if<reuse>(at, wanted, operand.row);
  } else if constexpr (reuse == aiterlite::Reuse::kLikely && aiterlite::kPredicatedLoads) {
    return aiterlite::load_row_vector_if<reuse>(at, operand.live, operand.row);
  } else {
    return aiterlite::load_row_vector<reuse>(at);
  }
}

// Adds the products of k to k + kBatch. All loads are issued before the first multiplication waits for one, weights
// first: they come from farther away.
template <Bounds bounds>
AITERLITE_DEVICE void accumulate(Sums& sums, const Operand (&weights)[kTiles][kLaneRows],
                                 const Operand (&tokens)[kColumnTiles], uint32_t k, uint32_t k_end) {
  Vector16 w[kUnroll][kTiles][kLaneRows];
  Vector16 x[kUnroll][kColumnTiles];
#pragma unroll
  for (uint32_t u = 0; u < kUnroll; ++u) {
#pragma unroll
    for (uint32_t r = 0; r < kTiles; ++r) {
#pragma unroll
      for (uint32_t j = 0; j < kLaneRows; ++j) {
        w[u][r][j] = load<bounds, aiterlite::Reuse::kNone>(weights[r][j], k, u * kStep, k_end);
      }
    }
  }
#pragma unroll
  for (uint32_t u = 0; u < kUnroll; ++u) {
#pragma unroll
    for (uint32_t c = 0; c < kColumnTiles; ++c) {
      x[u][c] = load<bounds, aiterlite::Reuse::kLikely>(tokens[c], k, u * kStep, k_end);
    }
  }
  aiterlite::schedule_barrier();
#pragma unroll
  for (uint32_t u = 0; u < kUnroll; ++u) {
#pragma unroll
    for (uint32_t r = 0; r < kTiles; ++r) {
#pragma unroll
      for (uint32_t c = 0; c < kColumnTiles; ++c) aiterlite::multiply(Element{}, sums.tile[r][c], w[u][r], x[u][c]);
    }
  }
}

// The outputs of a workgroup, or of a cluster's workgroups, which all have the same, are numbered token by token:
// neighbouring threads store neighbouring features. In a cluster each workgroup finishes kShare of them.
constexpr uint32_t kSumPasses = (kTokens * kTileSums + kThreads - 1) / kThreads;
constexpr uint32_t kSharePasses = (kShare + kThreads - 1) / kThreads;
constexpr uint32_t kFinishPasses = kCluster > 1 ? kSharePasses : kSumPasses;

struct Output {
  uint32_t token;
  uint32_t row;
  bool live;
};

// What this thread finishes in a pass: its sum over slices ends in the lane of slice 0, unless the cluster adds to it.
AITERLITE_DEVICE Output finished_output(const Args& args, uint32_t first_row, uint32_t rank, uint32_t pass) {
  const uint32_t index = pass * kThreads + aiterlite::thread_id();
  const uint32_t number = kCluster > 1 ? rank * kShare + index : index / kSlices;
  const bool mine = kCluster > 1 ? index < kShare : index % kSlices == 0;
  const Output output{number / kRows, first_row + number % kRows, false};
  const bool live = output.token < static_cast<uint32_t>(args.n) && output.row < static_cast<uint32_t>(args.m);
  return {output.token, output.row, mine && number < kOutputs && live};
}

// The factors of a sum. Fetched, like the bias, long before they are looked at.
template <class>
struct Scales {
  AITERLITE_DEVICE void fetch(const Args&, uint32_t, const Output&) {}
  AITERLITE_DEVICE float apply(uint32_t, float sum) const { return sum; }
};

// The scales are applied one after the other, since their product could overflow where the result does not; so could
// the sum times the first of them. So a power of two moves from one scale to the other until they are about as large.
// It changes no bit of the result as long as no number on the way is subnormal or infinite, and then none is where the
// result is not. A sum that is not zero lies between 2^-20 and 2^49.
template <>
struct Scales<aiterlite_scaled_gemm_args> {
  float of_x[kFinishPasses];
  float of_row[kFinishPasses];

  AITERLITE_DEVICE void fetch(const aiterlite_scaled_gemm_args& args, uint32_t pass, const Output& output) {
    if (!output.live) return;
    of_x[pass] = aiterlite::load_f32(static_cast<const float*>(args.scale_x) + output.token * args.stride_scale_x);
    of_row[pass] = aiterlite::load_f32(static_cast<const float*>(args.scale_w) + output.row * args.stride_scale_w);
  }
  AITERLITE_DEVICE float apply(uint32_t pass, float sum) const {
    const int32_t apart = exponent(of_x[pass]) - exponent(of_row[pass]);
    // At the ends of the range the power would be no normal number; a factor of 2 there makes no difference.
    const int32_t half = apart < -252 ? -126 : apart > 252 ? 126 : apart >> 1;
    return sum * (of_x[pass] * power(-half)) * (of_row[pass] * power(half));
  }

 private:
  AITERLITE_DEVICE static int32_t exponent(float value) {
    return static_cast<int32_t>(__builtin_bit_cast(uint32_t, value) >> 23 & 0xff);
  }
  AITERLITE_DEVICE static float power(int32_t of_two) {
    return __builtin_bit_cast(float, static_cast<uint32_t>(127 + of_two) << 23);
  }
};

// What this workgroup's product is of.
#if defined(AITERLITE_BATCHED)
AITERLITE_DEVICE Args own_product(const Given& given) {
  const int64_t batch = aiterlite::workgroup_id_y();
  Args args = given.first;
  args.x = static_cast<const Bits*>(args.x) + batch * given.stride_x_batch;
  args.weight = static_cast<const Bits*>(args.weight) + batch * given.stride_w_batch;
  if (args.bias != nullptr) args.bias = static_cast<const Result*>(args.bias) + batch * given.stride_bias_batch;
  args.y = static_cast<Result*>(args.y) + batch * given.stride_y_batch;
  return args;
}
#else
AITERLITE_DEVICE const Args& own_product(const Given& given) { return given; }
#endif

AITERLITE_DEVICE void store(const Args& args, const Output& output, float sum) {
  if (!output.live) return;
  const int64_t at = output.token * args.stride_y + output.row;
#if defined(AITERLITE_FLOAT)
  aiterlite::store_u32(static_cast<float*>(args.y) + at, __builtin_bit_cast(uint32_t, sum));
#else
  aiterlite::store_u16(static_cast<Result*>(args.y) + at, aiterlite::from_float<Result>(sum).bits);
#endif
}

}  // namespace

AITERLITE_KERNEL(kThreads)
AITERLITE_CLUSTER_DIMS(AITERLITE_CLUSTER)
AITERLITE_WV_SPLIT_K(Given given) {
  const Args& args = own_product(given);
  AITERLITE_SHARED(float, partial, kPartials);
  AITERLITE_SHARED(float, received, kReceived);
  AITERLITE_SHARED(uint64_t, arrivals, 1);

  const uint32_t lane = aiterlite::lane_id();
  const uint32_t wave = aiterlite::wave_id();
  const uint32_t rank = Mailbox::rank();
  const uint32_t first_row = aiterlite::workgroup_id() / kCluster * kRows;
  const auto n = static_cast<uint32_t>(args.n);
  const auto k_end = static_cast<uint32_t>(args.k);

  Mailbox mailbox(arrivals);
  const uint32_t live_outputs = n * kRows;
  const uint32_t before = rank * kShare < live_outputs ? rank * kShare : live_outputs;
  const uint32_t until = before + kShare < live_outputs ? before + kShare : live_outputs;
  mailbox.open(kCluster * (until - before));

  Operand weights[kTiles][kLaneRows];
#pragma unroll
  for (uint32_t r = 0; r < kTiles; ++r) {
#pragma unroll
    for (uint32_t j = 0; j < kLaneRows; ++j) {
      const uint32_t tile_row = r * kTileRows + aiterlite::tile_row(lane, j);
      const uint32_t row = first_row + tile_row / kSlices;
      const auto last_row = static_cast<uint32_t>(args.m) - 1;
      const uint32_t vector = aiterlite::slice_vector(aiterlite::tile_vector(lane), tile_row % kSlices, kSlices);
      weights[r][j] = {static_cast<const Bits*>(args.weight) + (row < last_row ? row : last_row) * args.stride_w,
                       vector * kVectorElements, true};
    }
  }
  Operand tokens[kColumnTiles];
#pragma unroll
  for (uint32_t c = 0; c < kColumnTiles; ++c) {
    const uint32_t column = c * kTileColumns + aiterlite::tile_column(lane);
    const uint32_t token = column / kSlices;
    const uint32_t vector = aiterlite::slice_vector(aiterlite::tile_vector(lane), column % kSlices, kSlices);
    tokens[c] = {static_cast<const Bits*>(args.x) + (token < n ? token : 0) * args.stride_x, vector * kVectorElements,
                 token < n};
  }

  aiterlite::await_predecessors();

  // Fetched here, and not looked at before the end, so that the latency passes beside that of the weights.
  uint16_t bias[kFinishPasses] = {};
  if (args.bias != nullptr) {
#pragma unroll
    for (uint32_t pass = 0; pass < kFinishPasses; ++pass) {
      const Output output = finished_output(args, first_row, rank, pass);
      const Result* at = static_cast<const Result*>(args.bias) + output.token * args.stride_bias + output.row;
      if (output.live) bias[pass] = aiterlite::load_u16(at);
    }
  }
  Scales<Args> scales = {};
#pragma unroll
  for (uint32_t pass = 0; pass < kFinishPasses; ++pass) {
    scales.fetch(args, pass, finished_output(args, first_row, rank, pass));
  }

  Sums sums = {};
  uint32_t k = (rank * kWaves + wave) * kBatch;
#pragma unroll 1
  for (; k + kBatch <= k_end; k += kCluster * kWaves * kBatch) {
    accumulate<Bounds::kInside>(sums, weights, tokens, k, k_end);
  }
  if (k < k_end) accumulate<Bounds::kChecked>(sums, weights, tokens, k, k_end);
  aiterlite::admit_successors();

  // Only products of equal slices count.
#pragma unroll
  for (uint32_t r = 0; r < kTiles; ++r) {
#pragma unroll
    for (uint32_t c = 0; c < kColumnTiles; ++c) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t row = aiterlite::accumulator_row(lane, i);
        const uint32_t column = c * kTileColumns + aiterlite::accumulator_column(lane, i);
        if (row % kSlices == column % kSlices) {
          partial[wave * kWaveStride + column / kSlices * kTokenStride + r * kTileRows + row] = sums.tile[r][c][i];
        }
      }
    }
  }
  aiterlite::workgroup_barrier();
  mailbox.await_start();

#pragma unroll
  for (uint32_t pass = 0; pass < kSumPasses; ++pass) {
    const uint32_t index = pass * kThreads + aiterlite::thread_id();
    const uint32_t token = index / kTileSums;
    float sum = 0.0f;
    if (token < n && token < kTokens) {
#pragma unroll
      for (uint32_t v = 0; v < kWaves; ++v) {
        sum += partial[v * kWaveStride + token * kTokenStride + index % kTileSums];
      }
    }
#pragma unroll
    for (uint32_t mask = 1; mask < kSlices; mask *= 2) sum += aiterlite::shuffle_xor(sum, mask);
    if constexpr (kCluster == 1) {
      store(args, finished_output(args, first_row, rank, pass),
            scales.apply(pass, sum) + aiterlite::to_float(Result{aiterlite::opaque(bias[pass])}));
    } else {
      const uint32_t output = index / kSlices;
      if (index % kSlices == 0 && output < live_outputs) {
        mailbox.send(output / kShare, &received[rank * kShare + output % kShare], sum);
      }
    }
  }
  if constexpr (kCluster > 1) {
    mailbox.await();
#pragma unroll
    for (uint32_t pass = 0; pass < kSharePasses; ++pass) {
      const Output output = finished_output(args, first_row, rank, pass);
      if (output.live) {
        float sum = 0.0f;
        const uint32_t index = pass * kThreads + aiterlite::thread_id();
#pragma unroll
        for (uint32_t sender = 0; sender < kCluster; ++sender) sum += received[sender * kShare + index];
        store(args, output, scales.apply(pass, sum) + aiterlite::to_float(Result{aiterlite::opaque(bias[pass])}));
      }
    }
  }
}
#undef AITERLITE_WV_SPLIT_K
