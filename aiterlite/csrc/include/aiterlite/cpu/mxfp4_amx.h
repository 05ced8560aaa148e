// A panel of 16 rows of MXFP4 weights times up to 16 tokens, in tiles of AMX: tokens cost next to nothing beside the
// decoding, which all of them share.
//
// Decoding is three instructions for 32 codes (cpu/mxfp4_tile.h has the look-up): the table's numbers are 2^64 too
// large, and the power of two by which a block's scale is less than the most is taken from their exponents, by a
// subtraction that stops at zero; so zero stays zero. Register i of a row goes to row r of tile i, 16 rows are a tile,
// and four tiles are 128 k; tokens lie in the order of that. Exact for the scales and tokens that `fits` and `kLeast`
// to `kMost` say: then no number is subnormal, which tiles take for zero, and no sum overflows.
//
// Order: four sums, one for each place of a code in its word, over all steps of 128 k; then those, in pairs.
#pragma once
#include <aiterlite/cpu/amx.h>
#include <aiterlite/cpu/mxfp4_tile.h>

#if AITERLITE_CPU_AMX

namespace aiterlite::cpu {

struct MxAmx {
  static constexpr int kRows = 16, kMostTokens = 16, kPlaces = 4;
  static constexpr int64_t kStepWords = kPlaces * 16;  // of a token
  static constexpr float kLeast = 0x1p-100f, kMost = 0x1p32f, kSumFactor = 0x1p-51f;
  static constexpr uint16_t kLeastScale = 64, kMostScale = 140;

  // Codes of the rows and what is to be subtracted for each block: 4 words a step.
  struct Strip {
    const uint8_t* codes[kRows];
    const uint16_t* less[kRows];
  };

  explicit MxAmx(int tokens) : tokens_(tokens), tiles_(tokens) {
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
  }

  static bool fits(uint8_t scale) { return scale >= kLeastScale && scale <= kMostScale; }
  static uint16_t less(uint8_t scale) { return static_cast<uint16_t>((kMostScale - scale) << 7); }
  // Word `at` of a token's step: two of its elements.
  static uint32_t word(const float (&x)[kMxStep], int64_t at) {
    const int64_t place = at / 16, pair = at % 16;
    return float_to_bits(x[8 * pair + place]) >> 16 | (float_to_bits(x[8 * pair + 4 + place]) & 0xffff0000u);
  }

  // Adds `steps` steps; x: [step][kStepWords][tokens] words. Lines of codes `ahead` bytes further are asked for.
  void add(const Strip& strip, const uint32_t* x, int64_t steps, int64_t ahead) {
    // A step is decoded while the one before is multiplied: what was just written cannot be read at once.
    for (int64_t step = 0; step < steps; ++step) {
      decode(strip, step, ahead, buffer_[(step + turn_) % 2]);
      if (step > 0) multiply(buffer_[(step + turn_ + 1) % 2], x + (step - 1) * kStepWords * tokens_);
    }
    if (steps > 0) multiply(buffer_[(steps + turn_ + 1) % 2], x + (steps - 1) * kStepWords * tokens_);
    turn_ = (turn_ + steps) % 2;
  }

  // sums[row][token]
  void finish(float (&sums)[kRows][kMostTokens]) {
    alignas(64) float parts[kPlaces][kRows][kMostTokens];
    tile_store<0>(parts[0], sizeof(parts[0][0]));
    tile_store<1>(parts[1], sizeof(parts[0][0]));
    tile_store<2>(parts[2], sizeof(parts[0][0]));
    tile_store<3>(parts[3], sizeof(parts[0][0]));
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < tokens_; ++t) {
        sums[r][t] = ((parts[0][r][t] + parts[1][r][t]) + (parts[2][r][t] + parts[3][r][t])) * kSumFactor;
      }
    }
  }

 private:
  using Buffer = char[kPlaces][kRows][kTileLine];

  // Exponents are 64 more, and a negative zero is a zero: nothing could be subtracted from its sign.
  struct Table {
    alignas(64) uint16_t word[32] = {};
    constexpr explicit Table(uint32_t sign) {
      for (uint32_t i = 0; i < 32; ++i) {
        const uint32_t number = __builtin_bit_cast(uint32_t, kE2m1[i % 8]) >> 16;
        word[i] = static_cast<uint16_t>(number == 0 ? 0 : number + (64 << 7) + i % 16 / 8 * sign);
      }
    }
  };

  static void decode(const Strip& strip, int64_t step, int64_t ahead, Buffer& to) {
    static constexpr Table kTable{0x8000};
    const __m512i table = _mm512_load_si512(kTable.word);
    const __m512i of_block =
        _mm512_set_epi64(0x0706070607060706, 0x0706070607060706, 0x0504050405040504, 0x0504050405040504,
                         0x0302030203020302, 0x0302030203020302, 0x0100010001000100, 0x0100010001000100);
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* from = strip.codes[r] + step * (kMxStep / 2);
      ask_for(from, ahead);
      const __m512i codes = _mm512_loadu_si512(from);
      int64_t four;
      memcpy(&four, strip.less[r] + step * 4, sizeof(four));
      const __m512i less = _mm512_shuffle_epi8(_mm512_set1_epi64(four), of_block);
#pragma GCC unroll 4
      for (int i = 0; i < kPlaces; ++i) {
        const __m512i at = _mm512_maskz_srli_epi16((__mmask32)-1, codes, 4 * i);
        const __m512i number = _mm512_maskz_permutexvar_epi16((__mmask32)-1, at, table);
        _mm512_store_si512(to[i][r], _mm512_subs_epu16(number, less));
      }
    }
  }
  void multiply(const Buffer& w, const uint32_t* x) const {
    const int64_t stride = tokens_ * 4;
    tile_load<4>(w[0], kTileLine);
    tile_load<6>(x, stride);
    tile_dot<0, 4, 6>();
    tile_load<5>(w[1], kTileLine);
    tile_load<7>(x + 16 * tokens_, stride);
    tile_dot<1, 5, 7>();
    tile_load<4>(w[2], kTileLine);
    tile_load<6>(x + 32 * tokens_, stride);
    tile_dot<2, 4, 6>();
    tile_load<5>(w[3], kTileLine);
    tile_load<7>(x + 48 * tokens_, stride);
    tile_dot<3, 5, 7>();
  }

  int tokens_;
  Tiles tiles_;
  int64_t turn_ = 0;
  alignas(64) Buffer buffer_[2];
};

}  // namespace aiterlite::cpu

#endif  // AITERLITE_CPU_AMX
