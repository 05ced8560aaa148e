// Sums of the fused mixture of experts on sm_90 that stay in shared memory (fused_moe/sm90_down_kept.hip): their first
// AITERLITE_SUM_BITS bits, in two planes.
#pragma once
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/fused_moe/sm90_cut.h>

namespace aiterlite::experts::kept {

// Of the 64 rows of a product the workgroup owns so many; what it multiplies by others is not looked at.
inline constexpr uint32_t kOwnRows = AITERLITE_ROWS;
static_assert(kOwnRows % 8 == 0 && kOwnRows <= kGroupRows);
// Bits of a sum: 16 lie in one plane, the others in another.
inline constexpr uint32_t kBits = AITERLITE_SUM_BITS, kLowBits = kBits - 16;
static_assert(kLowBits == 4 || kLowBits == 8);
// Bytes of a token in the second plane; of 4 bits each a byte has those of rows r and r + 8.
inline constexpr uint32_t kLowBytes = kLowBits == 8 ? kOwnRows : (kOwnRows + 15) / 16 * 8;
inline constexpr uint32_t kTokenBytes = 2 * kOwnRows + kLowBytes;

// A sum's first bits: of 20 to nearest, of 24 cut off, where the result's rounding hides it. NaN stays as it is.
AITERLITE_DEVICE uint32_t rounded(float sum) {
  const auto bits = __builtin_bit_cast(uint32_t, sum);
  if constexpr (kLowBits == 8) {
    return bits;
  } else {
    return sum == sum ? bits + 0x800u : bits;
  }
}
// Of two sums in two words: the first 16 bits of both; those behind them, of 8 bits the second's above the first's, of
// 4 below. What lies behind the kept bits of one is left where it does no harm: not of an infinity.
AITERLITE_DEVICE uint32_t high_bits(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000u); }
AITERLITE_DEVICE uint32_t low_bits(uint32_t a, uint32_t b) {
  return kLowBits == 8 ? (a >> 8 & 0xffu) | (b & 0xff00u) : (a >> 8 & 0xf0u) | (b >> 12 & 0x0fu);
}
AITERLITE_DEVICE float first_sum(uint32_t high, uint32_t low) {
  return __builtin_bit_cast(float, high << 16 | (low & (kLowBits == 8 ? 0xffu : 0xf0u)) << 8);
}
AITERLITE_DEVICE float second_sum(uint32_t high, uint32_t low) {
  return __builtin_bit_cast(float, (high & 0xffff0000u) | (kLowBits == 8 ? low & 0xff00u : (low & 0x0fu) << 12));
}

// Sums of the workgroup's elements of all tokens, and of a row behind them, where what is added to padding goes. Of a
// full 16 rows of a warp rows r and r + 8 are neighbours.
struct Planes {
  uint16_t* high;
  uint8_t* low;

  // Where a warp's rows of a token begin.
  AITERLITE_DEVICE static uint32_t high_at(uint32_t token, uint32_t warp) { return token * kOwnRows + 16 * warp; }
  AITERLITE_DEVICE static uint32_t low_at(uint32_t token, uint32_t warp) {
    return kLowBits == 8 ? high_at(token, warp) : token * kLowBytes + 8 * warp;
  }

  // The sums of 16 rows, or of the last 8.
  AITERLITE_DEVICE void read(float (&first)[8], float (&second)[8], uint32_t token, uint32_t warp, bool pairs) const {
    const uint16_t* above = high + high_at(token, warp);
    const uint8_t* below = low + low_at(token, warp);
    const Vector16 words[2] = {load_shared_16(above), pairs ? load_shared_16(above + 8) : Vector16{}};
    const bool wide = pairs && kLowBits == 8;
    const Vector8 bytes[2] = {load_shared_8(below), wide ? load_shared_8(below + 8) : Vector8{}};
#pragma unroll
    for (uint32_t r = 0; r < 8; ++r) {
      const uint32_t word = words[r / 4].word[r % 4], half = words[0].word[r / 2] >> (16 * (r % 2)) & 0xffffu;
      const uint32_t two = bytes[r / 4].word[r / 2 % 2] >> (16 * (r % 2)) & 0xffffu;
      const uint32_t one = bytes[0].word[r / 4] >> (8 * (r % 4)) & 0xffu;
      const uint32_t number = wide ? two : one;
      first[r] = first_sum(pairs ? word : half, number);
      second[r] = second_sum(word, number);
    }
  }
};

// Adds a lane's sums of a block's first 8 * kChunks entries, of its row, or its two, of `warp`. Tokens of a block
// differ, so all are read at once.
template <bool kPairs, uint32_t kChunks>
AITERLITE_DEVICE void add(const float (&sums)[4 * kChunks], const uint32_t (&token)[2 * kChunks], const Planes& planes,
                          uint32_t warp) {
  constexpr bool kWide = kPairs && kLowBits == 8;
  const uint32_t row = lane_id() / 4;
  uint16_t* high[2 * kChunks];
  uint8_t* low[2 * kChunks];
  uint32_t above[2 * kChunks], below[2 * kChunks];
#pragma unroll
  for (uint32_t k = 0; k < 2 * kChunks; ++k) {
    high[k] = planes.high + Planes::high_at(token[k], warp) + (kPairs ? 2 : 1) * row;
    low[k] = planes.low + Planes::low_at(token[k], warp) + (kWide ? 2 : 1) * row;
    above[k] = kPairs ? *reinterpret_cast<const uint32_t*>(high[k]) : *high[k];
    below[k] = kWide ? *reinterpret_cast<const uint16_t*>(low[k]) : *low[k];
  }
#pragma unroll
  for (uint32_t k = 0; k < 2 * kChunks; ++k) {
    const float first = sums[k / 2 * 4 + k % 2], second = sums[k / 2 * 4 + 2 + k % 2];
    const uint32_t a = rounded(first + first_sum(above[k], below[k])),
                   b = kPairs ? rounded(second + second_sum(above[k], below[k])) : 0;
    if constexpr (kPairs) {
      *reinterpret_cast<uint32_t*>(high[k]) = high_bits(a, b);
    } else {
      *high[k] = static_cast<uint16_t>(high_bits(a, b));
    }
    if constexpr (kWide) {
      *reinterpret_cast<uint16_t*>(low[k]) = static_cast<uint16_t>(low_bits(a, b));
    } else {
      *low[k] = static_cast<uint8_t>(low_bits(a, b));
    }
  }
}

}  // namespace aiterlite::experts::kept
