// Which tokens go to which experts: the pairs of a call, and those of a chunk of its tokens in the order of experts.
//
// Pairs come from ids and weights, or from sorted buffers (moe_sorting). An id that is none's, or of an expert that is
// not here, is no pair, and neither are those of tokens that do not live.
#pragma once
#include <aiterlite/cpu/memory.h>
#include <aiterlite/fused_moe/args.h>
#include <stdint.h>
#include <string.h>

namespace aiterlite::cpu {

struct Choice {
  int32_t slot, expert;
  float weight;
};

class Choices {
 public:
  explicit Choices(const aiterlite_fused_moe_args& given) : args_(given), live_(given.tokens) {}

  // False where there is no memory.
  bool read() {
    if (args_.sorted_ids != nullptr) return read_sorted();
    if (args_.num_local_tokens != nullptr) {
      const int32_t asked = *args_.num_local_tokens;
      live_ = asked < 0 ? 0 : asked < args_.tokens ? asked : args_.tokens;
    }
    if (args_.expert_mask == nullptr) return true;
    if (!local_.make(args_.global_experts)) return false;
    int32_t here = 0;
    for (int32_t e = 0; e < args_.global_experts; ++e) local_.at[e] = args_.expert_mask[e] != 0 ? here++ : -1;
    return true;
  }

  // The most pairs of tokens [t, t + count), for any t that is a multiple of it.
  int64_t most(int64_t count) const {
    if (sorted_.at == nullptr) return (args_.tokens < count ? args_.tokens : count) * args_.topk;
    int64_t most = 0;
    for (int64_t t = 0; t < args_.tokens; t += count) {
      const int64_t end = t + count < args_.tokens ? t + count : args_.tokens;
      if (begin_.at[end] - begin_.at[t] > most) most = begin_.at[end] - begin_.at[t];
    }
    return most;
  }

  // Calls take(choice) for each pair of a token, by slots.
  template <class Take>
  void each(int64_t token, const Take& take) const {
    if (sorted_.at != nullptr) {
      for (int64_t i = begin_.at[token]; i < begin_.at[token + 1]; ++i) take(sorted_.at[i]);
      return;
    }
    if (token >= live_) return;
    for (int32_t slot = 0; slot < args_.topk; ++slot) {
      const int64_t at = token * args_.stride_ids + slot;
      const int64_t id = args_.id_words == 1 ? static_cast<const int32_t*>(args_.topk_ids)[at]
                                             : static_cast<const int64_t*>(args_.topk_ids)[at];
      if (id < 0 || id >= (local_.at != nullptr ? args_.global_experts : args_.experts)) continue;
      const int32_t expert = local_.at != nullptr ? local_.at[id] : static_cast<int32_t>(id);
      if (expert < 0 || expert >= args_.experts) continue;
      take(Choice{slot, expert, args_.topk_weights[token * args_.stride_weights + slot]});
    }
  }

 private:
  template <class Take>
  void each_sorted(const Take& take) const {
    const int64_t valid = args_.num_valid_ids[0], held = args_.sorted_entries;
    for (int64_t i = 0; i < (valid < held ? valid : held); ++i) {
      const auto entry = static_cast<uint32_t>(args_.sorted_ids[i]);
      const auto token = static_cast<int32_t>(entry & 0xffffff), slot = static_cast<int32_t>(entry >> 24);
      const int32_t expert = args_.sorted_expert_ids[i / args_.block_size];
      if (token < args_.tokens && slot < args_.topk && expert >= 0 && expert < args_.experts) take(i, token, expert);
    }
  }

  bool read_sorted() {
    if (!begin_.make(args_.tokens + 2)) return false;
    memset(begin_.at, 0, (args_.tokens + 2) * sizeof(*begin_.at));
    // Shifted by two, so that placing pairs makes beginnings of ends.
    each_sorted([&](int64_t, int32_t token, int32_t) { ++begin_.at[token + 2]; });
    for (int64_t t = 0; t < args_.tokens; ++t) begin_.at[t + 2] += begin_.at[t + 1];
    if (!sorted_.make(begin_.at[args_.tokens + 1])) return false;
    each_sorted([&](int64_t i, int32_t token, int32_t expert) {
      const auto slot = static_cast<int32_t>(static_cast<uint32_t>(args_.sorted_ids[i]) >> 24);
      sorted_.at[begin_.at[token + 1]++] = {slot, expert, args_.sorted_weights[i]};
    });
    for (int64_t t = 0; t < args_.tokens; ++t) order_by_slot(sorted_.at + begin_.at[t], sorted_.at + begin_.at[t + 1]);
    return true;
  }

  static void order_by_slot(Choice* begin, Choice* end) {
    for (Choice* next = begin; next < end; ++next) {
      const Choice choice = *next;
      Choice* to = next;
      for (; to > begin && to[-1].slot > choice.slot; --to) *to = to[-1];
      *to = choice;
    }
  }

  const aiterlite_fused_moe_args& args_;
  int32_t live_;
  Memory<int32_t> local_;  // of each id, the number of its expert here
  Memory<int64_t> begin_;  // of each token, in sorted_
  Memory<Choice> sorted_;
};

// A pair in the order of experts; tokens ascend within one.
struct ExpertPair {
  int64_t token;  // within the chunk
  float weight;
  int32_t slot;
};
struct ExpertGroup {
  int64_t expert, begin, end;
};

struct Chunk {
  int64_t first, tokens;  // of the call
  int64_t pairs, groups;
  Memory<ExpertPair> pair;
  Memory<ExpertGroup> group;
  Memory<int64_t> begin;  // of each token, in `order`
  Memory<int64_t> order;  // a token's pairs, by slots
  Memory<int64_t> next;

  bool make(int64_t most_tokens, int64_t most_pairs, int64_t experts) {
    return pair.make(most_pairs) && order.make(most_pairs) && begin.make(most_tokens + 1) && group.make(experts) &&
           next.make(experts);
  }

  void take(const Choices& choices, int64_t first_token, int64_t count, int64_t experts) {
    first = first_token, tokens = count, pairs = groups = 0;
    memset(next.at, 0, experts * sizeof(*next.at));
    for (int64_t t = 0; t < count; ++t) choices.each(first + t, [&](const Choice& c) { ++next.at[c.expert]; });
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t here = next.at[e];
      next.at[e] = pairs;
      if (here > 0) group.at[groups++] = {e, pairs, pairs + here};
      pairs += here;
    }
    int64_t done = 0;
    for (int64_t t = 0; t < count; ++t) {
      begin.at[t] = done;
      choices.each(first + t, [&](const Choice& c) {
        const int64_t at = next.at[c.expert]++;
        pair.at[at] = {t, c.weight, c.slot};
        order.at[done++] = at;
      });
    }
    begin.at[count] = done;
  }
};

// Where the biases of an expert's rows from `row` on are; null where there are none.
inline const float* bias_of(const float* bias, int64_t expert, int64_t rows, int64_t row) {
  return bias == nullptr ? nullptr : bias + expert * rows + row;
}

// The columns [first, last) of a token's slots, weighted, as they are in `products`, a row of `pitch` for each pair;
// zeros for slots that have no pair.
template <class Out>
void store_slots(const aiterlite_fused_moe_cpu_args& args, const Chunk& chunk, int64_t token, const float* products,
                 int64_t pitch, int64_t first, int64_t last) {
  const aiterlite_fused_moe_args& call = args.call;
  auto* row = static_cast<uint16_t*>(call.out) + (chunk.first + token) * call.topk * call.width;
  const int64_t *p = chunk.order.at + chunk.begin.at[token], *end = chunk.order.at + chunk.begin.at[token + 1];
  for (int32_t slot = 0; slot < call.topk; ++slot, row += call.width) {
    if (p == end || chunk.pair.at[*p].slot != slot) {
      memset(row + first, 0, (last - first) * sizeof(*row));
      continue;
    }
    const float* of = products + *p * pitch;
    const float weight = args.weighted_input ? 1.0f : chunk.pair.at[*p].weight;
    ++p;
    for (int64_t c = 0; c < last - first; ++c) row[first + c] = Out::from_float(weight * of[c]);
  }
}

}  // namespace aiterlite::cpu
