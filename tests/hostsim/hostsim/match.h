// Which lanes hold the same: isa/ptx_match.h or isa/amdgcn_match.h. Included by hostsim/isa.h.
#pragma once

namespace aiterlite {

template <uint32_t kBits>
LaneMask matching_lanes(uint32_t value) {
  if (kBits < 32 && value >> kBits != 0) hostsim::fail("matching_lanes: a value has more bits than it says");
  struct Operand {
    uint32_t value;
    LaneMask same;
  };
  Operand operand{value, 0};
  wave_meeting("matching_lanes", operand, [](const auto& lane) {
    for (uint32_t i = 0; i < kWaveSize; ++i) {
      for (uint32_t j = 0; j < kWaveSize; ++j) lane(i).same |= LaneMask{lane(i).value == lane(j).value} << j;
    }
  });
  return operand.same;
}
inline uint32_t count_lanes(LaneMask lanes) { return static_cast<uint32_t>(__builtin_popcountll(lanes)); }
inline uint32_t count_lanes_before(LaneMask lanes) {
  return count_lanes(lanes & ((LaneMask{1} << thread_id() % kWaveSize) - 1));
}

inline void wave_barrier() {
  uint32_t nothing = 0;
  wave_meeting("wave_barrier", nothing, [](const auto&) {});
}

}  // namespace aiterlite
