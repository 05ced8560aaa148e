// MLA decode on sm_90 of few tokens a workgroup: as mla/sm90_decode.hip, for requests of one row of q without a plan,
// made for the time from the first load to the last store.
//
// Formulation. S^T = K q^T, then O^T = V^T P^T, as there; 16-bit KV in boxes is multiplied where it lies. Two
// warpgroups share a tile of 64 tokens: they take scores of tiles in turn, and each has half of the values of all
// tiles, so that nothing is merged between them. Sums of weights are products with ones. Whole tiles come in parts, and
// scores are made as they come; of the last tile each block of values is sent or stored under the products of the next.
//
// Tiling. AITERLITE_RANKS workgroups, a cluster, share a split of a request: tiles of 64 tokens are dealt to all splits
// and ranks. A workgroup has kColumns heads; more heads are other workgroups', which read KV again. One warp or four
// have tiles brought: whole ones or boxes of 16 tokens by the copy engine, rows by asynchronous copies.
//
// Traffic. KV once a workgroup; q once a workgroup; o, or float parts of splits and their log-sums, once a cluster. In
// a cluster the ranks exchange their sums as fp16 (mla/sm90_short_merge.h): no second kernel merges them.
//
// Order. A row's bits depend on its piece's tokens and on how it is cut. No atomics: same operands, same bits.
//
// Masks and numbers as there: what no row may see is zeroed or selected, weights of bf16 are two numbers, which are
// columns of one product where registers allow. Weights of bf16 are relative to nothing while scores, in log2, lie
// within 32 of it; others are relative to a maximum.
#include <aiterlite/mla/sm90_short_scores.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::mla::brief;
using mla::Divisor;
using mla::kAllBarrier;
using mla::kGroupBarrier;
using mla::kGroupThreads;
using mla::kLowest;
using mla::kMultipliers;
using mla::ShortPiece;
using mla::ShortResult;
using mla::ShortTask;
using mla::static_for;

// Adds the weights of a tile, which group `owner` made; their products are complete then.
AITERLITE_DEVICE void add_weights(Sums& sums, uint64_t weights) {
  constexpr uint32_t kOne = __is_same(Element, bf16) ? 0x3f80 : 0x3c00, kBoth = kOne * 0x10001;
  constexpr uint32_t kOnes[4] = {kBoth, kBoth, kBoth, kBoth};
  begin_group();
  static_for<4 * kProducts>([&](auto product) {
    constexpr uint32_t kX = decltype(product)::value / kProducts, kPart = decltype(product)::value % kProducts;
    multiply_group(Element{}, sums.weights, kOnes, advanced_bytes(weights, kPart * Cut::kWeightBytes + kX * 32));
  });
  commit_group();
  await_group<0>();
}

// Asks for products of a tile's values of this group at place kPlace.
template <uint32_t kPlace>
AITERLITE_DEVICE void add_block(Sums& sums, uint64_t values, uint64_t weights, uint32_t turn) {
  const uint64_t block = values + Cut::block_at(kPlace, turn) * (kPanelBytes / 16);
  begin_group();
  static_for<4>([&](auto product) {
    constexpr uint32_t kX = decltype(product)::value;
    multiply_group<Start::kSums, Rows::kAreK>(Element{}, sums.values[kPlace], advanced_bytes(block, kX * 16 * 128),
                                              advanced_bytes(weights, kX * 32));
  });
  commit_group();
}
// All of them, by way of registers.
AITERLITE_DEVICE void add_widened(Sums& sums, const char* rows, uint64_t weights, uint32_t turn, const Place& place) {
  Operands operands;
  // A place's bytes of a row, less those that fetch_values adds.
  const auto from = [&](uint32_t at) {
    return rows + Cut::Rows::at(0, Cut::block_at(at, turn) * 64 * sizeof(Kv)) - Cut::Rows::at(0, at * 64 * sizeof(Kv));
  };
  operands.fetch_values<kSteps>(from(0), place.warp);
  operands.ready_values<kSteps>();
  static_for<Cut::kKept>([&](auto block) {
    constexpr uint32_t kBlock = decltype(block)::value, kStep = kSteps + kBlock;
    if constexpr (kBlock + 1 < Cut::kKept) operands.fetch_values<kStep + 1>(from(kBlock + 1), place.warp);
    begin_group();
#pragma unroll
    for (uint32_t x = 0; x < 4; ++x) {
#pragma unroll
      for (uint32_t part = 0; part < kProducts; ++part) {
        const uint64_t b = advanced_bytes(weights, part * Cut::kWeightBytes + x * 32);
        multiply_group(Element{}, sums.values[kBlock], operands.template a<kStep>(x), b);
      }
    }
    commit_group();
    if constexpr (kBlock + 1 < Cut::kKept) {
      await_group<1>();
      operands.ready_values<kStep + 1>();
    }
  });
  await_group<0>();
}

AITERLITE_DEVICE void multiply_piece(const Args& args, const ShortTask& task, Shared& shared) {
  // The compiler must know that descriptors are the same in all lanes.
  const uint32_t wave = shuffle(thread_id() / kWaveSize, 0);
  const Place place = {wave / kGroupWaves, wave % kGroupWaves, lane_id()};
  const uint32_t turn = kRanks > 1 ? task.rank : 0;
  named_barrier_wait(kPieceBarrier, kPieceThreads);
  const int64_t row = shared.row;
  // Of a request without a row of q, all workgroups of a cluster are without it.
  if (row < 0) return;
  const uint32_t tiles = shared.tiles;
  const auto most = static_cast<uint32_t>(args.heads - task.first_head), count = most < kColumns ? most : kColumns;
  const ShortResult result = ShortResult::of(args, task, row);
  float scale = args.scale * kLog2E, value_scale = 1.0f;
  if (!kWideQ && args.q_scale != nullptr) scale *= load_f32(args.q_scale);
  if (!kWideKv && args.kv_scale != nullptr) {
    value_scale = load_f32(args.kv_scale);
    scale *= value_scale;
  }
  scale *= load_queries(args, task, row, count, place, shared);
  Sums sums;
#pragma unroll
  for (uint32_t k = 0; k < Cut::kSums; ++k) {
    sums.weights[k] = 0.0f;
#pragma unroll
    for (uint32_t b = 0; b < Cut::kKept; ++b) sums.values[b][k] = 0.0f;
  }
#pragma unroll
  for (uint32_t c = 0; c < kColumns / 4; ++c) sums.relative[c] = kBeginsAtZero ? 0.0f : kLowest;
  named_barrier_wait(kAllBarrier, kMultipliers);
  RingTurn<kStages> ring;
  uint64_t weights, values;
  const char* rows;
#pragma unroll 1
  for (uint32_t tile = 0;; ++tile) {
    const uint32_t owner = tile % 2;
    const bool first = tile == 0;
    const uint32_t stage = ring.stage, parity = ring.parity;
    bool far = false;
    if (place.group == owner) {
      shared.full[stage][0].wait(parity);
      float scores[kColumns / 2];
      make_scores(scores, scale, place, stage, parity, shared);
      far = !kBeginsAtZero && first;
      if (!far) {
        far = named_barrier_any(kGroupBarrier + place.group, kGroupThreads, are_far(scores, sums, first));
      }
      if (far) renew_maxima(scores, sums, first, place, shared);
      store_weights(scores, sums, place, shared);
    } else {
      shared.await_parts(stage, parity);
    }
    if (named_barrier_any(kAllBarrier, kMultipliers, far)) take_renewed(owner, first, sums, place, shared);
    weights = in_all_lanes(tile_descriptor(shared.weights(owner, 0)));
    rows = shared.ring[stage] + place.group * Cut::Rows::at(0, Cut::kKept * 64 * sizeof(Kv));
    values = in_all_lanes(operand_descriptor(rows, Swizzle::k128, 1024, 1024));
    add_weights(sums, weights);
    if (tile + 1 == tiles) break;
    if constexpr (Cut::kDirect) {
      static_for<Cut::kKept>([&](auto at) { add_block<decltype(at)::value>(sums, values, weights, turn); });
      await_group<0>();
    } else {
      add_widened(sums, rows, weights, turn, place);
    }
    if (place.lane == 0) shared.empty[stage].arrive();
    ring.advance();
  }
  // The values of the last tile: what is complete is sent or stored under the products of the rest.
  if constexpr (kRanks > 1) mla::send_stats<Cut>(sums, place, task.rank, shared);
  if constexpr (Cut::kDirect) {
    add_block<0>(sums, values, weights, turn);
    add_block<1>(sums, values, weights, turn);
  } else {
    add_widened(sums, rows, weights, turn, place);
  }
  float factor[kColumns / 4];
  mla::make_factors<Cut>(args, result, count, value_scale, sums, place, task.rank, shared, factor);
  static_for<Cut::kKept>([&](auto at) {
    constexpr uint32_t kPlace = decltype(at)::value;
    if constexpr (Cut::kDirect) await_group<(kPlace + 1 < Cut::kKept ? 1 : 0)>();
    if constexpr (kRanks == 1) {
      mla::store_block<Cut, Out>(args, result, count, sums, kPlace, factor, place);
    } else {
      mla::send_block<Cut>(sums, kPlace, factor, place, task.rank, shared);
    }
    if constexpr (Cut::kDirect && kPlace + 2 < Cut::kKept) add_block<kPlace + 2>(sums, values, weights, turn);
  });
  if constexpr (kRanks > 1) {
    cluster_barrier();
    mla::add_slices<Cut, Out>(args, result, count, place, task.rank, shared);
  }
}

// A warp that copies: finds the piece, and tells those that multiply.
AITERLITE_DEVICE void copy_piece(const Given& given, const ShortTask& task, Shared& shared) {
  const Args& args = mla::decode_args(given);
  const Divisor pieces(static_cast<uint32_t>(args.splits) * kRanks);
  const Divisor pages(static_cast<uint32_t>(args.page_size));
  mla::PageEntry entry = {-1, -1};
  // Twice. What is found before is not used: it brings code and numbers near, and says where the entry of the first
  // page may be, which is loaded with all the rest then.
#pragma unroll 1
  for (uint32_t time = 0; time < 2; ++time) {
    const bool live = time == 1;
    if (live) {
      await_predecessors();
      admit_successors();
    }
    const mla::PieceWords words = mla::PieceWords::load(args, task, entry.index);
    if constexpr (kBoxes) {
      entry.page = words.at(5);
    } else {
      entry = mla::load_entry(args, entry.index);
    }
    const ShortPiece piece = mla::find_piece(args, task, kRanks, pieces, words);
    const mla::Slab first = mla::find_slab<Cut::kBoxTokens>(args, piece, pages, Cut::first_token(0), entry);
    if (live) {
      if (wave_id() == kMultipliers / kWaveSize) {
        if (lane_id() == 0) {
          shared.row = piece.row;
          shared.tiles = piece.tiles();
        }
        wave_barrier();
        named_barrier_arrive(kPieceBarrier, kPieceThreads);
      }
      if (piece.row < 0) return;
    }
    if constexpr (kBoxes) {
      mla::copy_boxes<Cut, Kv>(args, reinterpret_cast<const TensorMap&>(given), piece, pages, first, live, shared);
    } else if (live) {
      mla::copy_rows<Cut, Kv>(args, piece, pages, first, shared);
    }
  }
  if constexpr (kRanks > 1) {
    cluster_wait();
    cluster_arrive();
  }
}

}  // namespace

AITERLITE_KERNEL(kThreads)
AITERLITE_CLUSTER_DIMS(AITERLITE_RANKS) aiterlite_sm90_mla_decode_short(const __grid_constant__ Given given) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  const Args& args = mla::decode_args(given);
  const ShortTask task = mla::find_task<kColumns>(args, kRanks);
  if (thread_id() == 0) {
    if constexpr (kBoxes) fetch_map_early(reinterpret_cast<const TensorMap&>(given));
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      for (uint32_t part = 0; part < Cut::kParts; ++part) shared.full[stage][part].open(Cut::kReports);
      shared.empty[stage].open(kMultipliers / kWaveSize);
    }
    publish_barriers();
    if constexpr (kRanks > 1) mailbox_open(&shared.mailbox, kRanks * kColumns * 8);
  }
  const bool copies = thread_id() >= kMultipliers;
  if (!copies) mla::prefetch_queries<Q, kColumns>(args, task);
  workgroup_barrier();
  // Others write here when all have come.
  if constexpr (kRanks > 1) cluster_arrive();
  if (copies) {
    if constexpr (Cut::kGives) give_registers<56>();
    if (wave_id() < kMultipliers / kWaveSize + Cut::kCopyWarps) copy_piece(given, task, shared);
  } else {
    if constexpr (Cut::kGives) take_registers<224>();
    await_predecessors();
    admit_successors();
    multiply_piece(args, task, shared);
  }
}
