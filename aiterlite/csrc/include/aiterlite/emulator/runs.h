// The bytes that the lanes of an access touch, as stretches.
#pragma once
#include <aiterlite/emulator/level.h>
#include <aiterlite/emulator/observe.h>

namespace aiterlite::emulator {

struct Run {
  uint64_t begin, end;
};

// True when all lanes are active and lie side by side.
inline bool is_consecutive(const MemoryAccess& a) {
  if (a.mask != ~0ull || a.at[kWave - 1] - a.at[0] != static_cast<uint64_t>(kWave - 1) * a.size) return false;
  uint64_t gaps = 0;
  for (int l = 1; l < kWave; ++l) gaps |= a.at[l] - a.at[l - 1] - a.size;
  return !gaps;
}

// Stretches in the order of the lanes; returns how many. With `folds`, a lane inside the stretch before it adds none.
inline int make_runs(const MemoryAccess& a, bool folds, Run (&runs)[kWave]) {
  if (is_consecutive(a)) {
    runs[0] = {a.at[0], a.at[0] + static_cast<uint64_t>(kWave) * a.size};
    return 1;
  }
  int n = 0;
  for (uint64_t m = a.mask; m; m &= m - 1) {
    const uint64_t at = a.at[__builtin_ctzll(m)];
    if (n && at == runs[n - 1].end) {
      runs[n - 1].end += a.size;
    } else if (!n || !folds || at < runs[n - 1].begin || at + a.size > runs[n - 1].end) {
      runs[n++] = {at, at + a.size};
    }
  }
  return n;
}

// The first lane that touches a byte, or the first lane of all; -1 for scalar memory.
inline int lane_at(const MemoryAccess& a, uint64_t at) {
  if (a.space == Space::scalar) return -1;
  for (uint64_t m = a.mask; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    if (at >= a.at[l] && at < a.at[l] + a.size) return l;
  }
  return __builtin_ctzll(a.mask);
}

}  // namespace aiterlite::emulator
