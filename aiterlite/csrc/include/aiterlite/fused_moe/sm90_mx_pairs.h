// Which expert each pair of token and slot goes to, and which pairs a workgroup takes together, for sm_90's kernels of
// MXFP4 experts that do not sort: at most 64 pairs, straight from topk_ids.
//
// Pairs of one expert go together by kColumns, in their order; the first of each such group leads it. Nothing is
// listed: whether a pair leads, and who follows it, are two votes of a warp over what shared memory holds. So an
// expert's weights are read once for each kColumns of its pairs.
//
// A pair counts where its token is live and its id that of an expert that the mask has; its expert is numbered among
// those that the mask has. Nothing else is made of an id.
#pragma once
#include <aiterlite/fused_moe/sorted_block.h>

namespace aiterlite::fused_moe {

inline constexpr uint32_t kMostMxPairs = 64, kNoExpert = ~0u;

// kEarly: what is read may be other kernels' work that ended before the one ahead did, and this one does not wait.
template <bool kEarly>
AITERLITE_DEVICE int32_t load_id_word(const int32_t* p) {
  if constexpr (kEarly) {
    return static_cast<int32_t>(load_latest(p));
  } else {
    return load_int(p);
  }
}

// The expert of a lane's pair. Every lane of the warp takes part.
template <bool kEarly>
AITERLITE_DEVICE uint32_t expert_of_pair(const Args& args, uint32_t pair) {
  const uint32_t lane = lane_id(), topk = static_cast<uint32_t>(args.topk), token = pair / topk;
  const auto global = static_cast<uint32_t>(args.global_experts);
  int32_t tokens = args.tokens;
  if (args.num_local_tokens != nullptr) {
    const int32_t asked = load_id_word<kEarly>(args.num_local_tokens);
    tokens = asked < 0 ? 0 : asked < tokens ? asked : tokens;
  }
  uint32_t id = kNoExpert;
  if (token < static_cast<uint32_t>(tokens)) {
    const auto* ids = static_cast<const int32_t*>(args.topk_ids);
    const int64_t at = int64_t{token} * args.stride_ids + pair % topk;
    const auto low = static_cast<uint32_t>(load_id_word<kEarly>(ids + at * args.id_words));
    const bool narrow = args.id_words == 1 || load_id_word<kEarly>(ids + at * 2 + 1) == 0;
    if (narrow && low < global) id = low;
  }
  uint32_t local = id;
  bool counts = id != kNoExpert;
  if (args.expert_mask != nullptr) {
    local = 0;
    bool masked_in = false;
#pragma unroll 1
    for (uint32_t first = 0; first < global; first += kWaveSize) {
      const bool here = first + lane < global && load_id_word<kEarly>(args.expert_mask + first + lane) != 0;
      const LaneMask have = lanes_where(here);
      const uint32_t place = id - first;  // wraps where the id comes before
      const bool inside = id >= first && place < kWaveSize;
      const LaneMask before = inside ? have & ((LaneMask{1} << place) - 1) : id < first ? 0 : have;
      local += count_lanes(before);
      masked_in |= inside && (have >> place & 1) != 0;
    }
    counts = counts && masked_in;
  }
  return counts && local < static_cast<uint32_t>(args.experts) ? local : kNoExpert;
}

// All pairs' experts, in shared memory; kNoExpert for those that do not count, and behind the last. A barrier follows.
template <bool kEarly, uint32_t kWaves>
AITERLITE_DEVICE void find_experts(const Args& args, uint32_t (&experts)[kMostMxPairs]) {
#pragma unroll 1
  for (uint32_t first = wave_id() * kWaveSize; first < kMostMxPairs; first += kWaves * kWaveSize) {
    experts[first + lane_id()] = expert_of_pair<kEarly>(args, first + lane_id());
  }
}

AITERLITE_DEVICE uint32_t first_pair(uint64_t pairs) {
  const auto low = static_cast<uint32_t>(pairs);
  return low != 0 ? first_lane(low) : 32 + first_lane(static_cast<uint32_t>(pairs >> 32));
}

// The pairs that one leads: none where another leads it, or it does not count. The same in all lanes, all of which take
// part. Places behind the last hold it again.
template <uint32_t kColumns>
struct MxGroup {
  uint32_t expert;
  uint32_t count;
  uint32_t pair[kColumns];

  AITERLITE_DEVICE MxGroup(const uint32_t (&experts)[kMostMxPairs], uint32_t leader)
      : expert(experts[leader]), count(0) {
    const auto low = static_cast<uint32_t>(lanes_where(experts[lane_id()] == expert));
    const auto high = static_cast<uint32_t>(lanes_where(experts[kWaveSize + lane_id()] == expert));
    const uint64_t same = uint64_t{high} << 32 | low, before = same & ((uint64_t{1} << leader) - 1);
    const uint32_t rank = count_lanes(static_cast<uint32_t>(before)) + count_lanes(static_cast<uint32_t>(before >> 32));
    uint64_t left = same & ~before;
#pragma unroll
    for (uint32_t c = 0; c < kColumns; ++c) {
      const bool more = left != 0;
      pair[c] = more ? first_pair(left) : c == 0 ? leader : pair[c - 1];
      if (more) ++count;
      left &= left - 1;
    }
    if (rank % kColumns != 0 || expert == kNoExpert) count = 0;
  }
};

}  // namespace aiterlite::fused_moe
