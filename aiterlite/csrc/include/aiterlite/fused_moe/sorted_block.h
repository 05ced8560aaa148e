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
AITERLITE_DEVICE Entry entry_at(const Args& args, uint32_t index) {
  const auto entry = static_cast<uint32_t>(load_int(args.sorted_ids + index));
  const uint32_t token = entry & 0xffffffu, slot = entry >> 24;
  const bool exists = token < static_cast<uint32_t>(args.tokens) && slot < static_cast<uint32_t>(args.topk);
  const uint32_t pair = token * static_cast<uint32_t>(args.topk) + slot;
  return {exists ? token : 0, exists ? static_cast<int32_t>(pair) : -1};
}

// The expert of a block; below 0 where the block is not in use, or names none that is here.
AITERLITE_DEVICE int32_t expert_of(const Args& args, uint32_t block, uint32_t block_size) {
  const uint32_t used = uniform(static_cast<uint32_t>(load_int(args.num_valid_ids)));
  if (block * block_size >= used) return -1;
  const auto expert = static_cast<int32_t>(uniform(static_cast<uint32_t>(load_int(args.sorted_expert_ids + block))));
  return expert < args.experts ? expert : -1;
}

}  // namespace aiterlite::fused_moe
