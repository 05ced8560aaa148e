// GEMM of 8-bit floats with scales on sm_90, for 32 tokens or more: y[b, n, m] = sum_k x[b, n, k] * w[b, m, k], scaled,
// + bias (gemm_a8w8/args.h).
//
// Formulation. Tokens are rows of the product, 64 a warpgroup, weights its columns, so that a thread has two tokens:
// two scales are all that it fetches for a step, and it holds neighbouring features, which it stores as they are. With
// weights as rows (sm90.hip) it has two rows of all tokens, and a scale for every two sums: on an H200 that cost more
// than the products of 128 tokens did.
//
// Tiling. A cluster of AITERLITE_CLUSTER workgroups owns AITERLITE_ROWS weight rows by AITERLITE_COLS tokens, and each
// of them one of as many neighbouring ranges of K. In a workgroup one lane asks the copy engine for steps of 128 k of
// both operands, into a ring of AITERLITE_STAGES in shared memory, a warp fetches the steps' scales, and a warpgroup
// for each 64 tokens multiplies them by all rows. Tokens beyond the workgroup's own are multiplied too, whatever lies
// there, and not looked at. With AITERLITE_SHARE above 1 that many such clusters are one: their rows are neighbours,
// and those that have the same range of K fetch a part of the tokens each, for all of them. A stage is then written
// again when all of them have read it.
//
// Traffic. Weights: M * K bytes from memory, once for each AITERLITE_COLS tokens. Tokens: N / AITERLITE_ROWS bytes for
// each byte of weights reach a multiprocessor, a part of them, by AITERLITE_SHARE, leaves the L2; tokens that do not
// exist are not read. Sums: (C - 1) / C of a workgroup's through distributed shared memory. Scales, bias and y once a
// tile. No workspace, no atomics.
//
// Order. 128 k at a time, as the matrix unit adds; each such part, times its scales, is added in float, by steps, then
// over the ranks of the cluster, ascending. Then scales of a row or a token, then the bias. So the bits of an output
// depend on its operands, K and AITERLITE_CLUSTER only, and plain and shuffled weights give the same.
//
// Block: 128 threads for each 64 tokens, and the copying warps. Grid: C * tiles, tiles of one piece of weights
// following each other. Operands, and their rows, begin at multiples of 16 bytes. The copy engine knows the operands'
// sizes: what lies beyond is not read, and arrives as zeros.
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/gemm_a8w8/sm90_ring.h>
#include <aiterlite/numeric/pack.h>

namespace {

constexpr uint32_t kGroups = (kColumns + kGroupRows - 1) / kGroupRows, kGroupThreads = kGroupWaves * kWaveSize;
constexpr uint32_t kMultipliers = kGroups * kGroupThreads;
// Registers move from copying warps to multiplying ones where these need more than an equal share.
constexpr bool kMoves = kGroups > 1 && kRows > 128;
constexpr uint32_t kCopiers = kMoves ? kGroupThreads : 2 * kWaveSize, kThreads = kMultipliers + kCopiers;

// So many rows as a matrix instruction takes: the most of those that divide the workgroup's.
constexpr uint32_t piece_rows() {
  constexpr uint32_t kCounts[] = {128, 96, 64, 48, 40, 32, 24};
  for (const uint32_t count : kCounts) {
    if (kRows % count == 0) return count;
  }
  return 16;
}
constexpr uint32_t kPieceRows = piece_rows(), kPieces = kRows / kPieceRows, kPieceSums = kPieceRows / 2;

// Two parts of sums are held where registers allow: one is multiplied by its scales while the next one is in the matrix
// unit.
constexpr bool kTwoParts = kRows <= 64;
// Results of a workgroup that has all of K go to memory in rows as long as they are, by way of where the ring was.
constexpr bool kGathers = kCluster == 1;
constexpr uint32_t kFinishBarrier = 1, kMadePitch = kRows + 8;

// A thread's sums of two tokens and two rows are a quad; a pair of quads has 16 rows, of four threads. In a cluster
// rank p % C finishes pair p.
using Exchange = Mailbox<kCluster>;
constexpr uint32_t kPairs = kRows / kTileRows, kOwnedPairs = (kPairs + kCluster - 1) / kCluster;
constexpr uint32_t kReceived = (kCluster - 1) * kOwnedPairs * 2 * kMultipliers;

static_assert(kStages >= 2, "AITERLITE_STAGES must be at least 2");

struct Shared {
  Stage stage[kStages];
  // What the last stage's products read beyond its tokens.
  uint8_t beyond[kGroups * kGroupRows > kColumns ? (kGroups * kGroupRows - kColumns) * kStep : 16];
  Quad received[kReceived + 1];
  Scales scales[kStages];
  Barrier full[kStages];
  Barrier empty[kStages];
  uint64_t arrivals;
};
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");

struct Sums {
  float piece[kPieces][kPieceSums];

  // Quad `j`: rows 8 j and on; of each token two rows.
  AITERLITE_DEVICE float* quad(uint32_t j) { return &piece[j * 4 / kPieceSums][j * 4 % kPieceSums]; }
  AITERLITE_DEVICE const float* quad(uint32_t j) const { return &piece[j * 4 / kPieceSums][j * 4 % kPieceSums]; }
};
constexpr uint32_t kQuads = kRows / 8;

// A multiplying thread: tokens token(0) and token(1) of its workgroup's, and of each 8 rows column() and the next one.
struct Place {
  uint32_t wave, lane;

  AITERLITE_DEVICE uint32_t token(uint32_t i) const { return wave * 16 + lane / 4 + 8 * i; }
  AITERLITE_DEVICE uint32_t column() const { return lane % 4 * 2; }
};

// A step's products on their way, and what they are multiplied by, where that goes by the step.
struct Part {
  Sums sums;
  float of_token[2], of_rows[kBlocks];

  AITERLITE_DEVICE void start(const Shared& shared, const Turn& turn, uint32_t group, const Place& place) {
    // Operands without swizzle, as shuffled weights lie: panels of two pieces of 8 rows, then 16 bytes of K on.
    constexpr uint32_t kPieceBytes = 128, kAlongK = kRows / 8 * kPieceBytes;
    constexpr uint32_t kAdvance = kShuffled ? 2 * kAlongK : 32;
    // What they are multiplied by is fetched first, and used last: between products it would keep them waiting.
    if constexpr (kScaled) {
      const Scales& scales = shared.scales[turn.stage];
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        // Tokens that do not exist may lie beyond the scales.
        const uint32_t token = place.token(i);
        of_token[i] = kGroupsOfX ? scales.x[token < kColumns ? token : 0] : 1.0f;
      }
#pragma unroll
      for (uint32_t b = 0; b < kBlocks; ++b) of_rows[b] = kBlocksOfW ? scales.w[b] : 1.0f;
    }
    const Stage& first = shared.stage[0];
    const uint32_t at = turn.stage * sizeof(Stage);
    const uint64_t x = advanced_bytes(tile_descriptor(first.x + group * kGroupRows * kStep), at);
    begin_group();
#pragma unroll
    for (uint32_t i = 0; i < kPieces; ++i) {
      const uint8_t* own = first.w + i * kPieceRows * (kShuffled ? 16 : kStep);
      const uint64_t w = advanced_bytes(
          kShuffled ? operand_descriptor(own, Swizzle::kNone, kPieceBytes, kAlongK) : tile_descriptor(own), at);
      multiply_group<Start::kZero>(e4m3fn{}, sums.piece[i], x, w);
#pragma unroll
      for (uint32_t k = 1; k < 4; ++k) {
        multiply_group(e4m3fn{}, sums.piece[i], advanced_bytes(x, k * 32), advanced_bytes(w, k * kAdvance));
      }
    }
    commit_group();
  }
  // Adds the products, which are complete, to sums. `before`: the rows before the second block of scales.
  AITERLITE_DEVICE void add_to(Sums& total, uint32_t before) const {
    float by[2][kBlocks];
    if constexpr (kScaled) {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
        for (uint32_t b = 0; b < kBlocks; ++b) by[i][b] = kBlocksOfW ? of_token[i] * of_rows[b] : of_token[i];
      }
    }
#pragma unroll
    for (uint32_t j = 0; j < kQuads; ++j) {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        float scale = kScaled ? by[i][0] : 1.0f;
#pragma unroll
        for (uint32_t b = 1; b < kBlocks; ++b) scale = 8 * j >= before + (b - 1) * kScaleRows ? by[i][b] : scale;
#pragma unroll
        for (uint32_t c = 0; c < 2; ++c) {
          float& sum = total.quad(j)[2 * i + c];
          const float more = sums.quad(j)[2 * i + c];
          sum = kScaled ? __builtin_fmaf(more, scale, sum) : sum + more;
        }
      }
    }
  }
};

// A warpgroup: the products of its tokens, as steps arrive.
AITERLITE_DEVICE void accumulate(Sums& total, Shared& shared, const Work& work, uint32_t group, const Place& place) {
  const uint32_t before = kScaleRows - work.first_row % kScaleRows;
  Turn now;
  const auto start = [&](Part& part, const Turn& turn) {
    shared.full[turn.stage].wait(turn.parity);
    part.start(shared, turn, group, place);
  };
  const auto take = [&](const Part& part, uint32_t step) {
    release(shared, now, work, step);
    part.add_to(total, before);
  };
  if constexpr (kTwoParts) {
    if (work.count == 0) return;
    Part even, odd;
    start(even, now);
#pragma unroll 1
    for (uint32_t step = 0;; step += 2) {
      Turn next = now;
      next.advance(1);
      if (step + 1 >= work.count) {
        await_group<0>();
        take(even, step);
        return;
      }
      start(odd, next);
      await_group<1>();
      take(even, step);
      now = next;
      next.advance(1);
      if (step + 2 >= work.count) {
        await_group<0>();
        take(odd, step + 1);
        return;
      }
      start(even, next);
      await_group<1>();
      take(odd, step + 1);
      now = next;
    }
  } else {
    Part part;
#pragma unroll 1
    for (uint32_t step = 0; step < work.count; ++step, now.advance(1)) {
      start(part, now);
      await_group<0>();
      take(part, step);
    }
  }
}

// The results of a quad of rows 8 j and on from `row`: a word of two for each token.
AITERLITE_DEVICE void results(uint32_t (&word)[2], const End& end, const Work& work, const Place& place, uint32_t row,
                              const float* sums, uint32_t tokens) {
  End::Row of_row[2];
#pragma unroll
  for (uint32_t c = 0; c < 2; ++c) {
    const uint32_t own = row + place.column() + c;
    of_row[c] = own < static_cast<uint32_t>(end.args.m) ? end.row(own) : End::Row{1.0f, 0.0f};
  }
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const uint32_t token = place.token(i);
    const float of_token = token < tokens ? end.token(work.first_token + token) : 0.0f;
    word[i] = pack_pair(Result{}, End::scaled(sums[2 * i], of_token, of_row[0]),
                        End::scaled(sums[2 * i + 1], of_token, of_row[1]));
  }
}

// Stores those of 8 neighbouring results that exist.
AITERLITE_DEVICE void store_eight(const End& end, const Work& work, uint32_t token, uint32_t row, const Vector16& eight,
                                  bool in_vectors) {
  const auto m = static_cast<uint32_t>(end.args.m);
  if (row >= m) return;
  Result* to = end.at(work.first_token + token, row);
  if (in_vectors) {
    store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, eight));
    return;
  }
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) {
    if (row + i < m) store_u16(to + i, static_cast<uint16_t>(eight.word[i / 2] >> (16 * (i % 2))));
  }
}

// Ends a workgroup's sums, all of its own.
AITERLITE_DEVICE void finish_all(const End& end, Shared& shared, const Work& work, const Place& place, const Sums& sums,
                                 uint32_t tokens, bool in_vectors) {
  auto* made = reinterpret_cast<uint16_t*>(shared.stage);
  static_assert(kGroups * kGroupRows * kMadePitch * sizeof(uint16_t) <= sizeof(Shared::stage) || !kGathers);
  named_barrier_wait(kFinishBarrier, kMultipliers);
#pragma unroll
  for (uint32_t j = 0; j < kQuads; ++j) {
    uint32_t word[2];
    results(word, end, work, place, work.first_row + 8 * j, sums.quad(j), tokens);
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      *reinterpret_cast<uint32_t*>(made + place.token(i) * kMadePitch + 8 * j + place.column()) = word[i];
    }
  }
  named_barrier_wait(kFinishBarrier, kMultipliers);
#pragma unroll 1
  for (uint32_t at = place.wave * kWaveSize + place.lane; at < tokens * kQuads; at += kMultipliers) {
    const uint32_t token = at / kQuads, own = at % kQuads * 8;
    store_eight(end, work, token, work.first_row + own, load_shared_16(made + token * kMadePitch + own), in_vectors);
  }
}

// Of four lanes each has a word of four vectors: gives each lane all words of one, the lane's number among them.
AITERLITE_DEVICE void exchange_words(uint32_t (&word)[4], uint32_t lane) {
#pragma unroll
  for (uint32_t apart = 1; apart < 4; apart *= 2) {
    const bool upper = (lane & apart) != 0;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      if ((i & apart) != 0) continue;
      uint32_t& low = word[i];
      uint32_t& high = word[i + apart];
      const float got = shuffle_xor(__builtin_bit_cast(float, upper ? low : high), apart);
      (upper ? low : high) = __builtin_bit_cast(uint32_t, got);
    }
  }
}

// Ends a pair of quads, those of 16 rows from `row` on, of the tokens of four lanes; each lane gets 16 bytes to store.
AITERLITE_DEVICE void finish_pair(uint32_t (&word)[4], const End& end, const Work& work, const Place& place,
                                  uint32_t row, const float (&sums)[2][4], uint32_t tokens) {
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    uint32_t of_half[2];
    results(of_half, end, work, place, row + 8 * half, sums[half], tokens);
    word[half] = of_half[0];
    word[2 + half] = of_half[1];
  }
  exchange_words(word, place.lane);
}

AITERLITE_DEVICE void multiply(const Args& args, Shared& shared, const Work& work, uint32_t warp, Exchange& exchange,
                               uint32_t tokens) {
  const Place place = {warp, lane_id()};
  const uint32_t thread = warp * kWaveSize + place.lane;
  Sums sums = {};
  accumulate(sums, shared, work, warp / kGroupWaves, place);
  if constexpr (kShare == 1) exchange.await_start();
  const End end = {args, work.batch};
  const bool in_vectors = end.comes_in(8);
  if constexpr (kGathers) {
    finish_all(end, shared, work, place, sums, tokens, in_vectors);
  } else {
    // Four lanes exchange words, and have the same tokens.
    if (place.token(0) < tokens) {
#pragma unroll
      for (uint32_t j = 0; j < kQuads; ++j) {
        const uint32_t owner = j / 2 % kCluster, slot = work.rank - (work.rank > owner ? 1 : 0);
        if (owner == work.rank) continue;
        const float* quad = sums.quad(j);
        Quad* to = &shared.received[(slot * kOwnedPairs * 2 + j / 2 / kCluster * 2 + j % 2) * kMultipliers + thread];
        exchange.send(work.of_rank(owner), to, Quad{{quad[0], quad[1], quad[2], quad[3]}});
      }
    }
    exchange.await();
    // All lanes exchange words before any stores: behind a branch that some of them took ptxas (CUDA 13.0) lets a
    // shuffle begin without the others, and drops a barrier of the warp as well.
    uint32_t word[kOwnedPairs][4];
#pragma unroll
    for (uint32_t p = 0; p < kPairs; ++p) {
      if (p % kCluster != work.rank) continue;
      float total[2][4];
#pragma unroll
      for (uint32_t half = 0; half < 2; ++half) {
        const float* own = sums.quad(2 * p + half);
        const Quad* received = &shared.received[(p / kCluster * 2 + half) * kMultipliers + thread];
#pragma unroll
        for (uint32_t sender = 0; sender < kCluster; ++sender) {
          const bool is_own = sender == work.rank;
          const uint32_t slot = is_own ? 0 : sender - (sender > work.rank ? 1 : 0);
          const Quad sent = received[slot * kOwnedPairs * 2 * kMultipliers];
#pragma unroll
          for (uint32_t i = 0; i < 4; ++i) {
            const float more = is_own ? own[i] : sent.value[i];
            total[half][i] = sender == 0 ? more : total[half][i] + more;
          }
        }
      }
      finish_pair(word[p / kCluster], end, work, place, work.first_row + p * kTileRows, total, tokens);
    }
    const uint32_t token = place.token(place.lane % 4 / 2);
    if (token >= tokens) return;
#pragma unroll
    for (uint32_t i = 0; i < kOwnedPairs; ++i) {
      const uint32_t p = i * kCluster + work.rank, row = work.first_row + p * kTileRows + place.lane % 2 * 8;
      const Vector16 eight = {{word[i][0], word[i][1], word[i][2], word[i][3]}};
      if (p < kPairs) store_eight(end, work, token, row, eight, in_vectors);
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
  const uint32_t left = static_cast<uint32_t>(gemm.n) - work.first_token, tokens = left < kColumns ? left : kColumns;
  const uint32_t owned = (kPairs + kCluster - 1 - work.rank) / kCluster;
  // Threads of which a token exists: of 16 tokens those of the first 8 have both.
  const uint32_t live = 4 * (tokens / 16 * 8 + (tokens % 16 < 8 ? tokens % 16 : 8));

  Exchange exchange(&shared.arrivals);
  if (thread_id() == 0) {
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      shared.full[stage].open(1 + kScalers);
      shared.empty[stage].open(kShare * kGroups * kGroupWaves);
    }
    publish_barriers();
    fetch_map_early(map(args.w_map));
    fetch_map_early(map(args.x_map));
  }
  exchange.open((kCluster - 1) * owned * 2 * 4 * live);
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
    multiply(gemm, shared, work, warp, exchange, tokens);
    return;
  }
  if constexpr (kMoves) give_registers<40>();
  if (warp == kMultipliers / kWaveSize) {
    if (lane_id() == 0) copy(args, shared, work);
  } else if (warp == kMultipliers / kWaveSize + 1 && kScaled) {
    fetch_scales(gemm, shared, work);
  }
  if constexpr (kShare == 1) exchange.await_start();
}
