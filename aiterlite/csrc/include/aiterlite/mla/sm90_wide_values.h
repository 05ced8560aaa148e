// mla/sm90_decode_wide.hip: from the weights of a tile's tokens to sums of its values.
#pragma once
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/mla/sm90_wide.h>
#include <aiterlite/numeric/pack.h>

namespace aiterlite::mla::wide {

// A tile's weights, rounded: as operands a.
template <class Element>
AITERLITE_DEVICE void round_weights(const float (&weights)[kScores], uint32_t (&rounded)[kTokens / 16][4]) {
#pragma unroll
  for (uint32_t w = 0; w < kScores / 2; ++w) {
    rounded[w / 4][w % 4] = pack_pair(Element{}, weights[2 * w], weights[2 * w + 1]);
  }
}
// And in shared memory.
template <class Element>
AITERLITE_DEVICE void store_weights(const float (&weights)[kScores], const WidePlace& place, Box& box) {
  uint32_t rounded[kTokens / 16][4];
  round_weights<Element>(weights, rounded);
#pragma unroll
  for (uint32_t x = 0; x < kTokens / 16; ++x) {
    store_matrices(box.at(place.warp * 16 + place.lane % 16, place.lane / 16 + 2 * x), rounded[x]);
  }
  publish_to_engines();
}

// Of what rounding has lost, the larger of each two neighbouring tokens: to shared memory, in the order of tokens, and
// which they are, for the matrix unit (multiply_group_sparse).
template <class Element>
AITERLITE_DEVICE void keep_larger(const float (&weights)[kScores], const WidePlace& place, uint32_t stage,
                                  Shared& shared) {
  const uint32_t t = place.lane % 4;
  const bool odd = t % 2 != 0;
  const uint32_t second = odd ? 8u << t / 2 * 4 : 0;
  uint32_t which[kScores / 8];
#pragma unroll
  for (uint32_t n = 0; n < kScores / 8; ++n) {
    uint32_t bits = 0;
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      float kept[2];
#pragma unroll
      for (uint32_t b = 0; b < 2; ++b) {
        const uint32_t w = 4 * n + 2 * b + i;
        float lost[2] = {weights[2 * w], weights[2 * w + 1]};
        take_part<Element>(lost);
        const bool larger = __builtin_fabsf(lost[1]) > __builtin_fabsf(lost[0]);
        kept[b] = larger ? lost[1] : lost[0];
        bits |= larger ? 1u << (8 * b + 16 * i) : 0;
      }
      // Neighbouring lanes have what lies side by side: one takes the first eight tokens, the other the second.
      const float got = shuffle_xor(odd ? kept[0] : kept[1], 1);
      const uint32_t word = odd ? pack_pair(Element{}, got, kept[1]) : pack_pair(Element{}, kept[0], got);
      char* to = shared.low.at(place.row(i), stage * (kScores / 8) + n) + (t & 1) * 8 + (t & 2) * 2;
      *reinterpret_cast<uint32_t*>(to) = word;
    }
    which[n] = second * 0x01010101u | bits << (t / 2 * 4 + (odd ? 2 : 0));
  }
  // Even lanes are for the first 16 of 32 tokens, odd ones for the others.
  Vector8 of_lane;
#pragma unroll
  for (uint32_t y = 0; y < 2; ++y) {
    const uint32_t given = odd ? which[2 * y] : which[2 * y + 1], kept = odd ? which[2 * y + 1] : which[2 * y];
    const uint32_t word = kept | both_halves_word<1>(given).second;
    of_lane.word[y] = word | both_halves_word<2>(word).second;
  }
  if (t < 2) shared.which[stage][place.warp][place.lane / 4 * 2 + t] = of_lane;
  publish_to_engines();
}

// The operand b of half of this group's values.
AITERLITE_DEVICE uint64_t values_descriptor(const WidePlace& place, uint32_t stage, uint32_t half, Shared& shared) {
  return operand_descriptor(&shared.value(stage, place.group, half * kHalfBoxes), Swizzle::k128, 1024, sizeof(Box));
}

// Asks for products with this group's values: `multiply(sums, x, values)` for 16 tokens of a half of them.
template <class Element, class Multiply>
AITERLITE_DEVICE void add_halves(State& state, const WidePlace& place, uint32_t stage, Shared& shared,
                                 const Multiply& multiply) {
  begin_group();
#pragma unroll
  for (uint32_t half = 0; half < kHalves; ++half) {
    const uint64_t v = values_descriptor(place, stage, half, shared);
#pragma unroll
    for (uint32_t x = 0; x < kTokens / 16; ++x) multiply(state.values[half], x, advanced_bytes(v, x * 16 * 128));
    if (kWeightParts<Element> == 1 || half + 1 == kHalves) commit_group();
  }
}
// Those of a tile's weights.
template <class Element>
AITERLITE_DEVICE void add_values(State& state, const WidePlace& place, uint32_t stage, Shared& shared) {
  const uint64_t p = tile_descriptor(&shared.weights(stage));
  add_halves<Element>(state, place, stage, shared, [&](float (&sums)[kValues], uint32_t x, uint64_t values) {
    multiply_group<Start::kSums, Rows::kAlongK, Rows::kAreK>(Element{}, sums, advanced_bytes(p, x * 32), values);
  });
}
// The same, of weights in registers.
template <class Element>
AITERLITE_DEVICE void add_values(State& state, const uint32_t (&weights)[kTokens / 16][4], const WidePlace& place,
                                 uint32_t stage, Shared& shared) {
  add_halves<Element>(state, place, stage, shared, [&](float (&sums)[kValues], uint32_t x, uint64_t values) {
    multiply_group<Start::kSums, Rows::kAreK>(Element{}, sums, weights[x], values);
  });
}

// Asks for the products of these and this group's values.
template <class Element>
AITERLITE_DEVICE void add_low_values(State& state, const WidePlace& place, uint32_t stage, Shared& shared) {
  const Vector8 which = shared.which[stage][place.warp][place.lane / 4 * 2 + place.lane % 2];
  const uint64_t p = tile_descriptor(&shared.low) + stage * 64 / 16;
  begin_group();
#pragma unroll
  for (uint32_t half = 0; half < kHalves; ++half) {
    const uint64_t v = values_descriptor(place, stage, half, shared);
#pragma unroll
    for (uint32_t y = 0; y < kTokens / 32; ++y) {
      multiply_group_sparse(Element{}, state.values[half], advanced_bytes(p, y * 32), advanced_bytes(v, y * 32 * 128),
                            which.word[y]);
    }
    commit_group();
  }
}

AITERLITE_DEVICE bool is_partly_visible(const Extent& extent, uint32_t tile) {
  return extent.least_seen<extent.most_seen&& static_cast<int32_t>((tile + 1) * kTokens)> extent.least_seen;
}

// A token that only some of the workgroup's rows see, of which a value of this group is not finite: these values, and
// their neighbours of 16 bytes, are added under a select, with rounded weights, and are zeros for the products that
// follow.
template <class Element>
AITERLITE_DEVICE void add_partly_visible(const Extent& extent, State& state, const WidePlace& place, uint32_t tile,
                                         uint32_t stage, Shared& shared) {
  const auto base = static_cast<int32_t>(tile * kTokens);
  const int32_t begin = extent.least_seen > base ? extent.least_seen - base : 0;
  const int32_t most = extent.most_seen - base, end = most < static_cast<int32_t>(kTokens) ? most : kTokens;
  const uint32_t thread = place.warp * kWaveSize + place.lane, barrier = kGroupBarrier + place.group;
  constexpr uint32_t kChunks = kOwnBoxes * 8;
  bool broken = false;
#pragma unroll 1
  for (uint32_t at = begin * kChunks + thread; at < end * kChunks; at += kGroupThreads) {
    broken |= any_not_finite<Element>(
        load_shared_16(shared.value(stage, place.group, at % kChunks / 8).at(at / kChunks, at % 8)));
  }
  if (!named_barrier_any(barrier, kGroupThreads, broken)) return;
#pragma unroll 1
  for (int32_t token = begin; token < end; ++token) {
    char* chunk = shared.value(stage, place.group, thread % kChunks / 8).at(token, thread % 8);
    if (!named_barrier_any(barrier, kGroupThreads, any_not_finite<Element>(load_shared_16(chunk)))) continue;
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const float weight = to_float(shared.weights(stage).template element<Element>(place.row(i), token));
      const bool visible = base + token < shared.seen[place.row(i)];
#pragma unroll
      for (uint32_t k = 0; k < kHalves * kValues; ++k) {
        if (k / 2 % 2 != i) continue;
        const uint32_t dim = k / 4 * 8 + place.lane % 4 * 2 + k % 2;
        const float value =
            to_float(shared.value(stage, place.group, dim / 64).template element<Element>(token, dim % 64));
        if (visible) state.values[k / kValues][k % kValues] += weight * value;
      }
    }
    named_barrier_wait(barrier, kGroupThreads);
    if (thread < kChunks) store_shared_16(chunk, {});
  }
  publish_to_engines();
  named_barrier_wait(barrier, kGroupThreads);
}

}  // namespace aiterlite::mla::wide
