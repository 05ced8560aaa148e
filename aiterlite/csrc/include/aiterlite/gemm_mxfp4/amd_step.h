// A step of 128 k of MXFP4 weights times tokens, by a wave on AMD: what a lane loads of it, and how it is multiplied.
// By what the operands are and what the target has:
//
//   gfx950, packed tokens   the matrix unit multiplies codes and scales: a lane has a block, 16 bytes, of a row
//   gfx950, bf16 tokens     a block becomes bf16, its scale included, by conversions; then as above
//   gfx942; fp16 tokens     a lane has word lane / 16 of each block of its row, so that a product of 32 k is one block;
//                           codes are looked up, and a product's sums are multiplied by the scales of rows and tokens
//
// All is loaded straight to the registers of the wave that multiplies it, weights and tokens: these come from caches.
// Blocks past K are read elsewhere, and are zeros.
#pragma once
#include <aiterlite/fragment/mfma.h>
#include <aiterlite/gemm_mxfp4/args.h>
#include <aiterlite/numeric/mxfp4_decode.h>
#include <aiterlite/numeric/mxfp4_layout.h>
#include <aiterlite/vector.h>

namespace aiterlite::gemm_mxfp4 {

inline constexpr int kInRows = 0, kStrided = 1, kShuffledScales = 2;

// A row's scales, of weights or of tokens.
template <bool kTiles>
struct ScaleRow {
  const uint8_t* at;
  int64_t step;  // from block to block, where they are not shuffled
  uint32_t row;  // of its tile, where they are

  AITERLITE_DEVICE void set(const void* scales, uint32_t of, int64_t stride, int64_t block) {
    row = of % 32;
    step = block;
    at = static_cast<const uint8_t*>(scales) + (kTiles ? of / 32 * stride : of * stride);
  }
  AITERLITE_DEVICE uint32_t byte(uint32_t block) const {
    return load_u8(at + (kTiles ? shuffled_scale_at(row, block) : block * step));
  }
};

AITERLITE_DEVICE uint32_t lower(uint32_t a, uint32_t b) { return a < b ? a : b; }

// Where a lane's rows and tokens are.
template <uint32_t kRowTiles, uint32_t kTokenTiles, bool kShuffled, bool kScaleTiles, bool kTokenScaleTiles,
          bool kPacked, uint32_t kLaneRows>
struct Source {
  const char* row[kRowTiles];
  ScaleRow<kScaleTiles> row_scale[kRowTiles][kLaneRows];
  const char* token[kTokenTiles];
  ScaleRow<kTokenScaleTiles> token_scale[kPacked ? kTokenTiles : 1];
  uint32_t blocks;  // of K

  AITERLITE_DEVICE Source(const aiterlite_gemm_mxfp4_args& args, uint32_t first_row, uint32_t first_token,
                          uint32_t batch) {
    const uint32_t lane = lane_id(), last = static_cast<uint32_t>(args.m) - 1;
    blocks = static_cast<uint32_t>(args.k) / kMxBlock;
    const auto* w = static_cast<const char*>(args.w) + batch * args.stride_w_batch;
    const auto* w_scale = static_cast<const char*>(args.w_scale) + batch * args.stride_w_scale_batch;
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
      const uint32_t there = lower(first_row + 16 * t + lane % 16, last);
      row[t] = w + (kShuffled ? uint64_t{there / 16} * 256 * blocks + there % 16 * 16 : there * args.stride_w);
#pragma unroll
      for (uint32_t i = 0; i < kLaneRows; ++i) {
        const uint32_t own = kLaneRows == 1 ? lane % 16 : Mfma<16>::sum_row(lane, i);
        row_scale[t][i].set(w_scale, lower(first_row + 16 * t + own, last), args.stride_w_scale,
                            args.stride_w_scale_block);
      }
    }
    const auto* x = static_cast<const char*>(args.x) + batch * args.stride_x_batch * (kPacked ? 1 : 2);
    const auto* x_scale = static_cast<const char*>(args.x_scale) + batch * args.stride_x_scale_batch;
#pragma unroll
    for (uint32_t c = 0; c < kTokenTiles; ++c) {
      const uint32_t there = lower(first_token + 16 * c + lane % 16, static_cast<uint32_t>(args.n) - 1);
      token[c] = x + there * args.stride_x * (kPacked ? 1 : 2);
      if constexpr (kPacked) token_scale[c].set(x_scale, there, args.stride_x_scale, args.stride_x_scale_block);
    }
  }
  AITERLITE_DEVICE const char* piece(uint32_t t, uint32_t block) const {
    return row[t] + uint64_t{block} * (kShuffled ? 256 : 16);
  }
};

AITERLITE_DEVICE Vector16 zeros_unless(bool wanted, Vector16 value) {
#pragma unroll
  for (uint32_t& word : value.word) word = wanted ? word : 0;
  return value;
}

#if defined(__gfx950__)
// A lane has a block of its row and its token: by the matrix unit's own codes, or by conversion to bf16.
template <class Number, bool kPacked, uint32_t kRowTiles, uint32_t kTokenTiles>
struct BlockStep {
  static constexpr uint32_t kVectors = kPacked ? 1 : 4;
  Vector16 w[kRowTiles];
  uint32_t w_scale[kRowTiles];
  Vector16 x[kTokenTiles][kVectors];
  uint32_t x_scale[kTokenTiles];
  bool wanted;

  template <class From>
  AITERLITE_DEVICE void load(const From& from, uint32_t step) {
    const uint32_t own = step * 4 + lane_id() / 16, block = lower(own, from.blocks - 1);
    wanted = own < from.blocks;
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
      w[t] = load_row_vector<kTokenTiles == 1 ? Reuse::kNone : Reuse::kLikely>(from.piece(t, block));
      w_scale[t] = from.row_scale[t][0].byte(block);
    }
#pragma unroll
    for (uint32_t c = 0; c < kTokenTiles; ++c) {
#pragma unroll
      for (uint32_t v = 0; v < kVectors; ++v) {
        x[c][v] = load_row_vector<Reuse::kLikely>(from.token[c] + block * (kPacked ? 16 : 64) + v * 16);
      }
      if constexpr (kPacked) x_scale[c] = from.token_scale[c].byte(block);
    }
  }
  AITERLITE_DEVICE void add(float (&sums)[kRowTiles][kTokenTiles][4]) const {
    Vector16 tokens[kTokenTiles][kVectors];
#pragma unroll
    for (uint32_t c = 0; c < kTokenTiles; ++c) {
#pragma unroll
      for (uint32_t v = 0; v < kVectors; ++v) tokens[c][v] = zeros_unless(wanted, x[c][v]);
    }
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
      const Vector16 codes = zeros_unless(wanted, w[t]);
      const uint32_t byte = wanted ? w_scale[t] : 127;
      if constexpr (kPacked) {
#pragma unroll
        for (uint32_t c = 0; c < kTokenTiles; ++c) {
          mfma_16x16x128_fp4_scaled(sums[t][c], codes, tokens[c][0], byte, wanted ? x_scale[c] : 127);
        }
      } else {
        const float scale = to_float(e8m0{static_cast<uint8_t>(byte)});
#pragma unroll
        for (uint32_t v = 0; v < 4; ++v) {
          Vector16 numbers;
          native_unpack_fp4_to_bf16(codes.word[v], scale, numbers.word);
#pragma unroll
          for (uint32_t c = 0; c < kTokenTiles; ++c) multiply(bf16{}, sums[t][c], numbers, tokens[c][v]);
        }
      }
    }
  }
};
#endif

// A lane has a word of every block of its row and its token.
template <class Number, bool kPacked, int kScales, uint32_t kRowTiles, uint32_t kTokenTiles>
struct WordStep {
  struct Words {
    uint32_t word[4];
  };
  Words w[kRowTiles];
  Words w_scale[kRowTiles];  // of each of the lane's four rows, a byte a block
  Vector16 x[kPacked ? 1 : kTokenTiles][4];
  Words codes[kPacked ? kTokenTiles : 1];
  uint32_t x_scale[kTokenTiles];
  uint32_t left;  // blocks that there are, from this step on

  template <class From>
  AITERLITE_DEVICE void load(const From& from, uint32_t step) {
    left = from.blocks - step * 4;
    const uint32_t word = lane_id() / 16 * 4;
#pragma unroll
    for (uint32_t b = 0; b < 4; ++b) {
      const uint32_t block = lower(step * 4 + b, from.blocks - 1);
#pragma unroll
      for (uint32_t t = 0; t < kRowTiles; ++t) {
        w[t].word[b] = static_cast<uint32_t>(load_i32(from.piece(t, block) + word));
      }
#pragma unroll
      for (uint32_t c = 0; c < kTokenTiles; ++c) {
        if constexpr (kPacked) {
          codes[c].word[b] = static_cast<uint32_t>(load_i32(from.token[c] + block * 16 + word));
        } else {
          x[c][b] = load_row_vector<Reuse::kLikely>(from.token[c] + block * 64 + word * 4);
        }
      }
    }
#pragma unroll
    for (uint32_t c = 0; kPacked && c < kTokenTiles; ++c)
      x_scale[c] = bytes(from.token_scale[kPacked ? c : 0], from, step);
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const auto& scale = from.row_scale[t][i];
        if constexpr (kScales == kInRows) {
          w_scale[t].word[i] = static_cast<uint32_t>(load_i32(scale.at + step * 4));
        } else {
          w_scale[t].word[i] = bytes(scale, from, step);
        }
      }
    }
  }
  AITERLITE_DEVICE void add(float (&sums)[kRowTiles][kTokenTiles][4]) const {
    float of_row[kRowTiles][4][4], of_token[kTokenTiles][4];
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) decode(w_scale[t].word[i], of_row[t][i]);
    }
#pragma unroll
    for (uint32_t c = 0; kPacked && c < kTokenTiles; ++c) decode(x_scale[c], of_token[c]);
#pragma unroll
    for (uint32_t b = 0; b < 4; ++b) {
      if (b >= left) break;
      Vector16 tokens[kTokenTiles];
#pragma unroll
      for (uint32_t c = 0; c < kTokenTiles; ++c) {
        if constexpr (kPacked) {
          look_up_e2m1(Number{}, codes[c].word[b], tokens[c].word);
        } else {
          tokens[c] = in_looked_up_order(x[c][b]);
        }
      }
#pragma unroll
      for (uint32_t t = 0; t < kRowTiles; ++t) {
        Vector16 numbers;
        look_up_e2m1(Number{}, w[t].word[b], numbers.word);
#pragma unroll
        for (uint32_t c = 0; c < kTokenTiles; ++c) {
          float product[4] = {};
          multiply(Number{}, product, numbers, tokens[c]);
#pragma unroll
          for (uint32_t i = 0; i < 4; ++i) {
            if constexpr (kPacked) product[i] *= of_token[c][b];
            sums[t][c][i] = __builtin_fmaf(product[i], of_row[t][i][b], sums[t][c][i]);
          }
        }
      }
    }
  }

 private:
  template <class Scale, class From>
  AITERLITE_DEVICE static uint32_t bytes(const Scale& scale, const From& from, uint32_t step) {
    uint32_t word = 0;
#pragma unroll
    for (uint32_t b = 0; b < 4; ++b) word |= scale.byte(lower(step * 4 + b, from.blocks - 1)) << (8 * b);
    return word;
  }
  AITERLITE_DEVICE static void decode(uint32_t word, float (&scale)[4]) {
    scale[0] = unpack_e8m0<0>(word), scale[1] = unpack_e8m0<1>(word);
    scale[2] = unpack_e8m0<2>(word), scale[3] = unpack_e8m0<3>(word);
  }
};

}  // namespace aiterlite::gemm_mxfp4
