// Marks of pairs of token and slot, in local_topk_ids, become zero (fused_moe/args.h): those that a caller's lists hold
// are set by the kernels behind this one. A thread a mark. gfx942, gfx950, sm_90.
#include <aiterlite/fused_moe/args.h>
#include <aiterlite/overlap.h>
#include <aiterlite/platform.h>

AITERLITE_KERNEL(AITERLITE_THREADS) aiterlite_fused_moe_clear(aiterlite_fused_moe_args args) {
  aiterlite::await_predecessors();
  const uint32_t pair = aiterlite::workgroup_id() * AITERLITE_THREADS + aiterlite::thread_id();
  if (pair >= static_cast<uint32_t>(args.tokens) * static_cast<uint32_t>(args.topk)) return;
  aiterlite::store_u32(const_cast<int32_t*>(args.local_topk_ids) + pair, 0);
}
