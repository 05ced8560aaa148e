// What the race detector writes down of an access.
//
// A stamp names an access: workgroup, position among the workgroup's memory instructions, wave, instruction, and
// whether it was atomic, and whether program order says nothing of when it lands.
#pragma once
#include <aiterlite/emulator/level.h>
#include <stdint.h>

namespace aiterlite::emulator {

namespace stamp {
inline constexpr int kGroupShift = 44;  // 20 bits; a tag that counts workgroups as they start
inline constexpr int kSeqShift = 20;    // 24 bits
inline constexpr int kWaveShift = 16;   // 4 bits
inline constexpr int kSiteShift = 2;    // 14 bits
inline constexpr uint64_t kLoose = 2;   // not in program order: a load to LDS, or scalar memory
inline constexpr uint64_t kAtomic = 1;
inline constexpr uint32_t kMaxGroup = (1u << 20) - 1;
inline constexpr uint32_t kMaxSeq = (1u << 24) - 1;
inline constexpr uint32_t kMaxSite = (1u << 14) - 1;
inline constexpr uint64_t kWho = static_cast<uint64_t>(kMaxGroup) << kGroupShift | 15ull << kWaveShift;

constexpr uint32_t group(uint64_t s) { return static_cast<uint32_t>(s >> kGroupShift); }
constexpr uint32_t seq(uint64_t s) { return static_cast<uint32_t>(s >> kSeqShift) & kMaxSeq; }
constexpr uint32_t wave(uint64_t s) { return static_cast<uint32_t>(s >> kWaveShift) & 15; }
constexpr uint32_t site(uint64_t s) { return static_cast<uint32_t>(s >> kSiteShift) & kMaxSite; }
}  // namespace stamp

// One kind of stamp of four neighbouring elements, and masks of them. Functions take them by reference: how they are
// passed by value is not the same at all levels.
typedef uint64_t Four __attribute__((vector_size(32)));
typedef int64_t FourMasks __attribute__((vector_size(32)));

inline bool any(const FourMasks& m) {
#if AITERLITE_VECTOR_BYTES >= 32
  return !_mm256_testz_si256(reinterpret_cast<__m256i>(m), reinterpret_cast<__m256i>(m));
#else
  return (m[0] | m[1] | m[2] | m[3]) != 0;
#endif
}

// Bits 0 to 3 become elements, all ones or all zeros.
inline void expand(uint32_t which, FourMasks* m) { *m = ((Four{} + which) & Four{1, 2, 4, 8}) != 0u; }

// Adds the elements in `which` whose stamp is there and not one of the `span` from `first` on.
inline void add_outside(FourMasks* to, const Four& s, uint32_t which, uint64_t first, uint64_t span) {
  FourMasks meant;
  expand(which, &meant);
  *to |= ~((s - first < span) | (s == 0u)) & meant;
}

struct Stamps {
  Four written = {};
  Four read = {};     // by the wave that read last
  Four earlier = {};  // by another wave that read before

  // Of the elements that `which` has bits for.
  void mark_read(uint32_t which, uint64_t stamp) {
    FourMasks meant;
    expand(which, &meant);
    const FourMasks others = ((read ^ stamp) & stamp::kWho) != 0u;
    earlier = (meant & others) ? read : earlier;
    read = meant ? Four{} + stamp : read;
  }
  void mark_written(uint32_t which, uint64_t stamp) {
    FourMasks meant;
    expand(which, &meant);
    written = meant ? Four{} + stamp : written;
    read = meant ? Four{} : read;
    earlier = meant ? Four{} : earlier;
  }
};

}  // namespace aiterlite::emulator
