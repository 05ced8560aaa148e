// Rows of global memory to a tile in shared memory, by all threads of a workgroup, through no register.
//
// NVIDIA: 16 bytes a thread to any place (cp.async). gfx950, gfx942: a wave fills 1024 or 256 consecutive bytes of LDS,
// 16 or 4 a lane, and the layout decides on the source's side what a lane reads: swizzles cost nothing, and padding is
// filled by reading the row's last bytes again. sm_90's copy engine: tile/sm90_copy.h.
//
// row_of(row) gives a row's address, a multiple of 16, for every row of the tile: rows that do not exist must name one
// that does, and the code that multiplies them selects.
#pragma once
#include <aiterlite/tile/layout.h>

namespace aiterlite {

#if AITERLITE_AMD
inline constexpr uint32_t kCopyBytes = kLoadToLdsBytes;
#else
inline constexpr uint32_t kCopyBytes = 16;
#endif

// Starts the copies. Every thread of kThreads calls it, with the same tile; nothing waits.
template <class Layout, uint32_t kThreads, class RowOf>
AITERLITE_DEVICE void start_fill(void* tile, const RowOf& row_of) {
  constexpr uint32_t kUnits = Layout::kBytes / kCopyBytes;
#pragma unroll
  for (uint32_t first = 0; first < kUnits; first += kThreads) {
#if AITERLITE_AMD
    const uint32_t wave_unit = first + wave_id() * kWaveSize;
    const uint32_t unit = wave_unit + lane_id();
#else
    const uint32_t unit = first + thread_id();
#endif
    if (kUnits % kThreads == 0 || unit < kUnits) {
      const RowByte place = Layout::source(unit * kCopyBytes);
      const auto* from = static_cast<const char*>(row_of(place.row)) + place.byte;
#if AITERLITE_AMD
      load_to_lds(from, static_cast<char*>(tile) + wave_unit * kCopyBytes);
#else
      copy_async(static_cast<char*>(tile) + unit * kCopyBytes, from);
#endif
    }
  }
#if !AITERLITE_AMD
  commit_copies();
#endif
}

// Until all but the latest `kFills` fills of this thread have arrived. Other threads' have after a workgroup_barrier.
// On AMD other loads from memory in between count too: then wait for all, kFills = 0.
template <class Layout, uint32_t kThreads, uint32_t kFills>
AITERLITE_DEVICE void await_fills() {
#if AITERLITE_AMD
  // Where a fill is no whole number of passes, waves differ in how many loads they made: the fewest count.
  constexpr uint32_t kSure = Layout::kBytes / kCopyBytes / kThreads;
  await_loads<kFills * kSure>();
#else
  await_copies<kFills>();
#endif
}

}  // namespace aiterlite
