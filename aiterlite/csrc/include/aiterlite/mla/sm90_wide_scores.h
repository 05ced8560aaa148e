// mla/sm90_decode_wide.hip: from q and a tile's keys to the weights of its tokens.
#pragma once
#include <aiterlite/block/online_softmax.h>
#include <aiterlite/block/reduce.h>
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/mla/sm90_wide.h>

namespace aiterlite::mla::wide {

AITERLITE_DEVICE uint64_t shuffle_word64(int64_t value, uint32_t lane) {
  const auto word = static_cast<uint64_t>(value);
  return uint64_t{shuffle(static_cast<uint32_t>(word >> 32), lane)} << 32 | shuffle(static_cast<uint32_t>(word), lane);
}

template <class Element>
AITERLITE_DEVICE void load_queries(const aiterlite_mla_decode_args& args, const Work& work, const Extent& extent,
                                   const WidePlace& place, Shared& shared) {
  const auto* q = static_cast<const Element*>(args.q);
  // Each lane finds one of its warp's rows.
  constexpr uint32_t kWarps = kGroups * kGroupWaves;
  const uint32_t warp = place.group * kGroupWaves + place.warp, found = warp + place.lane % (kRows / kWarps) * kWarps;
  const PackedRow of_lane = extent.row(args, work, static_cast<int32_t>(found));
  if (place.lane < kRows / kWarps) {
    shared.destination[found] = of_lane.destination;
    shared.seen[found] = of_lane.seen;
  }
#pragma unroll
  for (uint32_t i = 0; i < kRows / kWarps; ++i) {
    const auto row = static_cast<int64_t>(shuffle_word64(of_lane.q, i));
#pragma unroll
    for (uint32_t chunk = place.lane; chunk < kBoxes * 8; chunk += kWaveSize) {
      copy_async(shared.q[chunk / 8].at(warp + i * kWarps, chunk % 8), q + row * kKeyDim + chunk * 8);
    }
  }
}

// Asks for products of q and of a tile's keys, of which scores are sums: those of parts kFirst to kLast.
template <class Element, bool kByBoxes, uint32_t kFirst, uint32_t kLast>
AITERLITE_DEVICE void add_scores(float (&scores)[kScores], uint32_t stage, uint32_t parity, Shared& shared) {
  const uint64_t q = tile_descriptor(&shared.q[0]), k = tile_descriptor(&shared.kv[stage][0]);
  begin_group();
  static_for<kLast - kFirst>([&](auto number) {
    constexpr uint32_t kPart = kFirst + decltype(number)::value;
    shared.full[stage][kPart].wait(parity);
    // What was copied 16 bytes at a time.
    if constexpr (!kByBoxes) publish_to_engines();
#pragma unroll
    for (uint32_t x = 0; x < panels_of(kPart) * 4; ++x) {
      const uint32_t byte = (kPart * kHalfBoxes + x / 4) * sizeof(Box) + x % 4 * 32;
      const uint64_t b = advanced_bytes(k, byte), a = advanced_bytes(q, byte);
      if (kPart + x == 0) {
        multiply_group<Start::kZero>(Element{}, scores, a, b);
      } else {
        multiply_group(Element{}, scores, a, b);
      }
    }
  });
  commit_group();
}

// Selects those of a tile's scores to -inf that a row does not see.
AITERLITE_DEVICE void mask_scores(float (&scores)[kScores], const Extent& extent, const WidePlace& place, uint32_t tile,
                                  const Vector16& exist, bool all, const Shared& shared) {
  if (all && static_cast<int32_t>((tile + 1) * kTokens) <= extent.least_seen) return;
  const auto first = static_cast<int32_t>(tile * kTokens + place.token(0));
  const int32_t seen[2] = {shared.seen[place.row(0)] - first, shared.seen[place.row(1)] - first};
  uint32_t bits[4];
#pragma unroll
  for (uint32_t w = 0; w < 4; ++w) bits[w] = exist.word[w] >> (place.lane % 4 / 2 * 8 + place.lane % 2 * 2);
#pragma unroll
  for (uint32_t k = 0; k < kScores; ++k) {
    const bool exists = (bits[k / 8] >> (k / 4 % 2 * 16 + k % 2) & 1) != 0;
    const bool visible = static_cast<int32_t>(k / 4 * 8 + k % 2) < seen[k / 2 % 2];
    if (!exists || !visible) scores[k] = -__builtin_inff();
  }
}

// From here on sums are relative to this.
AITERLITE_DEVICE void make_relative(State& state, const float (&next)[2]) {
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const float factor = fast_exp2(state.relative[i] - next[i]);
    state.relative[i] = next[i];
    state.weights[i] *= factor;
#pragma unroll
    for (float (&half)[kValues] : state.values) {
#pragma unroll
      for (uint32_t k = 0; k < kValues; ++k) {
        if (k / 2 % 2 == i) half[k] *= factor;
      }
    }
  }
}

// Makes weights of a tile's scores, which times `scale`, a positive number, are in log2. Sums become relative to the
// greatest score of each row so far where that is far above what they are relative to.
AITERLITE_DEVICE void make_weights(float (&scores)[kScores], float scale, State& state) {
  float most[2] = {kLowest, kLowest};
#pragma unroll
  for (uint32_t k = 0; k < kScores; ++k) most[k / 2 % 2] = __builtin_fmaxf(most[k / 2 % 2], scores[k]);
#pragma unroll
  for (float& score : most) score *= scale;
  if (any_lane(most[0] > state.relative[0] + kSlack || most[1] > state.relative[1] + kSlack)) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      most[i] = reduce_lanes<4>(most[i], Max{});
      if (!(most[i] > state.relative[i] + kSlack)) most[i] = state.relative[i];
    }
    // Products that the sums are of may still be running.
    await_group<0>();
    make_relative(state, most);
  }
#pragma unroll
  for (uint32_t k = 0; k < kScores; ++k) {
    scores[k] = fast_exp2(__builtin_fmaf(scores[k], scale, -state.relative[k / 2 % 2]));
  }
}
AITERLITE_DEVICE void sum_weights(const float (&weights)[kScores], State& state) {
#pragma unroll
  for (uint32_t k = 0; k < kScores; ++k) state.weights[k / 2 % 2] += weights[k];
}

}  // namespace aiterlite::mla::wide
