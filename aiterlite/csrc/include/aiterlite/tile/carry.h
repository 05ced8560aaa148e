// Rows of global memory to a tile in shared memory, by all threads of a workgroup, by way of registers: what a target
// does whose loads to LDS are of few bytes a lane (gfx942), or want an address each. A tile may be under way while
// another is read from the same place.
//
// So many threads share a row, and read a line of memory, or half of one, at a time: a thread has one address a row,
// and constants.
#pragma once
#include <aiterlite/tile/layout.h>
#include <aiterlite/vector.h>

namespace aiterlite {

template <class Layout, uint32_t kThreads>
class Carried {
 public:
  // Asks for the tile's rows; row i starts at address[i], a multiple of 16. Rows that do not exist must name one that
  // does, and the code that multiplies them selects.
  AITERLITE_DEVICE void load(const uint64_t* address) {
    const uint32_t first = thread_id() / kThreadsOfRow, chunk = thread_id() % kThreadsOfRow;
    if (first >= Layout::kRows) return;
#pragma unroll
    for (uint32_t round = 0; round < kRounds; ++round) {
      const auto* from = reinterpret_cast<const Vector16*>(address[first + round * kRowsOfRound]) + chunk;
#pragma unroll
      for (uint32_t i = 0; i < kLoads; ++i) held_[round][i] = load_vector<false>(from + i * kThreadsOfRow);
    }
  }

  // What was asked for last is in the tile behind the next workgroup_barrier.
  AITERLITE_DEVICE void store(void* tile) const {
    const uint32_t first = thread_id() / kThreadsOfRow, chunk = thread_id() % kThreadsOfRow;
    if (first >= Layout::kRows) return;
#pragma unroll
    for (uint32_t round = 0; round < kRounds; ++round) {
      char* to = static_cast<char*>(tile) + Layout::at(first + round * kRowsOfRound, chunk * kChunkBytes);
#pragma unroll
      for (uint32_t i = 0; i < kLoads; ++i) store_shared_16(to + i * kThreadsOfRow * kChunkBytes, held_[round][i]);
    }
  }

 private:
  // Layouts that move chunks do so among those that the threads of a row read at once (Padded, SwizzledOdd).
  static constexpr uint32_t kThreadsOfRow = Layout::kRowBytes % 128 == 0 ? 8 : 4;
  static constexpr uint32_t kLoads = Layout::kRowBytes / kChunkBytes / kThreadsOfRow;  // of a thread, of a row
  static constexpr uint32_t kRowsOfRound = kThreads / kThreadsOfRow;
  static constexpr uint32_t kRounds = (Layout::kRows + kRowsOfRound - 1) / kRowsOfRound;
  static_assert(Layout::kRowBytes % (kThreadsOfRow * kChunkBytes) == 0, "Carried: rows are a multiple of 64 bytes");
  static_assert(Layout::kRows < kRowsOfRound || Layout::kRows % kRowsOfRound == 0,
                "Carried: threads have the rows of a tile in whole rounds");

  Vector16 held_[kRounds][kLoads];
};

}  // namespace aiterlite
