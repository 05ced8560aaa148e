// The sorting of tokens by experts on a CPU: a count, a sum, and a walk over the pairs in their order. Clearing the
// buffer of results is what takes long, and what threads share.
#include <aiterlite/host_abi.h>
#include <aiterlite/moe_sorting/args.h>
#include <string.h>

namespace {

using Args = aiterlite_moe_sorting_args;

constexpr int32_t kMostExperts = 1024;
constexpr int64_t kClearedBytes = 1 << 20;

struct Expert {
  int32_t local;  // -1: its pairs do not count
  int64_t total;
  int64_t next;  // where its next pair goes
};

int32_t live_tokens(const Args& args) {
  if (args.num_local_tokens == nullptr) return args.tokens;
  const int32_t asked = *args.num_local_tokens;
  return asked < 0 ? 0 : asked < args.tokens ? asked : args.tokens;
}

Expert* expert_of(const Args& args, Expert* experts, int64_t token, int64_t slot) {
  const int64_t at = token * args.stride_ids + slot;
  const int64_t id = args.id_words == 1 ? static_cast<const int32_t*>(args.topk_ids)[at]
                                        : static_cast<const int64_t*>(args.topk_ids)[at];
  if (id < 0 || id >= args.experts || experts[id].local < 0) return nullptr;
  return experts + id;
}

void clear(int64_t begin, int64_t end, void* context) {
  const Args& args = *static_cast<const Args*>(context);
  const int64_t from = begin * kClearedBytes, to = end * kClearedBytes;
  memset(static_cast<char*>(args.moe_buf) + from, 0, (to < args.moe_buf_bytes ? to : args.moe_buf_bytes) - from);
}

// Blocks of each expert, and what fills its last one; returns all entries.
int64_t lay_out(const Args& args, Expert* experts) {
  int64_t end = 0;
  for (int32_t e = 0; e < args.experts; ++e) {
    experts[e].next = end;
    const int64_t filled = end + experts[e].total;
    for (int64_t left = experts[e].total; left > 0; left -= args.block_size, end += args.block_size) {
      args.sorted_expert_ids[end / args.block_size] = experts[e].local;
      if (args.token_nums != nullptr) args.token_nums[end / args.block_size] = static_cast<int32_t>(left);
    }
    for (int64_t at = filled; at < end; ++at) {
      args.sorted_ids[at] = args.padding;
      if (args.sorted_weights != nullptr) args.sorted_weights[at] = 0.0f;
    }
  }
  return end;
}

}  // namespace

AITERLITE_EXPORT int32_t aiterlite_moe_sort_cpu(const Args* given, parallel_for_t parallel_for, int32_t) {
  const Args& args = *given;
  Expert experts[kMostExperts];
  int32_t local = 0;
  for (int32_t e = 0; e < args.experts; ++e) {
    const bool counts = local < args.local_experts && (args.expert_mask == nullptr || args.expert_mask[e] != 0);
    experts[e] = {counts ? local : -1, 0, 0};
    local += counts;
  }
  const int32_t live = live_tokens(args);
  for (int64_t token = 0; token < live; ++token) {
    for (int64_t slot = 0; slot < args.topk; ++slot) {
      if (Expert* expert = expert_of(args, experts, token, slot)) ++expert->total;
    }
  }
  args.num_valid_ids[0] = static_cast<int32_t>(lay_out(args, experts));
  if (args.valid_words > 1) args.num_valid_ids[1] = live;
  for (int64_t token = 0; token < args.tokens; ++token) {
    for (int64_t slot = 0; slot < args.topk; ++slot) {
      Expert* expert = token < live ? expert_of(args, experts, token, slot) : nullptr;
      if (args.local_topk_ids != nullptr) args.local_topk_ids[token * args.topk + slot] = expert ? expert->local : -1;
      if (expert == nullptr) continue;
      args.sorted_ids[expert->next] = static_cast<int32_t>(slot << 24 | token);
      if (args.sorted_weights != nullptr) {
        args.sorted_weights[expert->next] = args.topk_weights[token * args.stride_weights + slot];
      }
      ++expert->next;
    }
  }
  if (args.moe_buf == nullptr || args.moe_buf_bytes == 0) return 0;
  const int64_t parts = (args.moe_buf_bytes + kClearedBytes - 1) / kClearedBytes;
  return parallel_for(0, parts, 1, clear, const_cast<Args*>(given));
}
