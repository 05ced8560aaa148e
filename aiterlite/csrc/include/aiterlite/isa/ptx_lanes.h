// NVIDIA: values from other lanes of the warp. Every lane of the warp takes part.
#pragma once
#include <aiterlite/isa/ptx_core.h>

namespace aiterlite {

inline constexpr uint32_t kAllLanes = 0xffffffffu;

// The value of a lane; each lane may name another one.
AITERLITE_DEVICE uint32_t shuffle(uint32_t value, uint32_t lane) {
  return __shfl_sync(kAllLanes, value, static_cast<int>(lane));
}

// The value of lane (lane ^ mask). Every lane of the wave takes part.
AITERLITE_DEVICE float shuffle_xor(float value, uint32_t mask) {
  return __shfl_xor_sync(0xffffffffu, value, static_cast<int>(mask));
}

// What the two halves of each 2 * kStep lanes hold, where all lanes of a half hold the same; which of them is first
// differs from lane to lane.
struct WordHalves {
  uint32_t first;
  uint32_t second;
};
template <uint32_t kStep>
AITERLITE_DEVICE WordHalves both_halves_word(uint32_t value) {
  static_assert(kStep == 1 || kStep == 2 || kStep == 4 || kStep == 8 || kStep == 16,
                "both_halves: the step is a power of two below the wave size");
  return {value, __shfl_xor_sync(kAllLanes, value, static_cast<int>(kStep))};
}

// The value of the lane whose number differs in the bits of kMask, 1, 2 or 3: another one of the same four.
template <uint32_t kMask>
AITERLITE_DEVICE uint32_t word_in_quad(uint32_t value) {
  static_assert(kMask >= 1 && kMask <= 3, "word_in_quad: the mask is that of one of four lanes");
  return __shfl_xor_sync(kAllLanes, value, static_cast<int>(kMask));
}

// The greater of a value and what an instruction here made of it; a NaN gives way to any number.
AITERLITE_DEVICE float max_from_lanes(float a, float b) { return fmaxf(a, b); }

// What a scan adds in its step: for 1, 2, 4 and 8 the value kStep lanes below in the same row of 16 lanes; for 16 the
// last of the row before, in odd rows; `without` where there is none.
template <uint32_t kStep>
AITERLITE_DEVICE uint32_t preceding_word(uint32_t value, uint32_t without) {
  static_assert(kStep <= 16, "preceding: the step is a power of two below the wave size");
  const uint32_t lane = thread_id() % kWaveSize;
  const uint32_t from = kStep < 16 ? lane - kStep : 15;
  const uint32_t before = __shfl_sync(kAllLanes, value, static_cast<int>(from));
  return (kStep < 16 ? lane % 16 >= kStep : lane >= 16) ? before : without;
}
// The value of the lane before; `without` in lane 0.
AITERLITE_DEVICE uint32_t previous_word(uint32_t value, uint32_t without) {
  const uint32_t before = __shfl_up_sync(kAllLanes, value, 1);
  return thread_id() % kWaveSize != 0 ? before : without;
}

// The value of the warp's last lane.
AITERLITE_DEVICE uint32_t last_word(uint32_t value) { return __shfl_sync(kAllLanes, value, kWaveSize - 1); }

AITERLITE_DEVICE bool any_lane(bool value) { return __any_sync(kAllLanes, value) != 0; }

// The lanes where a value holds, lane 0 in the lowest bit; the first of some lanes, of which there is one or more.
using LaneMask = uint32_t;
AITERLITE_DEVICE LaneMask lanes_where(bool value) { return __ballot_sync(kAllLanes, value); }
AITERLITE_DEVICE uint32_t first_lane(LaneMask lanes) {
  return static_cast<uint32_t>(__ffs(static_cast<int>(lanes))) - 1;
}

// The greatest word of the warp in one instruction, where a butterfly takes five shuffles one after the other.
inline constexpr bool kReducesWords = true;
AITERLITE_DEVICE uint32_t greatest_word(uint32_t value) { return __reduce_max_sync(kAllLanes, value); }

// A matrix of 8 rows of 8 elements of 16 bits, of which lane l has two, 2 * (l % 4) and the next of row l / 4, turned
// over.
AITERLITE_DEVICE uint32_t transpose_matrix(uint32_t pair) {
  uint32_t turned;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(pair));
  return turned;
}

}  // namespace aiterlite
