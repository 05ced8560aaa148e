// AMD: which lanes of the wave hold the same. Every lane of the wave takes part.
#pragma once
#include <aiterlite/isa/amdgcn_lanes.h>

namespace aiterlite {

// The lanes whose value equals this lane's; values are less than 2^kBits.
template <uint32_t kBits>
AITERLITE_DEVICE LaneMask matching_lanes(uint32_t value) {
  LaneMask same = ~LaneMask{0};
#pragma unroll
  for (uint32_t bit = 0; bit < kBits; ++bit) {
    const bool set = (value >> bit & 1u) != 0;
    const LaneMask having = lanes_where(set);
    same &= set ? having : ~having;
  }
  return same;
}
AITERLITE_DEVICE uint32_t count_lanes(LaneMask lanes) { return static_cast<uint32_t>(__builtin_popcountll(lanes)); }
// Those before this lane.
AITERLITE_DEVICE uint32_t count_lanes_before(LaneMask lanes) {
  const uint32_t low = __builtin_amdgcn_mbcnt_lo(static_cast<uint32_t>(lanes), 0);
  return __builtin_amdgcn_mbcnt_hi(static_cast<uint32_t>(lanes >> 32), low);
}

// What lanes of a wave wrote to shared memory before it, all of them read behind it.
AITERLITE_DEVICE void wave_barrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}

}  // namespace aiterlite
