// Zeros for the rows of slots that have no expert here, where rows of slots are the result (fused_moe/args.h). Which
// slots these are says local_topk_ids. gfx942, gfx950, sm_90.
//
// Tiling. A workgroup has a slot, a thread 16 bytes of its row at a time. Traffic: the rows that are written.
#include <aiterlite/fused_moe/sorted_block.h>
#include <aiterlite/overlap.h>
#include <aiterlite/vector.h>

AITERLITE_KERNEL(AITERLITE_THREADS) aiterlite_fused_moe_absent(aiterlite_fused_moe_args args) {
  using namespace aiterlite;
  await_predecessors();
  const uint32_t pair = workgroup_id(), width = static_cast<uint32_t>(args.width);
  const int32_t local = fused_moe::load_int(args.local_topk_ids + pair);
  if (local >= 0 && local < args.experts) return;
  auto* row = static_cast<uint16_t*>(args.slots) + uint64_t{pair} * width;
#pragma unroll 1
  for (uint32_t column = thread_id() * 8; column < width; column += AITERLITE_THREADS * 8) {
    store_quad(reinterpret_cast<float*>(row + column), Quad{});
  }
}
