// Which entries go to which expert, for sm_90's kernels of the fused mixture of experts: blocks of kColumns entries,
// each block one expert's.
//
// For many tokens a kernel before these sorts, and lists lie in memory (fused_moe/sm90_prepare.hip). For up to 16
// tokens (AITERLITE_INLINE) every workgroup makes them itself, in shared memory, which takes less time than to wait for
// another kernel: bits say which tokens name an expert, and no expert has more than one block. A token that names an
// expert twice has one entry, with the sum of its weights. Lists that a caller brings (AITERLITE_GIVEN) may be of
// larger blocks, and name what is not there.
#pragma once
#include <aiterlite/fused_moe/sm90_args.h>
#include <aiterlite/platform.h>

#include <type_traits>

namespace aiterlite::experts {

using Args = aiterlite_sm90_moe_args;

inline constexpr uint32_t kColumns = AITERLITE_COLS;
inline constexpr bool kInline = AITERLITE_INLINE;
inline constexpr uint32_t kInlineTokens = 16, kInlinePairs = 160, kInlineExperts = 1024;
static_assert(!kInline || kColumns <= kInlineTokens, "tokens of an expert are one block");

// Lists, and what they are made of, may be read before a kernel's predecessors have ended.
enum class Reading { kLate, kEarly };
template <Reading kReading>
AITERLITE_DEVICE int32_t load_int(const int32_t* p) {
  return kReading == Reading::kEarly ? static_cast<int32_t>(load_latest(p)) : *p;
}
template <Reading kReading>
AITERLITE_DEVICE float load_float(const float* p) {
  return kReading == Reading::kEarly ? __builtin_bit_cast(float, load_latest(p)) : *p;
}

// What inline lists are made in. `pair` is an entry's number of token and slot, and `token` its
// token; kNoPair for padding.
struct InlineShared {
  static constexpr uint8_t kNoPair = 0xff;
  static constexpr uint16_t kNone = 0xffff;
  uint32_t tokens[kInlineExperts];      // that name an expert
  uint32_t named[kInlineExperts / 32];  // experts that some token names
  float weight[kInlinePairs];
  uint16_t of_pair[kInlinePairs];
  uint16_t expert[kInlinePairs];  // of a block
  uint8_t pair[kInlinePairs * kColumns];
  uint8_t token[kInlinePairs * kColumns];
  uint32_t blocks;
};
struct NoShared {};
using ListShared = std::conditional_t<kInline, InlineShared, NoShared>;

template <class Made, Reading kReading>
class ListsOf {
  static constexpr bool kInline = std::is_same_v<Made, InlineShared>;

 public:
  AITERLITE_DEVICE ListsOf(const Args& args, const Made& shared)
      : args_(args.moe), shared_(shared), most_(static_cast<uint32_t>(args.entry_pitch) / kColumns) {}

  AITERLITE_DEVICE uint32_t blocks() const {
    if constexpr (kInline) {
      return shared_.blocks;
    } else {
      const int32_t valid = load_int<kReading>(args_.num_valid_ids);
      uint32_t blocks = static_cast<uint32_t>(valid < 0 ? 0 : valid) / kColumns;
      if constexpr (AITERLITE_GIVEN) {
        const uint32_t held = static_cast<uint32_t>(args_.sorted_entries) / kColumns;
        blocks = blocks < held ? blocks : held;
      }
      return blocks < most_ ? blocks : most_;
    }
  }
  AITERLITE_DEVICE uint32_t expert(uint32_t block) const {
    if constexpr (kInline) {
      return shared_.expert[block];
    } else {
      const auto named = static_cast<uint32_t>(load_int<kReading>(args_.sorted_expert_ids + sorted_block(block)));
      // A caller's lists may name any, and a mask more experts than there are weights.
      return named < static_cast<uint32_t>(args_.experts) ? named : 0;
    }
  }
  // The token of an entry; no token's number for padding, which stands behind a block's other entries.
  AITERLITE_DEVICE uint32_t token(uint32_t entry) const {
    if constexpr (kInline) {
      const uint32_t token = shared_.token[entry];
      return token == InlineShared::kNoPair ? ~0u : token;
    } else {
      if constexpr (AITERLITE_GIVEN) {
        const int32_t named = load_int<kReading>(args_.sorted_expert_ids + sorted_block(entry / kColumns));
        if (static_cast<uint32_t>(named) >= static_cast<uint32_t>(args_.experts)) return ~0u;
      }
      return token_of(static_cast<uint32_t>(load_int<kReading>(args_.sorted_ids + entry)));
    }
  }
  // The pair of token and slot of an entry that is no padding; not for inline lists.
  AITERLITE_DEVICE uint32_t pair(uint32_t entry) const {
    const auto sorted = static_cast<uint32_t>(load_int<kReading>(args_.sorted_ids + entry));
    return (sorted & 0xffffffu) * static_cast<uint32_t>(args_.topk) + (sorted >> 24);
  }
  AITERLITE_DEVICE float weight(uint32_t entry) const {
    if constexpr (kInline) {
      const uint32_t pair = shared_.pair[entry];
      return pair == InlineShared::kNoPair ? 0.0f : shared_.weight[pair];
    } else {
      return load_float<kReading>(args_.sorted_weights + entry);
    }
  }
  AITERLITE_DEVICE uint32_t token_of(uint32_t sorted_id) const {
    const uint32_t token = sorted_id & 0xffffffu;
    const bool has_slot = !AITERLITE_GIVEN || sorted_id >> 24 < static_cast<uint32_t>(args_.topk);
    return token < static_cast<uint32_t>(args_.tokens) && has_slot ? token : ~0u;
  }

 private:
  // A caller's blocks may be several of ours.
  AITERLITE_DEVICE uint32_t sorted_block(uint32_t block) const {
    return AITERLITE_GIVEN ? block * kColumns / static_cast<uint32_t>(args_.block_size) : block;
  }
  const aiterlite_fused_moe_args& args_;
  const Made& shared_;
  const uint32_t most_;  // that there is room for
};
using Lists = ListsOf<ListShared, Reading::kLate>;
using EarlyLists = ListsOf<ListShared, Reading::kEarly>;

AITERLITE_DEVICE uint32_t bits_below(uint32_t bits, uint32_t place) {
  return static_cast<uint32_t>(__popc(bits & ((1u << place) - 1)));
}

// Makes inline lists, by all threads of a workgroup; a barrier stands at the end. Otherwise does nothing.
template <uint32_t kThreads, class Made>
AITERLITE_DEVICE void make_lists(const Args& all, Made& shared) {
  if constexpr (std::is_same_v<Made, InlineShared>) {
    const aiterlite_fused_moe_args& args = all.moe;
    const auto tokens = static_cast<uint32_t>(args.tokens), topk = static_cast<uint32_t>(args.topk);
    const auto experts = static_cast<uint32_t>(args.experts);
    const uint32_t thread = thread_id(), pairs = tokens * topk, words = (experts + 31) / 32;
    const uint32_t token = thread / topk, slot = thread - token * topk;
    uint32_t id = InlineShared::kNone;
    float weight = 0.0f;
    if (thread < pairs) {
      uint32_t live = tokens;
      if (args.num_local_tokens != nullptr) {
        const int32_t asked = load_int<Reading::kEarly>(args.num_local_tokens);
        live = asked < 0 ? 0 : static_cast<uint32_t>(asked) < tokens ? static_cast<uint32_t>(asked) : tokens;
      }
      const int32_t* at = static_cast<const int32_t*>(args.topk_ids) + (token * args.stride_ids + slot) * args.id_words;
      const auto given = static_cast<uint32_t>(load_int<Reading::kEarly>(at));
      const bool narrow = args.id_words == 1 || load_int<Reading::kEarly>(at + 1) == 0;
      if (token < live && narrow && given < experts) id = given;
      weight = load_float<Reading::kEarly>(args.topk_weights + token * args.stride_weights + slot);
    }
    for (uint32_t i = thread; i < words * 32; i += kThreads) shared.tokens[i] = 0;
    constexpr uint32_t kEntryWords = 2 * sizeof(shared.pair) / 4;
    for (uint32_t i = thread; i < kEntryWords; i += kThreads) reinterpret_cast<uint32_t*>(shared.pair)[i] = ~0u;
    workgroup_barrier();
    if (thread < pairs) {
      shared.of_pair[thread] = static_cast<uint16_t>(id);
      shared.weight[thread] = weight;
      if (id != InlineShared::kNone) set_bits_shared(shared.tokens + id, 1u << token);
    }
    workgroup_barrier();
    for (uint32_t word = thread / kWaveSize; word < words; word += kThreads / kWaveSize) {
      const LaneMask named = lanes_where(shared.tokens[word * 32 + lane_id()] != 0);
      if (lane_id() == 0) shared.named[word] = named;
    }
    // Only the first of a token's slots that name an expert has an entry.
    bool leads = id != InlineShared::kNone;
    for (uint32_t other = 0; leads && other < topk; ++other) {
      if (other == slot || shared.of_pair[token * topk + other] != id) continue;
      if (other < slot) leads = false;
      weight += load_float<Reading::kEarly>(args.topk_weights + token * args.stride_weights + other);
    }
    workgroup_barrier();
    if (leads || thread == 0) {
      const uint32_t end = leads ? id / 32 : words;
      uint32_t block = 0, all_blocks = 0;
      for (uint32_t word = 0; word < words; ++word) {
        const auto count = static_cast<uint32_t>(__popc(shared.named[word]));
        if (word < end) block += count;
        all_blocks += count;
      }
      if (leads) {
        block += bits_below(shared.named[id / 32], id % 32);
        const uint32_t entry = block * kColumns + bits_below(shared.tokens[id], token);
        shared.pair[entry] = static_cast<uint8_t>(thread);
        shared.token[entry] = static_cast<uint8_t>(token);
        shared.expert[block] = static_cast<uint16_t>(id);
        shared.weight[thread] = weight;
      }
      if (thread == 0) shared.blocks = all_blocks;
    }
    workgroup_barrier();
  }
}

}  // namespace aiterlite::experts
