// Which entries a workgroup of a stage of MXFP4 experts multiplies: a part of a sorted block; or, with AITERLITE_FEW, a
// group of pairs of one expert straight from topk_ids (few_pairs.h), for calls of few tokens on AMD, which are not
// sorted. Then the first stage leaves in local_topk_ids what the sorting would, for the sum behind the second.
#pragma once
#include <aiterlite/fused_moe/sorted_block.h>
#if AITERLITE_FEW
#include <aiterlite/fused_moe/few_pairs.h>
#endif

namespace aiterlite::fused_moe {

#if AITERLITE_FEW
template <uint32_t kTokens>
struct MxEntries : Entries {
  static_assert(kTokens == kGroupPairs, "MxEntries: a lane's column is one of a group's");

  AITERLITE_DEVICE static MxEntries of(const Args& args, uint32_t number, bool leaves_ids) {
    FewPairs pairs(args);
    const auto topk = static_cast<uint32_t>(args.topk);
    if (leaves_ids && workgroup_id() == 0 && thread_id() < static_cast<uint32_t>(args.tokens) * topk) {
      store_u32(const_cast<int32_t*>(args.local_topk_ids) + thread_id(), static_cast<uint32_t>(pairs.own_expert()));
    }
    Group group = pairs.next();
#pragma unroll 1
    for (uint32_t before = number; before > 0 && group.pairs != 0; --before) group = pairs.next();
    if (group.pairs == 0) return {{-1, 0, 0, 0}};
    const int32_t own = column_pair(group.pairs);
    // A column without a pair reads that of another, and is not used.
    const uint32_t held = own < 0 ? first_lane(group.pairs) : static_cast<uint32_t>(own);
    return {{static_cast<int32_t>(group.expert), lanes_where(own >= 0), held / topk, held}};
  }
  // The routing weight of this lane's entry.
  AITERLITE_DEVICE float weight(const Args& args) const {
    return load_f32(args.topk_weights + int64_t{token} * args.stride_weights + pair % static_cast<uint32_t>(args.topk));
  }
};
#else
template <uint32_t kTokens>
struct MxEntries : Entries {
  uint32_t place;  // of the lane's entry

  AITERLITE_DEVICE static MxEntries of(const Args& args, uint32_t number, bool) {
    const auto part = Part<kTokens>::of(args, number);
    return {Entries::of<true>(args, part), part.index(lane_id() % kTokens)};
  }
  AITERLITE_DEVICE float weight(const Args& args) const { return load_f32(args.sorted_weights + place); }
};
#endif

}  // namespace aiterlite::fused_moe
