// A step of 256 k of MXFP4 weights times MXFP4 tokens, by a wave of gfx950: what a lane loads of it, and its products.
//
// Group g = lane / 16 has blocks g and g + 4 of the step, of row and token lane % 16 of each tile: what a word of
// shuffled scales holds, of rows r and r + 16, and the matrix instruction names one of its four bytes. All loads go
// through resources that end with the operand, by an offset a lane that stays, and one a step that is scalar: rows and
// tokens that do not exist arrive as zeros, and nothing is read for them.
#pragma once
#include <aiterlite/gemm_mxfp4/amd_step.h>
#include <aiterlite/isa/amdgcn_buffer.h>
#include <aiterlite/numeric/mxfp4_layout.h>
#include <aiterlite/vector.h>

namespace aiterlite::gemm_mxfp4 {

inline constexpr uint32_t kStepBlocks = 8, kStepBytes = kStepBlocks * 16;
// Beyond what any resource has (tables/gemm_mxfp4_codes.py).
inline constexpr uint32_t kOutside = 0x80000000u;

// Scales of kTiles tiles of 16 rows, from row `first` on. kMidway: an odd number of tiles may begin in the middle of 32
// rows.
template <uint32_t kTiles, bool kTileOrder, bool kMidway>
struct ScaleSource {
  static constexpr bool kOdd = kTileOrder && kMidway && kTiles % 2 != 0;
  static constexpr uint32_t kWords = kTileOrder ? (kTiles + 1) / 2 : 2 * kTiles;
  Buffer scales;
  uint32_t at[kTileOrder ? kWords : kTiles];
  uint32_t unit, half;  // from step to step, and from block to the fourth behind it
  uint32_t later;       // 8 where the first tile is the second one of its 32 rows

  // In `bytes` from `first` on; the caller says where each lane's are.
  AITERLITE_DEVICE ScaleSource(const void* first, uint64_t bytes, uint32_t step)
      : scales(first, static_cast<uint32_t>(bytes)),
        unit(kTileOrder ? 256 : kStepBlocks * step),
        half(kTileOrder ? 0 : 4 * step),
        later(0) {}
  // `rows` exist of them; strides in bytes.
  AITERLITE_DEVICE ScaleSource(const void* all, uint32_t first, uint32_t rows, int64_t stride, int64_t step,
                               uint32_t blocks)
      : scales(static_cast<const uint8_t*>(all) + (kTileOrder ? first / 32 : first) * stride,
               kTileOrder
                   ? (first % 32 + rows + 31) / 32 * static_cast<uint32_t>(stride)
                   : (rows - 1) * static_cast<uint32_t>(stride) + (blocks - 1) * static_cast<uint32_t>(step) + 1) {
    const uint32_t lane = lane_id(), line = static_cast<uint32_t>(stride);
    if constexpr (kTileOrder) {
#pragma unroll
      for (uint32_t i = 0; i < kWords; ++i) {
        // Nothing is read where neither of a word's rows exists.
        const bool exists = kOdd || i * 32 + lane % 16 < rows;
        at[i] = exists ? i * line + lane * 4 : kOutside;
      }
      unit = 256, half = 0, later = kOdd ? first / 16 % 2 * 8 : 0;
    } else {
      const auto block = static_cast<uint32_t>(step);
#pragma unroll
      for (uint32_t t = 0; t < kTiles; ++t) at[t] = (16 * t + lane % 16) * line + lane / 16 * block;
      unit = kStepBlocks * block, half = 4 * block, later = 0;
    }
  }
};

// Those of a step. kLast: blocks from `left` on do not exist.
template <uint32_t kTiles, bool kTileOrder, bool kMidway>
struct StepScales {
  using Source = ScaleSource<kTiles, kTileOrder, kMidway>;
  uint32_t word[Source::kWords];

  template <bool kLast>
  AITERLITE_DEVICE void load(const Source& from, uint32_t step, uint32_t left) {
    const uint32_t group = lane_id() / 16;
    if constexpr (kTileOrder) {
#pragma unroll
      for (uint32_t i = 0; i < Source::kWords; ++i) {
        word[i] = from.scales.load_word(from.at[i], step * from.unit);
        if constexpr (kLast) {
          const uint32_t kept = (group < left ? 0x0000ffffu : 0) | (group + 4 < left ? 0xffff0000u : 0);
          word[i] &= kept;
        }
      }
    } else {
#pragma unroll
      for (uint32_t t = 0; t < kTiles; ++t) {
#pragma unroll
        for (uint32_t h = 0; h < 2; ++h) {
          const bool outside = kLast && group + 4 * h >= left;
          word[2 * t + h] =
              from.scales.load_byte(outside ? kOutside : from.at[t], step * from.unit + (h == 0 ? 0 : from.half));
        }
      }
    }
  }
  AITERLITE_DEVICE void arrived() {
#pragma unroll
    for (uint32_t& one : word) arrive(one);
  }
  // What the matrix instruction takes of a tile, in the byte that `byte_of` says.
  AITERLITE_DEVICE uint32_t of(const Source& from, uint32_t t, uint32_t h) const {
    if constexpr (!kTileOrder) {
      return word[2 * t + h];
    } else if constexpr (!Source::kOdd) {
      return word[t / 2];
    } else {
      if (t % 2 == 0) return word[t / 2] >> from.later;
      return permute_bytes(word[t / 2 + 1], word[t / 2], from.later == 0 ? 0x0c030c01u : 0x0c060c04u);
    }
  }
  static constexpr int byte_of(uint32_t t, uint32_t h) {
    return kTileOrder ? static_cast<int>(2 * h + (Source::kOdd ? 0 : t % 2)) : 0;
  }
};

template <uint32_t kRowTiles, uint32_t kTokenTiles, bool kShuffled, bool kScaleTiles, bool kXScaleTiles>
struct CodeSource {
  Buffer w, x;
  ScaleSource<kRowTiles, kScaleTiles, true> w_scale;
  ScaleSource<kTokenTiles, kXScaleTiles, false> x_scale;
  uint32_t row[kRowTiles], token[kTokenTiles];
  uint32_t blocks;  // of K

  // The caller says where each lane's rows and tokens are.
  AITERLITE_DEVICE CodeSource(const Buffer& rows, const Buffer& tokens,
                              const ScaleSource<kRowTiles, kScaleTiles, true>& of_rows,
                              const ScaleSource<kTokenTiles, kXScaleTiles, false>& of_tokens, uint32_t k_blocks)
      : w(rows), x(tokens), w_scale(of_rows), x_scale(of_tokens), blocks(k_blocks) {}
  // `rows` and `tokens` exist of the workgroup's.
  AITERLITE_DEVICE CodeSource(const aiterlite_gemm_mxfp4_args& args, uint32_t first_row, uint32_t rows,
                              uint32_t first_token, uint32_t tokens, uint32_t batch)
      : w(static_cast<const char*>(args.w) + batch * args.stride_w_batch +
              (kShuffled ? static_cast<int64_t>(static_cast<uint32_t>(args.k) / 2) : args.stride_w) * first_row,
          kShuffled ? rows * (static_cast<uint32_t>(args.k) / 2)
                    : (rows - 1) * static_cast<uint32_t>(args.stride_w) + static_cast<uint32_t>(args.k) / 2),
        x(static_cast<const char*>(args.x) + batch * args.stride_x_batch + first_token * args.stride_x,
          (tokens - 1) * static_cast<uint32_t>(args.stride_x) + static_cast<uint32_t>(args.k) / 2),
        w_scale(static_cast<const char*>(args.w_scale) + batch * args.stride_w_scale_batch, first_row, rows,
                args.stride_w_scale, args.stride_w_scale_block, static_cast<uint32_t>(args.k) / kMxBlock),
        x_scale(static_cast<const char*>(args.x_scale) + batch * args.stride_x_scale_batch, first_token, tokens,
                args.stride_x_scale, args.stride_x_scale_block, static_cast<uint32_t>(args.k) / kMxBlock),
        blocks(static_cast<uint32_t>(args.k) / kMxBlock) {
    const uint32_t lane = lane_id();
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
      row[t] = kShuffled ? t * (256 * blocks) + lane * 16
                         : (16 * t + lane % 16) * static_cast<uint32_t>(args.stride_w) + lane / 16 * 16;
    }
#pragma unroll
    for (uint32_t c = 0; c < kTokenTiles; ++c) {
      token[c] = (16 * c + lane % 16) * static_cast<uint32_t>(args.stride_x) + lane / 16 * 16;
    }
  }
};

template <uint32_t kRowTiles, uint32_t kTokenTiles, bool kShuffled, bool kScaleTiles, bool kXScaleTiles>
struct CodeStep {
  using Source = CodeSource<kRowTiles, kTokenTiles, kShuffled, kScaleTiles, kXScaleTiles>;
  static constexpr uint32_t kHalf = kShuffled ? 1024 : 64, kUnit = 2 * kHalf;
  Vector16 w[kRowTiles][2], x[kTokenTiles][2];
  StepScales<kRowTiles, kScaleTiles, true> w_scale;
  StepScales<kTokenTiles, kXScaleTiles, false> x_scale;

  template <bool kStreams, bool kLast = false>
  AITERLITE_DEVICE void load(const Source& from, uint32_t step) {
    const uint32_t left = kLast ? from.blocks - step * kStepBlocks : kStepBlocks, group = lane_id() / 16;
#pragma unroll
    for (uint32_t c = 0; c < kTokenTiles; ++c) {
#pragma unroll
      for (uint32_t h = 0; h < 2; ++h) {
        const bool outside = kLast && group + 4 * h >= left;
        x[c][h] = from.x.template load<false>(outside ? kOutside : from.token[c], step * kStepBytes + 64 * h);
      }
    }
    x_scale.template load<kLast>(from.x_scale, step, left);
    w_scale.template load<kLast>(from.w_scale, step, left);
    schedule_barrier();
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
#pragma unroll
      for (uint32_t t = 0; t < kRowTiles; ++t) {
        const bool outside = kLast && group + 4 * h >= left;
        w[t][h] = from.w.template load<kStreams>(outside ? kOutside : from.row[t], step * kUnit + kHalf * h);
      }
    }
  }

  AITERLITE_DEVICE void add(const Source& from, float (&sums)[kRowTiles][kTokenTiles][4]) {
    // From the last load on.
#pragma unroll
    for (uint32_t i = 2 * kRowTiles; i > 0; --i) arrive(w[(i - 1) % kRowTiles][(i - 1) / kRowTiles]);
#pragma unroll
    for (uint32_t c = 0; c < kTokenTiles; ++c) arrive(x[c][0]), arrive(x[c][1]);
    w_scale.arrived(), x_scale.arrived();
    add_half<0>(from, sums);
    add_half<1>(from, sums);
    schedule_barrier();
  }

 private:
  template <uint32_t h, uint32_t t = 0, uint32_t c = 0>
  AITERLITE_DEVICE void add_half(const Source& from, float (&sums)[kRowTiles][kTokenTiles][4]) const {
    if constexpr (t < kRowTiles) {
      constexpr int kRowByte = decltype(w_scale)::byte_of(t, h), kTokenByte = decltype(x_scale)::byte_of(c, h);
      mfma_16x16x128_fp4_scaled<kRowByte, kTokenByte>(sums[t][c], w[t][h], x[c][h], w_scale.of(from.w_scale, t, h),
                                                      x_scale.of(from.x_scale, c, h));
      constexpr bool kLastToken = c + 1 == kTokenTiles;
      add_half<h, kLastToken ? t + 1 : t, kLastToken ? 0 : c + 1>(from, sums);
    }
  }
};

// Adds steps `step`, kApart further on, and so forth up to `end`: at the most kRounds where that is less than 4, and at
// least kLeast, up to 2. Two are under way, in registers of their own, since a
// step that moved to others would have to arrive for that.
template <class Step, uint32_t kApart, uint32_t kRounds, uint32_t kLeast, bool kStreamed, class Sums>
AITERLITE_DEVICE void add_steps(const typename Step::Source& from, Sums& sums, uint32_t step, uint32_t end) {
  if (kLeast < 1 && step >= end) return;
  Step even, odd;
  even.template load<kStreamed>(from, step);
  schedule_barrier();
  if (kRounds == 1 || (kLeast < 2 && step + kApart >= end)) {
    even.add(from, sums);
    return;
  }
  odd.template load<kStreamed>(from, step + kApart);
  schedule_barrier();
  if constexpr (kRounds > 3) {
#pragma unroll 1
    for (; step + 3 * kApart < end; step += 2 * kApart) {
      even.add(from, sums);
      even.template load<kStreamed>(from, step + 2 * kApart);
      schedule_barrier();
      odd.add(from, sums);
      odd.template load<kStreamed>(from, step + 3 * kApart);
      schedule_barrier();
    }
  }
  even.add(from, sums);
  if (kRounds > 2 && step + 2 * kApart < end) {
    even.template load<kStreamed>(from, step + 2 * kApart);
    schedule_barrier();
    odd.add(from, sums);
    even.add(from, sums);
  } else {
    odd.add(from, sums);
  }
}

}  // namespace aiterlite::gemm_mxfp4
