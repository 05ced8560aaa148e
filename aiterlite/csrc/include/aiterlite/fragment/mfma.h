// AMD's matrix products, 16 x 16 or 32 x 32, seen from a lane: which elements it holds, and how they get there from a
// tile in LDS.
//
// a is kSize rows, b kSize columns, each of some k. A lane holds one 16-byte vector of 8 or 16 k of each: vector(lane)
// of the 64 / kSize that a row has, of row (column) index(lane). d[i] is sum_row(lane, i), sum_column(lane). Operands
// may be given a permutation of k if both have the same.
//
// Both targets multiply bf16, fp16 and NativeFp8; a 16 x 16 product takes one instruction of 16-bit operands on gfx950,
// two on gfx942; 8-bit ones two. With two vectors (32 bytes) of 8 bits a lane gfx950 takes one, of twice the rate,
// gfx942 four.
#pragma once
#include <aiterlite/numeric/types.h>

#if !AITERLITE_AMD
#error "aiterlite/fragment/mfma.h: NVIDIA GPUs multiply with fragment/mma_sync.h and fragment/sm90_wgmma.h"
#endif

namespace aiterlite {

template <uint32_t kSize>
struct Mfma {
  static_assert(kSize == 16 || kSize == 32, "Mfma: 16 or 32 rows and columns");
  static constexpr uint32_t kSums = kSize * kSize / kWaveSize;
  static constexpr uint32_t kVectors = kWaveSize / kSize;

  AITERLITE_DEVICE static uint32_t index(uint32_t lane) { return lane % kSize; }
  AITERLITE_DEVICE static uint32_t vector(uint32_t lane) { return lane / kSize; }
  AITERLITE_DEVICE static uint32_t sum_row(uint32_t lane, uint32_t i) {
    return kSize == 16 ? 4 * (lane / 16) + i : 8 * (i / 4) + 4 * (lane / 32) + i % 4;
  }
  AITERLITE_DEVICE static uint32_t sum_column(uint32_t lane) { return lane % kSize; }

  // What the lane holds of rows (columns) `row` on of a tile, from a byte on that is a multiple of 16.
  template <class Layout>
  AITERLITE_DEVICE static Vector16 operand(const void* tile, uint32_t row, uint32_t byte) {
    const uint32_t lane = lane_id();
    return load_shared_16(static_cast<const char*>(tile) + Layout::at(row + index(lane), byte + 16 * vector(lane)));
  }
};

AITERLITE_DEVICE void multiply(bf16, float (&d)[4], const Vector16& a, const Vector16& b) { mfma_16x16_bf16(d, a, b); }
AITERLITE_DEVICE void multiply(fp16, float (&d)[4], const Vector16& a, const Vector16& b) { mfma_16x16_fp16(d, a, b); }
AITERLITE_DEVICE void multiply(NativeFp8, float (&d)[4], const Vector16& a, const Vector16& b) {
  mfma_16x16_fp8(d, a, b);
}
AITERLITE_DEVICE void multiply(bf16, float (&d)[16], const Vector16& a, const Vector16& b) { mfma_32x32_bf16(d, a, b); }
AITERLITE_DEVICE void multiply(fp16, float (&d)[16], const Vector16& a, const Vector16& b) { mfma_32x32_fp16(d, a, b); }
AITERLITE_DEVICE void multiply(NativeFp8, float (&d)[16], const Vector16& a, const Vector16& b) {
  mfma_32x32_fp8(d, a, b);
}
// 8 bytes a lane, 16 x 16: vector(lane) then counts 8-byte pieces of 4 or 8 k.
AITERLITE_DEVICE void multiply(bf16, float (&d)[4], const Vector8& a, const Vector8& b) { mfma_16x16_bf16(d, a, b); }
AITERLITE_DEVICE void multiply(fp16, float (&d)[4], const Vector8& a, const Vector8& b) { mfma_16x16_fp16(d, a, b); }
AITERLITE_DEVICE void multiply(NativeFp8, float (&d)[4], const Vector8& a, const Vector8& b) {
  mfma_16x16_fp8(d, a, b);
}
template <uint32_t kSums>
AITERLITE_DEVICE void multiply(NativeFp8, float (&d)[kSums], const Vector16 (&a)[2], const Vector16 (&b)[2]) {
#if defined(__gfx950__)
  if constexpr (kSums == 4) {
    mfma_16x16x128_fp8(d, a, b);
  } else {
    mfma_32x32x64_fp8(d, a, b);
  }
#else
  multiply(NativeFp8{}, d, a[0], b[0]);
  multiply(NativeFp8{}, d, a[1], b[1]);
#endif
}

// Operands whose k runs down the rows of a tile and whose rows (columns) are the tile's 16 columns from `byte` on, for
// 16 x 16 products. By transposing reads, which only gfx950 has.
//
// 16 bits: 32 rows from `row` on. Lane group g = lane / 16 holds k = 4 g + i and 16 + 4 g + i (i < 4), in this order:
// what the sums of two 16 x 16 products, one below the other, become when each lane packs its own.
template <class Layout>
AITERLITE_DEVICE Vector16 transposed_operand_16bit(const void* tile, uint32_t row, uint32_t byte) {
  const uint32_t lane = lane_id();
  const uint32_t first = row + 4 * (lane / 16) + lane % 16 / 4;
  const uint32_t at = byte + lane % 4 * 8;
  const auto* bytes = static_cast<const char*>(tile);
  const auto low = load_transposed_16bit(bytes + Layout::at(first, at));
  const auto high = load_transposed_16bit(bytes + Layout::at(first + 16, at));
  return {{low.word[0], low.word[1], high.word[0], high.word[1]}};
}
// 8 bits: 64 rows from `row` on. Lane group g holds k = 8 g + i and 32 + 8 g + i (i < 8), in this order.
template <class Layout>
AITERLITE_DEVICE Vector16 transposed_operand_8bit(const void* tile, uint32_t row, uint32_t byte) {
  const uint32_t lane = lane_id();
  const uint32_t first = row + 8 * (lane / 16) + lane % 16 / 2;
  const uint32_t at = byte + lane % 2 * 8;
  const auto* bytes = static_cast<const char*>(tile);
  const auto low = load_transposed_8bit(bytes + Layout::at(first, at));
  const auto high = load_transposed_8bit(bytes + Layout::at(first + 32, at));
  return {{low.word[0], low.word[1], high.word[0], high.word[1]}};
}

}  // namespace aiterlite
