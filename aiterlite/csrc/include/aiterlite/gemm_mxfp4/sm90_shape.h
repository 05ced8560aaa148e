// The GEMM of MXFP4 weights on sm_90: what its roles share. The cut, the ring, and what a workgroup does.
//
// A step is 256 k, of two chunks. A block's 16 bytes of codes are one lane's: lanes 4 i to 4 i + 3 have the four blocks
// of a chunk of row i, and each of them a pair of its own codes in each product. So a product of 16 k is made of codes
// of four blocks, and tokens lie in shared memory in that order: word w of block q, codes 8 w to 8 w + 7 of it, are the
// pairs (0, 4) and (1, 5) of product 2 w, and (2, 6) and (3, 7) of product 2 w + 1, at the two places of lane q.
#pragma once
#include <aiterlite/block/mailbox.h>
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/gemm_mxfp4/output.h>
#include <aiterlite/gemm_mxfp4/sm90_args.h>
#include <aiterlite/gemm_mxfp4/tokens.h>
#include <aiterlite/overlap.h>
#include <aiterlite/tile/sm90_copy.h>
#include <aiterlite/tile/sm90_turn.h>

namespace aiterlite::gemm_mxfp4 {

// How scales of weights lie: in rows, four of which at a multiple of 4 bytes are those of a step; in rows of any
// strides; or shuffled.
inline constexpr int kInRows = 0, kStrided = 1, kShuffledScales = 2;

inline constexpr uint32_t kColumns = AITERLITE_COLS, kRows = AITERLITE_ROWS, kStages = AITERLITE_STAGES;
inline constexpr uint32_t kCluster = AITERLITE_CLUSTER, kTurns = AITERLITE_TURNS, kFold = AITERLITE_FOLD;
inline constexpr uint32_t kLoaders = AITERLITE_LOADERS, kEarly = AITERLITE_EARLY;
inline constexpr bool kShuffled = AITERLITE_SHUFFLED, kPacked = AITERLITE_PACKED;
inline constexpr bool kXScaleShuffled = AITERLITE_X_SCALE_SHUFFLED;
inline constexpr int kScales = AITERLITE_W_SCALES;
using Number = AITERLITE_NUMBER;
using Result = AITERLITE_RESULT;
using Args = aiterlite_gemm_mxfp4_args;
using End = Output<Result>;
using Exchange = Mailbox<kCluster>;

inline constexpr uint32_t kStep = 256, kChunk = 128, kBlocks = kStep / kMxBlock, kTileRows = 16, kRowBytes = kStep / 2;
inline constexpr uint32_t kGroupThreads = kGroupWaves * kWaveSize;
// Of fp16 tokens, which bf16 has not, there are two columns, whose sum they are.
inline constexpr bool kIsFp16 = kE2m1Exponent<Number> == 14;
inline constexpr uint32_t kParts = kIsFp16 && !kPacked ? 2 : 1;
inline constexpr uint32_t kColumnGroups = kColumns * kParts / 8;  // groups of 8 columns of a chunk

// Rows of a warpgroup: 64, or 32 of both chunks at once, which have columns of their own.
inline constexpr uint32_t kTilesOfGroup = kGroupWaves / kFold, kTiles = kRows / kTileRows;
inline constexpr uint32_t kRowGroups = (kTiles + kTilesOfGroup - 1) / kTilesOfGroup, kGroups = kRowGroups * kTurns;
inline constexpr uint32_t kKWaves = kTurns * kFold;
inline constexpr uint32_t kMultipliers = kGroups * kGroupThreads;
inline constexpr uint32_t kCopier = kMultipliers / kWaveSize, kScaler = kCopier + 1, kFirstLoader = kCopier + 2;
inline constexpr uint32_t kThreads = (kFirstLoader + kLoaders) * kWaveSize;
inline constexpr uint32_t kSums = kColumns / 2;  // of a thread

// Tokens in shared memory: a word of a chunk's blocks is two products of 8 columns, whose halves are pieces of 8
// columns of 16 bytes. 16 bytes more, so that words of a token are written to different banks.
inline constexpr uint32_t kPieceBytes = 128, kProductBytes = 2 * kPieceBytes, kWordBytes = 2 * kProductBytes + 16;
inline constexpr uint32_t kGroupBytes = 4 * kWordBytes, kChunkBytes = kColumnGroups * kGroupBytes;
inline constexpr uint32_t kTokenBytes = 2 * kChunkBytes;
// Scales of a step: 8 bytes a row; shuffled ones as they lie, in tiles of 32 rows.
inline constexpr uint32_t kScaleTile = 256;
inline constexpr uint32_t kScaleBytes =
    kScales == kShuffledScales ? (kRows / 32 + 1) * kScaleTile : (kRows * kBlocks + 15) / 16 * 16;

// Units of sums: a tile of rows by 8 tokens, a quad a lane. In a cluster rank u % C finishes unit u.
inline constexpr uint32_t kUnits = kTiles * (kColumns / 8);
inline constexpr uint32_t kOwned = (kUnits + kCluster - 1) / kCluster;
inline constexpr uint32_t kReceived = kCluster > 1 ? kOwned * kCluster * kWaveSize : 0;
inline constexpr uint32_t kHanded = (kKWaves - 1) * kUnits * kWaveSize;
// Many sums of others lie where the ring was, once all of the cluster are done with theirs.
inline constexpr bool kReuses = kReceived * sizeof(Quad) > 16384;

static_assert(kColumns == 8 || kColumns == 16 || kColumns == 32 || kColumns == 64 || kColumns == 128,
              "AITERLITE_COLS must be 8, 16, 32, 64 or 128");
static_assert(kColumnGroups * kFold <= 16, "at most 128 columns of a product");
static_assert(kRows % kTileRows == 0 && kRows >= kTileRows && kRows <= 256,
              "AITERLITE_ROWS must be a multiple of 16, at most 256");
static_assert(kFold == 1 || kFold == 2, "AITERLITE_FOLD must be 1 or 2");
static_assert(kStages >= 2 * kTurns && kStages % kTurns == 0,
              "a stage is read by the same warpgroup every time, which waits for its next one before it is done");
static_assert(kCluster >= 1 && kCluster <= 8, "AITERLITE_CLUSTER must be 1 to 8");
static_assert(kThreads <= 1024, "too many warps");

// Why no wait misses a phase, a barrier telling one from the next alone. `full` of a stage is waited for by the warps
// of one turn, since stages divide by turns, each time that it is filled; it cannot be filled again before all of them
// have arrived at `empty`. `empty` is waited for by who copies weights, who fetches scales, and the warp that brings a
// token of that stage, always the same one, each time before it fills the stage again; it cannot be emptied again
// before all of them have filled it. So neither is ever two phases from who waits for it, however slow a warp is.
struct Ring {
  alignas(1024) uint8_t w[kStages][kRows * kRowBytes];
  alignas(16) uint8_t x[kStages][kTokenBytes];
};
struct Shared {
  Ring ring;
  alignas(16) uint8_t scale[kStages][kScaleBytes];
  Quad received[kReuses ? 1 : kReceived + 1];
  Quad handed[kHanded + 1];
  Barrier full[kStages];
  Barrier empty[kStages];
  uint64_t arrivals;

  AITERLITE_DEVICE Quad* sent_here() { return kReuses ? reinterpret_cast<Quad*>(&ring) : received; }
};
static_assert(!kReuses || kReceived * sizeof(Quad) <= sizeof(Ring), "the ring is smaller than the sums that reuse it");
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");

AITERLITE_DEVICE uint32_t lower(uint32_t a, uint32_t b) { return a < b ? a : b; }
AITERLITE_DEVICE const TensorMap& map_of(const aiterlite_tensor_map& opaque) {
  return reinterpret_cast<const TensorMap&>(opaque);
}

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

using Turn = RingTurn<kStages>;

}  // namespace aiterlite::gemm_mxfp4
