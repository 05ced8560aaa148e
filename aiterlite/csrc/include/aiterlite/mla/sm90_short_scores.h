// mla/sm90_decode_short.hip: what a variant is made of, and from q and a tile's keys to the weights of its tokens.
#pragma once
#include <aiterlite/mla/sm90_short_copy.h>
#include <aiterlite/mla/sm90_short_merge.h>

namespace aiterlite::mla::brief {

using Q = AITERLITE_Q;
using Kv = AITERLITE_KV;
using Out = AITERLITE_OUT;
inline constexpr bool kBoxes = AITERLITE_BOX_TOKENS > 1;
using Args = aiterlite_mla_decode_args;
using Given = Choose<kBoxes, aiterlite_sm90_mla_args, Args>::Type;
using Cut = Sm90Short<AITERLITE_COLUMNS, AITERLITE_STAGES, Kv, AITERLITE_BOX_TOKENS, AITERLITE_RANKS>;
using Operands = Cut::Operands;
using Element = Cut::Element;
using Shared = Cut::Shared;
using Sums = Cut::Sums;
using Place = Sm90Place;

inline constexpr bool kWideKv = sizeof(Kv) == 2, kWideQ = sizeof(Q) == 2;
// Weights of bf16 reach as far as floats: as a rule they are relative to nothing. Those of fp16 are relative to a
// maximum that is renewed when it has grown by 2^8.
inline constexpr bool kBeginsAtZero = __is_same(Kv, bf16);
inline constexpr float kMostAbove = kBeginsAtZero ? 32.0f : kSlack;
inline constexpr bool kScaledQ = __is_same(Q, bf16) && !kWideKv;
constexpr uint32_t kColumns = Cut::kColumns, kStages = Cut::kStages, kRanks = Cut::kRanks;
constexpr uint32_t kThreads = Cut::kThreads, kSteps = kKeyDim / 64;
// Of the warps that multiply, and the first that copies.
constexpr uint32_t kPieceBarrier = kGroupBarrier + kGroups, kPieceThreads = kMultipliers + kWaveSize;
// Products that a weight's parts take.
constexpr uint32_t kProducts = Cut::kTwice ? 1 : Cut::kWeightParts;
constexpr uint32_t kWeightParts = Cut::kWeightParts, kPanelBytes = Sm90Boxes<Kv>::kPanelBytes;

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
      held[c][i] = load_eight(rows + (wanted ? column * kKeyDim + chunk * 8 : 0), wanted);
    }
  }
  float undo = 1.0f;
  if constexpr (kScaledQ) {
    uint32_t most = 0;
#pragma unroll
    for (uint32_t c = 0; c < kOfWarp; ++c) most = Max{}(most, largest_magnitude(held[c]));
    most = greatest_word(most);
    const auto of_warp = [&](uint32_t i) { return reinterpret_cast<uint32_t*>(&shared.most[0][0][i]); };
    if (place.lane == 0) *of_warp(warp) = most;
    named_barrier_wait(kAllBarrier, kMultipliers);
#pragma unroll
    for (uint32_t other = 0; other < kWarps; ++other) most = Max{}(most, *of_warp(other));
    const Scaling scaling = scaling_to_fp16(most);
    undo = scaling.undo;
#pragma unroll
    for (uint32_t c = 0; c < kOfWarp; ++c) scale_to_fp16(held[c], scaling.factor);
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
      store_shared_8(&shared.most[place.group][place.warp][place.column(j)], as_words(most[0], most[1]));
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
      const Vector8 low = as_words(sums.relative[2 * j], factor[0]);
      const Vector8 high = as_words(sums.relative[2 * j + 1], factor[1]);
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
      for (uint32_t part = 0; part < kWeightParts; ++part) words[part][w] = take_part<Element>(weight);
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

}  // namespace aiterlite::mla::brief
