// Stable ranks of keys: how many equal ones come before each, without an atomic, so that the same keys give the same
// ranks in every launch.
//
// A wave ranks its keys by rank_in_wave, 32 or 64 at a time, each key against the wave's own row of counts. Behind a
// barrier one thread a key makes sums over earlier waves of its column: sum_waves. A key's rank is then its rank in its
// wave and what its wave's row holds. Counts have 16 bits: a wave ranks less than 65,536 keys.
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite {

// Keys are less than kKeys; kKeys itself is no key, and its count means nothing. The second cell more makes whole
// words.
template <uint32_t kKeys, uint32_t kWaves>
struct RankCounts {
  static_assert(kKeys % 2 == 0, "RankCounts: an even number of keys, so that rows are whole words");
  uint16_t of_wave[kWaves][kKeys + 2];
};

namespace rank_detail {
template <uint32_t kValue>
inline constexpr uint32_t kBits = 1 + kBits<kValue / 2>;
template <>
inline constexpr uint32_t kBits<0> = 0;
}  // namespace rank_detail

// By all threads; a barrier must follow.
template <uint32_t kThreads, uint32_t kKeys, uint32_t kWaves>
AITERLITE_DEVICE void clear_ranks(RankCounts<kKeys, kWaves>& counts) {
  auto* words = reinterpret_cast<uint32_t*>(&counts);
  for (uint32_t i = thread_id(); i < sizeof counts / 4; i += kThreads) words[i] = 0;
}

template <uint32_t kKeys, uint32_t kWaves>
AITERLITE_DEVICE uint32_t rank_in_wave(RankCounts<kKeys, kWaves>& counts, uint32_t key) {
  const LaneMask same = matching_lanes<rank_detail::kBits<kKeys>>(key);
  const uint32_t before = count_lanes_before(same);
  uint16_t& count = counts.of_wave[wave_id()][key];
  const uint32_t earlier = count;
  // All lanes of a key read before its first one writes, and it writes before any of the next step read.
  wave_barrier();
  if (before == 0) count = static_cast<uint16_t>(earlier + count_lanes(same));
  wave_barrier();
  return earlier + before;
}

// Of one key, the number in all waves; each wave's row then holds that of the waves before it.
template <uint32_t kKeys, uint32_t kWaves>
AITERLITE_DEVICE uint32_t sum_waves(RankCounts<kKeys, kWaves>& counts, uint32_t key) {
  uint32_t of[kWaves];
#pragma unroll
  for (uint32_t wave = 0; wave < kWaves; ++wave) of[wave] = counts.of_wave[wave][key];
  uint32_t sum = 0;
#pragma unroll
  for (uint32_t wave = 0; wave < kWaves; ++wave) {
    counts.of_wave[wave][key] = static_cast<uint16_t>(sum);
    sum += of[wave];
  }
  return sum;
}

}  // namespace aiterlite
