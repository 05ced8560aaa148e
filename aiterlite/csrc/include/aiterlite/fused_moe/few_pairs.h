// The work of a mixture of experts for a few tokens on AMD, straight from topk_ids: at most a wave's worth of pairs of
// token and slot, a lane each. Pairs of one expert form groups of at most 16, the columns of a matrix product; each
// group begins at the first pair that has no place in an earlier one. So an expert's weights are read once.
//
// A pair counts where its token is live and its id that of an expert that the mask has; its expert is numbered among
// those that the mask has. Nothing else is made of an id. Every wave finds out for itself, in the same bits.
#pragma once
#include <aiterlite/fused_moe/sorted_block.h>

namespace aiterlite::fused_moe {

inline constexpr uint32_t kGroupPairs = 16;

struct Group {
  uint32_t expert;
  LaneMask pairs;  // bit p: pair p; none where there are no more groups
};

class FewPairs {
 public:
  AITERLITE_DEVICE explicit FewPairs(const Args& args) {
    const uint32_t lane = lane_id(), topk = static_cast<uint32_t>(args.topk), token = lane / topk;
    const auto global = static_cast<uint32_t>(args.global_experts);
    uint32_t id = ~0u;
    if (token < live_tokens(args)) {
      const auto* ids = static_cast<const int32_t*>(args.topk_ids);
      const int64_t at = int64_t{token} * args.stride_ids + lane % topk;
      const auto low = static_cast<uint32_t>(load_int(ids + at * args.id_words));
      const bool narrow = args.id_words == 1 || load_int(ids + at * 2 + 1) == 0;
      if (narrow && low < global) id = low;
    }
    uint32_t local = id;
    bool counts = id != ~0u;
    if (args.expert_mask != nullptr) {
      local = 0;
      bool masked_in = false;
#pragma unroll 1
      for (uint32_t first = 0; first < global; first += kWaveSize) {
        const bool here = first + lane < global && load_int(args.expert_mask + first + lane) != 0;
        const LaneMask have = lanes_where(here);
        const uint32_t place = id - first;  // wraps where the id comes before
        const bool inside = id >= first && place < kWaveSize;
        const LaneMask before = inside ? have & ((LaneMask{1} << place) - 1) : id < first ? 0 : have;
        local += count_lanes(before);
        masked_in |= inside && (have >> place & 1) != 0;
      }
      counts = counts && masked_in;
    }
    counts = counts && local < static_cast<uint32_t>(args.experts);
    expert_ = local;
    counted_ = left_ = lanes_where(counts);
  }

  // The next group; without pairs where there is none. A few scalar instructions each: ranking all pairs by experts
  // takes longer than passing over as many groups as a few tokens have.
  AITERLITE_DEVICE Group next() {
    if (left_ == 0) return {0, 0};
    const uint32_t expert = word_of_lane(expert_, first_lane(left_));
    LaneMask pairs = lanes_where(expert_ == expert) & left_;
    if (count_lanes(pairs) > kGroupPairs) pairs = lanes_where(count_lanes_before(pairs) < kGroupPairs) & pairs;
    left_ &= ~pairs;
    return {expert, pairs};
  }

  // The group that begins with a pair; without pairs where that one counts to an earlier group, or not at all. The
  // groups of all pairs are those of next().
  AITERLITE_DEVICE Group beginning_with(uint32_t pair) const {
    const uint32_t expert = word_of_lane(expert_, pair);
    const LaneMask same = lanes_where(expert_ == expert) & counted_;
    const uint32_t before = count_lanes(same & ((LaneMask{1} << pair) - 1));
    if ((same >> pair & 1) == 0 || before % kGroupPairs != 0) return {0, 0};
    const uint32_t behind = count_lanes_before(same) - before;  // wraps for lanes of earlier groups
    return {expert, same & lanes_where(behind < kGroupPairs)};
  }

  // The number of the expert of this lane's pair, below 0 where it does not count.
  AITERLITE_DEVICE int32_t own_expert() const {
    return (counted_ >> lane_id() & 1) != 0 ? static_cast<int32_t>(expert_) : -1;
  }
  // The pairs that count.
  AITERLITE_DEVICE LaneMask counted() const { return counted_; }

 private:
  AITERLITE_DEVICE static uint32_t live_tokens(const Args& args) {
    int32_t tokens = args.tokens;
    if (args.num_local_tokens != nullptr) {
      const int32_t asked = load_int(args.num_local_tokens);
      tokens = asked < 0 ? 0 : asked < tokens ? asked : tokens;
    }
    return static_cast<uint32_t>(tokens);
  }

  uint32_t expert_;
  LaneMask counted_;
  LaneMask left_;  // of those, which no group has had
};

// The pair of this lane's column of a product, lane % 16; below 0 where the group has fewer.
AITERLITE_DEVICE int32_t column_pair(LaneMask pairs) {
  int32_t pair = -1;
#pragma unroll 1
  for (uint32_t column = 0; pairs != 0; ++column) {
    if (lane_id() % kGroupPairs == column) pair = static_cast<int32_t>(first_lane(pairs));
    pairs &= pairs - 1;
  }
  return pair;
}

}  // namespace aiterlite::fused_moe
