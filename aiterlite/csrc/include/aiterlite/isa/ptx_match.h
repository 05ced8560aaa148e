// NVIDIA: which lanes of the warp hold the same. Every lane of the warp takes part.
#pragma once
#include <aiterlite/isa/ptx_lanes.h>

namespace aiterlite {

// The lanes whose value equals this lane's; values are less than 2^kBits.
template <uint32_t kBits>
AITERLITE_DEVICE LaneMask matching_lanes(uint32_t value) {
  return __match_any_sync(kAllLanes, value);
}
AITERLITE_DEVICE uint32_t count_lanes(LaneMask lanes) { return static_cast<uint32_t>(__popc(lanes)); }
// Those before this lane.
AITERLITE_DEVICE uint32_t count_lanes_before(LaneMask lanes) {
  uint32_t before;
  asm("mov.u32 %0, %%lanemask_lt;" : "=r"(before));
  return count_lanes(lanes & before);
}

// What lanes of a warp wrote to shared memory before it, all of them read behind it.
AITERLITE_DEVICE void wave_barrier() { __syncwarp(); }

}  // namespace aiterlite
