// Rows of an expert's MXFP4 weights times the MXFP4 tokens of a block of 32 sorted entries, by a wave of gfx950, whose
// matrix unit multiplies codes and scales, 32 rows by 32 tokens by 64 k.
//
// Tiling. A wave has kUnits units of 64 rows. Tile 2 u + s of 32 are rows 16 s + r % 16 of the unit's r / 16-th 32
// rows: so one word of shuffled scales holds a byte for each of the unit's two tiles, and of two blocks, and the matrix
// instruction names which. A step has 256 k, in four products; lane group g = lane / 32 has block 2 m + g of product m.
//
// Traffic. Weights, tokens and scales come straight to registers of the wave that multiplies them, in the order in
// which the matrix unit wants them, by an offset a lane that stays, one a step that is scalar, and one in the
// instruction. All are 32-bit: matrices, hidden states and their like have less than 2 GiB. Entries that do not exist,
// and rows behind the matrix, are zeros, and nothing is read for them. Two steps are under way.
//
// Order: steps in order, products of a step in order, so that the sums of a token are the same whatever else is in its
// block.
#pragma once
#include <aiterlite/fused_moe/mxfp4_product.h>
#include <aiterlite/isa/amdgcn_buffer.h>

namespace aiterlite::fused_moe {

// Waves of a SIMD that share its registers. Scales that are not shuffled come a byte each, and two steps of those take
// more than half; so do sums and two steps of four units.
template <bool kShuffled, uint32_t kUnits = 2>
inline constexpr int kWavesOfSimd = kShuffled && kUnits <= 2 ? 2 : 1;

inline constexpr uint32_t kBlockEntries = 32, kUnitRows = 64, kProducts = 4;
inline constexpr uint32_t kStepBlocks = 8, kOutside = 0x80000000u;  // beyond what any resource has

// The matrices of experts, each of so many rows, a multiple of 32, and less than 2 GiB.
template <bool kShuffled, uint32_t kRows, uint32_t kK>
struct ExpertMatrices {
  static constexpr uint32_t kBlocks = kK / kMxBlock, kCodeBytes = kRows * kBlocks * 16;
  // Of scales of 32 rows.
  static constexpr uint32_t kTileBytes = kShuffled ? (kBlocks + 7) / 8 * 256 : 32 * kBlocks,
                            kScaleBytes = kRows / 32 * kTileBytes;
  const char* codes;
  const char* scales;

  AITERLITE_DEVICE ExpertMatrices(const void* of_codes, const float* of_scales)
      : codes(static_cast<const char*>(of_codes)), scales(reinterpret_cast<const char*>(of_scales)) {}
  AITERLITE_DEVICE Buffer codes_of(uint32_t expert) const {
    return {codes + uint64_t{expert} * kCodeBytes, kCodeBytes};
  }
  AITERLITE_DEVICE Buffer scales_of(uint32_t expert) const {
    return {scales + uint64_t{expert} * kScaleBytes, kScaleBytes};
  }
};

// Bytes from row to row of tokens' scales.
template <uint32_t kK>
inline constexpr uint32_t kScaleStride = (kK / kMxBlock + 7) / 8 * 8;

// kMatrixRows: of an expert. kWhole: all rows that are asked for exist.
template <uint32_t kUnits, bool kShuffled, uint32_t kMatrixRows, uint32_t kK, bool kWhole>
struct BlockSource {
  using Matrices = ExpertMatrices<kShuffled, kMatrixRows, kK>;
  static constexpr uint32_t kTiles = 2 * kUnits, kScaleRows = kShuffled ? kUnits : kTiles, kBlocks = kK / kMxBlock;
  Buffer w, w_scale, x, x_scale;
  uint32_t row[kTiles], row_scale[kScaleRows];
  uint32_t token, token_scale, picked;

  // first_of(i): row of the expert, a multiple of 32, that the i-th 32 begin at; kOutside for none. `held` tokens
  // follow each other, and so do their scales.
  template <class FirstOf>
  AITERLITE_DEVICE BlockSource(const Matrices& matrices, uint32_t expert, const FirstOf& first_of, const void* tokens,
                               const void* scales, uint32_t held)
      : w(matrices.codes_of(expert)),
        w_scale(matrices.scales_of(expert)),
        x(tokens, held * (kK / 2)),
        x_scale(scales, held * kScaleStride<kK>) {
    const uint32_t lane = lane_id(), place = lane % 16, second = lane / 16 % 2, group = lane / 32;
#pragma unroll
    for (uint32_t u = 0; u < kUnits; ++u) {
      const uint32_t one = first_of(2 * u), other = first_of(2 * u + 1), first = second == 0 ? one : other;
      const bool outside = !kWhole && first == kOutside;
#pragma unroll
      for (uint32_t s = 0; s < 2; ++s) {
        const uint32_t from = first + 16 * s;
        const uint32_t at =
            kShuffled ? (from / 16 * kBlocks + group) * 256 + place * 16 : ((from + place) * kBlocks + group) * 16;
        row[2 * u + s] = outside ? kOutside : at;
        if constexpr (!kShuffled) row_scale[2 * u + s] = outside ? kOutside : (from + place) * kBlocks + group;
      }
      if constexpr (kShuffled) {
        row_scale[u] = outside ? kOutside : first / 32 * Matrices::kTileBytes + (place + 16 * group) * 4;
      }
    }
    // Every other byte of eight.
    picked = group == 0 ? 0x06040200u : 0x07050301u;
  }

  AITERLITE_DEVICE void set_expert(const Matrices& matrices, uint32_t expert) {
    w = matrices.codes_of(expert);
    w_scale = matrices.scales_of(expert);
  }
  // Which of the tokens this lane's entry is, below 0 for none.
  AITERLITE_DEVICE void set_token(int32_t own) {
    const auto at = static_cast<uint32_t>(own);
    token = own < 0 ? kOutside : at * (kK / 2) + lane_id() / 32 * 16;
    token_scale = own < 0 ? kOutside : at * kScaleStride<kK>;
  }

  // Offsets stay in these registers; the compiler would keep each sum with an instruction's own in another.
  AITERLITE_DEVICE void keep() {
#pragma unroll
    for (uint32_t& at : row) arrive(at);
#pragma unroll
    for (uint32_t& at : row_scale) arrive(at);
    arrive(token);
  }
};

template <uint32_t kUnits, bool kShuffled, class From>
struct BlockStep {
  using Source = From;
  static constexpr uint32_t kTiles = 2 * kUnits;
  static constexpr uint32_t kPiece = kShuffled ? 512 : 32, kUnit = kProducts * kPiece;
  static constexpr uint32_t kRowWords = kShuffled ? 2 * kUnits : kProducts * kTiles;
  // Products of a step, or of the blocks that are behind all whole steps.
  template <bool kLast>
  static constexpr uint32_t kUsed = kLast ? (From::kBlocks % kStepBlocks + 1) / 2 : kProducts;
  Vector16 w[kTiles][kProducts], x[kProducts];
  uint32_t w_scale[kRowWords];
  Vector8 x_scale;

  // kLast: blocks behind K do not exist.
  template <bool kStreams, bool kLast = false>
  AITERLITE_DEVICE void load(Source& from, uint32_t step) {
    from.keep();
    const uint32_t left = kLast ? Source::kBlocks - step * kStepBlocks : kStepBlocks, group = lane_id() / 32;
    // Where product m's block is, of a lane that has one.
    const auto at = [&](uint32_t base, uint32_t m, uint32_t apart) {
      return kLast && 2 * m + group >= left ? kOutside : base + apart * m;
    };
#pragma unroll
    for (uint32_t m = 0; m < kUsed<kLast>; ++m) {
      x[m] = from.x.template load<false>(at(from.token, m, 32), step * (kStepBlocks * 16));
    }
    x_scale = from.x_scale.load_pair(from.token_scale, step * kStepBlocks);
    if constexpr (kShuffled) {
#pragma unroll
      for (uint32_t i = 0; i < kRowWords; ++i) {
        w_scale[i] = from.w_scale.load_word(from.row_scale[i / 2] + 128 * (i % 2), step * 256);
      }
    } else {
#pragma unroll
      for (uint32_t i = 0; i < kUsed<kLast> * kTiles; ++i) {
        const uint32_t m = i / kTiles;
        w_scale[i] = from.w_scale.load_byte(at(from.row_scale[i % kTiles], m, 2), step * kStepBlocks);
      }
    }
    schedule_barrier();
#pragma unroll
    for (uint32_t m = 0; m < kUsed<kLast>; ++m) {
#pragma unroll
      for (uint32_t t = 0; t < kTiles; ++t) {
        w[t][m] = from.w.template load<kStreams>(at(from.row[t], m, kPiece), step * kUnit);
      }
    }
  }

  template <bool kLast = false>
  AITERLITE_DEVICE void add(const Source& from, float (&sums)[kTiles][16], [[maybe_unused]] uint32_t step = 0) {
    // The last load: all others came before it. Of those that may lie in either file of registers, naming more would
    // take them to the first one, which has no room for four units.
    arrive(w[kTiles - 1][kUsed<kLast> - 1]);
#pragma unroll
    for (uint32_t i = 0; i < (kShuffled ? kRowWords : kUsed<kLast> * kTiles); ++i) arrive(w_scale[i]);
#pragma unroll
    for (uint32_t& word : x_scale.word) arrive(word);
#pragma unroll
    for (uint32_t m = 0; m < kUsed<kLast>; ++m) arrive(x[m]);
    uint32_t token_scales = permute_bytes(x_scale.word[1], x_scale.word[0], from.picked);
    if constexpr (kLast) {
      // Scales behind K are anything.
      const uint32_t left = Source::kBlocks - step * kStepBlocks, group = lane_id() / 32;
      uint32_t kept = 0;
#pragma unroll
      for (uint32_t m = 0; m < kUsed<kLast>; ++m) kept |= 2 * m + group < left ? 0xffu << (8 * m) : 0;
      token_scales &= kept;
      if constexpr (kShuffled) {
#pragma unroll
        for (uint32_t i = 0; i < kRowWords; ++i) {
          const uint32_t block = 2 * (i % 2) + group;
          w_scale[i] &= (block < left ? 0x0000ffffu : 0) | (block + 4 < left ? 0xffff0000u : 0);
        }
      }
    }
    // What products take is made here, by all lanes: behind this, some may be switched off, which the products are not.
    arrive(token_scales);
    if constexpr (kLast && kShuffled) {
#pragma unroll
      for (uint32_t& word : w_scale) arrive(word);
    }
    multiply_all<kUsed<kLast>>(sums, token_scales);
    schedule_barrier();
  }

 private:
  template <uint32_t kCount, uint32_t m = 0, uint32_t t = 0>
  AITERLITE_DEVICE void multiply_all(float (&sums)[kTiles][16], uint32_t token_scales) const {
    if constexpr (m < kCount) {
      constexpr int kRowByte = kShuffled ? static_cast<int>(m / 2 * 2 + t % 2) : 0;
      const uint32_t row_scales = w_scale[kShuffled ? t / 2 * 2 + m % 2 : m * kTiles + t];
      mfma_32x32x64_fp4_scaled<kRowByte, static_cast<int>(m)>(sums[t], w[t][m], x[m], row_scales, token_scales);
      constexpr bool kLastTile = t + 1 == kTiles;
      multiply_all<kCount, kLastTile ? m + 1 : m, kLastTile ? 0 : t + 1>(sums, token_scales);
    }
  }
};

// K, or one of kParts runs of its steps, as long as each other or one longer.
template <uint32_t kUnits, bool kShuffled, uint32_t kMatrixRows, uint32_t kK, bool kWhole, uint32_t kParts>
struct BlockProduct {
  using Source = BlockSource<kUnits, kShuffled, kMatrixRows, kK, kWhole>;
  using Step = BlockStep<kUnits, kShuffled, Source>;
  using Sums = float[2 * kUnits][16];
  static constexpr uint32_t kWholeSteps = kK / kMxBlock / kStepBlocks, kSteps = kWholeSteps / kParts;
  static constexpr bool kMore = kWholeSteps % kParts != 0, kTail = kK / kMxBlock % kStepBlocks != 0;
  // That many are written out, since sums that are not there yet are no instructions.
  static constexpr uint32_t kMostUnrolled = 8;

  // The last part has the blocks behind all whole steps.
  AITERLITE_DEVICE static void run(Source& from, Sums& sums, uint32_t part = 0) {
    uint32_t step = part * kWholeSteps / kParts;
    if constexpr (kMore) {
      if (step + kSteps < (part + 1) * kWholeSteps / kParts) {
        Step first;
        first.template load<true>(from, step++);
        schedule_barrier();
        first.add(from, sums);
      }
    }
    if constexpr (kSteps > 0) add_steps(from, sums, step);
    if constexpr (kTail) {
      if (part + 1 == kParts) {
        Step tail;
        tail.template load<true, true>(from, kWholeSteps);
        schedule_barrier();
        tail.template add<true>(from, sums, kWholeSteps);
      }
    }
  }
  // For sums that some lanes use and others do not; see arrive.
  AITERLITE_DEVICE static void pin(Sums& sums) {
#pragma unroll
    for (auto& sum : sums) arrive(sum);
  }

 private:
  // Two are under way, in registers of their own, since a step that moved to others would have to arrive for that.
  AITERLITE_DEVICE static void add_steps(Source& from, Sums& sums, uint32_t step) {
    Step even, odd;
    even.template load<true>(from, step);
    schedule_barrier();
    if constexpr (kSteps > 1) {
      odd.template load<true>(from, step + 1);
      schedule_barrier();
    }
    constexpr uint32_t kUnrolled = kSteps <= kMostUnrolled ? kSteps : 2 + kSteps % 2;
#pragma unroll 1
    for (uint32_t left = (kSteps - kUnrolled) / 2; left > 0; --left) {
      even.add(from, sums);
      even.template load<true>(from, step + 2);
      schedule_barrier();
      odd.add(from, sums);
      odd.template load<true>(from, step + 3);
      schedule_barrier();
      step += 2;
    }
    add_last<kUnrolled>(from, sums, step, even, odd);
  }
  // The last kLeft, of which `one` and `other` are under way.
  template <uint32_t kLeft>
  AITERLITE_DEVICE static void add_last(Source& from, Sums& sums, uint32_t step, Step& one, Step& other) {
    one.add(from, sums);
    if constexpr (kLeft > 2) {
      one.template load<true>(from, step + 2);
      schedule_barrier();
    }
    if constexpr (kLeft > 1) add_last<kLeft - 1>(from, sums, step + 1, other, one);
  }
};

// The row of the unit that sum 4 i of tile 2 u + s is in this lane, and the three behind it.
AITERLITE_DEVICE uint32_t unit_row(uint32_t s, uint32_t i) {
  return i / 2 * 32 + 16 * s + i % 2 * 8 + lane_id() / 32 * 4;
}

}  // namespace aiterlite::fused_moe
