// A block of the sorted entries of a mixture of experts, and which pair of token and slot each entry is.
#pragma once
#include <aiterlite/fused_moe/args.h>
#include <aiterlite/platform.h>

namespace aiterlite::fused_moe {

using Args = aiterlite_fused_moe_args;

AITERLITE_DEVICE int32_t load_int(const int32_t* p) { return __builtin_bit_cast(int32_t, load_f32(p)); }

// A workgroup's part of a sorted block: kTokens entries from `first` on, of which the last may be another block's.
// Blocks of fewer entries, or of more, than a workgroup takes are a part each, or several.
template <uint32_t kTokens>
struct Part {
  static_assert(kTokens <= kWaveSize, "Part: a lane holds an entry");
  uint32_t block;
  uint32_t first;
  uint32_t count;

  AITERLITE_DEVICE static Part of(const Args& args, uint32_t number) {
    const auto size = static_cast<uint32_t>(args.block_size);
    const uint32_t each = (size + kTokens - 1) / kTokens, block = number / each, before = number % each * kTokens;
    return {block, block * size + before, size - before < kTokens ? size - before : kTokens};
  }

  // Where entry i is; the last one for those that are not this block's.
  AITERLITE_DEVICE uint32_t index(uint32_t i) const { return first + (i < count ? i : count - 1); }
};

// What is in a part: lane l of every wave holds entry l % kTokens.
struct Entries {
  int32_t expert;  // below 0 where the block is not in use, or names none that is here
  LaneMask exist;  // the entries that are pairs; not the padding of a block
  uint32_t token;  // of the lane's entry, or, of padding, that of an entry that exists
  uint32_t pair;   // the same

  // With kWhole, the sorted buffers hold as many blocks as there are workgroups for, and all loads are on their way at
  // once; a caller's own may end where the entries in use do.
  template <bool kWhole, uint32_t kTokens>
  AITERLITE_DEVICE static Entries of(const Args& args, const Part<kTokens>& part) {
    const uint32_t own = lane_id() % kTokens, tokens = static_cast<uint32_t>(args.tokens),
                   topk = static_cast<uint32_t>(args.topk);
    auto used = static_cast<uint32_t>(load_int(args.num_valid_ids));
    const auto held = static_cast<uint32_t>(args.sorted_entries);
    if constexpr (!kWhole) used = static_cast<int32_t>(used) < 0 ? 0 : used < held ? used : held;
    if (!kWhole && part.first >= uniform(used)) return {-1, 0, 0, 0};
    const int32_t named = load_int(args.sorted_expert_ids + part.block);
    const auto entry = static_cast<uint32_t>(load_int(args.sorted_ids + part.index(own)));
    const bool here = part.first < used && named < args.experts;
    const uint32_t token = entry & 0xffffffu, slot = entry >> 24;
    const LaneMask exist = lanes_where(own < part.count && token < tokens && slot < topk);
    const uint32_t stand_in = exist == 0 ? 0 : first_lane(exist);
    const bool padding = (exist >> lane_id() & 1) == 0;
    // All lanes shuffle, as NVIDIA's must.
    const uint32_t other_token = shuffle(token, stand_in), other_slot = shuffle(slot, stand_in);
    const uint32_t held_token = padding ? other_token : token, held_slot = padding ? other_slot : slot;
    return {static_cast<int32_t>(uniform(static_cast<uint32_t>(here ? named : -1))), exist, held_token,
            held_token * topk + held_slot};
  }

  AITERLITE_DEVICE bool any() const { return expert >= 0 && exist != 0; }
  AITERLITE_DEVICE uint32_t token_of(uint32_t i) const { return shuffle(token, i); }
  AITERLITE_DEVICE uint32_t pair_of(uint32_t i) const { return shuffle(pair, i); }
  // The pair of this lane's entry, below 0 for padding.
  AITERLITE_DEVICE int32_t own_pair() const { return (exist >> lane_id() & 1) != 0 ? static_cast<int32_t>(pair) : -1; }
};

}  // namespace aiterlite::fused_moe
