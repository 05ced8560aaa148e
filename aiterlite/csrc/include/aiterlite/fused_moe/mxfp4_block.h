// Blocks of 32 sorted entries, as gfx950's kernels of MXFP4 experts read them (mxfp4_codes.h): lane l has entry l % 32.
//
// With AITERLITE_FEW, calls of few tokens are not sorted: workgroup n of stage 1 finds the pairs of one expert that
// begin with pair n (few_pairs.h), and leaves them as block n for the kernel behind it; where pair n begins none, a
// block without an expert. With AITERLITE_FEW of 2 it finds the n-th such group: of few experts, pairs make fewer
// groups than they are, and nearly all workgroups have one.
#pragma once
#include <aiterlite/fused_moe/mxfp4_codes.h>
#if AITERLITE_FEW
#include <aiterlite/fused_moe/few_pairs.h>
#endif

namespace aiterlite::fused_moe {

struct BlockEntry {
  int32_t token, slot;  // below 0 where there is none

  AITERLITE_DEVICE static BlockEntry of(const Args& args, uint32_t packed) {
    const auto token = static_cast<int32_t>(packed & 0xffffffu), slot = static_cast<int32_t>(packed >> 24);
    const bool here = token < args.tokens && slot < args.topk;
    return {here ? token : -1, here ? slot : -1};
  }
  AITERLITE_DEVICE int32_t pair(uint32_t topk) const {
    return token < 0 ? -1 : static_cast<int32_t>(static_cast<uint32_t>(token) * topk + static_cast<uint32_t>(slot));
  }
};

// A block that is sorted: its expert, below 0 where it is not in use or names none that is here; and the lane's entry.
struct SortedBlock {
  int32_t expert;
  BlockEntry entry;

  AITERLITE_DEVICE static SortedBlock of(const Args& args, uint32_t number) {
    const int32_t named = load_int(args.sorted_expert_ids + number);
    const auto packed =
        static_cast<uint32_t>(load_int(args.sorted_ids + number * kBlockEntries + lane_id() % kBlockEntries));
    const auto used = static_cast<uint32_t>(load_int(args.num_valid_ids));
    const bool here = number * kBlockEntries < used && named < args.experts;
    return {static_cast<int32_t>(uniform(static_cast<uint32_t>(here ? named : -1))), BlockEntry::of(args, packed)};
  }
  AITERLITE_DEVICE bool any() const { return expert >= 0; }
};

#if AITERLITE_FEW
// Block `number`. `leaves`: the wave leaves it, and what the sorting would leave of all pairs.
template <uint32_t kTopk, bool kInOrder>
AITERLITE_DEVICE SortedBlock few_block(Args args, uint32_t number, bool leaves) {
  args.topk = kTopk;  // divisions by a number that is known take few instructions
  FewPairs pairs(args);
  const uint32_t lane = lane_id(), topk = kTopk;
  const auto count = static_cast<uint32_t>(args.tokens) * topk;
  Group group;
  if constexpr (kInOrder) {
    group = pairs.next();
#pragma unroll 1
    for (uint32_t before = 0; before < number && group.pairs != 0; ++before) group = pairs.next();
  } else {
    group = pairs.beginning_with(number);
  }
  int32_t pair = -1;
  if (group.pairs != 0) pair = column_pair(group.pairs);
  const bool here = pair >= 0 && lane % kBlockEntries < kGroupPairs;
  const auto token = here ? static_cast<int32_t>(static_cast<uint32_t>(pair) / topk) : -1;
  const auto slot = here ? static_cast<int32_t>(static_cast<uint32_t>(pair) % topk) : -1;
  const int32_t expert = group.pairs != 0 ? static_cast<int32_t>(group.expert) : -1;
  if (leaves) {
    const auto word = [](const int32_t* list, uint32_t at) { return const_cast<int32_t*>(list) + at; };
    const uint32_t packed =
        here ? static_cast<uint32_t>(slot) << 24 | static_cast<uint32_t>(token) : static_cast<uint32_t>(args.tokens);
    if (lane < kBlockEntries) store_u32(word(args.sorted_ids, number * kBlockEntries + lane), packed);
    if (lane == 0) store_u32(word(args.sorted_expert_ids, number), static_cast<uint32_t>(expert));
    if (number == 0) {
      // In order: an expert's first group, and at most one more for each kGroupPairs.
      const uint32_t groups = kInOrder ? static_cast<uint32_t>(args.experts) + count / kGroupPairs : count;
      if (lane == 0) store_u32(word(args.num_valid_ids, 0), groups * kBlockEntries);
      if (lane < count) store_u32(word(args.local_topk_ids, lane), static_cast<uint32_t>(pairs.own_expert()));
    }
  }
  return {expert, {token, slot}};
}
#endif

}  // namespace aiterlite::fused_moe
