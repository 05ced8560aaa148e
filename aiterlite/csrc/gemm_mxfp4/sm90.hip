// GEMM of MXFP4 weights on sm_90: y[b, n, m] = alpha * sum_k x[b, n, k] * w[b, m, k] + beta * bias (gemm_mxfp4/args.h).
//
// Formulation. Weights are rows of the product, tokens its columns. Codes become bf16 (fp16, where x is that) in
// registers, by shifts and masks alone (numeric/mxfp4_decode.h), so that they are a power of two too small; tokens are
// as much too large in part, and scales of rows in part. Codes of a block are multiplied by themselves, 32 k at a time,
// and their sum by the block's scale. That costs four multiply-adds a lane for 512 codes and 8 tokens; scales that
// multiply codes would cost sixteen.
//
// Tiling. A cluster of AITERLITE_CLUSTER workgroups owns AITERLITE_ROWS weight rows by AITERLITE_COLS tokens, and each
// of them one of as many neighbouring ranges of K. A warp has AITERLITE_TILES tiles of 16 rows, and every
// AITERLITE_K_WAVES-th step of 256 k of the workgroup's range: it copies them into a ring of AITERLITE_STAGES of its
// own, which nobody else reads, so that only the warp itself ever waits for it. Tokens are brought into the order of
// decoded codes once a workgroup, AITERLITE_X_STEPS steps of them at a time. Decoding is what bounds the kernel, by 13
// instructions for 8 codes, so all else is kept out of the loop: a round of the ring is unrolled, and addresses change
// once a round.
//
// Traffic. Weights and scales: 17 bytes for 32 codes, from memory once for each AITERLITE_COLS tokens. Tokens: 2 N K
// bytes (N K / 2 packed) for each AITERLITE_ROWS rows, from the L2. Sums: of all K waves but the first through shared
// memory, then of all ranks through distributed shared memory. No workspace, no atomics.
//
// Order. The products of a block as the matrix unit adds them; blocks of a warp in order, times their scales, in float;
// then the K waves, then the ranks, ascending. So the bits of an output depend on its operands, K, AITERLITE_K_WAVES
// and AITERLITE_CLUSTER only, and plain and shuffled weights and scales give the same.
//
// Rows that do not exist are the last one that does, tokens too; nothing past K is read, and arrives as zeros. Finite x
// of 2^32 and more, and scales of 2^97 and more, are beyond what the powers of two leave room for.
//
// Block: 32 threads for each warp. Grid: C * tiles, tiles of one piece of weights following each other.
#include <aiterlite/block/mailbox.h>
#include <aiterlite/fragment/mma_sync.h>
#include <aiterlite/gemm_mxfp4/output.h>
#include <aiterlite/gemm_mxfp4/tokens.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;
using Number = AITERLITE_NUMBER;
using Result = AITERLITE_RESULT;
using Args = aiterlite_gemm_mxfp4_args;

// How scales of weights lie: in rows, four of which at a multiple of 4 bytes are those of a step; in rows of any
// strides; or shuffled.
constexpr int kInRows = 0, kStrided = 1, kShuffledScales = 2;

constexpr uint32_t kColumns = AITERLITE_COLS, kRows = AITERLITE_ROWS, kTiles = AITERLITE_TILES;
constexpr uint32_t kStages = AITERLITE_STAGES, kCluster = AITERLITE_CLUSTER, kKWaves = AITERLITE_K_WAVES;
constexpr uint32_t kXSteps = AITERLITE_X_STEPS;
constexpr bool kShuffled = AITERLITE_SHUFFLED, kPacked = AITERLITE_PACKED, kXScaleShuffled = AITERLITE_X_SCALE_SHUFFLED;
constexpr int kScales = AITERLITE_W_SCALES;

constexpr uint32_t kStep = 256, kBlocks = kStep / kMxBlock, kTileRows = 16;
constexpr uint32_t kRowWaves = kRows / (kTileRows * kTiles), kWaves = kRowWaves * kKWaves;
constexpr uint32_t kThreads = kWaves * kWaveSize;
constexpr uint32_t kColumnTiles = kColumns / 8;
// Of bf16, codes are 2^-126 of what they are, which tokens, 2^95, and scales, 2^31, make up for; of fp16 scales alone.
constexpr bool kBf16 = kE2m1Exponent<Number> == 126;
constexpr int kTokenExponent = kBf16 ? 95 : 0, kScaleExponent = kBf16 ? 31 : 14;
// Tokens are 64 bytes apart from a multiple of 128: two of them are read at a time.
constexpr uint32_t kTokenBytes = kXSteps * kStep * 2 + 64;

using Source = gemm_mxfp4::Tokens<Number, kPacked, kXScaleShuffled, kTokenExponent>;
using End = gemm_mxfp4::Output<Result>;
using Exchange = Mailbox<kCluster>;

static_assert(kColumns == 8 || kColumns == 16 || kColumns == 32 || kColumns == 64, "AITERLITE_COLS must be 8 to 64");
static_assert(kRows % (kTileRows * kTiles) == 0 && kRowWaves >= 1, "AITERLITE_ROWS comes in whole warps");
static_assert(kTiles == 1 || kTiles == 2, "AITERLITE_TILES must be 1 or 2");
static_assert(kStages >= 2 && kStages <= 16, "AITERLITE_STAGES must be 2 to 16");
static_assert(kCluster >= 1 && kCluster <= 8, "AITERLITE_CLUSTER must be 1 to 8");
static_assert(kXSteps % kKWaves == 0, "a warp's steps are as far apart in all rounds of tokens");
static_assert(kThreads <= 1024, "too many warps");

// Units of sums: a tile of rows by 8 tokens, a quad a lane. In a cluster rank u % C finishes unit u.
constexpr uint32_t kAllTiles = kRows / kTileRows, kUnits = kAllTiles * kColumnTiles;
constexpr uint32_t kOwned = (kUnits + kCluster - 1) / kCluster;
constexpr uint32_t kReceived = kCluster > 1 ? kOwned * kCluster * kWaveSize : 0;
constexpr uint32_t kHanded = (kKWaves - 1) * kUnits * kWaveSize;

struct Stage {
  char w[kTiles * kTileRows * kStep / 2];
  uint8_t scale[kTiles * kTileRows][kBlocks];
};
struct Shared {
  Stage ring[kWaves][kStages];
  Quad received[kReceived + 1];
  Quad handed[kHanded + 1];
  uint64_t arrivals;
  alignas(16) char x[kColumns * kTokenBytes];
};
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");

AITERLITE_DEVICE uint32_t lower(uint32_t a, uint32_t b) { return a < b ? a : b; }

// What a workgroup does: its rows and tokens, and its steps of K, [begin, begin + count).
struct Work {
  uint32_t rank = 0, first_row, first_token, batch, begin, count, tokens;

  AITERLITE_DEVICE explicit Work(const Args& args) {
    if constexpr (kCluster > 1) rank = cluster_rank();
    const uint32_t token_tiles = (static_cast<uint32_t>(args.n) + kColumns - 1) / kColumns;
    const uint32_t row_tiles = (static_cast<uint32_t>(args.m) + kRows - 1) / kRows;
    const uint32_t tile = workgroup_id() / kCluster, pieces = tile / token_tiles;
    first_token = (tile - pieces * token_tiles) * kColumns;
    batch = pieces / row_tiles;
    first_row = (pieces - batch * row_tiles) * kRows;
    tokens = lower(static_cast<uint32_t>(args.n) - first_token, kColumns);
    const uint32_t steps = (static_cast<uint32_t>(args.k) + kStep - 1) / kStep;
    const uint32_t each = steps / kCluster, more = steps % kCluster;
    begin = rank * each + lower(rank, more);
    count = each + (rank < more ? 1 : 0);
  }
};

// A piece, 16 bytes of a row, is a block. In the ring a tile's pieces are [block][row], rows of a block changed places
// so that neither writing nor reading them meets a bank twice.
constexpr uint32_t kTileBytes = kTileRows * kStep / 2;
AITERLITE_DEVICE uint32_t piece_at(uint32_t row, uint32_t block) { return block * 256 + (row ^ block) * 16; }

// A warp's weights and their scales, from memory to its ring.
struct Stream {
  static constexpr uint32_t kCopies = 4;  // of a tile and step
  // Scales that come by way of registers: bytes of a lane, tile and step.
  static constexpr uint32_t kBytes = kScales == kInRows ? 0 : 4;
  static constexpr bool kWhole = kScales == kInRows;  // all blocks of a step are there
  static constexpr uint32_t kStepBytes = kBlocks * (kShuffled ? 256 : 16);

  const char* from[kTiles][kCopies];  // this lane's piece of each copy, in the round of the ring that is asked for
  const uint8_t* scale[kTiles];
  uint32_t place[kCopies];
  uint32_t piece[2], blocks;  // this lane's in a step, of the first half of the copies and of the second; of all K
  int64_t scale_step;         // from block to block
  uint8_t held[kTiles][kBytes + 1];

  AITERLITE_DEVICE Stream(const Args& args, const Work& work, uint32_t row_wave, uint32_t first_step) {
    const uint32_t lane = lane_id(), last = static_cast<uint32_t>(args.m) - 1;
    const uint32_t first = work.first_row + row_wave * kTiles * kTileRows;
    blocks = static_cast<uint32_t>(args.k) / kMxBlock;
    const auto* w = static_cast<const char*>(args.w) + work.batch * args.stride_w_batch;
#pragma unroll
    for (uint32_t i = 0; i < kCopies; ++i) {
      // Shuffled: 4 blocks of 8 rows; else all blocks of 4 rows.
      const uint32_t own = kShuffled ? lane % 8 + i % 2 * 8 : lane / 8 + i * 4;
      const uint32_t block = kShuffled ? lane / 8 + i / 2 * 4 : lane % 8;
      place[i] = piece_at(own, block);
      piece[i / 2] = block;
#pragma unroll
      for (uint32_t t = 0; t < kTiles; ++t) {
        const uint32_t row = first + t * kTileRows + own;
        // Shuffled rows come in whole tiles: the last row there is has the same place in one.
        const uint32_t there = row <= last ? row : kShuffled ? last - 15 + own : last;
        from[t][i] = kShuffled ? w + uint64_t{there / 16} * 16 * (blocks * 16) + block * 256 + there % 16 * 16
                               : w + there * args.stride_w + block * 16;
        from[t][i] += uint64_t{first_step} * kStepBytes;
      }
    }
    const auto* scales = static_cast<const uint8_t*>(args.w_scale) + work.batch * args.stride_w_scale_batch;
    scale_step = args.stride_w_scale_block;
#pragma unroll
    for (uint32_t t = 0; t < kTiles; ++t) {
      // A word of two a row; else a byte a row and block: of row lane % 16, every second block from lane / 16 on.
      const uint32_t own = kScales == kInRows ? lane / 2 : lane % 16;
      const uint32_t row = lower(first + t * kTileRows + own, last);
      scale[t] = kScales == kShuffledScales ? scales + row / 32 * args.stride_w_scale + shuffled_scale_at(row % 32, 0)
                                            : scales + row * args.stride_w_scale;
      if constexpr (kScales == kInRows) scale[t] += first_step * kBlocks + lane % 2 * 4;
    }
  }

  // Asks for a step, which is kSlot steps of this warp after the one that pointers are at. Its scales that come by way
  // of registers are stored by `settle`.
  template <uint32_t kSlot>
  AITERLITE_DEVICE void ask(uint32_t step, Stage& stage) {
    constexpr uint32_t kAway = kSlot * kKWaves;
#pragma unroll
    for (uint32_t t = 0; t < kTiles; ++t) {
#pragma unroll
      for (uint32_t i = 0; i < kCopies; ++i) {
        // What is not wanted is not read, from wherever.
        const bool wanted = kWhole || step * kBlocks + piece[i / 2] < blocks;
        copy_async(stage.w + t * kTileBytes + place[i], from[t][i] + kAway * kStepBytes, wanted);
      }
      if constexpr (kScales == kInRows) {
        copy_word_async(stage.scale[t * kTileRows + lane_id() / 2] + lane_id() % 2 * 4, scale[t] + kAway * kBlocks);
      } else {
#pragma unroll
        for (uint32_t i = 0; i < kBytes; ++i) {
          const uint32_t own = step * kBlocks + lane_id() / 16 + i * 2, there = lower(own, blocks - 1);
          const uint8_t* at =
              scale[t] + (kScales == kShuffledScales ? shuffled_scale_at(0, there) : there * scale_step);
          const uint8_t byte = load_u8(at);
          held[t][i] = own < blocks ? byte : 0;
        }
      }
    }
  }
  AITERLITE_DEVICE void settle(Stage& stage) const {
#pragma unroll
    for (uint32_t t = 0; t < kTiles; ++t) {
#pragma unroll
      for (uint32_t i = 0; i < kBytes; ++i) {
        stage.scale[t * kTileRows + lane_id() % 16][lane_id() / 16 + i * 2] = held[t][i];
      }
    }
  }
  // To the next round of the ring.
  AITERLITE_DEVICE void advance() {
#pragma unroll
    for (uint32_t t = 0; t < kTiles; ++t) {
#pragma unroll
      for (uint32_t i = 0; i < kCopies; ++i) from[t][i] += kStages * kKWaves * kStepBytes;
      if constexpr (kScales == kInRows) scale[t] += kStages * kKWaves * kBlocks;
    }
  }
};

using Sums = float[kTiles][kColumnTiles][4];

// What a lane holds of a step: of rows lane / 4 and 8 further on of each tile, word lane % 4 of each block, and scales.
struct Codes {
  uint32_t word[kTiles][kBlocks][2];
  Vector8 scale[kTiles][2];

  // Where this lane's rows of each load of matrices are.
  AITERLITE_DEVICE static void places(uint32_t (&at)[kBlocks / 2]) {
    const uint32_t lane = lane_id(), matrix = lane / 8;
#pragma unroll
    for (uint32_t b = 0; b < kBlocks; b += 2) at[b / 2] = piece_at(lane % 8 + matrix % 2 * 8, b + matrix / 2);
  }
  // Blocks [first, first + count), and all scales.
  AITERLITE_DEVICE void load(const Stage& stage, const uint32_t (&at)[kBlocks / 2], uint32_t first, uint32_t count) {
#pragma unroll
    for (uint32_t t = 0; t < kTiles; ++t) {
#pragma unroll
      for (uint32_t b = first; b < first + count; b += 2) {
        uint32_t all[4];
        load_matrices(all, stage.w + t * kTileBytes + at[b / 2]);
        word[t][b][0] = all[0], word[t][b][1] = all[1], word[t][b + 1][0] = all[2], word[t][b + 1][1] = all[3];
      }
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) scale[t][i] = load_shared_8(stage.scale[t * kTileRows + lane_id() / 4 + 8 * i]);
    }
  }
  // Whether no scale is 2 or more, as most are: then none needs a second look.
  AITERLITE_DEVICE bool are_small() const {
    uint32_t any = 0;
#pragma unroll
    for (uint32_t t = 0; t < kTiles; ++t) {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) any |= scale[t][i].word[0] | scale[t][i].word[1];
    }
    return (any & 0x80808080u) == 0;
  }
};

// Adds the products of half a step, four blocks; `x` is this lane's part of the tokens of that step.
template <uint32_t kHalf>
AITERLITE_DEVICE void add_half(Sums& sums, const Codes& codes, const char* x, uint32_t at, uint32_t bias, bool small) {
  float scale[kTiles][2][4];
#pragma unroll
  for (uint32_t t = 0; t < kTiles; ++t) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) decode_small_e8m0(codes.scale[t][i].word[kHalf], bias, scale[t][i]);
  }
  if (!small) {
#pragma unroll
    for (uint32_t t = 0; t < kTiles; ++t) {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
        for (uint32_t b = 0; b < 4; ++b) {
          scale[t][i][b] = shifted_e8m0<kScaleExponent>(codes.scale[t][i].word[kHalf] >> (8 * b) & 0xffu);
        }
      }
    }
  }
#pragma unroll
  for (uint32_t b = 0; b < 4; ++b) {
    uint32_t w[kTiles][2][4];
#pragma unroll
    for (uint32_t t = 0; t < kTiles; ++t) {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) decode_e2m1(Number{}, codes.word[t][4 * kHalf + b][i], w[t][i]);
    }
    // Tokens of the next blocks would else be read ahead, into registers that sums need.
    if constexpr (kColumnTiles > 4) wave_barrier();
#pragma unroll
    for (uint32_t j = 0; j < kColumnTiles; ++j) {
      if (kColumnTiles > 4 && j == 4) wave_barrier();
      const Vector16 tokens = load_shared_16(x + at + j * (8 * kTokenBytes) + (4 * kHalf + b) * (kMxBlock * 2));
#pragma unroll
      for (uint32_t t = 0; t < kTiles; ++t) {
        float part[4] = {};
#pragma unroll
        for (uint32_t k = 0; k < 2; ++k) {
          const uint32_t a[4] = {w[t][0][2 * k], w[t][1][2 * k], w[t][0][2 * k + 1], w[t][1][2 * k + 1]};
          const uint32_t column[2] = {tokens.word[2 * k], tokens.word[2 * k + 1]};
          multiply(Number{}, part, a, column);
        }
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
          sums[t][j][i] = __builtin_fmaf(part[i], scale[t][i / 2][b], sums[t][j][i]);
        }
      }
    }
  }
}

// All threads: tokens of steps [first, first + steps) of the workgroup's.
AITERLITE_DEVICE void fill_tokens(const Args& args, Shared& shared, const Work& work, uint32_t first, uint32_t steps) {
  const Source source = {args, work.batch};
  const uint32_t pieces = steps * (kStep / 8), k = static_cast<uint32_t>(args.k), lane = lane_id();
  const uint32_t first_k = (work.begin + first) * kStep;
  // A warp's lanes are neighbouring pieces of a token, which warps share where tokens are fewer.
  const uint32_t tokens = kColumnTiles == 1 ? work.tokens : kColumns, wave = thread_id() / kWaveSize;
  const uint32_t sharing = tokens < kWaves ? kWaves / tokens : 1;
  for (uint32_t token = wave / sharing; token < tokens; token += kWaves / sharing) {
#pragma unroll 4
    for (uint32_t piece = wave % sharing * kWaveSize + lane; piece < pieces; piece += sharing * kWaveSize) {
      const uint32_t at = first_k + piece * 8;
      Vector16 made = {};
      if (at < k && token < work.tokens) made = source.pieces(work.first_token + token, at);
      store_shared_16(shared.x + token * kTokenBytes + piece * 16, made);
    }
  }
}

// Ends a unit's sums: rows lane / 4 and 8 further on, tokens 2 * (lane % 4) and the next.
AITERLITE_DEVICE void finish(const Args& args, const Work& work, uint32_t unit, uint32_t column_tiles,
                             const Quad& quad) {
  const End end = {args, work.batch};
  const uint32_t lane = lane_id(), tile = unit / column_tiles, column = unit % column_tiles * 8 + lane % 4 * 2;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t row = work.first_row + tile * kTileRows + lane / 4 + 8 * (i / 2);
    if (row >= static_cast<uint32_t>(args.m) || column + i % 2 >= work.tokens) continue;
    end.store(quad.value[i], work.first_token + column + i % 2, row);
  }
}

// Calls `work` for each stage of the ring, which it knows when it is compiled.
template <uint32_t kNumber>
struct Slot {
  static constexpr uint32_t kValue = kNumber;
};
template <uint32_t kFirst = 0, class Task>
AITERLITE_DEVICE void in_each_stage(const Task& task) {
  task(Slot<kFirst>{});
  if constexpr (kFirst + 1 < kStages) in_each_stage<kFirst + 1>(task);
}

AITERLITE_DEVICE void add_quad(Quad& sum, const Quad& more) {
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) sum.value[i] += more.value[i];
}

AITERLITE_DEVICE void run(const Args& args, Shared& shared) {
  const uint32_t wave = shuffle(thread_id() / kWaveSize, 0), lane = lane_id();
  const uint32_t row_wave = wave % kRowWaves, k_wave = wave / kRowWaves;
  const Work work(args);
  const uint32_t column_tiles = (work.tokens + 7) / 8, units = kAllTiles * column_tiles;
  const uint32_t owned = (units + kCluster - 1 - work.rank) / kCluster;

  Exchange exchange(&shared.arrivals);
  exchange.open(owned * kCluster * kWaveSize * 4);
  Stream stream(args, work, row_wave, work.begin + k_wave);
  if constexpr (AITERLITE_EARLY != 0) {
    // The first steps of this warp come to the L2 already: 128 bytes at a time.
    const uint32_t steps = lower(kStages, (work.count + kKWaves - 1 - k_wave) / kKWaves);
    for (uint32_t i = 0; i < steps; ++i) {
#pragma unroll
      for (uint32_t t = 0; t < kTiles; ++t) {
#pragma unroll
        for (uint32_t c = 0; c < Stream::kCopies; ++c) {
          if (lane % 8 == 0) prefetch_operand(stream.from[t][c] + i * kKWaves * Stream::kStepBytes);
        }
      }
    }
  }
  await_predecessors();

  Stage* ring = shared.ring[wave];
  in_each_stage([&](auto slot) {
    constexpr uint32_t kSlot = decltype(slot)::kValue;
    const uint32_t own = k_wave + kSlot * kKWaves;
    if (own < work.count) {
      stream.template ask<kSlot>(work.begin + own, ring[kSlot]);
      stream.settle(ring[kSlot]);
    }
    commit_copies();
  });
  stream.advance();
  Sums sums = {};
  // Of 8 columns, those without a token take the last one's; of more, they have zeros.
  const uint32_t column = kColumnTiles == 1 ? lower(lane / 4, work.tokens - 1) : lane / 4;
  const char* x = shared.x + column * kTokenBytes + lane % 4 * 16;
  uint32_t places[kBlocks / 2];
  Codes::places(places);
  const uint32_t bias = opaque(static_cast<uint32_t>(kScaleExponent) << 23);
  bool unsettled = false;
#pragma unroll 1
  for (uint32_t first = 0; first < work.count; first += kXSteps) {
    const uint32_t end = lower(work.count, first + kXSteps);
    if (first > 0) workgroup_barrier();
    fill_tokens(args, shared, work, first, end - first);
    workgroup_barrier();
    // Each round of tokens begins with the ring's first stage.
#pragma unroll 1
    for (uint32_t turn = first + k_wave; turn < end; turn += kStages * kKWaves) {
      const uint32_t at = (turn - first) * kStep * 2;
      in_each_stage([&](auto slot) {
        constexpr uint32_t kSlot = decltype(slot)::kValue;
        const uint32_t own = turn + kSlot * kKWaves;
        if (own >= end) return;
        await_copies<kStages - 1>();
        if (Stream::kBytes > 0 && unsettled) stream.settle(ring[(kSlot + kStages - 1) % kStages]);
        wave_barrier();
        // Of many columns, sums need registers: then half of the codes wait in the ring while the others are
        // multiplied.
        constexpr uint32_t kAtOnce = kColumnTiles > 4 ? kBlocks / 2 : kBlocks;
        const uint32_t here = at + kSlot * kKWaves * kStep * 2;
        Codes codes;
        codes.load(ring[kSlot], places, 0, kAtOnce);
        if constexpr (kAtOnce < kBlocks) {
          add_half<0>(sums, codes, x, here, bias, codes.are_small());
          codes.load(ring[kSlot], places, kAtOnce, kAtOnce);
        }
        wave_barrier();
        const uint32_t next = own + kStages * kKWaves;
        unsettled = next < work.count;
        if (unsettled) stream.template ask<kSlot>(work.begin + next, ring[kSlot]);
        commit_copies();
        const bool small = codes.are_small();
        if constexpr (kAtOnce == kBlocks) add_half<0>(sums, codes, x, here, bias, small);
        add_half<1>(sums, codes, x, here, bias, small);
      });
      stream.advance();
    }
  }
  admit_successors();

  // Sums of the K waves come together in the first of them.
  const auto unit_of = [&](uint32_t t, uint32_t j) { return (row_wave * kTiles + t) * column_tiles + j; };
  if constexpr (kKWaves > 1) {
    if (k_wave != 0) {
#pragma unroll
      for (uint32_t t = 0; t < kTiles; ++t) {
#pragma unroll
        for (uint32_t j = 0; j < kColumnTiles; ++j) {
          if (j >= column_tiles) continue;
          shared.handed[((k_wave - 1) * kUnits + unit_of(t, j)) * kWaveSize + lane] = {
              {sums[t][j][0], sums[t][j][1], sums[t][j][2], sums[t][j][3]}};
        }
      }
    }
    workgroup_barrier();
  }
  exchange.await_start();
  if (k_wave == 0) {
#pragma unroll
    for (uint32_t t = 0; t < kTiles; ++t) {
#pragma unroll
      for (uint32_t j = 0; j < kColumnTiles; ++j) {
        if (j >= column_tiles) continue;
        const uint32_t unit = unit_of(t, j);
        Quad sum = {{sums[t][j][0], sums[t][j][1], sums[t][j][2], sums[t][j][3]}};
#pragma unroll
        for (uint32_t other = 0; other + 1 < kKWaves; ++other) {
          add_quad(sum, shared.handed[(other * kUnits + unit) * kWaveSize + lane]);
        }
        if constexpr (kCluster == 1) {
          finish(args, work, unit, column_tiles, sum);
        } else {
          const uint32_t place = (unit / kCluster * kCluster + work.rank) * kWaveSize + lane;
          exchange.send(unit % kCluster, &shared.received[place], sum);
        }
      }
    }
  }
  if constexpr (kCluster > 1) {
    if (owned == 0) return;
    exchange.await();
#pragma unroll 1
    for (uint32_t own_unit = wave; own_unit < owned; own_unit += kWaves) {
      const Quad* sent = &shared.received[own_unit * kCluster * kWaveSize + lane];
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
aiterlite_sm90_gemm_mxfp4(const __grid_constant__ aiterlite_gemm_mxfp4_args args) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  run(args, shared);
}
