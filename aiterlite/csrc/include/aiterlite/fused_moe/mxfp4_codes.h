// Rows of an expert's MXFP4 weights times MXFP4 tokens of a part of a sorted block, by a wave of gfx950, whose matrix
// unit multiplies codes and scales: in a step of 256 k, gemm_mxfp4/code_step.h. As mxfp4_product.h, with the same sums.
//
// All loads are at 32-bit offsets: matrices, hidden states and their like have less than 2 GiB. Entries that do not
// exist, and rows behind the matrix, are zeros, and nothing is read for them.
#pragma once
#include <aiterlite/fused_moe/mxfp4_product.h>
#include <aiterlite/gemm_mxfp4/code_step.h>

namespace aiterlite::fused_moe {

// kSteps: whole steps of K, up to 4; kTail: blocks follow.
template <bool kShuffled, uint32_t kRowTiles, uint32_t kTokens, uint32_t kSteps, bool kTail>
struct CodeProduct {
  static constexpr uint32_t kTokenTiles = kTokens / 16;
  using Step = gemm_mxfp4::CodeStep<kRowTiles, kTokenTiles, kShuffled, kShuffled, false>;
  using Source = typename Step::Source;
  using RowScales = gemm_mxfp4::ScaleSource<kRowTiles, kShuffled, true>;
  using TokenScales = gemm_mxfp4::ScaleSource<kTokenTiles, false, false>;
  static_assert(kRowTiles % 2 == 0 && kTokens % 16 == 0, "CodeProduct: pairs of tiles of rows, whole tiles of tokens");
  using Sums = float[kRowTiles][kTokenTiles][4];

  // first_of(p): row of the expert, a multiple of 32, that the p-th 32 begin at, of `rows` that there are. x holds
  // `held` tokens, so many bytes apart, as scales are; row_of(i): which of them entry i is, below 0 for none.
  template <class FirstOf, class RowOf>
  AITERLITE_DEVICE static void run(Sums& sums, const MxMatrix<kShuffled>& matrix, uint32_t rows,
                                   const FirstOf& first_of, const void* x, const void* x_scale, uint32_t held,
                                   uint32_t stride, uint32_t scale_stride, uint32_t scale_step, const RowOf& row_of) {
    const uint32_t blocks = matrix.blocks, lane = lane_id(), group = lane / 16;
    const uint32_t tile_bytes = kShuffled ? (blocks + 7) / 8 * 256 : 32 * blocks;
    const Buffer w(matrix.codes, rows * blocks * 16), tokens(x, held * stride);
    const uint32_t token_scale_bytes = (held - 1) * scale_stride + (blocks - 1) * scale_step + 1;
    RowScales of_rows(matrix.scales, rows / 32 * tile_bytes, 1);
    TokenScales of_tokens(x_scale, token_scale_bytes, scale_step);
    uint32_t token_at[kTokenTiles];
#pragma unroll
    for (uint32_t c = 0; c < kTokenTiles; ++c) {
      const int32_t row = row_of(16 * c + lane % 16);
      const auto at = static_cast<uint32_t>(row);
      token_at[c] = row < 0 ? gemm_mxfp4::kOutside : at * stride + group * 16;
      of_tokens.at[c] = row < 0 ? gemm_mxfp4::kOutside : at * scale_stride + group * scale_step;
    }
    uint32_t row_at[kRowTiles];
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
      const uint32_t first = first_of(t / 2) + t % 2 * 16;
      row_at[t] = kShuffled ? first / 16 * 256 * blocks + lane * 16 : ((first + lane % 16) * blocks + group) * 16;
      if constexpr (!kShuffled) {
        of_rows.at[t] = (first + lane % 16) * blocks + group;
      } else if (t % 2 == 0) {
        of_rows.at[t / 2] = first / 32 * tile_bytes + lane * 4;
      }
    }
    Source from(w, tokens, of_rows, of_tokens, blocks);
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) from.row[t] = row_at[t];
#pragma unroll
    for (uint32_t c = 0; c < kTokenTiles; ++c) from.token[c] = token_at[c];
    constexpr uint32_t kRounds = kSteps == 0 ? 1 : kSteps, kLeast = kSteps < 2 ? kSteps : 2;
    const uint32_t whole = blocks / gemm_mxfp4::kStepBlocks;
    gemm_mxfp4::add_steps<Step, 1, kRounds, kLeast, true>(from, sums, 0, whole);
    if constexpr (kTail) {
      Step last;
      last.template load<true, true>(from, whole);
      last.add(from, sums);
    }
  }
};

}  // namespace aiterlite::fused_moe
