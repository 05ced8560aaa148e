// MLA decode on sm_90: softmax(scale * q k^T) v over paged rows of KV, for a plan's pieces or for equal splits
// (mla/args.h), by a warpgroup's matrix products.
//
// Formulation. Tokens are rows of matrix products and rows of q their columns: S^T = K q^T, then O^T = V^T P^T. K and
// V^T, which are the same rows of KV, come from shared memory as operands in registers, transposed by ldmatrix, and
// 8-bit ones become fp16 on the way; q and P lie in shared memory. So a tile of KV is read from memory once for all
// heads, and 8 to 32 columns cost about the same.
//
// Tiling. A workgroup has kColumns packed rows of q (row by row, head by head) and runs over its pieces in tiles of 64
// tokens, kStages of them in shared memory. Four or eight warps have the copy engine bring them, as boxes of 16 tokens
// (mla/sm90_boxes.h) where pages hold such, else row by row, and run ahead over the ends of pieces. Two
// warpgroups take whole tiles in turn, without waiting for each other, and are merged at the end of a piece. More
// columns than kColumns are other workgroups', which read KV again.
//
// Traffic. KV once a workgroup from memory; from shared memory once for K and once for V. q once a piece; o, or float
// parts and their log-sums, once.
//
// Order. A row's bits depend on its piece's tokens, on kColumns, and with a plan on whether an odd number of tiles came
// before the piece. No atomics: same operands and plan, same bits.
//
// What no row may see is never multiplied: rows that do not exist or that no column sees are not read but zeroed, and
// scores are selected to -inf. A token that only some of the columns see (a query of several tokens, causal) has finite
// values as a rule, which a weight of zero removes; where they are not finite, its values are added column by column
// under a select, and zeroed for the matrix product.
//
// Numbers. With 16-bit KV the weights P have its type; of bf16 they are two numbers, the second what the first lost in
// rounding, which would be as much again as rounding o. With 8-bit KV all is fp16, where bf16 rows of q are scaled by a
// power of two that the scores are divided by again. Weights are relative to a maximum that is only renewed when it has
// grown by 2^8.
#include <aiterlite/block/online_softmax.h>
#include <aiterlite/mla/sm90_finish.h>
#include <aiterlite/numeric/pack.h>
#include <aiterlite/overlap.h>
#include <aiterlite/tile/sm90_copy.h>
#include <aiterlite/tile/sm90_turn.h>

namespace {

using namespace aiterlite;
using mla::as_words;
using mla::Destination;
using mla::Extent;
using mla::kKeyDim;
using mla::kLowest;
using mla::kSlack;
using mla::kValueDim;
using mla::static_for;
using mla::Work;

using Q = AITERLITE_Q;
using Kv = AITERLITE_KV;
using Out = AITERLITE_OUT;
inline constexpr bool kBoxes = AITERLITE_BOXES;
using Args = mla::Choose<kBoxes, aiterlite_sm90_mla_args, aiterlite_mla_decode_args>::Type;
inline constexpr bool kWideKv = sizeof(Kv) == 2, kWideQ = sizeof(Q) == 2;
// A bf16 row of q that becomes fp16.
inline constexpr bool kScaledQ = __is_same(Q, bf16) && !kWideKv;

using Cut = mla::Sm90Columns<AITERLITE_COLUMNS, AITERLITE_STAGES, Kv, kBoxes>;
using Operands = Cut::Operands;
using Element = Cut::Element;
using Shared = Cut::Shared;
using Sums = Cut::Sums;
using Place = mla::Sm90Place;
using WarpBits = Cut::WarpBits;
using mla::kAllBarrier;
using mla::kGroupBarrier;
using mla::kGroups;
using mla::kGroupThreads;
using mla::kMultipliers;

constexpr uint32_t kColumns = Cut::kColumns, kStages = Cut::kStages, kTokens = mla::kTileTokens;
constexpr uint32_t kCopyWarps = Cut::kCopyWarps, kThreads = kMultipliers + kCopyWarps * kWaveSize;
constexpr uint32_t kWarpRows = Cut::kWarpRows, kWarpMask = (1u << kWarpRows) - 1;
constexpr uint32_t kBlocks = Cut::kBlocks, kWeightParts = Cut::kWeightParts, kWeightBytes = Cut::kWeightBytes;

static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");

template <class Take>
AITERLITE_DEVICE void for_each_piece(const aiterlite_mla_decode_args& args, const Take& take) {
  mla::for_each_piece<AITERLITE_PLANNED, kColumns>(args, take);
}

// The copying warps ---------------------------------------------------------------------------------------------------

AITERLITE_DEVICE void copy_pieces(const aiterlite_sm90_mla_args& args, Shared& shared) {
  const auto pieces = [&](const auto& take) { for_each_piece(args.decode, take); };
  mla::copy_boxes<Kv, kStages>(args.decode, reinterpret_cast<const TensorMap&>(args.kv_map),
                               wave_id() - kMultipliers / kWaveSize, pieces, shared);
}

AITERLITE_DEVICE void copy_pieces(const aiterlite_mla_decode_args& args, Shared& shared) {
  const uint32_t warp = wave_id() - kMultipliers / kWaveSize, lane = lane_id();
  const uint32_t row = warp * kWarpRows + lane % kWarpRows;
  const uint64_t once = keep_briefly();
  RingTurn<kStages> turn = {0, 1};
  for_each_piece(args, [&](const Work& work, const Extent& extent) {
    const auto offset_of = [&](uint32_t tile) -> int64_t {
      const auto at = static_cast<int32_t>(tile * kTokens + row);
      return lane < kWarpRows && at < extent.most_seen ? mla::token_offset(args, work, work.begin + at) : -1;
    };
    const uint32_t tiles = extent.tiles();
    int64_t next = tiles > 0 ? offset_of(0) : -1;
#pragma unroll 1
    for (uint32_t tile = 0; tile < tiles; ++tile) {
      const int64_t offset = next;
      if (tile + 1 < tiles) next = offset_of(tile + 1);
      const uint32_t exist = lanes_where(offset >= 0);
      const uint32_t stage = turn.stage;
      shared.empty(stage).wait(turn.parity);
#pragma unroll 1
      for (uint32_t absent = ~exist & kWarpMask; absent != 0; absent &= absent - 1) {
        char* zeroed = shared.at(stage, warp * kWarpRows + first_lane(absent), 0);
        for (uint32_t at = lane * 16; at < Cut::kRowBytes; at += kWaveSize * 16) {
          store_shared_16(zeroed + at, {});
        }
      }
      if (exist != kWarpMask) publish_to_engines();
      wave_barrier();
      if (lane == 0) {
        reinterpret_cast<WarpBits*>(&shared.exist(stage))[warp] = static_cast<WarpBits>(exist);
        shared.full(stage).arrive_expecting(count_lanes(exist) * Cut::kRowBytes);
      }
      wave_barrier();
      if (offset >= 0) {
        copy_bytes(shared.at(stage, row, 0), static_cast<const Kv*>(args.kv_buffer) + offset, Cut::kRowBytes,
                   shared.full(stage), once);
      }
      turn.advance();
    }
  });
}

// The multiplying warps -----------------------------------------------------------------------------------------------

// Rows of q to shared memory, as operands b: tiles of 64 elements of every column. A warp has every eighth column.
// Returns what scores are to be multiplied by besides.
AITERLITE_DEVICE float load_queries(const aiterlite_mla_decode_args& args, const Work& work, const Extent& extent,
                                    const Place& place, Shared& shared) {
  constexpr uint32_t kChunks = kKeyDim / 8, kOfLane = (kChunks + kWaveSize - 1) / kWaveSize;
  constexpr uint32_t kWarps = kMultipliers / kWaveSize, kOfWarp = kColumns / kWarps;
  const uint32_t warp = place.group * kGroupWaves + place.warp;
  Vector16 held[kOfWarp][kOfLane];
#pragma unroll
  for (uint32_t c = 0; c < kOfWarp; ++c) {
    const auto column = static_cast<int32_t>(warp + c * kWarps);
    const mla::PackedRow packed = extent.row(args, work, column);
    const Q* from = static_cast<const Q*>(args.q) + packed.q * kKeyDim;
    if (place.lane == 0) {
      *shared.seen(static_cast<uint32_t>(column)) = packed.seen;
      *shared.destination(static_cast<uint32_t>(column)) = packed.destination;
    }
#pragma unroll
    for (uint32_t i = 0; i < kOfLane; ++i) {
      const uint32_t chunk = place.lane + i * kWaveSize;
      held[c][i] = mla::load_eight(from + chunk * 8, column < extent.count && chunk < kChunks);
    }
  }
  float undo = 1.0f;
  if constexpr (kScaledQ) {
    uint32_t most = 0;
#pragma unroll
    for (uint32_t c = 0; c < kOfWarp; ++c) most = Max{}(most, mla::largest_magnitude(held[c]));
    most = reduce_wave(most, Max{});
    const auto of_warp = [&](uint32_t i) { return reinterpret_cast<uint32_t*>(shared.of_warp(0, 0, i)); };
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
  return undo;
}

AITERLITE_DEVICE void mask_scores(float (&scores)[kColumns / 2], const Place& place, uint32_t tile, uint32_t stage,
                                  Shared& shared) {
  const uint32_t exist = shared.exist(stage).word[place.warp / 2] >> (place.warp % 2 * 16);
#pragma unroll
  for (uint32_t k = 0; k < kColumns / 2; ++k) {
    const uint32_t i = k / 2 % 2, column = place.column(k / 4) + k % 2;
    const auto token = static_cast<int32_t>(tile * kTokens + place.token(i));
    const bool visible = token < *shared.seen(column);
    if (!visible || (exist >> (place.lane / 4 + 8 * i) & 1) == 0) scores[k] = -__builtin_inff();
  }
}

// Makes the sums relative to the greatest score of each column so far, where that is far above what they are relative
// to.
AITERLITE_DEVICE void renew_maxima(const float (&scores)[kColumns / 2], Sums& sums, const Place& place,
                                   Shared& shared) {
#pragma unroll
  for (uint32_t j = 0; j < kColumns / 8; ++j) {
    float most[2];
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) {
      most[e] = reduce_strided<4>(__builtin_fmaxf(scores[4 * j + e], scores[4 * j + 2 + e]), Max{});
    }
    if (place.lane < 4) {
      store_shared_8(shared.of_warp(place.group, place.warp, place.column(j)), as_words(most[0], most[1]));
    }
  }
  place.group_barrier();
#pragma unroll
  for (uint32_t c = 0; c < kColumns / 4; ++c) {
    float most = kLowest;
#pragma unroll
    for (uint32_t warp = 0; warp < kGroupWaves; ++warp) {
      most = __builtin_fmaxf(most, *shared.of_warp(place.group, warp, place.column(c / 2) + c % 2));
    }
    const float next = most > sums.relative[c] + kSlack ? most : sums.relative[c];
    const float factor = fast_exp2(sums.relative[c] - next);
    sums.relative[c] = next;
    sums.weights[c] *= factor;
#pragma unroll
    for (uint32_t b = 0; b < kBlocks; ++b) {
      sums.values[b][c / 2 * 4 + c % 2] *= factor;
      sums.values[b][c / 2 * 4 + c % 2 + 2] *= factor;
    }
  }
}

// Scores become weights, rounded, in shared memory. As a rule no score is far above the maximum of an earlier tile, and
// then nobody looks for the maximum.
AITERLITE_DEVICE void weigh(const float (&scores)[kColumns / 2], Sums& sums, const Place& place, Shared& shared) {
  bool grown = false;
#pragma unroll
  for (uint32_t c = 0; c < kColumns / 4; ++c) {
    const float most = __builtin_fmaxf(scores[c / 2 * 4 + c % 2], scores[c / 2 * 4 + c % 2 + 2]);
    grown |= most > sums.relative[c] + kSlack;
  }
  if (named_barrier_any(kGroupBarrier + place.group, kGroupThreads, grown)) renew_maxima(scores, sums, place, shared);
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
        sums.weights[c] += weight[e];
      }
#pragma unroll
      for (uint32_t part = 0; part < kWeightParts; ++part) {
        words[part][w] = mla::take_part<Element>(weight);
      }
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

// A token that only some of the workgroup's columns see, of which a value is not finite: its values are added under a
// select, and are zeros for what follows.
AITERLITE_DEVICE void add_partly_visible(const Extent& extent, Sums& sums, const Place& place, uint32_t tile,
                                         uint32_t stage, Shared& shared) {
  const auto base = static_cast<int32_t>(tile * kTokens);
  const int32_t begin = extent.least_seen > base ? extent.least_seen - base : 0;
  const int32_t most = extent.most_seen - base, end = most < static_cast<int32_t>(kTokens) ? most : kTokens;
  const uint32_t thread = place.warp * kWaveSize + place.lane;
  constexpr uint32_t kValueChunks = kValueDim * sizeof(Kv) / 16;
  bool broken = false;
#pragma unroll 1
  for (uint32_t at = begin * kValueChunks + thread; at < end * kValueChunks; at += kGroupThreads) {
    broken |= Operands::any_not_finite(load_shared_16(shared.at(stage, at / kValueChunks, at % kValueChunks * 16)));
  }
  const uint32_t barrier = kGroupBarrier + place.group;
  if (!named_barrier_any(barrier, kGroupThreads, broken)) return;
#pragma unroll 1
  for (int32_t token = begin; token < end; ++token) {
    char* chunk = shared.at(stage, token, thread % kValueChunks * 16);
    if (!named_barrier_any(barrier, kGroupThreads, Operands::any_not_finite(load_shared_16(chunk)))) continue;
#pragma unroll
    for (uint32_t c = 0; c < kColumns / 4; ++c) {
      const uint32_t column = place.column(c / 2) + c % 2;
      const bool visible = base + token < *shared.seen(column);
      const uint32_t at = column * 128 + ((static_cast<uint32_t>(token) / 8 ^ (column & 7)) * 8 + token % 8) * 2;
      float weight = 0.0f;
#pragma unroll
      for (uint32_t part = 0; part < kWeightParts; ++part) {
        weight += to_float(*reinterpret_cast<const Element*>(shared.weights(place.group, part) + at));
      }
#pragma unroll
      for (uint32_t b = 0; b < kBlocks; ++b) {
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
          const uint32_t dim = b * 64 + place.warp * 16 + Operands::value_dim(place.lane / 4, i);
          const float value = to_float(*reinterpret_cast<const Kv*>(shared.at(stage, token, dim * sizeof(Kv))));
          if (visible) sums.values[b][c / 2 * 4 + 2 * i + c % 2] += weight * value;
        }
      }
    }
    place.group_barrier();
    if (thread < kValueChunks) store_shared_16(chunk, {});
  }
  publish_to_engines();
  place.group_barrier();
}

// A tile of tokens: S^T, weights, O^T. Operands of a step are fetched before the products of the step before, and
// 8-bit ones are widened behind them.
AITERLITE_DEVICE void attend(const Extent& extent, float scale, Sums& sums, const Place& place, uint32_t tile,
                             uint32_t stage, Shared& shared) {
  constexpr uint32_t kSteps = kKeyDim / 64;
  char* rows = shared.tile(stage);
  shared.clear_unseen(stage, place);
  const uint64_t q = tile_descriptor(shared.q()), p = tile_descriptor(shared.weights(place.group, 0));
  Operands operands;
  float scores[kColumns / 2];
  operands.fetch_keys<0>(rows, place.warp);
  operands.ready_keys<0>();
  static_for<kSteps>([&](auto step) {
    constexpr uint32_t kStep = decltype(step)::value;
    if constexpr (kStep + 1 < kSteps) {
      operands.fetch_keys<kStep + 1>(rows, place.warp);
    } else {
      operands.fetch_values<kSteps>(rows, place.warp);
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
  await_group<0>();
  operands.ready_values<kSteps>();

#pragma unroll
  for (uint32_t k = 0; k < kColumns / 2; ++k) {
    scores[k] *= scale;
  }
  const bool partly = static_cast<int32_t>((tile + 1) * kTokens) > extent.least_seen;
  const Vector8 exist = shared.exist(stage);
  if (partly || (exist.word[0] & exist.word[1]) != ~0u) mask_scores(scores, place, tile, stage, shared);
  weigh(scores, sums, place, shared);
  place.group_barrier();
  if (partly && extent.least_seen < extent.most_seen) {
    add_partly_visible(extent, sums, place, tile, stage, shared);
    operands.fetch_values<kSteps>(rows, place.warp);
    operands.ready_values<kSteps>();
  }

  static_for<kBlocks>([&](auto block) {
    constexpr uint32_t kBlock = decltype(block)::value, kStep = kSteps + kBlock;
    if constexpr (kBlock + 1 < kBlocks) operands.fetch_values<kStep + 1>(rows, place.warp);
    begin_group();
#pragma unroll
    for (uint32_t x = 0; x < 4; ++x) {
#pragma unroll
      for (uint32_t part = 0; part < kWeightParts; ++part) {
        const uint64_t b = advanced_bytes(p, part * kWeightBytes + x * 32);
        multiply_group(Element{}, sums.values[kBlock], operands.template a<kStep>(x), b);
      }
    }
    commit_group();
    if constexpr (kBlock + 1 < kBlocks) {
      await_group<1>();
      operands.ready_values<kStep + 1>();
    } else {
      if (place.lane == 0) shared.empty(stage).arrive();
      await_group<0>();
    }
  });
}

AITERLITE_DEVICE void multiply_pieces(const aiterlite_mla_decode_args& args, Shared& shared) {
  // The compiler must know that descriptors are the same in all lanes.
  const uint32_t wave = shuffle(thread_id() / kWaveSize, 0);
  const Place place = {wave / kGroupWaves, wave % kGroupWaves, lane_id()};
  float scale = args.scale * kLog2E, value_scale = 1.0f;
  if (!kWideQ && args.q_scale != nullptr) scale *= load_f32(args.q_scale);
  if (!kWideKv && args.kv_scale != nullptr) {
    value_scale = load_f32(args.kv_scale);
    scale *= value_scale;
  }
  uint32_t before = 0;  // tiles of earlier pieces
  for_each_piece(args, [&](const Work& work, const Extent& extent) {
    // Nobody reads the piece before any more, the copy engine neither.
    await_stores<0>();
    named_barrier_wait(kAllBarrier, kMultipliers);
    const float scores_by = scale * load_queries(args, work, extent, place, shared);
    publish_to_engines();
    named_barrier_wait(kAllBarrier, kMultipliers);
    Sums sums;
#pragma unroll
    for (uint32_t b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (uint32_t k = 0; k < kColumns / 2; ++k) sums.values[b][k] = 0.0f;
    }
#pragma unroll
    for (uint32_t c = 0; c < kColumns / 4; ++c) {
      sums.weights[c] = 0.0f;
      sums.relative[c] = kLowest;
    }
    const uint32_t tiles = extent.tiles();
    // Tiles are numbered over all pieces, so that a group never waits for a stage that the other one has yet to read.
#pragma unroll 1
    for (uint32_t tile = (before ^ place.group) & 1; tile < tiles; tile += kGroups) {
      const uint32_t number = before + tile, stage = number % kStages;
      shared.full(stage).wait(number / kStages & 1);
      attend(extent, scores_by, sums, place, tile, stage, shared);
    }
    before += tiles;
    mla::finish<Cut, Out>(args, value_scale, sums, place, shared);
  });
  await_stored<0>();
}

}  // namespace

AITERLITE_KERNEL(kThreads)
aiterlite_sm90_mla_decode(const __grid_constant__ Args args) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  if (thread_id() == 0) {
    if constexpr (kBoxes) fetch_map_early(reinterpret_cast<const TensorMap&>(args));
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      shared.full(stage).open(kCopyWarps);
      shared.empty(stage).open(kGroupWaves);
    }
    publish_barriers();
  }
  workgroup_barrier();
  await_predecessors();
  admit_successors();
  if (thread_id() >= kMultipliers) {
    give_registers<24>();
    copy_pieces(args, shared);
  } else {
    take_registers<kCopyWarps == 8 ? 232 : 240>();
    multiply_pieces(mla::decode_args(args), shared);
  }
}
