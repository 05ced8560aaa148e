// The tiles of stage 1 that a cut goes through (fused_moe/sm90_cut.h): their partial sums, added in the order of K,
// and the end of a tile. A workgroup for each cut; where a tile is cut more than once the first one's does it.
//
// Traffic. Each partial sum of a live entry once, from the L2; h of the tiles that are cut.
#include <aiterlite/fused_moe/sm90_tile.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::experts;

// Partial sums whose loads are on their way at once.
constexpr uint32_t kAtOnce = kColumns <= 8 ? 8 : kColumns <= 16 ? 4 : kColumns <= 32 ? 2 : 1;

}  // namespace

AITERLITE_KERNEL_RESIDENT(kMultipliers, 1)
aiterlite_sm90_moe_finish(const __grid_constant__ aiterlite_sm90_moe_args args) {
  AITERLITE_SHARED(FinishShared, shared, 1);
  AITERLITE_SHARED(ListShared, list, 1);
  admit_successors();
  // Where cuts go was known before stage 1 began, and stage 1 waited for that before it let this kernel start.
  make_lists<kMultipliers>(args, list[0]);
  const EarlyLists early(args, list[0]);
  const auto cut = cut_of(args, early);
  const uint32_t first = workgroup_id(), at = cut.begin(first + 1), tile = at / cut.steps;
  const uint32_t begin = tile * cut.steps, end = begin + cut.steps;
  // No step follows a cut behind the last tile.
  if (at == begin || at >= cut.all || cut.begin(first) > begin) {
    await_predecessors();
    return;
  }
  uint32_t last = first + 1;
  while (last + 1 < cut.workgroups && cut.begin(last + 1) < end) ++last;
  const Place place(thread_id());
  const uint32_t block = tile / cut.parts, live = live_columns(early, place, block);
  Tile sums = {};
  await_predecessors();
#pragma unroll 1
  for (uint32_t share = first; share <= last; share += kAtOnce) {
    Tile part[kAtOnce] = {};
#pragma unroll
    for (uint32_t i = 0; i < kAtOnce; ++i) {
      if (share + i > last) continue;
      // Only in the first share may another tile come before this one.
      const float* partial = partial_of(args, 2 * (share + i) + (cut.begin(share + i) < begin));
      for_each_live(live, place, [&](uint32_t k, uint32_t offset) {
        part[i].first[k] = load_f32(partial + offset);
        part[i].second[k] = load_f32(partial + offset + kRows);
      });
    }
#pragma unroll
    for (uint32_t i = 0; i < kAtOnce; ++i) {
#pragma unroll
      for (uint32_t k = 0; k < kSums; ++k) {
        sums.first[k] += part[i].first[k];
        sums.second[k] += part[i].second[k];
      }
    }
  }
  const Lists lists(args, list[0]);
  finish(args, lists, shared[0], sums, place, block, tile % cut.parts, workgroup_barrier);
}
