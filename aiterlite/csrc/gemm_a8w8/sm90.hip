// GEMM of 8-bit floats with scales on sm_90: y[b, n, m] = sum_k x[b, n, k] * w[b, m, k], scaled, + bias
// (gemm_a8w8/args.h).
//
// Formulation. Weights are rows of the product, tokens its columns: few tokens waste nothing, and weights stream.
//
// Tiling. A cluster of AITERLITE_CLUSTER workgroups owns AITERLITE_ROWS weight rows, any multiple of 16, by
// AITERLITE_COLS tokens, and each of them one of as many neighbouring ranges of K. So many rows that clusters are as
// many as the chip holds at once: then every multiprocessor streams as many bytes. In a workgroup one lane asks the
// copy engine for steps of 128 k of both operands, into a ring of AITERLITE_STAGES in shared memory, a warp fetches the
// steps' scales, and warpgroups multiply 64 rows each. Where 64 rows are all, AITERLITE_K_GROUPS of them take steps in
// turn: one alone takes longer for a step than its bytes. Rows beyond the workgroup's own are multiplied too, whatever
// lies there, and not looked at. With AITERLITE_SHARE above 1 that many such clusters are one: their rows are
// neighbours, and those that have the same range of K fetch a part of the tokens each, for all of them. A stage is then
// written again when all of them have read it.
//
// Traffic. Weights: M * K bytes from memory, once for each AITERLITE_COLS tokens. Tokens: N / AITERLITE_ROWS bytes for
// each byte of weights reach a multiprocessor, a part of them, by AITERLITE_SHARE, leaves the L2; tokens that do not
// exist are not read. Sums: (C - 1) / C of a workgroup's through
// distributed shared memory. Scales, bias and y once a tile. No workspace, no atomics.
//
// Order. 128 k at a time, as the matrix unit adds; each such part, times its scales, is added in float: by steps of a
// warpgroup, then of those that take turns, then over the ranks of the cluster, ascending. Then scales of a row or a
// token, then the bias. So the bits of an output depend on its operands, K, AITERLITE_CLUSTER and AITERLITE_K_GROUPS
// only, and plain and shuffled weights give the same.
//
// Block: 128 threads for each warpgroup, and the copying warps. Grid: C * tiles, tiles of one piece of weights
// following each other. Operands, and their rows, begin at multiples of 16 bytes. The copy engine knows the operands'
// sizes: what lies beyond is not read, and arrives as zeros.
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/gemm_a8w8/sm90_ring.h>
#include <aiterlite/numeric/pack.h>

namespace {

constexpr uint32_t kTurns = AITERLITE_K_GROUPS;
constexpr uint32_t kRowGroups = (kRows + kGroupRows - 1) / kGroupRows, kGroups = kRowGroups * kTurns;
constexpr uint32_t kGroupThreads = kGroupWaves * kWaveSize;
constexpr uint32_t kFinishers = kRowGroups * kGroupThreads, kMultipliers = kGroups * kGroupThreads;
constexpr uint32_t kSums = kColumns / 2;  // of a thread
// Registers move from copying warps to multiplying ones where these need more than an equal share.
constexpr bool kMoves = kGroups > 2 && kColumns > 32;
constexpr uint32_t kCopiers = kMoves ? kGroupThreads : 2 * kWaveSize, kThreads = kMultipliers + kCopiers;
// Of few columns two parts of sums are held: one is multiplied by its scales, which wait in registers, while the next
// one is in the matrix unit. Of many the multiplying warpgroups do that for each other: a part more, or two halves of
// one, were slower on an H200.
constexpr bool kTwoParts = kColumns <= 32;
constexpr bool kHoldsScales = kScaled && kTwoParts;

// A thread's sums of two columns and two rows are a quad, and the quads of a pair of columns are kPairQuads. In a
// cluster rank p % C finishes pair p.
using Exchange = Mailbox<kCluster>;
constexpr uint32_t kPairs = kColumns / 2, kPairQuads = kRows / 2;
constexpr uint32_t kOwnedPairs = (kPairs + kCluster - 1) / kCluster;
constexpr uint32_t kReceived = kCluster > 1 ? kOwnedPairs * kCluster * kPairQuads : 0;
constexpr uint32_t kHanded = kTurns > 1 ? kSums / 4 * kFinishers : 0;
constexpr uint32_t kTurnsBarrier = 1, kFinishBarrier = 2;
// Results of many columns go to memory 16 bytes a thread, by way of where the ring was: tokens 16 bytes apart from a
// multiple of 32.
constexpr bool kGathers = kCluster == 1 && kColumns >= 32;
constexpr uint32_t kMadePitch = kRows + 8;

static_assert(kTurns == 1 || (kTurns == 2 && kRowGroups == 1), "AITERLITE_K_GROUPS must be 1, or 2 of at most 64 rows");
static_assert(
    kStages >= 2 * kTurns && kStages % kTurns == 0,
    "a stage is read by the same warpgroup every time, which waits for its next one before it is done with it");

struct Shared {
  Stage stage[kStages];
  // What the last stage's products read beyond its rows.
  uint8_t
      beyond[kRowGroups * kGroupRows > kRows + kColumns ? (kRowGroups * kGroupRows - kRows - kColumns) * kStep : 16];
  Quad received[kReceived + 1];
  Quad handed[kHanded + 1];
  Scales scales[kStages];
  Barrier full[kStages];
  Barrier empty[kStages];
  uint64_t arrivals;
};
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");

// A multiplying thread: rows row(0) and row(1) of its workgroup's, columns column(j, 0) and column(j, 1) for each
// j < kColumns / 8, as fragment/sm90_wgmma.h has them.
struct Place {
  uint32_t wave, lane;  // the wave of those that have the same steps

  AITERLITE_DEVICE uint32_t column(uint32_t j, uint32_t c) const { return 8 * j + lane % 4 * 2 + c; }
  // Its quad of each of its pairs of columns, and whether its rows are the workgroup's.
  AITERLITE_DEVICE uint32_t quad() const { return wave * 8 + lane / 4; }
  AITERLITE_DEVICE bool owned() const { return wave < kRows / kTileRows; }
};

struct alignas(8) ScalePair {
  float of[2];
};

// A step's products on their way.
struct Part {
  float sums[kSums];
  float scale[kHoldsScales ? kColumns / 4 : 1];

  AITERLITE_DEVICE void start(const Shared& shared, const Turn& turn, uint32_t row_group, const Place& place,
                              uint32_t block) {
    // Operands without swizzle, as shuffled weights lie: panels of two pieces of 8 rows, then 16 bytes of K on.
    constexpr uint32_t kPieceBytes = 128, kAlongK = kRows / 8 * kPieceBytes;
    constexpr uint32_t kAdvance = kShuffled ? 2 * kAlongK : 32;
    const Stage& stage = shared.stage[turn.stage];
    const uint8_t* own = stage.w + row_group * kGroupRows * (kShuffled ? 16 : kStep);
    const uint64_t w = kShuffled ? operand_descriptor(own, Swizzle::kNone, kPieceBytes, kAlongK) : tile_descriptor(own);
    const uint64_t x = tile_descriptor(stage.x);
    begin_group();
    multiply_group<Start::kZero>(e4m3fn{}, sums, w, x);
#pragma unroll
    for (uint32_t k = 1; k < 4; ++k) {
      multiply_group(e4m3fn{}, sums, advanced_bytes(w, k * kAdvance), advanced_bytes(x, k * 32));
    }
    commit_group();
    if constexpr (kHoldsScales) {
      const Scales& scales = shared.scales[turn.stage];
#pragma unroll
      for (uint32_t i = 0; i < kColumns / 4; ++i) scale[i] = scale_of(scales, place, block, i);
    }
  }
  // The scale of the columns i / 2, i % 2, of this thread's rows.
  AITERLITE_DEVICE static float scale_of(const Scales& scales, const Place& place, uint32_t block, uint32_t i) {
    const float of_rows = kBlocksOfW ? scales.w[block] : 1.0f;
    // Neighbours lie in 8 bytes, which the compiler fetches at once.
    const auto& pair = *reinterpret_cast<const ScalePair*>(scales.x + place.column(i / 2, 0));
    return kGroupsOfX ? pair.of[i % 2] * of_rows : of_rows;
  }
  // Adds the products to sums, and says that the stage is free.
  AITERLITE_DEVICE void take(float (&total)[kSums], Shared& shared, const Turn& turn, const Place& place,
                             uint32_t block, const Work& work, uint32_t step) const {
    const auto free = [&] {
      if constexpr (kScaled && !kHoldsScales) wave_barrier();  // all lanes have read theirs
      release(shared, turn, work, step);
    };
    if constexpr (kHoldsScales || !kScaled) free();
#pragma unroll
    for (uint32_t i = 0; i < kColumns / 4; ++i) {
      float by = 1.0f;
      if constexpr (kScaled) by = kHoldsScales ? scale[i] : scale_of(shared.scales[turn.stage], place, block, i);
#pragma unroll
      for (uint32_t at = i / 2 * 4 + i % 2, end = at + 2; at <= end; at += 2) {
        float& sum = total[at];
        sum = kScaled ? __builtin_fmaf(sums[at], by, sum) : sum + sums[at];
      }
    }
    if constexpr (kScaled && !kHoldsScales) free();
  }
};

// A warpgroup: the products of its steps, as they arrive.
AITERLITE_DEVICE void accumulate(float (&sums)[kSums], Shared& shared, const Work& work, uint32_t row_group,
                                 uint32_t first, const Place& place) {
  const uint32_t block = (work.first_row % kScaleRows + place.wave * kTileRows) / kScaleRows;
  const uint32_t own_block = block < kBlocks ? block : 0;
  Turn now;
  now.advance(first);
  const auto start = [&](Part& part, const Turn& turn) {
    shared.full[turn.stage].wait(turn.parity);
    part.start(shared, turn, row_group, place, own_block);
  };
  const auto take = [&](const Part& part, uint32_t step) {
    part.take(sums, shared, now, place, own_block, work, step);
  };
  if constexpr (kTwoParts) {
    if (first >= work.count) return;
    Part even, odd;
    start(even, now);
#pragma unroll 1
    for (uint32_t step = first;; step += 2 * kTurns) {
      Turn next = now;
      next.advance(kTurns);
      if (step + kTurns >= work.count) {
        await_group<0>();
        take(even, step);
        return;
      }
      start(odd, next);
      await_group<1>();
      take(even, step);
      now = next;
      next.advance(kTurns);
      if (step + 2 * kTurns >= work.count) {
        await_group<0>();
        take(odd, step + kTurns);
        return;
      }
      start(even, next);
      await_group<1>();
      take(odd, step + kTurns);
      now = next;
    }
  } else {
    Part part;
#pragma unroll 1
    for (uint32_t step = first; step < work.count; step += kTurns, now.advance(kTurns)) {
      start(part, now);
      await_group<0>();
      take(part, step);
    }
  }
}

// Ends the sums of a quad that exist: rows `row` and `row` + 8 of tokens `token` and `token` + 1.
AITERLITE_DEVICE void finish(const Args& args, const Work& work, uint32_t quad_number, uint32_t pair,
                             const Quad& quad) {
  const End end = {args, work.batch};
  const uint32_t first_row = work.first_row + quad_number / 8 * 16 + quad_number % 8;
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const uint32_t row = first_row + 8 * i;
    if (row >= static_cast<uint32_t>(args.m)) continue;
    const End::Row of_row = end.row(row);
#pragma unroll
    for (uint32_t c = 0; c < 2; ++c) {
      const uint32_t token = work.first_token + 2 * pair + c;
      if (token >= static_cast<uint32_t>(args.n)) continue;
      store_u16(end.at(token, row), End::bits(quad.value[2 * i + c], end.token(token), of_row));
    }
  }
}

// Ends a workgroup's sums, all of its own, by way of where the ring was: nobody reads that any more.
AITERLITE_DEVICE void finish_all(const Args& args, Shared& shared, const Work& work, const Place& place,
                                 const float (&sums)[kSums]) {
  const End end = {args, work.batch};
  auto* made = reinterpret_cast<uint16_t*>(shared.stage);
  static_assert(kColumns * kMadePitch * sizeof(uint16_t) <= sizeof(Shared::stage));
  const uint32_t own_row = place.wave * kTileRows, m = static_cast<uint32_t>(args.m);
  const uint32_t left = static_cast<uint32_t>(args.n) - work.first_token, tokens = left < kColumns ? left : kColumns;
  End::Row of_row[2];
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const uint32_t row = work.first_row + own_row + place.lane / 4 + 8 * i;
    of_row[i] = place.owned() && row < m ? end.row(row) : End::Row{1.0f, 0.0f};
  }
  named_barrier_wait(kFinishBarrier, kFinishers);
  if (place.owned()) {
#pragma unroll
    for (uint32_t j = 0; j < kColumns / 8; j += 2) {
      uint32_t words[4];
#pragma unroll
      for (uint32_t w = 0; w < 4; ++w) {
        // Rows 0 to 7 of 8 columns, rows 8 to 15, and of the next 8 columns.
        const uint32_t first = 4 * (j + w / 2) + 2 * (w % 2);
        float value[2];
#pragma unroll
        for (uint32_t c = 0; c < 2; ++c) {
          const uint32_t column = place.column(j + w / 2, c), token = work.first_token + column;
          value[c] = End::scaled(sums[first + c], column < tokens ? end.token(token) : 0.0f, of_row[w % 2]);
        }
        words[w] = pack_pair(Result{}, value[0], value[1]);
      }
      const uint32_t matrix = place.lane / 8, column = 8 * (j + matrix / 2) + place.lane % 8;
      store_matrices_transposed(made + column * kMadePitch + own_row + 8 * (matrix % 2), words);
    }
  }
  named_barrier_wait(kFinishBarrier, kFinishers);
  constexpr uint32_t kChunks = kRows / 8;
  const bool in_vectors = end.comes_in(8);
#pragma unroll 1
  for (uint32_t at = place.wave * kWaveSize + place.lane; at < tokens * kChunks; at += kFinishers) {
    const uint32_t column = at / kChunks, own = at % kChunks * 8, row = work.first_row + own;
    if (row >= m) continue;
    const uint16_t* from = made + column * kMadePitch + own;
    Result* to = end.at(work.first_token + column, row);
    if (in_vectors) {
      store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, load_shared_16(from)));
      continue;
    }
    for (uint32_t i = 0; i < 8 && row + i < m; ++i) store_u16(to + i, from[i]);
  }
}

AITERLITE_DEVICE void multiply(const Args& args, Shared& shared, const Work& work, uint32_t warp, Exchange& exchange,
                               uint32_t live_pairs, uint32_t owned_pairs) {
  const uint32_t group = warp / kGroupWaves, turn = group / kRowGroups;
  const Place place = {warp - turn * kRowGroups * kGroupWaves, lane_id()};
  float sums[kSums] = {};
  accumulate(sums, shared, work, group - turn * kRowGroups, turn, place);
  if constexpr (kTurns > 1) {
    const uint32_t thread = place.wave * kWaveSize + place.lane;
    if (turn != 0) {
#pragma unroll
      for (uint32_t j = 0; j < kSums / 4; ++j) {
        shared.handed[j * kFinishers + thread] = {{sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]}};
      }
      named_barrier_arrive(kTurnsBarrier, kMultipliers);
      if constexpr (kShare == 1) exchange.await_start();
      return;
    }
    named_barrier_wait(kTurnsBarrier, kMultipliers);
#pragma unroll
    for (uint32_t i = 0; i < kSums; ++i) sums[i] += shared.handed[i / 4 * kFinishers + thread].value[i % 4];
  }
  if constexpr (kShare == 1) exchange.await_start();
  if constexpr (kGathers) {
    finish_all(args, shared, work, place, sums);
  } else {
#pragma unroll
    for (uint32_t j = 0; j < kSums / 4; ++j) {
      const Quad quad = {{sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]}};
      const uint32_t pair = j * 4 + place.lane % 4;
      if (!place.owned() || pair >= live_pairs) continue;
      if constexpr (kCluster == 1) {
        finish(args, work, place.quad(), pair, quad);
      } else {
        const uint32_t slot = (pair / kCluster * kCluster + work.rank) * kPairQuads + place.quad();
        exchange.send(work.of_rank(pair % kCluster), &shared.received[slot], quad);
      }
    }
  }
  if constexpr (kCluster > 1) {
    if (owned_pairs == 0) return;
    exchange.await();
#pragma unroll 1
    for (uint32_t at = place.wave * kWaveSize + place.lane; at < owned_pairs * kPairQuads; at += kFinishers) {
      const uint32_t owned = at / kPairQuads, number = at - owned * kPairQuads;
      const Quad* sent = &shared.received[owned * kCluster * kPairQuads + number];
      Quad sum = sent[0];
#pragma unroll
      for (uint32_t sender = 1; sender < kCluster; ++sender) {
        const Quad& more = sent[sender * kPairQuads];
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) sum.value[i] += more.value[i];
      }
      finish(args, work, number, owned * kCluster + work.rank, sum);
    }
  }
}

}  // namespace

AITERLITE_KERNEL_RESIDENT(kThreads, AITERLITE_RESIDENT)
AITERLITE_CLUSTER_DIMS(AITERLITE_CLUSTER_SIZE)
aiterlite_sm90_gemm_a8w8(const __grid_constant__ aiterlite_sm90_gemm_a8w8_args args) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  const Args& gemm = args.gemm;
  const uint32_t warp = shuffle(thread_id() / kWaveSize, 0);
  const Work work(gemm);
  const uint32_t left = static_cast<uint32_t>(gemm.n) - work.first_token;
  const uint32_t live_pairs = ((left < kColumns ? left : kColumns) + 1) / 2;
  const uint32_t owned_pairs = (live_pairs + kCluster - 1 - work.rank) / kCluster;

  Exchange exchange(&shared.arrivals);
  if (thread_id() == 0) {
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      shared.full[stage].open(1 + kScalers);
      shared.empty[stage].open(kShare * kRowGroups * kGroupWaves);
    }
    publish_barriers();
    fetch_map_early(map(args.w_map));
    fetch_map_early(map(args.x_map));
  }
  exchange.open(owned_pairs * kCluster * kPairQuads * 4);
  if constexpr (kShare > 1) {
    // Others write to this workgroup's stages and barriers from the first step on.
    if constexpr (kCluster > 1) {
      exchange.await_start();
    } else {
      cluster_barrier();
    }
  }
  workgroup_barrier();
  if (thread_id() == kMultipliers) prefetch_weights(args, work);
  await_predecessors();
  // All of the grid that fits is running: where there is room, the next launch's workgroups come now.
  admit_successors();

  if (warp < kMultipliers / kWaveSize) {
    if constexpr (kMoves) take_registers<AITERLITE_REGISTERS>();
    multiply(gemm, shared, work, warp, exchange, live_pairs, owned_pairs);
    return;
  }
  if constexpr (kMoves) give_registers<32>();
  if (warp == kMultipliers / kWaveSize) {
    if (lane_id() == 0) copy(args, shared, work);
  } else if (warp == kMultipliers / kWaveSize + 1 && kScaled) {
    fetch_scales(gemm, shared, work);
  }
  if constexpr (kShare == 1) exchange.await_start();
}
