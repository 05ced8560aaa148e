// Values from other lanes: isa/ptx_lanes.h or isa/amdgcn_lanes.h. Included by hostsim/isa.h.
#pragma once

namespace aiterlite {

inline float shuffle_xor(float value, uint32_t mask) {
  wave_meeting("shuffle_xor", value, [mask](const auto& lane) {
    float all[kWaveSize];
    for (uint32_t i = 0; i < kWaveSize; ++i) all[i] = lane(i);
    for (uint32_t i = 0; i < kWaveSize; ++i) lane(i) = all[i ^ mask];
  });
  return value;
}

// What lane `from(lane)` brings, or `without` where that is no lane.
template <class From>
uint32_t take(const char* kind, uint32_t value, uint32_t without, const From& from) {
  struct Operand {
    uint32_t value, from, result;
  };
  Operand operand{value, from(thread_id() % kWaveSize), without};
  wave_meeting(kind, operand, [](const auto& lane) {
    for (uint32_t i = 0; i < kWaveSize; ++i) {
      if (lane(i).from < kWaveSize) lane(i).result = lane(lane(i).from).value;
    }
  });
  return operand.result;
}
inline constexpr uint32_t kNoLane = ~0u;

inline uint32_t shuffle(uint32_t value, uint32_t lane) {
  return take("shuffle", value, 0, [lane](uint32_t) { return lane % kWaveSize; });
}

struct WordHalves {
  uint32_t first;
  uint32_t second;
};
template <uint32_t kStep>
WordHalves both_halves_word(uint32_t value) {
  struct Operand {
    uint32_t value, result;
  };
  Operand operand{value, 0};
  wave_meeting("both_halves", operand, [](const auto& lane) {
    for (uint32_t i = 0; i < kWaveSize; ++i) {
      if (lane(i).value != lane(i / kStep * kStep).value) hostsim::fail("both_halves: lanes of a half differ");
      lane(i).result = lane(i ^ kStep).value;
    }
  });
  // Either may come first.
  if (thread_id() % 3 == 0) return {operand.result, value};
  return {value, operand.result};
}

template <uint32_t kMask>
uint32_t word_in_quad(uint32_t value) {
  static_assert(kMask >= 1 && kMask <= 3, "word_in_quad: the mask is that of one of four lanes");
  return take("word_in_quad", value, 0, [](uint32_t lane) { return lane ^ kMask; });
}

inline float max_from_lanes(float a, float b) { return fmaxf(a, b); }

template <uint32_t kStep>
uint32_t preceding_word(uint32_t value, uint32_t without) {
  return take("preceding", value, without, [](uint32_t lane) {
    if (kStep < 16) return lane % 16 >= kStep ? lane - kStep : kNoLane;
    if (kStep == 16) return lane / 16 % 2 ? lane / 16 * 16 - 1 : kNoLane;
    return lane >= 32 ? 31 : kNoLane;
  });
}
inline uint32_t previous_word(uint32_t value, uint32_t without) {
  return take("previous", value, without, [](uint32_t lane) { return lane ? lane - 1 : kNoLane; });
}
inline uint32_t last_word(uint32_t value) {
  return take("last", value, 0, [](uint32_t) { return kWaveSize - 1; });
}
inline bool any_lane(bool value) {
  uint32_t word = value;
  wave_meeting("any_lane", word, [](const auto& lane) {
    uint32_t any = 0;
    for (uint32_t i = 0; i < kWaveSize; ++i) any |= lane(i);
    for (uint32_t i = 0; i < kWaveSize; ++i) lane(i) = any;
  });
  return word != 0;
}

using LaneMask = uint64_t;
inline LaneMask lanes_where(bool value) {
  LaneMask mask = value;
  wave_meeting("lanes_where", mask, [](const auto& lane) {
    LaneMask all = 0;
    for (uint32_t i = 0; i < kWaveSize; ++i) all |= lane(i) << i;
    for (uint32_t i = 0; i < kWaveSize; ++i) lane(i) = all;
  });
  return mask;
}
inline uint32_t first_lane(LaneMask lanes) {
  if (lanes == 0) hostsim::fail("first_lane: of no lanes");
  return static_cast<uint32_t>(__builtin_ctzll(lanes));
}

inline constexpr bool kReducesWords = AITERLITE_NVIDIA;
inline uint32_t greatest_word(uint32_t value) {
  if (!kReducesWords) hostsim::fail("greatest_word: AMD has no such instruction");
  wave_meeting("greatest_word", value, [](const auto& lane) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < kWaveSize; ++i) most = std::max(most, lane(i));
    for (uint32_t i = 0; i < kWaveSize; ++i) lane(i) = most;
  });
  return value;
}

}  // namespace aiterlite
