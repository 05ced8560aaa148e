// Skinny GEMM on sm_90: y[n, m] = sum_k x[n, k] * w[m, k] + bias, for up to 128 tokens, 16-bit operands, float sums.
//
// Tiling. A cluster of C workgroups owns ROWS weight rows by COLS token columns, and each of them one of C neighbouring
// ranges of K, in steps of DEPTH * 64. So many rows that clusters are as many as the chip holds at once: then every
// multiprocessor streams as many bytes. In a workgroup one wave asks the copy engine for the steps of both operands,
// into a ring of STAGES in shared memory, and a warpgroup for each 64 rows multiplies. Rows beyond the workgroup's own
// are multiplied too, whatever lies there, and not looked at. Weights reach the matrix unit only through shared memory,
// and tokens are fetched once for all rows of the workgroup. With SHARE above 1, S such clusters are one: their rows
// are neighbours, and those that have the same range of K fetch COLS / S tokens each, for all of them. With TOKEN_TILES
// above 1, T such clusters, of COLS tokens each, are one, and fetch ROWS / T weight rows each, for all of them. A stage
// is then written again when all of them have read it.
//
// Launches. Weights of the first EARLY steps come to the L2 before the kernels ahead have ended. The next launch is
// admitted when all is multiplied, or, with ADMIT_EARLY, as soon as this one may read: for rings that hold all of K.
//
// Traffic. Weights: M * K elements from memory, once. Tokens: COLS / ROWS elements per weight reach a multiprocessor,
// and COLS / (ROWS * S) leave the L2. Sums: (C - 1) / C of COLS * ROWS floats a workgroup through distributed shared
// memory. Bias and y once, y 16 bytes at a time where a workgroup ends 16 columns. No workspace, no atomics.
//
// Order. Each output is summed over k inside a workgroup, 16 at a time, then over the ranks of the cluster, ascending;
// then the bias. So its bits depend on x[n], w[m], bias[n, m], K, C and DEPTH, and on nothing else: not on N, COLS,
// ROWS or STAGES. Each column of a matrix instruction is summed for itself. A launch that keeps C and DEPTH for every N
// is therefore batch-invariant.
//
// N <= COLS * T; block a warpgroup for each 64 rows and a wave; grid C * S * T * ceil(M / (ROWS * S))
// workgroups, exactly; C at most the steps of K; with DEPTH above 1, K is a multiple of 64. Operands and their rows
// begin at multiples of 16 bytes. Nothing outside the operands is read: the copy engine knows their sizes, and what
// lies beyond arrives as zeros.
#include <aiterlite/block/mailbox.h>
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/numeric/pack.h>
#include <aiterlite/overlap.h>
#include <aiterlite/sm90_gemm_args.h>
#include <aiterlite/tile/sm90_copy.h>

namespace {

using Element = aiterlite::AITERLITE_ELEMENT;
using aiterlite::Quad;

constexpr uint32_t kColumns = AITERLITE_COLS;
constexpr uint32_t kRows = AITERLITE_ROWS;
constexpr uint32_t kDepth = AITERLITE_DEPTH;
constexpr uint32_t kStages = AITERLITE_STAGES;
constexpr uint32_t kCluster = AITERLITE_CLUSTER;
constexpr uint32_t kShare = AITERLITE_SHARE;
constexpr uint32_t kTiles = AITERLITE_TOKEN_TILES;
constexpr uint32_t kEarly = AITERLITE_EARLY;
constexpr bool kAdmitsEarly = AITERLITE_ADMIT_EARLY;
using Mailbox = aiterlite::Mailbox<kCluster>;

constexpr uint32_t kPiece = aiterlite::kSwizzledElements;  // k of a tile; a step has kDepth of them
constexpr uint32_t kStep = kDepth * kPiece;
constexpr uint32_t kGroups = (kRows + aiterlite::kGroupRows - 1) / aiterlite::kGroupRows;
constexpr uint32_t kGroupThreads = aiterlite::kGroupWaves * aiterlite::kWaveSize;
constexpr uint32_t kFinishers = kGroups * kGroupThreads;
constexpr uint32_t kThreads = kFinishers + aiterlite::kWaveSize;  // the last wave copies
constexpr uint32_t kStageBytes = 2 * kStep * (kRows + kColumns);
constexpr uint32_t kSums = kColumns / 2;  // of a thread
// Waves that have rows of the workgroup's own, 16 each, the last one perhaps 8.
constexpr uint32_t kLiveWaves = (kRows + 15) / 16;

// A thread's sums of two columns and two rows are a quad. Where a workgroup of the cluster can end 16 columns, or
// several times 16, rank p % C ends panel p, and a thread is sent the quads of its own place by the others. Else rank
// p % C ends pair p of columns, and the quads of a pair, kPairQuads, are dealt to all threads.
constexpr uint32_t kPanelColumns = 16;
constexpr uint32_t kPanels = kColumns / kPanelColumns;
constexpr bool kByPanels = kPanels >= kCluster;
constexpr uint32_t kOwnedPanels = (kPanels + kCluster - 1) / kCluster;
constexpr uint32_t kLiveThreads = kLiveWaves * aiterlite::kWaveSize;
constexpr uint32_t kPairs = kColumns / 2;
constexpr uint32_t kPairQuads = kLiveThreads / 4;
constexpr uint32_t kOwnedPairs = (kPairs + kCluster - 1) / kCluster;
constexpr uint32_t kReceived = kCluster == 1 ? 0
                               : kByPanels   ? kOwnedPanels * 2 * (kCluster - 1) * kLiveThreads
                                             : kOwnedPairs * kCluster * kPairQuads;
// Outputs of panels go to memory 16 bytes a thread, by way of where the ring was: columns of an odd number of times 16
// bytes, so that 8 of them lie in different banks.
constexpr uint32_t kMadePitch = (kLiveWaves * 2 + 1) * 8;
constexpr uint32_t kMadeBytes = kByPanels ? kOwnedPanels * kPanelColumns * kMadePitch * 2 : 0;
constexpr uint32_t kFinishBarrier = 1;

static_assert(kColumns == 8 || kColumns == 16 || kColumns == 32 || kColumns == 64 || kColumns == 128,
              "AITERLITE_COLS must be 8, 16, 32, 64 or 128");
static_assert(kRows % 8 == 0 && kRows >= 8 && kRows <= 128, "AITERLITE_ROWS must be a multiple of 8, at most 128");
static_assert(kDepth >= 1 && kDepth <= 8, "AITERLITE_DEPTH must be 1 to 8");
static_assert(kStages >= 2 && kStages <= 16, "AITERLITE_STAGES must be 2 to 16");
static_assert(kCluster >= 1 && kCluster <= 16, "AITERLITE_CLUSTER must be 1 to 16");
static_assert(AITERLITE_CLUSTER_SIZE == kCluster * kShare * kTiles,
              "AITERLITE_CLUSTER_SIZE counts all that share or exchange");
static_assert(kRows % (8 * kTiles) == 0, "each workgroup that shares weights fetches whole groups of 8 rows");
static_assert(kColumns % (8 * kShare) == 0, "each workgroup that shares fetches whole groups of 8 tokens");
static_assert(kMadeBytes <= kStages * kStageBytes, "AITERLITE_STAGES is too small: outputs do not fit the ring");

struct Stage {
  uint16_t w[kDepth][kRows * kPiece];
  uint16_t x[kDepth][kColumns * kPiece];
};
// What the last products read beyond the workgroup's rows: at most to the end of 64 or 128 rows from the last piece on.
constexpr uint32_t kReadRows = kGroups * aiterlite::kGroupRows;
constexpr uint32_t kBeyondRows = kReadRows > kRows + kDepth* kColumns ? kReadRows - kRows - kDepth * kColumns : 0;
struct Shared {
  Stage stage[kStages];
  uint16_t beyond[kBeyondRows * kPiece + 8];
  Quad received[kReceived + 1];
  aiterlite::Barrier full[kStages];
  aiterlite::Barrier empty[kStages];
  uint64_t arrivals;
};
static_assert(sizeof(Stage) == kStageBytes && kStageBytes % 1024 == 0, "tiles begin at multiples of 1024 bytes");
static_assert(sizeof(Shared) + 1024 <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");

AITERLITE_DEVICE const aiterlite::TensorMap& map(const aiterlite_tensor_map& opaque) {
  return reinterpret_cast<const aiterlite::TensorMap&>(opaque);
}

// Where a workgroup stands in its cluster: `rank` of those that split K, `share` of those that share tokens.
struct Seat {
  uint32_t rank;
  uint32_t share;
  uint32_t tile;

  AITERLITE_DEVICE static Seat own() {
    if constexpr (AITERLITE_CLUSTER_SIZE == 1) return {0, 0, 0};
    const uint32_t others = aiterlite::cluster_rank() / kCluster;
    return {aiterlite::cluster_rank() % kCluster, others % kShare, others / kShare};
  }
  AITERLITE_DEVICE uint32_t of_rank(uint32_t other) const { return (tile * kShare + share) * kCluster + other; }
  // Of those that share tokens with this one, and then, without this one, of those that share weights.
  AITERLITE_DEVICE uint32_t of_sharer(uint32_t number) const {
    if (number < kShare) return (tile * kShare + number) * kCluster + rank;
    const uint32_t other = number - kShare;
    return ((other < tile ? other : other + 1) * kShare + share) * kCluster + rank;
  }
  AITERLITE_DEVICE uint16_t sharers_of_tokens() const {
    uint32_t every = 0;
#pragma unroll
    for (uint32_t i = 0; i < kShare; ++i) every |= 1u << (i * kCluster);
    return static_cast<uint16_t>(every << (tile * kShare * kCluster + rank));
  }
  AITERLITE_DEVICE uint16_t sharers_of_weights() const {
    uint32_t every = 0;
#pragma unroll
    for (uint32_t i = 0; i < kTiles; ++i) every |= 1u << (i * kShare * kCluster);
    return static_cast<uint16_t>(every << (share * kCluster + rank));
  }
};
constexpr uint32_t kSharers = kShare + kTiles - 1;

// The steps of K of this workgroup: [begin, end).
struct Range {
  uint32_t begin;
  uint32_t end;
};

AITERLITE_DEVICE Range range_of(uint32_t rank, uint32_t k) {
  const uint32_t steps = (k + kStep - 1) / kStep;
  const uint32_t each = steps / kCluster, more = steps % kCluster;
  const uint32_t begin = rank * each + (rank < more ? rank : more);
  return {begin, begin + each + (rank < more ? 1 : 0)};
}

// Where a step's piece of an operand is: (x, y, z) of its map, which has steps of several pieces as further dimension.
AITERLITE_DEVICE uint32_t along_k(uint32_t step) { return kDepth == 1 ? step * kStep : 0; }
AITERLITE_DEVICE uint32_t piece_of(uint32_t step) { return kDepth == 1 ? 0 : step * kDepth; }

// One thread: fills the ring, waiting for each stage to be read before it is filled again.
AITERLITE_DEVICE void copy(const aiterlite_sm90_gemm_args& args, Shared& shared, const Range& range, uint32_t first_row,
                           const Seat& seat) {
  constexpr uint32_t kTokens = kColumns / kShare, kOwnRows = kRows / kTiles;
  const uint32_t own_token = seat.share * kTokens, token = seat.tile * kColumns + own_token;
  const uint32_t own_row = seat.tile * kOwnRows, row = first_row + own_row;
  const uint64_t once = aiterlite::keep_briefly(), again = aiterlite::keep_long();
  uint32_t stage = 0, parity = 1;
#pragma unroll 1
  for (uint32_t step = range.begin; step < range.end; ++step) {
    const uint32_t k = along_k(step), piece = piece_of(step);
    shared.empty[stage].wait(parity);
    aiterlite::Barrier& full = shared.full[stage];
    Stage& to = shared.stage[stage];
    full.arrive_expecting(kStageBytes);
    if constexpr (kTiles == 1) {
      aiterlite::copy_box(to.w, map(args.w_map), k, row, piece, full, once);
    } else {
#pragma unroll
      for (uint32_t j = 0; j < kDepth; ++j) {
        aiterlite::copy_box_to_ranks(to.w[j] + own_row * kPiece, map(args.w_map), k, row, piece + j, full,
                                     seat.sharers_of_weights());
      }
    }
    if constexpr (kShare == 1) {
      aiterlite::copy_box(to.x, map(args.x_map), k, token, piece, full, again);
    } else {
#pragma unroll
      for (uint32_t j = 0; j < kDepth; ++j) {
        aiterlite::copy_box_to_ranks(to.x[j] + own_token * kPiece, map(args.x_map), k, token, piece + j, full,
                                     seat.sharers_of_tokens());
      }
    }
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
}

// A warpgroup: the products of the steps, as they arrive.
AITERLITE_DEVICE void accumulate(float (&sums)[kSums], Shared& shared, const Range& range, uint32_t group,
                                 const Seat& seat) {
  uint32_t stage = 0, parity = 0, before = 0;
  // That the step before has been read is said where it will be written again: then nobody is told who has ended.
  const auto release = [&](uint32_t step) {
    const uint32_t lane = aiterlite::lane_id();
    if constexpr (kSharers == 1) {
      if (step > range.begin && lane == 0) shared.empty[before].arrive();
    } else {
      const bool again = step > range.begin && step - 1 + kStages < range.end;
      if (again && lane < kSharers) shared.empty[before].arrive_having_read_in(seat.of_sharer(lane));
    }
  };
  aiterlite::hold_sums(sums);
#pragma unroll 1
  for (uint32_t step = range.begin; step < range.end; ++step) {
    shared.full[stage].wait(parity);
    const Stage& tiles = shared.stage[stage];
    aiterlite::begin_group();
#pragma unroll
    for (uint32_t piece = 0; piece < kDepth; ++piece) {
      const uint64_t w = aiterlite::tile_descriptor(tiles.w[piece] + group * aiterlite::kGroupRows * kPiece);
      const uint64_t x = aiterlite::tile_descriptor(tiles.x[piece]);
#pragma unroll
      for (uint32_t k = 0; k < kPiece; k += 16) {
        aiterlite::multiply_group(Element{}, sums, aiterlite::advanced(w, k), aiterlite::advanced(x, k));
      }
    }
    aiterlite::commit_group();
    // The step before has been read when only this one is still running.
    aiterlite::await_group<1>();
    release(step);
    before = stage;
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  aiterlite::await_group<0>();
  aiterlite::hold_sums(sums);
}

// Where a quad lies: rows `row` and `row` + 8 of columns `column` and `column` + 1.
struct Place {
  uint32_t row;
  uint32_t column;
};

// Quad `number` of a pair of columns, numbered by warpgroup, wave, and lane / 4.
AITERLITE_DEVICE uint32_t row_of(uint32_t number) { return number / 8 * 16 + number % 8; }

// A row's bias, fetched before the sums are complete where it is the same for all tokens.
struct Bias {
  float of_row[2];

  AITERLITE_DEVICE void fetch(const aiterlite_gemm_args& args, uint32_t row) {
    of_row[0] = of_row[1] = 0.0f;
    if (args.bias == nullptr || args.stride_bias != 0) return;
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      if (row + 8 * i < static_cast<uint32_t>(args.m)) of_row[i] = at(args, 0, row + 8 * i);
    }
  }
  // To the sums of rows `row` and `row` + 8 of columns `token` and `token` + 1; where it is not the same for all
  // tokens, those that exist are fetched now.
  AITERLITE_DEVICE void add(const aiterlite_gemm_args& args, Quad& quad, uint32_t token, uint32_t row) const {
    if (args.bias == nullptr || args.stride_bias == 0) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) quad.value[i] += of_row[i / 2];
      return;
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t n = token + i % 2, m = row + i / 2 * 8;
      const bool exists = n < static_cast<uint32_t>(args.n) && m < static_cast<uint32_t>(args.m);
      if (exists) quad.value[i] += at(args, n, m);
    }
  }
  AITERLITE_DEVICE static float at(const aiterlite_gemm_args& args, uint32_t token, uint32_t row) {
    const Element* bias = static_cast<const Element*>(args.bias) + token * args.stride_bias + row;
    return aiterlite::to_float(Element{aiterlite::load_u16(bias)});
  }
};

// Adds the bias to the four sums of a quad, and stores those that exist and are the workgroup's.
AITERLITE_DEVICE void finish(const aiterlite_gemm_args& args, const Bias& bias, uint32_t first_row,
                             uint32_t first_token, const Place& place, Quad quad) {
  bias.add(args, quad, first_token + place.column, first_row + place.row);
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t own = place.row + i / 2 * 8, row = first_row + own, token = first_token + place.column + i % 2;
    if (own >= kRows || row >= static_cast<uint32_t>(args.m) || token >= static_cast<uint32_t>(args.n)) continue;
    Element* y = static_cast<Element*>(args.y) + token * args.stride_y + row;
    aiterlite::store_u16(y, aiterlite::from_float<Element>(quad.value[i]).bits);
  }
}

// Outputs from where the ring was to memory, a column of a panel after another.
AITERLITE_DEVICE void store_made(const aiterlite_gemm_args& args, const Shared& shared, uint32_t first_row,
                                 uint32_t first_token, uint32_t rank) {
  const auto* made = reinterpret_cast<const uint16_t*>(shared.stage);
  const uint32_t thread = aiterlite::thread_id(), n = static_cast<uint32_t>(args.n);
  aiterlite::named_barrier_wait(kFinishBarrier, kFinishers);
  constexpr uint32_t kChunks = kRows / 8;
  const auto y = reinterpret_cast<uintptr_t>(args.y);
  const bool in_vectors = (y % 16 | static_cast<uint64_t>(args.stride_y) % 8) == 0;
  const uint32_t m = static_cast<uint32_t>(args.m);
#pragma unroll 1
  for (uint32_t at = thread; at < kOwnedPanels * kPanelColumns * kChunks; at += kFinishers) {
    const uint32_t column = at / kChunks, own = at % kChunks * 8, first = first_row + own;
    const uint32_t panel = column / kPanelColumns * kCluster + rank;
    const uint32_t token = first_token + panel * kPanelColumns + column % kPanelColumns;
    if (token >= n) return;
    if (first >= m) continue;
    const uint16_t* from = made + column * kMadePitch + own;
    Element* to = static_cast<Element*>(args.y) + token * args.stride_y + first;
    if (in_vectors && first + 8 <= m) {
      aiterlite::store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, aiterlite::load_shared_16(from)));
      continue;
    }
    for (uint32_t i = 0; i < 8 && first + i < m; ++i) aiterlite::store_u16(to + i, from[i]);
  }
}

// Ends the panels of a rank, by way of where the ring was: nobody reads that any more once all have come.
AITERLITE_DEVICE void finish_panels(const aiterlite_gemm_args& args, Shared& shared, const Bias& bias,
                                    const float (&sums)[kSums], uint32_t first_row, uint32_t first_token, uint32_t rank,
                                    uint32_t wave) {
  auto* made = reinterpret_cast<uint16_t*>(shared.stage);
  const uint32_t thread = aiterlite::thread_id(), lane = aiterlite::lane_id(), n = static_cast<uint32_t>(args.n);
  const uint32_t own_row = wave * 16, row = first_row + own_row + lane / 4;
  aiterlite::named_barrier_wait(kFinishBarrier, kFinishers);
  if (wave < kLiveWaves) {
#pragma unroll
    for (uint32_t panel = 0; panel < kPanels; ++panel) {
      if (panel % kCluster != rank || first_token + panel * kPanelColumns >= n) continue;
      const uint32_t owned = panel / kCluster;
      uint32_t words[4];
#pragma unroll
      for (uint32_t block = 0; block < 2; ++block) {
        Quad sum;
#pragma unroll
        for (uint32_t sender = 0; sender < kCluster; ++sender) {
          Quad more;
          if (sender == rank) {
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) more.value[i] = sums[8 * panel + 4 * block + i];
          } else {
            const uint32_t from = (2 * owned + block) * (kCluster - 1) + sender - (sender > rank ? 1 : 0);
            more = shared.received[from * kLiveThreads + thread];
          }
#pragma unroll
          for (uint32_t i = 0; i < 4; ++i) sum.value[i] = sender == 0 ? more.value[i] : sum.value[i] + more.value[i];
        }
        bias.add(args, sum, first_token + panel * kPanelColumns + 8 * block + lane % 4 * 2, row);
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
          words[2 * block + half] = aiterlite::pack_pair(Element{}, sum.value[2 * half], sum.value[2 * half + 1]);
        }
      }
      // Matrices: rows 0 to 7 of 8 columns, rows 8 to 15, and of the next 8 columns.
      const uint32_t matrix = lane / 8, column = owned * kPanelColumns + 8 * (matrix / 2) + lane % 8;
      aiterlite::store_matrices_transposed(made + column * kMadePitch + own_row + 8 * (matrix % 2), words);
    }
  }
  store_made(args, shared, first_row, first_token, rank);
}

// Sends what other ranks end; what this one ends of pairs of columns goes to its own shared memory.
AITERLITE_DEVICE void send(Mailbox& mailbox, Shared& shared, const float (&sums)[kSums], uint32_t n, const Seat& seat,
                           uint32_t wave) {
  const uint32_t thread = aiterlite::thread_id(), lane = aiterlite::lane_id(), own_quad = wave * 8 + lane / 4;
  const uint32_t rank = seat.rank;
#pragma unroll
  for (uint32_t j = 0; j < kSums / 4; ++j) {
    const Quad quad = {{sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]}};
    if constexpr (kByPanels) {
      const uint32_t panel = j / 2, owner = panel % kCluster;
      if (owner == rank || panel * kPanelColumns >= n) continue;
      const uint32_t from = (panel / kCluster * 2 + j % 2) * (kCluster - 1) + rank - (rank > owner ? 1 : 0);
      mailbox.send(seat.of_rank(owner), &shared.received[from * kLiveThreads + thread], quad);
    } else {
      const uint32_t pair = j * 4 + lane % 4, owner = pair % kCluster;
      if (2 * pair >= n) continue;
      Quad* slot = &shared.received[(pair / kCluster * kCluster + rank) * kPairQuads + own_quad];
      if (owner == rank) {
        *slot = quad;
      } else {
        mailbox.send(seat.of_rank(owner), slot, quad);
      }
    }
  }
}

}  // namespace

AITERLITE_KERNEL(kThreads)
AITERLITE_CLUSTER_DIMS(AITERLITE_CLUSTER_SIZE)
aiterlite_sm90_wv_split_k(const __grid_constant__ aiterlite_sm90_gemm_args args) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);

  const aiterlite_gemm_args& gemm = args.gemm;
  const uint32_t thread = aiterlite::thread_id();
  // The compiler must know that a wave's number is the same in all lanes: descriptors depend on it.
  const uint32_t wave = aiterlite::shuffle(thread / aiterlite::kWaveSize, 0);
  const uint32_t lane = aiterlite::lane_id();
  const Seat seat = Seat::own();
  const uint32_t rank = seat.rank, cluster = aiterlite::workgroup_id() / AITERLITE_CLUSTER_SIZE;
  const uint32_t first_row = (cluster * kShare + seat.share) * kRows, first_token = seat.tile * kColumns;
  const uint32_t left = static_cast<uint32_t>(gemm.n) > first_token ? static_cast<uint32_t>(gemm.n) - first_token : 0;
  const uint32_t n = left < kColumns ? left : kColumns;
  const Range range = range_of(rank, static_cast<uint32_t>(gemm.k));
  // What this rank ends: panels, or pairs of columns; and the quads that others send.
  constexpr uint32_t kUnit = kByPanels ? kPanelColumns : 2;
  const uint32_t owned = ((n + kUnit - 1) / kUnit + kCluster - 1 - rank) / kCluster;
  constexpr uint32_t kUnitQuads = (kByPanels ? 2 * kLiveThreads : kPairQuads) * (kCluster - 1);

  Mailbox mailbox(&shared.arrivals);
  if (thread == 0) {
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      shared.full[stage].open(1);
      shared.empty[stage].open(kSharers * kFinishers / aiterlite::kWaveSize);
    }
    aiterlite::publish_barriers();
  }
  mailbox.open(owned * kUnitQuads * 4);
  if (thread == kFinishers) {
    aiterlite::fetch_map_early(map(args.w_map));
    aiterlite::fetch_map_early(map(args.x_map));
    // Weights of the first steps, before others have ended, which reads nothing yet.
    const uint32_t own_row = first_row + seat.tile * (kRows / kTiles);
#pragma unroll 1
    for (uint32_t step = range.begin; step < range.begin + kEarly && step < range.end; ++step) {
      aiterlite::prefetch_box(map(args.w_map), along_k(step), own_row, piece_of(step));
    }
  }
  if constexpr (kSharers > 1) {
    // Others write to this workgroup's stages and barriers from the first step on.
    if constexpr (kCluster == 1) aiterlite::cluster_arrive();  // that barriers are open has been published
    aiterlite::cluster_wait();
  }
  aiterlite::workgroup_barrier();
  aiterlite::await_predecessors();

  if (thread >= kFinishers) {
    if (thread == kFinishers) {
      // Where a ring holds all of K, workgroups of the next launch take nothing from this one.
      if constexpr (kAdmitsEarly) aiterlite::admit_successors();
      copy(args, shared, range, first_row, seat);
    }
    if constexpr (kSharers == 1) mailbox.await_start();
    return;
  }

  // A thread ends the same two rows of every column: its own, or those of the quads it is dealt.
  constexpr uint32_t kDealers = kFinishers / kPairQuads * kPairQuads;
  const uint32_t own_quad = wave * 8 + lane / 4;
  const uint32_t quad = kByPanels || kCluster == 1 ? own_quad : thread % kPairQuads;
  Bias bias;
  bias.fetch(gemm, first_row + row_of(quad));

  float sums[kSums] = {};
  accumulate(sums, shared, range, wave / aiterlite::kGroupWaves, seat);
  if constexpr (!kAdmitsEarly) aiterlite::admit_successors();

  if constexpr (kSharers == 1) mailbox.await_start();
  if constexpr (kCluster > 1) {
    if (wave < kLiveWaves) send(mailbox, shared, sums, n, seat, wave);
    if (owned == 0) return;
    mailbox.await();
  }
  if constexpr (kByPanels) {
    finish_panels(gemm, shared, bias, sums, first_row, first_token, rank, wave);
  } else if constexpr (kCluster == 1) {
#pragma unroll
    for (uint32_t j = 0; j < kSums / 4; ++j) {
      const Quad own = {{sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]}};
      finish(gemm, bias, first_row, first_token, {row_of(own_quad), 8 * j + lane % 4 * 2}, own);
    }
  } else {
    // Its own quads were written by other threads.
    aiterlite::named_barrier_wait(kFinishBarrier, kFinishers);
    if (thread >= kDealers) return;
#pragma unroll 1
    for (uint32_t at = thread / kPairQuads; at < owned; at += kDealers / kPairQuads) {
      const Quad* sent = &shared.received[at * kCluster * kPairQuads + quad];
      Quad sum = sent[0];
#pragma unroll
      for (uint32_t sender = 1; sender < kCluster; ++sender) {
        const Quad& more = sent[sender * kPairQuads];
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) sum.value[i] += more.value[i];
      }
      finish(gemm, bias, first_row, first_token, {row_of(quad), 2 * (at * kCluster + rank)}, sum);
    }
  }
}
