// Rows of an expert's MXFP4 weights times the tokens of a part of a sorted block, by a wave: what both stages share.
//
// Tiling. A wave has kRowTiles tiles of 16 rows, wherever each row lies, and kTokens tokens, of 16 bits or MXFP4 too.
// On AMD a step of 128 k is that of gemm_mxfp4/amd_step.h. On sm_90 a lane has word lane % 4 of each block of its two
// rows and its token: codes become 16-bit numbers by shifts (numeric/mxfp4_decode.h), mma.sync multiplies a block's
// codes by themselves, and the sums are multiplied by the rows' scales; those of tokens go into tokens, which bf16
// holds.
//
// Traffic. Weights and scales: straight to registers of the wave that multiplies them, 16 bytes a lane on gfx950, words
// else, of which neighbouring lanes make 16 bytes of a row. Tokens: the same, once a wave, from caches. A step is on
// its way while the one before is multiplied, where registers hold two; else other waves multiply meanwhile.
//
// Order: steps in order, blocks of a step in order (gfx950: as the matrix unit adds four), so that the sums of a token
// are the same whatever else is in its block.
#pragma once
#include <aiterlite/fused_moe/sorted_block.h>
#include <aiterlite/numeric/mxfp4_decode.h>
#include <aiterlite/numeric/mxfp4_layout.h>
#include <aiterlite/vector.h>
#if AITERLITE_AMD
#include <aiterlite/gemm_mxfp4/amd_step.h>
#else
#include <aiterlite/fragment/mma_sync.h>
#include <aiterlite/gemm_mxfp4/tokens.h>
#endif

// Registers for two waves of a SIMD, or workgroups of a multiprocessor: one loads while the other multiplies.
#if AITERLITE_AMD
#define AITERLITE_MX_KERNEL(threads) AITERLITE_KERNEL_WAVES(threads, 2)
#else
#define AITERLITE_MX_KERNEL(threads) AITERLITE_KERNEL_RESIDENT(threads, 2)
#endif

namespace aiterlite::fused_moe {

// An expert's matrix, of less than 4 GiB: where its codes begin, and its scales, which are one matrix of all experts'
// rows, or the tile that they begin in. Both are the same in all lanes; rows are 32-bit offsets.
template <bool kShuffled>
struct MxMatrix {
  const char* codes;
  const uint8_t* scales;
  uint32_t blocks;  // of a row
  uint32_t before;  // rows of other experts in the first tile of scales

  AITERLITE_DEVICE MxMatrix(const void* matrix, const float* bytes, uint32_t k, uint32_t rows, uint32_t expert)
      : blocks(k / kMxBlock) {
    const uint64_t first = uint64_t{expert} * rows;
    codes = static_cast<const char*>(matrix) + first * (k / 2);
    before = kShuffled ? static_cast<uint32_t>(first % 32) : 0;
    scales = reinterpret_cast<const uint8_t*>(bytes) + (kShuffled ? first / 32 * tile_row_bytes() : first * blocks);
  }
  AITERLITE_DEVICE uint32_t row(uint32_t of) const {
    return kShuffled ? of / 16 * 256 * blocks + of % 16 * 16 : of * 16 * blocks;
  }
  AITERLITE_DEVICE uint32_t scale_row(uint32_t of) const {
    const uint32_t place = before + of;
    return kShuffled ? place / 32 * tile_row_bytes() + shuffled_scale_at(place % 32, 0) : of * blocks;
  }

 private:
  AITERLITE_DEVICE uint32_t tile_row_bytes() const { return (blocks + 7) / 8 * 256; }
};

// The scales of a row of weights.
template <bool kShuffled>
struct MxRowScales {
  const uint8_t* base;
  uint32_t at;

  AITERLITE_DEVICE uint32_t byte(uint32_t block) const {
    return load_u8(base + (at + (kShuffled ? shuffled_scale_at(0, block) : block)));
  }
};

// Of a token.
struct MxTokenScales {
  const uint8_t* at;
  int64_t step;

  AITERLITE_DEVICE uint32_t byte(uint32_t block) const { return load_u8(at + block * step); }
};

#if AITERLITE_AMD
inline constexpr uint32_t kMxColumns = 16;
#else
inline constexpr uint32_t kMxColumns = 8;
#endif

// Where a lane's rows and tokens are.
template <uint32_t kRowTiles, uint32_t kTokenTiles, bool kShuffled, bool kPacked, uint32_t kLaneRows, uint32_t kCopies>
struct MxSource {
  static constexpr uint32_t kPieceStride = kShuffled ? 256 : 16;
  const char* codes;
  uint32_t row[kRowTiles * kCopies];
  MxRowScales<kShuffled> row_scale[kRowTiles][kLaneRows];
  const char* token[kTokenTiles];
  MxTokenScales token_scale[kPacked ? kTokenTiles : 1];
  uint32_t blocks;

  AITERLITE_DEVICE const char* piece(uint32_t t, uint32_t block) const {
    return codes + (row[t] + block * kPieceStride);
  }
};

#if !AITERLITE_AMD
template <class Number, bool kPacked, uint32_t kRowTiles, uint32_t kTokenTiles>
struct MxWarpStep {
  // Of bf16, codes are 2^-126 of what they are, tokens 2^64 and scales 2^31 as much; of fp16 codes and scales make up
  // for each other (gemm_mxfp4/sm90.hip).
  static constexpr bool kBf16 = kE2m1Exponent<Number> == 126;
  static constexpr int kTokenExponent = kBf16 ? 64 : 0, kScaleExponent = kBf16 ? 31 : 14;
  static constexpr float kSumFactor = kBf16 ? 0x1p31f : 1.0f;
  struct Words {
    uint32_t word[4];
  };
  Words w[2 * kRowTiles], w_scale[2 * kRowTiles];
  Vector16 x[kPacked ? 1 : kTokenTiles][4];
  Words codes[kPacked ? kTokenTiles : 1], x_scale[kPacked ? kTokenTiles : 1];
  uint32_t left;

  template <class From>
  AITERLITE_DEVICE void load(const From& from, uint32_t step) {
    left = from.blocks - step * 4;
    const uint32_t word = lane_id() % 4;
#pragma unroll
    for (uint32_t i = 0; i < 2 * kRowTiles; ++i) w_scale[i].word[0] = 0;
#pragma unroll
    for (uint32_t b = 0; b < 4; ++b) {
      const uint32_t own = step * 4 + b, block = own < from.blocks ? own : from.blocks - 1;
#pragma unroll
      for (uint32_t i = 0; i < 2 * kRowTiles; ++i) {
        w[i].word[b] = static_cast<uint32_t>(load_i32(from.piece(i, block) + word * 4));
        w_scale[i].word[0] |= from.row_scale[i / 2][i % 2].byte(block) << (8 * b);
      }
#pragma unroll
      for (uint32_t c = 0; c < kTokenTiles; ++c) {
        if constexpr (kPacked) {
          codes[c].word[b] = static_cast<uint32_t>(load_i32(from.token[c] + uint64_t{block} * 16 + word * 4));
          x_scale[c].word[b] = from.token_scale[c].byte(block);
        } else {
          x[c][b] = load_row_vector<Reuse::kLikely>(from.token[c] + uint64_t{block} * 64 + word * 16);
        }
      }
    }
  }
  AITERLITE_DEVICE void add(float (&sums)[kRowTiles][kTokenTiles][4]) const {
    float scale[2 * kRowTiles][4];
#pragma unroll
    for (uint32_t i = 0; i < 2 * kRowTiles; ++i) decode(w_scale[i].word[0], scale[i]);
#pragma unroll
    for (uint32_t b = 0; b < 4; ++b) {
      if (b >= left) break;
      Vector16 tokens[kTokenTiles];
#pragma unroll
      for (uint32_t c = 0; c < kTokenTiles; ++c) {
        if constexpr (kPacked) {
          const float by = to_float(e8m0{static_cast<uint8_t>(x_scale[c].word[b])});
          tokens[c] = gemm_mxfp4::paired<kTokenExponent>(codes[c].word[b], by);
        } else {
          tokens[c] = gemm_mxfp4::paired<kTokenExponent>(x[c][b]);
        }
      }
#pragma unroll
      for (uint32_t t = 0; t < kRowTiles; ++t) {
        uint32_t upper[4], lower[4];
        decode_e2m1(Number{}, w[2 * t].word[b], upper);
        decode_e2m1(Number{}, w[2 * t + 1].word[b], lower);
#pragma unroll
        for (uint32_t c = 0; c < kTokenTiles; ++c) {
          float product[4] = {};
#pragma unroll
          for (uint32_t p = 0; p < 4; p += 2) {
            const uint32_t a[4] = {upper[p], lower[p], upper[p + 1], lower[p + 1]};
            const uint32_t x_pair[2] = {tokens[c].word[p], tokens[c].word[p + 1]};
            multiply(Number{}, product, a, x_pair);
          }
#pragma unroll
          for (uint32_t i = 0; i < 4; ++i) {
            sums[t][c][i] = __builtin_fmaf(product[i], scale[2 * t + i / 2][b], sums[t][c][i]);
          }
        }
      }
    }
  }

 private:
  // Four scales, times 2^kScaleExponent; beyond the greatest power of a float that one.
  AITERLITE_DEVICE static void decode(uint32_t word, float (&scale)[4]) {
#pragma unroll
    for (uint32_t b = 0; b < 4; ++b) {
      const uint32_t byte = (word >> (8 * b)) & 0xffu, field = byte + static_cast<uint32_t>(kScaleExponent);
      scale[b] = __builtin_bit_cast(float, byte == 255 ? 0x7fc00000u : (field < 254 ? field : 254u) << 23);
    }
  }
};
#endif

template <class Number, bool kPacked, bool kShuffled, uint32_t kRowTiles, uint32_t kTokens>
struct MxProduct {
  static constexpr uint32_t kTokenTiles = kTokens / kMxColumns;
  static_assert(kTokens % kMxColumns == 0 && kTokens <= 32, "MxProduct: whole tiles of at most 32 tokens");
#if AITERLITE_AMD
#if defined(__gfx950__)
  static constexpr bool kByBlocks = kPacked || __is_same(Number, bf16);
#else
  static constexpr bool kByBlocks = false;
#endif
  template <bool, class Unused>
  struct StepOf {
    using Type = gemm_mxfp4::WordStep<Number, kPacked, gemm_mxfp4::kStrided, kRowTiles, kTokenTiles>;
  };
#if defined(__gfx950__)
  template <class Unused>
  struct StepOf<true, Unused> {
    using Type = gemm_mxfp4::BlockStep<Number, kPacked, kRowTiles, kTokenTiles>;
  };
#endif
  using Step = typename StepOf<kByBlocks, void>::Type;
  static constexpr uint32_t kLaneRows = kByBlocks ? 1 : 4, kCopies = 1;
#else
  using Step = MxWarpStep<Number, kPacked, kRowTiles, kTokenTiles>;
  static constexpr uint32_t kLaneRows = 2, kCopies = 2;
  static constexpr bool kByBlocks = false;
#endif
  static constexpr bool kAhead = kByBlocks || (kRowTiles <= 2 && (kMxColumns == 16 || kTokens <= 16));
  MxSource<kRowTiles, kTokenTiles, kShuffled, kPacked, kLaneRows, kCopies> from;

  // row_of(t, r): the expert's row that is row r of tile t.
  template <class RowOf>
  AITERLITE_DEVICE void set_rows(const MxMatrix<kShuffled>& matrix, const RowOf& row_of) {
    from.codes = matrix.codes;
    from.blocks = matrix.blocks;
    const uint32_t lane = lane_id();
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
#if AITERLITE_AMD
      from.row[t] = matrix.row(row_of(t, lane % 16));
#pragma unroll
      for (uint32_t i = 0; i < kLaneRows; ++i) {
        const uint32_t own = row_of(t, kLaneRows == 1 ? lane % 16 : Mfma<16>::sum_row(lane, i));
        from.row_scale[t][i] = {matrix.scales, matrix.scale_row(own)};
      }
#else
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        const uint32_t own = row_of(t, lane / 4 + 8 * i);
        from.row[2 * t + i] = matrix.row(own);
        from.row_scale[t][i] = {matrix.scales, matrix.scale_row(own)};
      }
#endif
    }
  }
  // token_of(i): the row of tokens that entry i of the part is; rows, and their scales, so many bytes apart.
  template <class TokenOf>
  AITERLITE_DEVICE void set_tokens(const void* x, int64_t stride, const void* scales, int64_t scale_stride,
                                   int64_t scale_step, const TokenOf& token_of) {
#pragma unroll
    for (uint32_t c = 0; c < kTokenTiles; ++c) {
      const uint32_t own = kMxColumns == 16 ? lane_id() % 16 : lane_id() / 4;
      const int64_t token = token_of(kMxColumns * c + own);
      from.token[c] = static_cast<const char*>(x) + token * stride;
      if constexpr (kPacked) {
        from.token_scale[c] = {static_cast<const uint8_t*>(scales) + token * scale_stride, scale_step};
      }
    }
  }

  // Calls store(t, row of the tile, entry, sum) for the sums of this lane.
  template <class Store>
  AITERLITE_DEVICE void run(const Store& store) const {
    float sums[kRowTiles][kTokenTiles][4] = {};
    const uint32_t steps = (from.blocks + 3) / 4;
    if constexpr (kAhead) {
      multiply_ahead(sums, steps);
    } else {
#pragma unroll 1
      for (uint32_t step = 0; step < steps; ++step) {
        Step one;
        one.load(from, step);
        schedule_barrier();
        one.add(sums);
      }
    }
    leave(sums, store);
  }

 private:
  using Sums = float[kRowTiles][kTokenTiles][4];

  AITERLITE_DEVICE void multiply_ahead(Sums& sums, uint32_t steps) const {
    Step even, odd;
    even.load(from, 0);
    uint32_t step = 0;
    // Two steps a turn, since a step that moved to other registers would have to arrive for that.
#pragma unroll 1
    for (; step + 2 < steps; step += 2) {
      odd.load(from, step + 1);
      schedule_barrier();
      even.add(sums);
      even.load(from, step + 2);
      schedule_barrier();
      odd.add(sums);
    }
    if (step + 1 < steps) {
      odd.load(from, step + 1);
      schedule_barrier();
      even.add(sums);
      odd.add(sums);
    } else {
      even.add(sums);
    }
  }
  template <class Store>
  AITERLITE_DEVICE static void leave(const Sums& sums, const Store& store) {
    const uint32_t lane = lane_id();
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (uint32_t c = 0; c < kTokenTiles; ++c) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
#if AITERLITE_AMD
          store(t, Mfma<16>::sum_row(lane, i), kMxColumns * c + Mfma<16>::sum_column(lane), sums[t][c][i]);
#else
          store(t, MmaSync::sum_row(lane, i), kMxColumns * c + MmaSync::sum_column(lane, i),
                sums[t][c][i] * Step::kSumFactor);
#endif
        }
      }
    }
  }
};

}  // namespace aiterlite::fused_moe
