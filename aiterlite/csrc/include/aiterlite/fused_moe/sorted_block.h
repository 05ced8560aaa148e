// A block of the sorted entries of a mixture of experts, and which pair of token and slot each entry is.
#pragma once
#include <aiterlite/fused_moe/args.h>
#include <aiterlite/platform.h>

namespace aiterlite::fused_moe {

using Args = aiterlite_fused_moe_args;

AITERLITE_DEVICE int32_t load_int(const int32_t* p) { return __builtin_bit_cast(int32_t, load_f32(p)); }

struct Entry {
  uint32_t token;
  int32_t pair;  // below 0 where the entry is none: the padding of a block
};

// A workgroup's part of a sorted block: kTokens entries from `first` on, of which the last may be another block's.
// Blocks of fewer entries, or of more, than a workgroup takes are a part each, or several.
template <uint32_t kTokens>
struct Part {
  uint32_t block;
  uint32_t first;
  uint32_t count;

  AITERLITE_DEVICE static uint32_t parts(const Args& args) {
    return (static_cast<uint32_t>(args.block_size) + kTokens - 1) / kTokens;
  }
  AITERLITE_DEVICE static Part of(const Args& args, uint32_t number) {
    const auto size = static_cast<uint32_t>(args.block_size);
    const uint32_t each = parts(args), block = number / each, before = number % each * kTokens;
    return {block, block * size + before, size - before < kTokens ? size - before : kTokens};
  }

  // Where to read of entry i: of the last one for those that are not this block's.
  AITERLITE_DEVICE uint32_t index(uint32_t i) const { return first + (i < count ? i : count - 1); }
  AITERLITE_DEVICE Entry entry(const Args& args, uint32_t i) const {
    const auto entry = static_cast<uint32_t>(load_int(args.sorted_ids + index(i)));
    const uint32_t token = entry & 0xffffffu, slot = entry >> 24;
    const bool exists =
        i < count && token < static_cast<uint32_t>(args.tokens) && slot < static_cast<uint32_t>(args.topk);
    const uint32_t pair = token * static_cast<uint32_t>(args.topk) + slot;
    return {exists ? token : 0, exists ? static_cast<int32_t>(pair) : -1};
  }

  // Which of its entries are pairs; any of them stands in for those that are none. Every lane of the wave takes part.
  AITERLITE_DEVICE LaneMask pairs(const Args& args) const {
    static_assert(kTokens <= kWaveSize, "Part: a lane is an entry");
    return lanes_where(lane_id() < kTokens && entry(args, lane_id()).pair >= 0);
  }

  // The expert; below 0 where the block is not in use, or names none that is here.
  AITERLITE_DEVICE int32_t expert(const Args& args) const {
    if (first >= uniform(static_cast<uint32_t>(load_int(args.num_valid_ids)))) return -1;
    const auto named = static_cast<int32_t>(uniform(static_cast<uint32_t>(load_int(args.sorted_expert_ids + block))));
    return named < args.experts ? named : -1;
  }
};

}  // namespace aiterlite::fused_moe
