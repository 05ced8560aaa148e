// Consecutive elements of a row, 8 of 16 bits or 16 of 8 bits, as one 16-byte register vector, read in the cheapest way
// that never touches memory outside the row.
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite {

template <class Element>
inline constexpr uint32_t kVectorElements = 16 / sizeof(Element);

// What is read once (weights) should not displace what is read again (tokens) from the caches. kRow: read once, and a
// row as long is written.
enum class Reuse { kNone, kRow, kLikely };

template <Reuse reuse>
inline constexpr bool kStreams = reuse == Reuse::kNone || (reuse == Reuse::kRow && kStreamsRows);

template <Reuse reuse>
AITERLITE_DEVICE Vector16 load_row_vector(const void* p) {
  return load_vector<kStreams<reuse>>(p);
}

// Zeros where not `wanted`: then nothing is read, or what is at `safe`.
template <Reuse reuse>
AITERLITE_DEVICE Vector16 load_row_vector_if(const void* p, bool wanted, const void* safe) {
  return load_vector_if<kStreams<reuse>>(p, wanted, safe);
}

AITERLITE_DEVICE uint32_t load_bits(const uint8_t* p) { return load_u8(p); }
AITERLITE_DEVICE uint32_t load_bits(const uint16_t* p) { return load_u16(p); }

// A vector's elements from k on of a row of any alignment; if checked, zero from k_end on, which is at least 1.
template <bool checked, class Bits>
AITERLITE_DEVICE Vector16 gather_row_vector(const Bits* row, uint32_t k, uint32_t k_end) {
  constexpr uint32_t kWordElements = 4 / sizeof(Bits);
  Vector16 v;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    uint32_t bits[kWordElements];
    bool wanted[kWordElements];
#pragma unroll
    for (uint32_t j = 0; j < kWordElements; ++j) {
      const uint32_t at = k + kWordElements * i + j;
      wanted[j] = !checked || at < k_end;
      bits[j] = load_bits(row + (wanted[j] ? at : 0));
    }
    v.word[i] = 0;
#pragma unroll
    for (uint32_t j = 0; j < kWordElements; ++j) v.word[i] |= wanted[j] ? bits[j] << (32 / kWordElements * j) : 0;
  }
  return v;
}

}  // namespace aiterlite
