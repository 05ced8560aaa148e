// AMD: values from other lanes of the wave. Every lane of the wave takes part.
#pragma once
#include <aiterlite/isa/amdgcn_core.h>

namespace aiterlite {

namespace amdgcn {
// Codes of DPP, by which an instruction's operand comes from a lane of the same row of 16, or of the row before.
inline constexpr int kQuadSwapOnes = 0xb1, kQuadSwapTwos = 0x4e, kQuadReversed = 0x1b, kRowShiftUp = 0x110,
                     kWaveShiftUp = 0x138, kRowMirror = 0x140, kRowHalfMirror = 0x141, kRowBroadcast15 = 0x142,
                     kRowBroadcast31 = 0x143;
// Lanes without a source, or in rows that the mask leaves out, keep `without`.
template <int kControl, int kRows = 0xf>
AITERLITE_DEVICE uint32_t move_lanes(uint32_t value, uint32_t without) {
  return static_cast<uint32_t>(
      __builtin_amdgcn_update_dpp(static_cast<int>(without), static_cast<int>(value), kControl, kRows, 0xf, false));
}
// Where every lane has a source.
template <int kControl>
AITERLITE_DEVICE uint32_t exchange_lanes(uint32_t value) {
  return static_cast<uint32_t>(__builtin_amdgcn_mov_dpp(static_cast<int>(value), kControl, 0xf, 0xf, true));
}
}  // namespace amdgcn

// The value of a lane; each lane may name another one.
AITERLITE_DEVICE uint32_t shuffle(uint32_t value, uint32_t lane) {
  return static_cast<uint32_t>(
      __builtin_amdgcn_ds_bpermute(static_cast<int32_t>(lane * 4), static_cast<int32_t>(value)));
}

// The value of lane (lane ^ mask).
AITERLITE_DEVICE float shuffle_xor(float value, uint32_t mask) {
  const uint32_t source = (thread_id() ^ mask) % kWaveSize;
  return __builtin_bit_cast(
      float, __builtin_amdgcn_ds_bpermute(static_cast<int32_t>(source * 4), __builtin_bit_cast(int32_t, value)));
}

// What the two halves of each 2 * kStep lanes hold, where all lanes of a half hold the same; which of them is first
// differs from lane to lane. By DPP inside a row; across rows gfx950 swaps registers, gfx942 goes through the LDS unit.
struct WordHalves {
  uint32_t first;
  uint32_t second;
};
template <uint32_t kStep>
AITERLITE_DEVICE WordHalves both_halves_word(uint32_t value) {
  static_assert(kStep == 1 || kStep == 2 || kStep == 4 || kStep == 8 || kStep == 16 || kStep == 32,
                "both_halves: the step is a power of two below the wave size");
  if constexpr (kStep == 1) return {value, amdgcn::exchange_lanes<amdgcn::kQuadSwapOnes>(value)};
  if constexpr (kStep == 2) return {value, amdgcn::exchange_lanes<amdgcn::kQuadSwapTwos>(value)};
  if constexpr (kStep == 4) return {value, amdgcn::exchange_lanes<amdgcn::kRowHalfMirror>(value)};
  if constexpr (kStep == 8) return {value, amdgcn::exchange_lanes<amdgcn::kRowMirror>(value)};
#if defined(__gfx950__)
  if constexpr (kStep == 16) {
    const auto pair = __builtin_amdgcn_permlane16_swap(value, value, false, false);
    return {pair[0], pair[1]};
  }
  if constexpr (kStep == 32) {
    const auto pair = __builtin_amdgcn_permlane32_swap(value, value, false, false);
    return {pair[0], pair[1]};
  }
#else
  if constexpr (kStep == 16) {
    constexpr int kXor16 = 16 << 10 | 0x1f;
    return {value, static_cast<uint32_t>(__builtin_amdgcn_ds_swizzle(static_cast<int>(value), kXor16))};
  }
  if constexpr (kStep == 32) return {value, shuffle(value, (thread_id() ^ 32) % kWaveSize)};
#endif
}

// The value of the lane whose number differs in the bits of kMask, 1, 2 or 3: another one of the same four.
template <uint32_t kMask>
AITERLITE_DEVICE uint32_t word_in_quad(uint32_t value) {
  static_assert(kMask >= 1 && kMask <= 3, "word_in_quad: the mask is that of one of four lanes");
  constexpr int kControl = kMask == 1   ? amdgcn::kQuadSwapOnes
                           : kMask == 2 ? amdgcn::kQuadSwapTwos
                                        : amdgcn::kQuadReversed;
  return amdgcn::exchange_lanes<kControl>(value);
}

// The greater of a value and what an instruction here made of it; a NaN gives way to any number. Written out, since the
// compiler first makes every NaN from other lanes quiet, an instruction each. Not for what a matrix instruction has
// just made: the compiler does not see that this reads it.
AITERLITE_DEVICE float max_from_lanes(float a, float b) {
  float most;
  asm("v_max_f32 %0, %1, %2" : "=v"(most) : "v"(a), "v"(b));
  return most;
}

// What a scan adds in its step: for 1, 2, 4 and 8 the value kStep lanes below in the same row of 16 lanes; for 16 the
// last of the row before, in odd rows; for 32 lane 31's, in the upper half; `without` where there is none.
template <uint32_t kStep>
AITERLITE_DEVICE uint32_t preceding_word(uint32_t value, uint32_t without) {
  if constexpr (kStep <= 8) return amdgcn::move_lanes<amdgcn::kRowShiftUp + static_cast<int>(kStep)>(value, without);
  if constexpr (kStep == 16) return amdgcn::move_lanes<amdgcn::kRowBroadcast15, 0xa>(value, without);
  if constexpr (kStep == 32) return amdgcn::move_lanes<amdgcn::kRowBroadcast31, 0xc>(value, without);
}
// The value of the lane before; `without` in lane 0.
AITERLITE_DEVICE uint32_t previous_word(uint32_t value, uint32_t without) {
  return amdgcn::move_lanes<amdgcn::kWaveShiftUp>(value, without);
}

// The value of the wave's last lane, known to the compiler to be the same everywhere.
AITERLITE_DEVICE uint32_t last_word(uint32_t value) {
  return static_cast<uint32_t>(__builtin_amdgcn_readlane(static_cast<int>(value), kWaveSize - 1));
}

// The same of a lane that is the same in all lanes.
AITERLITE_DEVICE uint32_t word_of_lane(uint32_t value, uint32_t lane) {
  return static_cast<uint32_t>(__builtin_amdgcn_readlane(static_cast<int>(value), static_cast<int>(lane)));
}

AITERLITE_DEVICE bool any_lane(bool value) { return __builtin_amdgcn_ballot_w64(value) != 0; }

// The lanes where a value holds, lane 0 in the lowest bit; the first of some lanes, of which there is one or more.
using LaneMask = uint64_t;
AITERLITE_DEVICE LaneMask lanes_where(bool value) { return __builtin_amdgcn_ballot_w64(value); }
AITERLITE_DEVICE uint32_t first_lane(LaneMask lanes) { return static_cast<uint32_t>(__builtin_ctzll(lanes)); }

inline constexpr bool kReducesWords = false;
AITERLITE_ABSENT(greatest_word, "AMD has no instruction that reduces a wave; block/reduce.h does by DPP")

}  // namespace aiterlite
