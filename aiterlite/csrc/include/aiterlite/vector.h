// Eight consecutive 16-bit elements of a row as one 16-byte register vector, read in the cheapest way that never
// touches memory outside the row.
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite {

inline constexpr uint32_t kVectorElements = 8;

// What is read once (weights) should not displace what is read again (tokens) from the caches.
enum class Reuse { kNone, kLikely };

template <Reuse reuse>
AITERLITE_DEVICE Vector16 load_row_vector(const uint16_t* p) {
  return load_vector<reuse == Reuse::kNone>(p);
}

// Zeros where not `wanted`: then nothing is read, or what is at `safe`.
template <Reuse reuse>
AITERLITE_DEVICE Vector16 load_row_vector_if(const uint16_t* p, bool wanted, const uint16_t* safe) {
  return load_vector_if<reuse == Reuse::kNone>(p, wanted, safe);
}

// Elements [k, k + 8) of a row of any alignment; if checked, zero from k_end on, which is at least 1.
template <bool checked>
AITERLITE_DEVICE Vector16 gather_row_vector(const uint16_t* row, uint32_t k, uint32_t k_end) {
  Vector16 v;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t even = k + 2 * i;
    const bool has_even = !checked || even < k_end;
    const bool has_odd = !checked || even + 1 < k_end;
    const uint32_t low = load_u16(row + (has_even ? even : 0));
    const uint32_t high = load_u16(row + (has_odd ? even + 1 : 0));
    v.word[i] = (has_even ? low : 0) | (has_odd ? high << 16 : 0);
  }
  return v;
}

}  // namespace aiterlite
