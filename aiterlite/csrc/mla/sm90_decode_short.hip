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
#include <aiterlite/mla/sm90_short_copy.h>
#include <aiterlite/mla/sm90_short_merge.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;
using mla::Divisor;
using mla::kAllBarrier;
using mla::kGroupBarrier;
using mla::kGroupThreads;
using mla::kKeyDim;
using mla::kLowest;
using mla::kMultipliers;
using mla::ShortPiece;
using mla::ShortResult;
using mla::ShortTask;
using mla::static_for;

using Q = AITERLITE_Q;
using Kv = AITERLITE_KV;
using Out = AITERLITE_OUT;
inline constexpr bool kBoxes = AITERLITE_BOX_TOKENS > 1;
using Args = aiterlite_mla_decode_args;
using Given = mla::Choose<kBoxes, aiterlite_sm90_mla_args, Args>::Type;
using Cut = mla::Sm90Short<AITERLITE_COLUMNS, AITERLITE_STAGES, Kv, AITERLITE_BOX_TOKENS, AITERLITE_RANKS>;
using Operands = Cut::Operands;
using Element = Cut::Element;
using Shared = Cut::Shared;
using Sums = Cut::Sums;
using Place = mla::Sm90Place;

inline constexpr bool kWideKv = sizeof(Kv) == 2, kWideQ = sizeof(Q) == 2;
// Weights of bf16 reach as far as floats: as a rule they are relative to nothing. Those of fp16 are relative to a
// maximum that is renewed when it has grown by 2^8.
inline constexpr bool kBeginsAtZero = __is_same(Kv, bf16);
inline constexpr float kMostAbove = kBeginsAtZero ? 32.0f : mla::kSlack;
inline constexpr bool kScaledQ = __is_same(Q, bf16) && !kWideKv;
constexpr uint32_t kColumns = Cut::kColumns, kStages = Cut::kStages, kRanks = Cut::kRanks;
constexpr uint32_t kThreads = Cut::kThreads, kSteps = kKeyDim / 64;
// Of the warps that multiply, and the first that copies.
constexpr uint32_t kPieceBarrier = kGroupBarrier + mla::kGroups, kPieceThreads = kMultipliers + kWaveSize;
// Products that a weight's parts take.
constexpr uint32_t kProducts = Cut::kTwice ? 1 : Cut::kWeightParts;
constexpr uint32_t kWeightParts = Cut::kWeightParts, kPanelBytes = mla::Sm90Boxes<Kv>::kPanelBytes;

static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");

// Rows of q to shared memory, as operands b; a warp has every eighth column. Returns what scores are to be multiplied
// by besides.
AITERLITE_DEVICE float load_queries(const Args& args, const ShortTask& task, int64_t row, uint32_t count,
                                    const Place& place, Shared& shared) {
  constexpr uint32_t kChunks = kKeyDim / 8, kOfLane = (kChunks + kWaveSize - 1) / kWaveSize;
  constexpr uint32_t kWarps = kMultipliers / kWaveSize, kOfWarp = kColumns / kWarps;
  const uint32_t warp = place.group * kGroupWaves + place.warp;
  const Q* rows = static_cast<const Q*>(args.q) + (row * args.heads + task.first_head) * kKeyDim;
  Vector16 held[kOfWarp][kOfLane];
#pragma unroll
  for (uint32_t c = 0; c < kOfWarp; ++c) {
    const uint32_t column = warp + c * kWarps;
#pragma unroll
    for (uint32_t i = 0; i < kOfLane; ++i) {
      const uint32_t chunk = place.lane + i * kWaveSize;
      const bool wanted = column < count && chunk < kChunks;
      held[c][i] = mla::load_eight(rows + (wanted ? column * kKeyDim + chunk * 8 : 0), wanted);
    }
  }
  float undo = 1.0f;
  if constexpr (kScaledQ) {
    uint32_t most = 0;
#pragma unroll
    for (uint32_t c = 0; c < kOfWarp; ++c) most = Max{}(most, mla::largest_magnitude(held[c]));
    most = greatest_word(most);
    const auto of_warp = [&](uint32_t i) { return reinterpret_cast<uint32_t*>(&shared.most[0][0][i]); };
    if (place.lane == 0) *of_warp(warp) = most;
    named_barrier_wait(kAllBarrier, kMultipliers);
#pragma unroll
    for (uint32_t other = 0; other < kWarps; ++other) most = Max{}(most, *of_warp(other));
    const mla::Scaling scaling = mla::scaling_to_fp16(most);
    undo = scaling.undo;
#pragma unroll
    for (uint32_t c = 0; c < kOfWarp; ++c) mla::scale_to_fp16(held[c], scaling.factor);
  }
#pragma unroll
  for (uint32_t c = 0; c < kOfWarp; ++c) {
#pragma unroll
    for (uint32_t i = 0; i < kOfLane; ++i) {
      const uint32_t chunk = place.lane + i * kWaveSize;
      if (chunk < kChunks) {
        char* tile = shared.q() + chunk / 8 * kColumns * 128;
        Operands::store_query(tile, warp + c * kWarps, chunk % 8, held[c][i]);
      }
    }
  }
  publish_to_engines();
  return undo;
}

// A descriptor that is the same in all lanes, and which the compiler knows to be.
AITERLITE_DEVICE uint64_t in_all_lanes(uint64_t descriptor) {
  return descriptor >> 32 << 32 | shuffle(static_cast<uint32_t>(descriptor), 0);
}

// Scores by way of registers, a step's operands fetched before the products of the step before.
AITERLITE_DEVICE void multiply_widened(float (&scores)[kColumns / 2], uint64_t q, const Place& place, uint32_t stage,
                                       uint32_t parity, Shared& shared) {
  const char* rows = shared.ring[stage];
  Operands operands;
  operands.fetch_keys<0>(rows, place.warp);
  operands.ready_keys<0>();
  static_for<kSteps>([&](auto step) {
    constexpr uint32_t kStep = decltype(step)::value;
    if constexpr (kStep + 1 < kSteps) {
      if constexpr ((kStep + 1) % Cut::kPartPanels == 0) {
        shared.full[stage][(kStep + 1) / Cut::kPartPanels].wait(parity);
      }
      operands.fetch_keys<kStep + 1>(rows, place.warp);
    }
    begin_group();
#pragma unroll
    for (uint32_t x = 0; x < 4; ++x) {
      const uint64_t b = advanced_bytes(q, kStep * kColumns * 128 + x * 32);
      if (kStep + x == 0) {
        multiply_group<Start::kZero>(Element{}, scores, operands.template a<kStep>(x), b);
      } else {
        multiply_group(Element{}, scores, operands.template a<kStep>(x), b);
      }
    }
    commit_group();
    if constexpr (kStep + 1 < kSteps) {
      await_group<1>();
      operands.ready_keys<kStep + 1>();
    }
  });
}

// A group's tile: its scores, of which those of tokens that there are not are -inf.
AITERLITE_DEVICE void make_scores(float (&scores)[kColumns / 2], float scale, const Place& place, uint32_t stage,
                                  uint32_t parity, Shared& shared) {
  shared.full[stage][0].wait(parity);
  const uint32_t exist = shared.exist_of(stage, place.warp);
  if (exist != 0xffff) {
    shared.template await_parts<1>(stage, parity);
    shared.clear_unseen(stage, place.warp, count_lanes(exist));
  }
  const uint64_t q = in_all_lanes(tile_descriptor(shared.q()));
  if constexpr (Cut::kDirect) {
    const uint64_t keys = in_all_lanes(tile_descriptor(shared.ring[stage]));
    begin_group();
    static_for<4 * kSteps>([&](auto product) {
      constexpr uint32_t kStep = decltype(product)::value / 4, kByte = decltype(product)::value % 4 * 32;
      if constexpr (kStep > 0 && kByte == 0 && kStep % Cut::kPartPanels == 0) {
        shared.full[stage][kStep / Cut::kPartPanels].wait(parity);
      }
      const uint64_t a = advanced_bytes(keys, kStep * kPanelBytes + kByte);
      const uint64_t b = advanced_bytes(q, kStep * kColumns * 128 + kByte);
      multiply_group<decltype(product)::value == 0 ? Start::kZero : Start::kSums>(Element{}, scores, a, b);
    });
    commit_group();
  } else {
    multiply_widened(scores, q, place, stage, parity, shared);
  }
  await_group<0>();
#pragma unroll
  for (uint32_t k = 0; k < kColumns / 2; ++k) {
    scores[k] *= scale;
    if (exist != 0xffff && (exist >> (place.lane / 4 + 8 * (k / 2 % 2)) & 1) == 0) scores[k] = -__builtin_inff();
  }
}

// Whether scores are too far above what weights are relative to; in the first tile of bf16 weights, from it.
AITERLITE_DEVICE bool are_far(const float (&scores)[kColumns / 2], const Sums& sums, bool first) {
  bool far = false;
#pragma unroll
  for (uint32_t k = 0; k < kColumns / 2; ++k) {
    const float above = scores[k] - sums.relative[k / 4 * 2 + k % 2];
    far |= above > kMostAbove;
    if (kBeginsAtZero && first) far |= above < -kMostAbove && scores[k] != -__builtin_inff();
  }
  return far;
}

// What weights are relative to becomes the greatest score so far, where that is far above: for both groups. In the
// first tile it does so anyway.
AITERLITE_DEVICE void renew_maxima(const float (&scores)[kColumns / 2], Sums& sums, bool first, const Place& place,
                                   Shared& shared) {
#pragma unroll
  for (uint32_t j = 0; j < kColumns / 8; ++j) {
    float most[2];
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) {
      most[e] = reduce_strided<4>(__builtin_fmaxf(scores[4 * j + e], scores[4 * j + 2 + e]), Max{});
    }
    if (place.lane < 4) {
      store_shared_8(&shared.most[place.group][place.warp][place.column(j)], mla::as_words(most[0], most[1]));
    }
  }
  place.group_barrier();
#pragma unroll
  for (uint32_t j = 0; j < kColumns / 8; ++j) {
    float most[2] = {kLowest, kLowest}, factor[2];
#pragma unroll
    for (uint32_t warp = 0; warp < kGroupWaves; ++warp) {
      const Vector8 of_warp = load_shared_8(&shared.most[place.group][warp][place.column(j)]);
#pragma unroll
      for (uint32_t e = 0; e < 2; ++e) {
        most[e] = __builtin_fmaxf(most[e], __builtin_bit_cast(float, of_warp.word[e]));
      }
    }
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) {
      float& relative = sums.relative[2 * j + e];
      const bool renew = most[e] > relative + kMostAbove || (first && most[e] > kLowest);
      factor[e] = renew && !first ? fast_exp2(relative - most[e]) : 1.0f;
      relative = renew ? most[e] : relative;
    }
    if (place.warp == 0 && place.lane < 4) {
      const Vector8 low = mla::as_words(sums.relative[2 * j], factor[0]);
      const Vector8 high = mla::as_words(sums.relative[2 * j + 1], factor[1]);
      store_shared_16(shared.renewed[place.group][place.column(j)],
                      {{low.word[0], low.word[1], high.word[0], high.word[1]}});
    }
  }
}

// Both groups: what one of them has renewed.
AITERLITE_DEVICE void take_renewed(uint32_t owner, bool first, Sums& sums, const Place& place, Shared& shared) {
#pragma unroll
  for (uint32_t j = 0; j < kColumns / 8; ++j) {
    const Vector16 both = load_shared_16(shared.renewed[owner][place.column(j)]);
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) sums.relative[2 * j + e] = __builtin_bit_cast(float, both.word[2 * e]);
    if (first) continue;
#pragma unroll
    for (uint32_t k = 0; k < (Cut::kTwice ? 8 : 4); ++k) {
      const float factor = __builtin_bit_cast(float, both.word[2 * (k % 2) + 1]);
      const uint32_t at = k / 4 * kColumns / 2 + 4 * j + k % 4;
      sums.weights[at] *= factor;
#pragma unroll
      for (uint32_t b = 0; b < Cut::kKept; ++b) sums.values[b][at] *= factor;
    }
  }
}

// Scores become weights, rounded, in shared memory.
AITERLITE_DEVICE void store_weights(const float (&scores)[kColumns / 2], const Sums& sums, const Place& place,
                                    Shared& shared) {
#pragma unroll
  for (uint32_t j = 0; j < kColumns / 16; ++j) {
    uint32_t words[kWeightParts][4];
#pragma unroll
    for (uint32_t w = 0; w < 4; ++w) {
      float weight[2];
#pragma unroll
      for (uint32_t e = 0; e < 2; ++e) {
        const uint32_t c = 4 * j + w / 2 * 2 + e;
        weight[e] = fast_exp2(scores[8 * j + 2 * w + e] - sums.relative[c]);
      }
#pragma unroll
      for (uint32_t part = 0; part < kWeightParts; ++part) words[part][w] = mla::take_part<Element>(weight);
    }
    const uint32_t column = 16 * j + place.lane % 8 + place.lane / 16 * 8, chunk = place.warp * 2 + place.lane / 8 % 2;
#pragma unroll
    for (uint32_t part = 0; part < kWeightParts; ++part) {
      char* weights = shared.weights(place.group, part);
      store_matrices_transposed(weights + column * 128 + (chunk ^ (column & 7)) * 16, words[part]);
    }
  }
  publish_to_engines();
}

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
