// Skinny GEMM on sm_90: y[n, m] = sum_k x[n, k] * w[m, k] + bias, for up to 128 tokens, 16-bit operands, float sums.
//
// Tiling. A cluster of C workgroups owns GROUPS * 64 weight rows by COLS token columns, and each of them one of C
// neighbouring ranges of K, in steps of 64. In a workgroup one wave asks the copy engine for the steps of both
// operands, into a ring of STAGES in shared memory, and GROUPS warpgroups multiply 64 rows each. Weights reach the
// matrix unit only through shared memory, and tokens are fetched once for all rows of the workgroup. With SHARE above
// 1, S such clusters are one: their rows are neighbours, and those that have the same range of K fetch COLS / S tokens
// each, for all of them. A stage is then written again when all of them have read it.
//
// Traffic. Weights: M * K elements from memory, once. Tokens: COLS / (GROUPS * 64 * S) elements per weight from the L2.
// Sums: (C - 1) / C of COLS * GROUPS * 64 floats a workgroup through distributed shared memory. Bias and y once. No
// workspace, no atomics.
//
// Order. Each output is summed over k inside a workgroup, 16 at a time, then over the ranks of the cluster, ascending;
// then the bias. So its bits depend on x[n], w[m], bias[n, m], K and C, and on nothing else: not on N, COLS, GROUPS or
// STAGES. Each column of a matrix instruction is summed for itself. A launch that keeps C for every N is therefore
// batch-invariant.
//
// N <= COLS; block GROUPS * 128 + 32 threads; grid C * S * ceil(M / (GROUPS * 64 * S)) workgroups, exactly; C at most
// the steps of K. Operands and their rows begin at multiples of 16 bytes. Nothing outside the operands is read: the
// copy engine knows their sizes, and what lies beyond arrives as zeros.
#include <aiterlite/block/mailbox.h>
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/overlap.h>
#include <aiterlite/sm90_gemm_args.h>
#include <aiterlite/tile/sm90_copy.h>

namespace {

using Element = aiterlite::AITERLITE_ELEMENT;
using aiterlite::Quad;

constexpr uint32_t kColumns = AITERLITE_COLS;
constexpr uint32_t kGroups = AITERLITE_GROUPS;
constexpr uint32_t kStages = AITERLITE_STAGES;
constexpr uint32_t kCluster = AITERLITE_CLUSTER;
constexpr uint32_t kShare = AITERLITE_SHARE;
using Mailbox = aiterlite::Mailbox<kCluster>;

constexpr uint32_t kStep = aiterlite::kSwizzledElements;
constexpr uint32_t kRows = kGroups * aiterlite::kGroupRows;
constexpr uint32_t kGroupThreads = aiterlite::kGroupWaves * aiterlite::kWaveSize;
constexpr uint32_t kFinishers = kGroups * kGroupThreads;
constexpr uint32_t kThreads = kFinishers + aiterlite::kWaveSize;  // the last wave copies
constexpr uint32_t kTileBytes = 2 * kStep * (kRows + kColumns);
constexpr uint32_t kSums = kColumns / 2;  // of a thread

// A thread's sums of two columns and two rows are a quad, and the quads of a pair of columns are kPairQuads. In a
// cluster rank p % C finishes pair p.
constexpr uint32_t kPairs = kColumns / 2;
constexpr uint32_t kPairQuads = kFinishers / 4;
constexpr uint32_t kOwnedPairs = (kPairs + kCluster - 1) / kCluster;
constexpr uint32_t kReceived = kCluster > 1 ? kOwnedPairs * kCluster * kPairQuads : 0;

static_assert(kColumns == 8 || kColumns == 16 || kColumns == 32 || kColumns == 64 || kColumns == 128,
              "AITERLITE_COLS must be 8, 16, 32, 64 or 128");
static_assert(kGroups == 1 || kGroups == 2, "AITERLITE_GROUPS must be 1 or 2");
static_assert(kStages >= 2 && kStages <= 16, "AITERLITE_STAGES must be 2 to 16");
static_assert(kCluster >= 1 && kCluster <= 16, "AITERLITE_CLUSTER must be 1 to 16");
static_assert(AITERLITE_CLUSTER_SIZE == kCluster * kShare, "AITERLITE_CLUSTER_SIZE counts all that share or exchange");
static_assert(kColumns % (8 * kShare) == 0, "each workgroup that shares fetches whole groups of 8 tokens");

struct Tiles {
  uint16_t w[kRows * kStep];
  uint16_t x[kColumns * kStep];
};
struct Shared {
  Tiles stage[kStages];
  Quad received[kReceived + 1];
  aiterlite::Barrier full[kStages];
  aiterlite::Barrier empty[kStages];
  uint64_t arrivals;
};
static_assert(sizeof(Tiles) == kTileBytes && kTileBytes % 1024 == 0, "tiles begin at multiples of 1024 bytes");
static_assert(sizeof(Shared) + 1024 <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");

AITERLITE_DEVICE const aiterlite::TensorMap& map(const aiterlite_tensor_map& opaque) {
  return reinterpret_cast<const aiterlite::TensorMap&>(opaque);
}

// Where a workgroup stands in its cluster: `rank` of those that split K, `share` of those that share tokens.
struct Seat {
  uint32_t rank;
  uint32_t share;

  AITERLITE_DEVICE static Seat own() {
    if constexpr (kCluster * kShare == 1) return {0, 0};
    return {aiterlite::cluster_rank() % kCluster, aiterlite::cluster_rank() / kCluster};
  }
  AITERLITE_DEVICE uint32_t of_rank(uint32_t other) const { return share * kCluster + other; }
  AITERLITE_DEVICE uint32_t of_share(uint32_t other) const { return other * kCluster + rank; }
  AITERLITE_DEVICE uint16_t sharers() const {
    uint32_t every = 0;
#pragma unroll
    for (uint32_t i = 0; i < kShare; ++i) every |= 1u << (i * kCluster);
    return static_cast<uint16_t>(every << rank);
  }
};

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

// One thread: fills the ring, waiting for each stage to be read before it is filled again.
AITERLITE_DEVICE void copy(const aiterlite_sm90_gemm_args& args, Shared& shared, const Range& range, uint32_t first_row,
                           const Seat& seat) {
  constexpr uint32_t kFetched = kColumns / kShare;
  const uint32_t token = seat.share * kFetched;
  const uint64_t once = aiterlite::keep_briefly(), again = aiterlite::keep_long();
  uint32_t stage = 0, parity = 1;
#pragma unroll 1
  for (uint32_t step = range.begin; step < range.end; ++step) {
    shared.empty[stage].wait(parity);
    aiterlite::Barrier& full = shared.full[stage];
    full.arrive_expecting(kTileBytes);
    aiterlite::copy_box(shared.stage[stage].w, map(args.w_map), step * kStep, first_row, full, once);
    uint16_t* to = shared.stage[stage].x + token * kStep;
    if constexpr (kShare == 1) {
      aiterlite::copy_box(to, map(args.x_map), step * kStep, token, full, again);
    } else {
      aiterlite::copy_box_to_ranks(to, map(args.x_map), step * kStep, token, full, seat.sharers());
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
    const uint32_t lane = aiterlite::thread_id() % aiterlite::kWaveSize;
    if constexpr (kShare == 1) {
      if (step > range.begin && lane == 0) shared.empty[before].arrive();
    } else {
      const bool again = step > range.begin && step - 1 + kStages < range.end;
      if (again && lane < kShare) shared.empty[before].arrive_having_read_in(seat.of_share(lane));
    }
  };
#pragma unroll 1
  for (uint32_t step = range.begin; step < range.end; ++step) {
    shared.full[stage].wait(parity);
    const Tiles& tiles = shared.stage[stage];
    const uint64_t w = aiterlite::tile_descriptor(tiles.w + group * aiterlite::kGroupRows * kStep);
    const uint64_t x = aiterlite::tile_descriptor(tiles.x);
    aiterlite::begin_group();
#pragma unroll
    for (uint32_t k = 0; k < kStep; k += 16) {
      aiterlite::multiply_group(Element{}, sums, aiterlite::advanced(w, k), aiterlite::advanced(x, k));
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
  AITERLITE_DEVICE static float at(const aiterlite_gemm_args& args, uint32_t token, uint32_t row) {
    const Element* bias = static_cast<const Element*>(args.bias) + token * args.stride_bias + row;
    return aiterlite::to_float(Element{aiterlite::load_u16(bias)});
  }
};

// Adds the bias to the four sums of a quad, and stores those that exist.
AITERLITE_DEVICE void finish(const aiterlite_gemm_args& args, const Bias& bias, const Place& place, const Quad& quad) {
  const bool of_token = args.bias != nullptr && args.stride_bias != 0;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t row = place.row + i / 2 * 8, token = place.column + i % 2;
    if (row >= static_cast<uint32_t>(args.m) || token >= static_cast<uint32_t>(args.n)) continue;
    const float sum = quad.value[i] + (of_token ? Bias::at(args, token, row) : bias.of_row[i / 2]);
    Element* y = static_cast<Element*>(args.y) + token * args.stride_y + row;
    aiterlite::store_u16(y, aiterlite::from_float<Element>(sum).bits);
  }
}

}  // namespace

AITERLITE_KERNEL(kThreads)
AITERLITE_CLUSTER_DIMS(AITERLITE_CLUSTER_SIZE)
aiterlite_sm90_wv_split_k(const __grid_constant__ aiterlite_sm90_gemm_args args) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);

  const aiterlite_gemm_args& gemm = args.gemm;
  const uint32_t thread = aiterlite::thread_id();
  const uint32_t wave = thread / aiterlite::kWaveSize;
  const uint32_t lane = aiterlite::lane_id();
  const Seat seat = Seat::own();
  const uint32_t rank = seat.rank;
  const uint32_t first_row = (aiterlite::workgroup_id() / AITERLITE_CLUSTER_SIZE * kShare + seat.share) * kRows;
  const Range range = range_of(rank, static_cast<uint32_t>(gemm.k));
  const uint32_t live_pairs = (static_cast<uint32_t>(gemm.n) + 1) / 2;
  const uint32_t owned_pairs = (live_pairs + kCluster - 1 - rank) / kCluster;

  Mailbox mailbox(&shared.arrivals);
  if (thread == 0) {
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      shared.full[stage].open(1);
      shared.empty[stage].open(kShare * kFinishers / aiterlite::kWaveSize);
    }
    aiterlite::publish_barriers();
  }
  mailbox.open(owned_pairs * kCluster * kPairQuads * 4);
  if (thread == kFinishers) {
    aiterlite::fetch_map_early(map(args.w_map));
    aiterlite::fetch_map_early(map(args.x_map));
  }
  if constexpr (kShare > 1) {
    // Others write to this workgroup's stages and barriers from the first step on.
    if constexpr (kCluster > 1) {
      mailbox.await_start();
    } else {
      aiterlite::cluster_barrier();
    }
  }
  aiterlite::workgroup_barrier();
  aiterlite::await_predecessors();

  if (thread >= kFinishers) {
    if (thread == kFinishers) copy(args, shared, range, first_row, seat);
    if constexpr (kShare == 1) mailbox.await_start();
    return;
  }

  // A thread finishes the same two rows of every pair of columns: its own, or those of the quads it is dealt.
  const uint32_t own_quad = wave * 8 + lane / 4;
  const uint32_t dealt_quad = thread % kPairQuads;
  Bias bias;
  bias.fetch(gemm, first_row + row_of(kCluster > 1 ? dealt_quad : own_quad));

  float sums[kSums] = {};
  accumulate(sums, shared, range, wave / aiterlite::kGroupWaves, seat);
  aiterlite::admit_successors();

  if constexpr (kShare == 1) mailbox.await_start();
#pragma unroll
  for (uint32_t j = 0; j < kSums / 4; ++j) {
    const Quad quad = {{sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]}};
    const uint32_t pair = j * 4 + lane % 4;
    if constexpr (kCluster == 1) {
      finish(gemm, bias, {first_row + row_of(own_quad), 2 * pair}, quad);
    } else if (pair < live_pairs) {
      const uint32_t slot = (pair / kCluster * kCluster + rank) * kPairQuads + own_quad;
      mailbox.send(seat.of_rank(pair % kCluster), &shared.received[slot], quad);
    }
  }
  if constexpr (kCluster > 1) {
    if (owned_pairs == 0) return;
    mailbox.await();
#pragma unroll 1
    for (uint32_t owned = thread / kPairQuads; owned < owned_pairs; owned += kFinishers / kPairQuads) {
      const Quad* sent = &shared.received[owned * kCluster * kPairQuads + dealt_quad];
      Quad sum = sent[0];
#pragma unroll
      for (uint32_t sender = 1; sender < kCluster; ++sender) {
        const Quad& more = sent[sender * kPairQuads];
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) sum.value[i] += more.value[i];
      }
      finish(gemm, bias, {first_row + row_of(dealt_quad), 2 * (owned * kCluster + rank)}, sum);
    }
  }
}
