// Skinny GEMM: y[n, m] = sum_k x[n, k] * w[m, k] + bias, for up to 128 tokens, 16-bit operands, float sums, with K
// split over workgroups as well.
//
// Tiling. A workgroup owns a tile of ROW_WAVES * R * 16 weight rows by COLS token columns (all tokens), and one shard
// of K. Its ROW_WAVES * K_WAVES waves share that out: a wave holds R * 16 rows by COLS columns of sums, and takes every
// K_WAVES-th turn of U steps of 32 k. Weights and tokens come straight from global memory in fragment order
// (fragment/row_tile.h), 16 bytes a lane, with no barrier before the sums are complete. All weights of a turn are
// requested first; tokens follow in groups that few registers hold.
//
// Traffic. Weights: M * K elements from memory, once, by one wave. Tokens: COLS / (16 * R) elements per weight through
// the first cache, which serves the row waves of a workgroup from one fetch as they walk K together: COLS / (16 * R *
// ROW_WAVES) per weight from the second. Sums: K_WAVES floats an output through LDS, SHARDS floats an output written to
// and read from the workspace (none with one shard). Bias and y once.
//
// Reduction (AITERLITE_REDUCE), where K has several shards. Each workgroup leaves its sums in the workspace and counts
// itself in at its tile; the one that comes last finishes the tile: sums, adds the bias, rounds once, stores, and sets
// the counter back to zero. Nobody waits, so no two workgroups need to be resident together.
//   1, slices: a slice of its own for each shard, added in ascending order of shards.
//   2, atomic: float atomics onto one region, which the last one sets back to zero; the order of additions varies.
//   0, none: one shard; no workspace.
//
// Order. With 0 and 1, an output is summed over 32-k steps inside a wave, then over the K waves, then over the shards,
// each ascending; then the bias. So its bits depend on x[n], w[m] and bias[n, m], on K_WAVES, U and the width of a
// shard, and on nothing else: not on N, M, COLS, R, ROW_WAVES, alignment, strides, or which workgroup comes last. Each
// column of a matrix instruction is summed for itself. A launch that keeps K_WAVES, U and the shards for every N is
// therefore batch-invariant.
//
// N <= COLS; K_WAVES * ROW_WAVES waves; grid tiles * shards, exactly. Nothing is read beyond the K elements of a row:
// lanes past the end of K, M or N read an element that exists, or none, and what they read is never selected.
#include <aiterlite/fragment/row_tile.h>
#include <aiterlite/gemm_reduce_args.h>
#include <aiterlite/numeric/types.h>
#include <aiterlite/overlap.h>
#include <aiterlite/vector.h>

namespace {

using Element = aiterlite::AITERLITE_ELEMENT;
using aiterlite::kLaneRows;
using aiterlite::kTileColumns;
using aiterlite::kTileRows;
using aiterlite::Quad;
using aiterlite::Vector16;

constexpr uint32_t kColumns = AITERLITE_COLS;
constexpr uint32_t kTiles = AITERLITE_TILES;
constexpr uint32_t kRowWaves = AITERLITE_ROW_WAVES;
constexpr uint32_t kKWaves = AITERLITE_K_WAVES;
constexpr uint32_t kUnroll = AITERLITE_UNROLL;
constexpr uint32_t kReduce = AITERLITE_REDUCE;
constexpr bool kAligned = AITERLITE_ALIGNED;

constexpr bool power_of_two(uint32_t value) { return value > 0 && (value & (value - 1)) == 0; }
constexpr uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

constexpr uint32_t kWaves = kRowWaves * kKWaves;
constexpr uint32_t kThreads = kWaves * aiterlite::kWaveSize;
constexpr uint32_t kColumnTiles = kColumns / kTileColumns;
constexpr uint32_t kRows = kRowWaves * kTiles * kTileRows;
constexpr uint32_t kTileFloats = kRows * kColumns;
constexpr uint32_t kStep = 32;                // k that one tile covers
constexpr uint32_t kTurn = kStep * kUnroll;   // k that a wave takes at a time
constexpr uint32_t kRound = kTurn * kKWaves;  // k that the waves take together
// Element-wise loads take four times the registers, so they go step by step; the order of the sums is the same.
constexpr uint32_t kLoadSteps = kAligned ? kUnroll : 1;
// Tokens in flight behind the weights: vectors of 4 registers, which take 8 loads each where they are element-wise.
constexpr uint32_t kTokenVectors = kAligned ? 8 : 2;
constexpr uint32_t kGroupColumns = least(kColumnTiles, kTokenVectors);
constexpr uint32_t kGroupSteps = least(kLoadSteps, kTokenVectors / kGroupColumns);

// Sums meet in LDS a part at a time: one tile of rows of every wave, by as many columns as fit.
constexpr uint32_t kPartColumns = least(kColumns, 512 / kWaves);
constexpr uint32_t kParts = kColumns / kPartColumns;
constexpr uint32_t kPartFloats = kRowWaves * kTileRows * kPartColumns;
constexpr uint32_t kWaveQuads = kPartColumns * kTileRows / 4;

static_assert(power_of_two(kColumns) && kColumns >= 16 && kColumns <= 128, "AITERLITE_COLS must be 16, 32, 64 or 128");
static_assert(power_of_two(kTiles) && kTiles <= 4, "AITERLITE_TILES must be 1, 2 or 4");
static_assert(power_of_two(kWaves) && kWaves <= 16 && kThreads <= 1024,
              "AITERLITE_ROW_WAVES and AITERLITE_K_WAVES must be powers of two, with a product of at most 16");
static_assert(power_of_two(kUnroll) && kUnroll <= 8, "AITERLITE_UNROLL must be 1, 2, 4 or 8");
static_assert(kUnroll * kColumnTiles <= 32,
              "AITERLITE_UNROLL * AITERLITE_COLS is too large: compilers request the tokens of a turn before they need "
              "them, and spill");
static_assert(kReduce <= AITERLITE_REDUCE_ATOMIC, "AITERLITE_REDUCE must be 0, 1 or 2");

constexpr uint32_t kHeldRegisters =
    4 * (kTiles * (kColumnTiles + kUnroll * kLaneRows) + least(kUnroll * kColumnTiles, kTokenVectors));
static_assert(kHeldRegisters <= 184 &&
                  (kHeldRegisters + 48) * ((kWaves + 3) / 4) * aiterlite::kWaveSize <= aiterlite::kSimdRegisters,
              "AITERLITE_TILES * AITERLITE_COLS, AITERLITE_UNROLL or the waves are too many: the sums and the loads of "
              "a turn do not fit the registers");
static_assert(kWaves * kWaveQuads * sizeof(Quad) <= 32 * 1024, "the sums of a part exceed 32 KiB of LDS");

// One lane's share of one operand: a row, and where in each tile's worth of it the lane reads.
struct Operand {
  const uint16_t* row;
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
  const uint16_t* at = operand.row + operand.offset + k + ahead;
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

// Adds the products of kLoadSteps steps from k on. Weights are requested first: they come from farther away.
template <Bounds bounds>
AITERLITE_DEVICE void accumulate_steps(Sums& sums, const Operand (&weights)[kTiles][kLaneRows],
                                       const Operand (&tokens)[kColumnTiles], uint32_t k, uint32_t k_end) {
  Vector16 w[kLoadSteps][kTiles][kLaneRows];
#pragma unroll
  for (uint32_t u = 0; u < kLoadSteps; ++u) {
#pragma unroll
    for (uint32_t r = 0; r < kTiles; ++r) {
#pragma unroll
      for (uint32_t j = 0; j < kLaneRows; ++j) {
        w[u][r][j] = load<bounds, aiterlite::Reuse::kNone>(weights[r][j], k, u * kStep, k_end);
      }
    }
  }
#pragma unroll
  for (uint32_t u0 = 0; u0 < kLoadSteps; u0 += kGroupSteps) {
#pragma unroll
    for (uint32_t c0 = 0; c0 < kColumnTiles; c0 += kGroupColumns) {
      Vector16 x[kGroupSteps][kGroupColumns];
#pragma unroll
      for (uint32_t u = 0; u < kGroupSteps; ++u) {
#pragma unroll
        for (uint32_t c = 0; c < kGroupColumns; ++c) {
          x[u][c] = load<bounds, aiterlite::Reuse::kLikely>(tokens[c0 + c], k, (u0 + u) * kStep, k_end);
        }
      }
      aiterlite::schedule_barrier();
#pragma unroll
      for (uint32_t u = 0; u < kGroupSteps; ++u) {
#pragma unroll
        for (uint32_t r = 0; r < kTiles; ++r) {
#pragma unroll
          for (uint32_t c = 0; c < kGroupColumns; ++c) {
            aiterlite::multiply(Element{}, sums.tile[r][c0 + c], w[u0 + u][r], x[u][c]);
          }
        }
      }
    }
  }
}

// Adds the products of a turn.
template <Bounds bounds>
AITERLITE_DEVICE void accumulate(Sums& sums, const Operand (&weights)[kTiles][kLaneRows],
                                 const Operand (&tokens)[kColumnTiles], uint32_t k, uint32_t k_end) {
#pragma unroll 1
  for (uint32_t ahead = 0; ahead < kTurn; ahead += kStep * kLoadSteps) {
    accumulate_steps<bounds>(sums, weights, tokens, k + ahead, k_end);
  }
}

// Where four neighbouring rows of a token lie in a wave's part. Two tokens fill 32 banks of LDS; the exclusive or
// permutes the quads of each token among themselves, so that lanes that write one quad of eight tokens meet eight
// different ones. Lanes that read all quads of two tokens are served with those of an even and an odd token, on AMD not
// of the same pair (tile/layout.h): each token keeps its half of the banks.
AITERLITE_DEVICE uint32_t quad_of(uint32_t token, uint32_t row_quad) {
  const uint32_t pair = token / 2;
  return pair * 8 + token % 2 * 4 + (row_quad ^ (pair % 2 * 2 | pair / 2 % 2));
}

// The outputs of a tile are numbered in the order in which its parts meet in LDS: by tile of rows, columns' part, row
// wave, token, row. Neighbouring numbers are neighbouring features.
struct Output {
  uint32_t token;
  uint32_t row;
};

AITERLITE_DEVICE Output output_of(uint32_t first_row, uint32_t number) {
  const uint32_t part = number / kPartFloats;
  const uint32_t in_part = number % kPartFloats;
  const uint32_t row_wave = in_part / (kPartColumns * kTileRows);
  const uint32_t tile_row = (row_wave * kTiles + part / kParts) * kTileRows;
  return {part % kParts * kPartColumns + in_part / kTileRows % kPartColumns,
          first_row + tile_row + in_part % kTileRows};
}

// Adds the bias to the sums of neighbouring features of a token, and stores those that exist.
template <uint32_t kCount>
AITERLITE_DEVICE void finish(const aiterlite_gemm_args& args, const Output& output, const float (&sum)[kCount]) {
  const Element* bias = static_cast<const Element*>(args.bias) + output.token * args.stride_bias + output.row;
  Element* y = static_cast<Element*>(args.y) + output.token * args.stride_y + output.row;
#pragma unroll
  for (uint32_t i = 0; i < kCount; ++i) {
    if (output.row + i < static_cast<uint32_t>(args.m)) {
      float value = sum[i];
      if (args.bias != nullptr) value += aiterlite::to_float(Element{aiterlite::load_u16(bias + i)});
      aiterlite::store_u16(y + i, aiterlite::from_float<Element>(value).bits);
    }
  }
}

// Neighbouring lanes of an atomic add to neighbouring floats; everything else moves 16 bytes a lane.
constexpr uint32_t kWidth = kReduce == AITERLITE_REDUCE_ATOMIC ? 1 : 4;

// The sums of one part over the waves of K, in order, go where the reduction wants them.
AITERLITE_DEVICE void leave_part(const aiterlite_gemm_args& args, const Quad* sums, uint32_t first_row, uint32_t part,
                                 float* region) {
#pragma unroll 1
  for (uint32_t at = aiterlite::thread_id() * kWidth; at < kPartFloats; at += kThreads * kWidth) {
    const uint32_t number = part * kPartFloats + at;
    const Output output = output_of(first_row, number);
    if (output.token >= static_cast<uint32_t>(args.n) || output.row >= static_cast<uint32_t>(args.m)) continue;
    const uint32_t row_wave = at / (kPartColumns * kTileRows);
    const uint32_t token = at / kTileRows % kPartColumns;
    float sum[kWidth] = {};
#pragma unroll
    for (uint32_t v = 0; v < kKWaves; ++v) {
      const Quad& quad = sums[(row_wave * kKWaves + v) * kWaveQuads + quad_of(token, at % kTileRows / 4)];
#pragma unroll
      for (uint32_t i = 0; i < kWidth; ++i) sum[i] += quad.value[at % 4 + i];
    }
    if constexpr (kReduce == AITERLITE_REDUCE_NONE) {
      finish(args, output, sum);
    } else if constexpr (kReduce == AITERLITE_REDUCE_SLICES) {
      aiterlite::publish(region + number, Quad{{sum[0], sum[1], sum[2], sum[3]}});
    } else {
      aiterlite::publish_add(region + number, sum[0]);
    }
  }
}

// All shards of the tile are in the workspace: region is the first shard's slice, or the tile's one region.
AITERLITE_DEVICE void finish_tile(const aiterlite_gemm_args& args, uint32_t first_row, float* region, uint32_t shards) {
  constexpr uint32_t kAhead = 4;
#pragma unroll 1
  for (uint32_t number = aiterlite::thread_id() * 4; number < kTileFloats; number += kThreads * 4) {
    const Output output = output_of(first_row, number);
    if (output.token >= static_cast<uint32_t>(args.n) || output.row >= static_cast<uint32_t>(args.m)) continue;
    float sum[4] = {};
    if constexpr (kReduce == AITERLITE_REDUCE_ATOMIC) {
      const Quad quad = aiterlite::load_published(region + number);
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) sum[i] = quad.value[i];
      aiterlite::store_quad(region + number, Quad{});
    } else {
#pragma unroll 1
      for (uint32_t s = 0; s < shards; s += kAhead) {
        Quad quad[kAhead];
#pragma unroll
        for (uint32_t j = 0; j < kAhead; ++j) {
          if (s + j < shards) quad[j] = aiterlite::load_published(region + uint64_t{s + j} * kTileFloats + number);
        }
#pragma unroll
        for (uint32_t j = 0; j < kAhead; ++j) {
#pragma unroll
          for (uint32_t i = 0; i < 4 && s + j < shards; ++i) sum[i] += quad[j].value[i];
        }
      }
    }
    finish(args, output, sum);
  }
}

}  // namespace

AITERLITE_KERNEL(kThreads)
aiterlite_wv_split_k_reduce(aiterlite_gemm_reduce_args args) {
  AITERLITE_SHARED(Quad, partial, kWaves * kWaveQuads);

  const aiterlite_gemm_args& gemm = args.gemm;
  const uint32_t lane = aiterlite::lane_id();
  const uint32_t wave = aiterlite::wave_id();
  const uint32_t row_wave = wave / kKWaves;
  const uint32_t shards = kReduce == AITERLITE_REDUCE_NONE ? 1 : static_cast<uint32_t>(args.shards);
  const uint32_t tile = aiterlite::workgroup_id() / shards;
  const uint32_t shard = aiterlite::workgroup_id() % shards;
  const uint32_t first_row = tile * kRows;
  const uint32_t k_begin = shard * static_cast<uint32_t>(args.shard_k);
  const uint32_t shard_end = k_begin + static_cast<uint32_t>(args.shard_k);
  const uint32_t k_end = shard_end < static_cast<uint32_t>(gemm.k) ? shard_end : static_cast<uint32_t>(gemm.k);
  const auto last_row = static_cast<uint32_t>(gemm.m) - 1;
  const auto n = static_cast<uint32_t>(gemm.n);

  Operand weights[kTiles][kLaneRows];
#pragma unroll
  for (uint32_t r = 0; r < kTiles; ++r) {
#pragma unroll
    for (uint32_t j = 0; j < kLaneRows; ++j) {
      const uint32_t row = first_row + (row_wave * kTiles + r) * kTileRows + aiterlite::tile_row(lane, j);
      weights[r][j] = {static_cast<const uint16_t*>(gemm.weight) + (row < last_row ? row : last_row) * gemm.stride_w,
                       aiterlite::tile_vector(lane) * aiterlite::kVectorElements<Element>, true};
    }
  }
  Operand tokens[kColumnTiles];
#pragma unroll
  for (uint32_t c = 0; c < kColumnTiles; ++c) {
    const uint32_t token = c * kTileColumns + aiterlite::tile_column(lane);
    tokens[c] = {static_cast<const uint16_t*>(gemm.x) + (token < n ? token : 0) * gemm.stride_x,
                 aiterlite::tile_vector(lane) * aiterlite::kVectorElements<Element>, token < n};
  }

  aiterlite::await_predecessors();

  Sums sums = {};
  uint32_t k = k_begin + wave % kKWaves * kTurn;
#pragma unroll 1
  for (; k + kTurn <= k_end; k += kRound) accumulate<Bounds::kInside>(sums, weights, tokens, k, k_end);
  if (k < k_end) accumulate<Bounds::kChecked>(sums, weights, tokens, k, k_end);
  aiterlite::admit_successors();

  // One slice a shard, or one region a tile; neither is touched where there is one shard.
  const uint64_t slice = kReduce == AITERLITE_REDUCE_SLICES ? uint64_t{tile} * shards + shard : tile;
  float* region = args.partials + slice * kTileFloats;
#pragma unroll
  for (uint32_t r = 0; r < kTiles; ++r) {
#pragma unroll
    for (uint32_t p = 0; p < kParts; ++p) {
      if (r + p > 0) aiterlite::workgroup_barrier();
#pragma unroll
      for (uint32_t c = 0; c < kPartColumns / kTileColumns; ++c) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
          const uint32_t row = aiterlite::accumulator_row(lane, i);
          const uint32_t column = c * kTileColumns + aiterlite::accumulator_column(lane, i);
          partial[wave * kWaveQuads + quad_of(column, row / 4)].value[row % 4] =
              sums.tile[r][p * (kPartColumns / kTileColumns) + c][i];
        }
      }
      aiterlite::workgroup_barrier();
      leave_part(gemm, partial, first_row, r * kParts + p, region);
    }
  }
  if constexpr (kReduce != AITERLITE_REDUCE_NONE) {
    aiterlite::complete_published();
    aiterlite::workgroup_barrier();
    // This overwrites sums that nobody needs any more: two workgroups of 32 KiB then fit the LDS of gfx942.
    float& earlier = partial[0].value[0];
    if (aiterlite::thread_id() == 0) earlier = __builtin_bit_cast(float, aiterlite::count_in(args.counters + tile));
    aiterlite::workgroup_barrier();
    if (__builtin_bit_cast(uint32_t, earlier) + 1 != shards) return;
    aiterlite::accept_published();
    const uint64_t first = kReduce == AITERLITE_REDUCE_SLICES ? uint64_t{tile} * shards : tile;
    finish_tile(gemm, first_row, args.partials + first * kTileFloats, shards);
    if (aiterlite::thread_id() == 0) aiterlite::store_u32(args.counters + tile, 0);
  }
}
