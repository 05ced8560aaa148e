// The greatest of what a few lanes hold, one after the other, each with the place where it was: how a token's experts
// are chosen. Ranks are words in the order of floats; 0 is nothing.
//
// A lane sorts its ranks once, in lists of up to eight, and then shows only the greatest; the one that is taken is
// dropped from its list. So a round is a maximum over lanes, a ballot and a few moves, whatever the lanes hold. Lanes
// hold neighbouring places in order and lists are stable, so that of equal ranks the lowest place is taken first.
#pragma once
#include <aiterlite/block/reduce.h>

namespace aiterlite::routing {

// The order of floats in that of words; -0 is 0. At least rank_of(-inf), which is more than 0. Not for NaN.
AITERLITE_DEVICE uint32_t rank_of(float value) {
  const auto bits = __builtin_bit_cast(uint32_t, value + 0.0f);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}
AITERLITE_DEVICE float value_of(uint32_t rank) {
  return __builtin_bit_cast(float, rank & 0x80000000u ? rank & 0x7fffffffu : ~rank);
}

// The two greatest ranks of a set.
struct TopTwo {
  uint32_t first;
  uint32_t second;
};
struct MergeTopTwo {
  AITERLITE_DEVICE TopTwo operator()(const TopTwo& a, const TopTwo& b) const {
    const Max max;
    const uint32_t lower = a.first < b.first ? a.first : b.first;
    return {max(a.first, b.first), max(lower, max(a.second, b.second))};
  }
};

template <uint32_t kEach>
class Sorted {
 public:
  AITERLITE_DEVICE explicit Sorted(const uint32_t (&ranks)[kEach]) {
#pragma unroll
    for (uint32_t l = 0; l < kLists; ++l) {
      uint32_t place[kLength];
#pragma unroll
      for (uint32_t i = 0; i < kLength; ++i) {
        const uint32_t at = l * kLength + i;
        rank_[l][i] = at < kEach ? ranks[at < kEach ? at : 0] : 0;
        place[i] = i;
      }
      sort(rank_[l], place);
      places_[l] = 0;
#pragma unroll
      for (uint32_t i = 0; i < kLength; ++i) places_[l] |= place[i] << (4 * i);
    }
  }

  AITERLITE_DEVICE uint32_t greatest() const {
    uint32_t most = rank_[0][0];
#pragma unroll
    for (uint32_t l = 1; l < kLists; ++l) most = Max{}(most, rank_[l][0]);
    return most;
  }
  // Where the greatest was.
  AITERLITE_DEVICE uint32_t place() const {
    const uint32_t most = greatest();
    uint32_t at = (kLists - 1) * kLength + (places_[kLists - 1] & 15u);
#pragma unroll
    for (uint32_t l = kLists - 1; l-- > 0;) at = rank_[l][0] == most ? l * kLength + (places_[l] & 15u) : at;
    return at;
  }
  AITERLITE_DEVICE TopTwo top_two() const {
    TopTwo top = {rank_[0][0], kLength > 1 ? rank_[0][kLength > 1 ? 1 : 0] : 0};
#pragma unroll
    for (uint32_t l = 1; l < kLists; ++l) {
      top = MergeTopTwo{}(top, {rank_[l][0], kLength > 1 ? rank_[l][kLength > 1 ? 1 : 0] : 0});
    }
    return top;
  }

  // Drops the greatest, if asked to.
  AITERLITE_DEVICE void take(bool wanted) {
    const uint32_t most = greatest();
#pragma unroll
    for (uint32_t l = 0; l < kLists; ++l) {
      const bool here = wanted && rank_[l][0] == most;
      wanted = wanted && !here;
#pragma unroll
      for (uint32_t i = 0; i < kLength; ++i) {
        const uint32_t now = rank_[l][i], next = i + 1 < kLength ? rank_[l][i + 1 < kLength ? i + 1 : 0] : 0;
        rank_[l][i] = here ? next : now;
      }
      places_[l] = here ? places_[l] >> 4 : places_[l];
    }
  }
  // The lane has nothing to show any more.
  AITERLITE_DEVICE void drop(bool wanted) {
#pragma unroll
    for (uint32_t l = 0; l < kLists; ++l) rank_[l][0] = wanted ? 0 : rank_[l][0];
  }

 private:
  static constexpr uint32_t kLength = kEach < 8 ? kEach : 8;
  static constexpr uint32_t kLists = (kEach + kLength - 1) / kLength;

  // Neighbours only, and equals stay: for eight this takes as many instructions as a shorter network that would have to
  // compare places too.
  AITERLITE_DEVICE static void sort(uint32_t (&rank)[kLength], uint32_t (&place)[kLength]) {
#pragma unroll
    for (uint32_t pass = 0; pass < kLength; ++pass) {
#pragma unroll
      for (uint32_t i = pass % 2; i + 1 < kLength; i += 2) {
        // By value: a choice between two elements goes through memory on AMD, or through a chain of choices.
        const uint32_t a = rank[i], b = rank[i + 1], at_a = place[i], at_b = place[i + 1];
        const bool swap = b > a;
        rank[i] = swap ? b : a;
        rank[i + 1] = swap ? a : b;
        place[i] = swap ? at_b : at_a;
        place[i + 1] = swap ? at_a : at_b;
      }
    }
  }

  uint32_t rank_[kLists][kLength];
  uint32_t places_[kLists];  // four bits each, the greatest's lowest
};

// The greatest word of each kLanes neighbouring lanes.
template <uint32_t kLanes, class Word>
AITERLITE_DEVICE Word greatest_of_lanes(Word value) {
  if constexpr (kReducesWords && kLanes == kWaveSize) {
    return greatest_word(value);
  } else {
    return reduce_lanes<kLanes>(value, Max{});
  }
}

// Which of kLanes neighbouring lanes is the first where a value holds: it in `first`, of the wave's lanes, and whether
// this lane is that one in `own`. The latter does not wait for the former, which takes longer to find.
struct FirstLane {
  uint32_t first;
  bool own;
};
template <uint32_t kLanes>
AITERLITE_DEVICE FirstLane first_of_lanes(bool value) {
  const uint32_t lane = lane_id(), begin = lane / kLanes * kLanes;
  const LaneMask all = kLanes == kWaveSize ? ~LaneMask{0} : ((LaneMask{1} << (kLanes % kWaveSize)) - 1) << begin;
  const LaneMask before = ((LaneMask{1} << lane) - 1) & all;
  const LaneMask lanes = lanes_where(value) & all;
  return {first_lane(lanes), value && (lanes & before) == 0};
}

}  // namespace aiterlite::routing
