// Where the bytes of a tile's rows lie in shared memory, so that the lanes of one access meet different banks.
//
// Padded: rows begin kPitch bytes apart. Swizzled: rows are dense and a power of two long, and their 16-byte chunks are
// permuted by an exclusive or with bits of the row; SwizzledOdd: the same of other lengths. at(row, byte) is an offset;
// 16 aligned bytes of a row stay together. source(offset) is the reverse, for copies that fill shared memory in order
// (tile/copy.h): what lies in the padding is a copy of the row's last bytes.
//
// Banks are 4 bytes, 32 of them; gfx950 reads have 64. How the lanes of a wave are served together decides:
//   gfx942  16 bytes a lane: groups of 8, {0-3,20-23} {4-7,16-19} {8-11,28-31} {12-15,24-27}, and the same + 32
//   gfx950  16 bytes a lane: groups of 16, {0-3,12-15,20-27} {4-11,16-19,28-31}, and the same + 32; 8 bytes: 32 lanes
//   NVIDIA  8 lanes at a time, of 16 bytes; a matrix of ldmatrix and stmatrix
// Free of conflicts (tests/device/test_layout.py), lanes reading rows as matrix operands do (fragment/):
//   Swizzled        16 bytes a lane of 16 or 32 rows, and ldmatrix. On NVIDIA, sm_90's copy engine writes rows of 128,
//                   64 and 32 bytes so, and its matrix unit reads them
//   SwizzledOdd     16 bytes a lane of 16 rows of an odd number of 128 bytes; 8 bytes a lane, gfx950, of 64
//   Padded, with a pitch_for
//     kOperand16    16 bytes a lane of 16 rows; gfx950's transposing reads of 16 bits; ldmatrix, transposed or not
//     kOperand32    16 bytes a lane of 32 rows; gfx950's transposing reads of 8 bits; ldmatrix, transposed or not
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite {

inline constexpr uint32_t kChunkBytes = 16;

#if defined(__gfx950__) || AITERLITE_HOST_SIM == 950
inline constexpr uint32_t kBankLineBytes = 256;
#else
inline constexpr uint32_t kBankLineBytes = 128;
#endif

enum class Reading { kOperand16, kOperand32 };

// The least pitch for rows of so many bytes. An odd number of chunks puts 8 (16 on gfx950) neighbouring rows on
// different banks. Where AMD's groups hold half of 16 rows at one chunk and half at the next, an odd pitch lets them
// meet, and 2 modulo 4 keeps the rows of one chunk on even places and those of the other on odd ones.
template <Reading kReading>
AITERLITE_DEVICE constexpr uint32_t pitch_for(uint32_t row_bytes) {
  const uint32_t chunks = (row_bytes + kChunkBytes - 1) / kChunkBytes;
  if (AITERLITE_AMD && kReading == Reading::kOperand16) return (chunks + (6 - chunks % 4) % 4) * kChunkBytes;
  return (chunks | 1) * kChunkBytes;
}

struct RowByte {
  uint32_t row;
  uint32_t byte;
};

template <uint32_t kRows_, uint32_t kRowBytes_, uint32_t kPitch_>
struct Padded {
  static constexpr uint32_t kRows = kRows_, kRowBytes = kRowBytes_, kPitch = kPitch_, kBytes = kRows * kPitch;
  static_assert(kRowBytes % kChunkBytes == 0 && kPitch % kChunkBytes == 0 && kPitch >= kRowBytes,
                "Padded: rows and pitches are multiples of 16 bytes, and a pitch is at least a row");

  AITERLITE_DEVICE static constexpr uint32_t at(uint32_t row, uint32_t byte) { return row * kPitch + byte; }
  // For offsets that are multiples of 4; of 16 aligned bytes all or none are padding.
  AITERLITE_DEVICE static constexpr RowByte source(uint32_t offset) {
    const uint32_t byte = offset % kPitch;
    return {offset / kPitch, byte < kRowBytes ? byte : kRowBytes - kChunkBytes + byte % kChunkBytes};
  }
};

// Rows are dense, and chunk c of row r lies at c ^ Key::of(r).
template <uint32_t kRows_, uint32_t kRowBytes_, class Key>
struct SwizzledBy {
  static constexpr uint32_t kRows = kRows_, kRowBytes = kRowBytes_, kPitch = kRowBytes, kBytes = kRows * kRowBytes;

  AITERLITE_DEVICE static constexpr uint32_t at(uint32_t row, uint32_t byte) {
    return row * kRowBytes + (byte ^ Key::of(row) * kChunkBytes);
  }
  AITERLITE_DEVICE static constexpr RowByte source(uint32_t offset) {
    const uint32_t row = offset / kRowBytes;
    return {row, offset % kRowBytes ^ Key::of(row) * kChunkBytes};
  }
};

// Rows that share a line of banks already differ; rows of later lines change places.
template <uint32_t kRowBytes>
struct LineKey {
  static_assert(kRowBytes >= 32 && (kRowBytes & (kRowBytes - 1)) == 0,
                "Swizzled: rows are a power of two of at least 32 bytes; others: SwizzledOdd, Padded");

  AITERLITE_DEVICE static constexpr uint32_t of(uint32_t row) {
    constexpr uint32_t kRowsOfLine = kRowBytes < kBankLineBytes ? kBankLineBytes / kRowBytes : 1;
    constexpr uint32_t kPlaces = (kRowBytes < kBankLineBytes ? kRowBytes : kBankLineBytes) / kChunkBytes;
    const uint32_t line = row / kRowsOfLine % kPlaces;
    // Half of a gfx950 group's lines are at one chunk, half at the next: 0, 2, 3, 1 keeps these halves apart.
    if (kBankLineBytes == 256 && kPlaces == 4) return ((line << 1 ^ line) & 2) | line >> 1;
    return line;
  }
};

// Rows of an odd number of 128 bytes all begin on the same bank or half of them; of 64 bytes, on halves or quarters.
template <uint32_t kRowBytes>
struct OddKey {
  static_assert(kRowBytes % 256 == 128 || kRowBytes % 128 == 64,
                "SwizzledOdd: rows are an odd multiple of 128 or of 64 bytes; others: Swizzled, Padded");

  AITERLITE_DEVICE static constexpr uint32_t of(uint32_t row) { return kRowBytes % 128 == 0 ? row % 8 : row / 4 % 4; }
};

template <uint32_t kRows, uint32_t kRowBytes>
struct Swizzled : SwizzledBy<kRows, kRowBytes, LineKey<kRowBytes>> {};
template <uint32_t kRows, uint32_t kRowBytes>
struct SwizzledOdd : SwizzledBy<kRows, kRowBytes, OddKey<kRowBytes>> {};

}  // namespace aiterlite
