// Operands straight from row-major global memory, and accumulators, of one matrix instruction, seen from a lane.
//
// A tile is 16 rows (weights) by kTileColumns columns (tokens) by the k of four 16-byte vectors: 32 of 16 bits, 64
// of 8. A lane holds one vector, tile_vector(lane), of each of its kLaneRows rows and of its column. The hardware
// numbers the k of a tile differently, which does not matter: a permutation of k that both operands share leaves the
// product as it is. This one lets a lane load its operands straight from row-major memory, 16 bytes at a time.
//
// Only the 8-bit type that the target's matrix unit has can be multiplied.
#pragma once
#include <aiterlite/numeric/types.h>

namespace aiterlite {

inline constexpr uint32_t kTileRows = 16;
inline constexpr uint32_t kTileVectors = 4;

#if AITERLITE_AMD

inline constexpr uint32_t kTileColumns = 16;
inline constexpr uint32_t kLaneRows = 1;

AITERLITE_DEVICE uint32_t tile_row(uint32_t lane, uint32_t) { return lane % 16; }
AITERLITE_DEVICE uint32_t tile_column(uint32_t lane) { return lane % 16; }
AITERLITE_DEVICE uint32_t tile_vector(uint32_t lane) { return lane / 16; }
AITERLITE_DEVICE uint32_t accumulator_row(uint32_t lane, uint32_t i) { return 4 * (lane / 16) + i; }
AITERLITE_DEVICE uint32_t accumulator_column(uint32_t lane, uint32_t) { return lane % 16; }

// Which vector of `slices` consecutive tiles' worth of a row a lane takes: neighbouring lanes are neighbouring slices,
// and the memory pipeline merges four lanes at a time.
AITERLITE_DEVICE uint32_t slice_vector(uint32_t vector, uint32_t slice, uint32_t slices) {
  return vector * slices + slice;
}

AITERLITE_DEVICE void multiply(bf16, float (&d)[4], const Vector16 (&a)[1], const Vector16& b) {
  mfma_16x16_bf16(d, a[0], b);
}
AITERLITE_DEVICE void multiply(fp16, float (&d)[4], const Vector16 (&a)[1], const Vector16& b) {
  mfma_16x16_fp16(d, a[0], b);
}
AITERLITE_DEVICE void multiply(NativeFp8, float (&d)[4], const Vector16 (&a)[1], const Vector16& b) {
  mfma_16x16_fp8(d, a[0], b);
}

#else

inline constexpr uint32_t kTileColumns = 8;
inline constexpr uint32_t kLaneRows = 2;

AITERLITE_DEVICE uint32_t tile_row(uint32_t lane, uint32_t j) { return lane / 4 + 8 * j; }
AITERLITE_DEVICE uint32_t tile_column(uint32_t lane) { return lane / 4; }
AITERLITE_DEVICE uint32_t tile_vector(uint32_t lane) { return lane % 4; }
AITERLITE_DEVICE uint32_t accumulator_row(uint32_t lane, uint32_t i) { return lane / 4 + 8 * (i / 2); }
AITERLITE_DEVICE uint32_t accumulator_column(uint32_t lane, uint32_t i) { return lane % 4 * 2 + i % 2; }

// Four neighbouring lanes hold the vectors of one row, so a slice is 64 contiguous bytes.
AITERLITE_DEVICE uint32_t slice_vector(uint32_t vector, uint32_t slice, uint32_t) {
  return slice * kTileVectors + vector;
}

AITERLITE_DEVICE void multiply(bf16, float (&d)[4], const Vector16 (&a)[2], const Vector16& b) {
  mma_m16n8k16_bf16(d, a[0].word[0], a[1].word[0], a[0].word[1], a[1].word[1], b.word[0], b.word[1]);
  mma_m16n8k16_bf16(d, a[0].word[2], a[1].word[2], a[0].word[3], a[1].word[3], b.word[2], b.word[3]);
}
AITERLITE_DEVICE void multiply(fp16, float (&d)[4], const Vector16 (&a)[2], const Vector16& b) {
  mma_m16n8k16_fp16(d, a[0].word[0], a[1].word[0], a[0].word[1], a[1].word[1], b.word[0], b.word[1]);
  mma_m16n8k16_fp16(d, a[0].word[2], a[1].word[2], a[0].word[3], a[1].word[3], b.word[2], b.word[3]);
}
AITERLITE_DEVICE void multiply(e4m3fn, float (&d)[4], const Vector16 (&a)[2], const Vector16& b) {
  mma_m16n8k32_e4m3(d, a[0].word[0], a[1].word[0], a[0].word[1], a[1].word[1], b.word[0], b.word[1]);
  mma_m16n8k32_e4m3(d, a[0].word[2], a[1].word[2], a[0].word[3], a[1].word[3], b.word[2], b.word[3]);
}

#endif

}  // namespace aiterlite
