// A stream of MXFP4 weights through a warp's registers, and its products with a few tokens, on sm_90.
//
// A unit is 16 rows by 128 k: lane l has blocks l % 4 of rows l / 4 and 8 further on, 16 bytes each, and their scales.
// Codes become bf16 numbers (decode_e2m1_of_bf16, times their scales) in the order in which mma.sync takes them, with
// tokens as its 8 columns: of each 8 elements the pairs (0, 4), (1, 5), (2, 6) and (3, 7). Tokens lie in pieces of 128
// k, where word w of block q is 16 bytes at 64 w + 16 q, so that four lanes read 64 neighbouring bytes.
//
// Decoding is what bounds such a kernel beside memory: 24 integer instructions for 16 codes a lane. Tokens are free up
// to 8. Columns without a token read that of another, and nobody uses them.
#pragma once
#include <aiterlite/block/quad.h>
#include <aiterlite/fragment/mma_sync.h>
#include <aiterlite/fused_moe/sorted_block.h>
#include <aiterlite/gemm_mxfp4/tokens.h>
#include <aiterlite/numeric/mxfp8_round.h>
#include <aiterlite/vector.h>

namespace aiterlite::fused_moe {

inline constexpr uint32_t kUnitK = 128, kUnitBlocks = 4, kPieceBytes = 2 * kUnitK;
// What becomes of hidden states.
inline constexpr int kKept = 0, kToMxfp4 = 1, kToMxfp8 = 2;

// Where a lane's rows are: their codes and scales of its block of the first unit.
template <bool kShuffled>
struct MxUnitRows {
  const char* codes[2];
  const uint8_t* scales[2];
};

// An expert's matrix, its first row, and that of its scales.
template <bool kShuffled>
class MxExpert {
 public:
  AITERLITE_DEVICE MxExpert(const void* matrix, const float* scales, uint32_t k, uint32_t rows, uint32_t expert)
      : blocks_(k / kMxBlock) {
    const uint64_t first = uint64_t{expert} * rows;
    codes_ = static_cast<const char*>(matrix) + first * (k / 2);
    before_ = kShuffled ? static_cast<uint32_t>(first % 32) : 0;
    scales_ = reinterpret_cast<const uint8_t*>(scales) + (kShuffled ? first / 32 * tile_row() : first * blocks_);
  }
  // A lane's rows, which it names, from a unit on.
  AITERLITE_DEVICE MxUnitRows<kShuffled> rows(uint32_t upper, uint32_t lower) const {
    return {{codes_ + code_at(upper), codes_ + code_at(lower)}, {scales_ + scale_at(upper), scales_ + scale_at(lower)}};
  }

 private:
  AITERLITE_DEVICE uint32_t tile_row() const { return (blocks_ + 7) / 8 * 256; }
  AITERLITE_DEVICE uint32_t code_at(uint32_t row) const {
    const uint32_t block = lane_id() % 4;
    return kShuffled ? row / 16 * 256 * blocks_ + row % 16 * 16 + block * 256 : row * 16 * blocks_ + block * 16;
  }
  AITERLITE_DEVICE uint32_t scale_at(uint32_t row) const {
    const uint32_t place = before_ + row, block = lane_id() % 4;
    return kShuffled ? place / 32 * tile_row() + shuffled_scale_at(place % 32, block) : row * blocks_ + block;
  }

  const char* codes_;
  const uint8_t* scales_;
  uint32_t blocks_;
  uint32_t before_;
};

// kLatest: weights are read before the kernel ahead has ended, as the L2 has them.
template <bool kShuffled, bool kLatest>
struct MxUnit {
  Vector16 codes[2];
  uint32_t byte[2];

  AITERLITE_DEVICE void load(const MxUnitRows<kShuffled>& rows, uint32_t unit) {
    const uint32_t code = unit * kUnitBlocks * (kShuffled ? 256 : 16);
    const uint32_t scale = kShuffled ? unit / 2 * 256 + unit % 2 * 2 : unit * kUnitBlocks;
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      if constexpr (kLatest) {
        codes[i] = load_latest_vector(rows.codes[i] + code);
        byte[i] = load_latest_byte(rows.scales[i] + scale);
      } else {
        codes[i] = load_row_vector<Reuse::kNone>(rows.codes[i] + code);
        byte[i] = load_u8(rows.scales[i] + scale);
      }
    }
  }

  // Adds the unit's products with tokens, whose word w of this lane's block and column `tokens(w)` gives, to two sums,
  // of even words and of odd ones: neither waits for the other. Scales that take two multiplications, which no weights
  // need, are apart, so that the usual way is one run of instructions.
  template <class Tokens>
  AITERLITE_DEVICE void multiply(float (&sums)[2][4], const Tokens& tokens) const {
    if (__builtin_expect(any_lane((byte[0] | byte[1]) >= Bf16Scale::kGreat), 0)) {
      Vector16 left[2] = {codes[0], codes[1]};
#pragma unroll 1
      for (uint32_t w = 0; w < 4; w += 2) {
        multiply_two<true>(sums, left, 0, [&](uint32_t of) { return tokens(w + of); });
#pragma unroll
        for (Vector16& row : left) row = {{row.word[2], row.word[3], 0, 0}};
      }
      return;
    }
#pragma unroll
    for (uint32_t w = 0; w < 4; w += 2) multiply_two<false>(sums, codes, w, tokens);
  }

 private:
  template <bool kGreat, class Tokens>
  AITERLITE_DEVICE void multiply_two(float (&sums)[2][4], const Vector16 (&of)[2], uint32_t first,
                                     const Tokens& tokens) const {
#pragma unroll
    for (uint32_t own = 0; own < 2; ++own) {
      const Vector16 x = tokens(first + own);
      uint32_t pair[2][4];
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        decode_e2m1_of_bf16(of[i].word[first + own], pair[i]);
        const uint32_t factor = Bf16Scale::small(byte[i]);
#pragma unroll
        for (uint32_t p = 0; p < 4; ++p) {
          pair[i][p] = kGreat ? Bf16Scale::of(byte[i]).apply(pair[i][p]) : multiply_bf16_pair(pair[i][p], factor);
        }
      }
#pragma unroll
      for (uint32_t p = 0; p < 4; p += 2) {
        const uint32_t a[4] = {pair[0][p], pair[1][p], pair[0][p + 1], pair[1][p + 1]};
        const uint32_t b[2] = {x.word[p], x.word[p + 1]};
        aiterlite::multiply(bf16{}, sums[own], a, b);
      }
    }
  }
};

// Eight neighbouring bf16 of a block of which the lane's quad has all, as the call multiplies them, in the order of
// products. Every lane of the warp takes part.
template <int kRounding>
AITERLITE_DEVICE Vector16 numbers_in_order(const Vector16& v) {
  if constexpr (kRounding == kToMxfp4) {
    const uint32_t both = greatest_halves(v), most = greater_u16_pair(both, both >> 16) & 0xffffu;
    const uint32_t byte = mx_scale_byte(float_bits_of<bf16>(greatest_in_quad(most) & 0xffffu), {0x3fffffu, 1});
    const Bf16Scale scale = Bf16Scale::of(byte);
    Vector16 made;
    decode_e2m1_of_bf16(encode_eight_e2m1<bf16>(v, mx_half_reciprocal(byte)), made.word);
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) made.word[i] = scale.apply(made.word[i]);
    return made;
  } else if constexpr (kRounding == kToMxfp8) {
    return gemm_mxfp4::paired<0>(round_quad_to_mxfp8<bf16>(v));
  } else {
    return gemm_mxfp4::paired<0>(v);
  }
}

// Where eight elements from k on, a multiple of 8, lie in a row of pieces.
AITERLITE_DEVICE uint32_t place_in_order(uint32_t k) {
  return k / kUnitK * kPieceBytes + k % 32 / 8 * 64 + k % kUnitK / 32 * 16;
}

// Rows of `k` elements, a multiple of 128, as the call multiplies them, to `to`, `pitch` bytes apart; by all threads of
// a workgroup. Row r begins at from(r). kBatch loads a thread are on their way at once.
template <int kRounding, uint32_t kThreads, class From>
AITERLITE_DEVICE void bring_numbers(char* to, uint32_t pitch, uint32_t rows, uint32_t k, const From& from) {
  constexpr uint32_t kBatch = 4;
  const uint32_t each = k / 8, total = rows * each;
#pragma unroll 1
  for (uint32_t first = 0; first < total; first += kBatch * kThreads) {
    Vector16 v[kBatch];
    uint32_t row[kBatch], at[kBatch];
#pragma unroll
    for (uint32_t i = 0; i < kBatch; ++i) {
      // Quads behind the last one read the first, so that all lanes exchange.
      const uint32_t own = first + i * kThreads + thread_id(), index = own < total ? own : own % 4;
      row[i] = index / each;
      at[i] = index % each * 8;
      v[i] = load_row_vector<Reuse::kLikely>(from(row[i]) + 2 * at[i]);
    }
#pragma unroll
    for (uint32_t i = 0; i < kBatch; ++i) {
      const Vector16 made = numbers_in_order<kRounding>(v[i]);
      if (first + i * kThreads + thread_id() < total)
        store_shared_16(to + row[i] * pitch + place_in_order(at[i]), made);
    }
  }
}

}  // namespace aiterlite::fused_moe
