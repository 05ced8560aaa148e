// Rows of an expert's weights times the tokens that chose it: a policy of arithmetic for each kind of weight, a tile in
// registers, and a panel of 16 rows, which tasks are made of.
//
// A tile is 4 rows times up to kTileTokens tokens, over groups of 128 elements of K: products of a group are summed,
// multiplied by the group's scale, and added, lane by lane; lanes are summed once a row. Few tokens take the weights as
// they are decoded, in registers; for more, 4 rows are decoded once, a strip at a time, into 4 or 8 KiB from which all
// tiles of tokens read. Shuffled weights are first put in rows, 16 of them a strip: each of their lines is read once.
//
// The bits of a row times a token depend on these two and on scales only.
#pragma once
#include <aiterlite/cpu/arithmetic.h>

namespace aiterlite::cpu {

constexpr int64_t kGroup = 128;
constexpr int kTileRows = 4, kPanelRows = 16;
constexpr int kTileTokens = kVectorRegisters / 8;
constexpr int64_t kPanelTokens = 32;  // whose sums a panel holds
constexpr int64_t kStripGroups = 4;   // that are decoded at once

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t padded(int64_t k) { return ceil_div(k, kGroup) * kGroup; }

// Numbers in fp32, two multiply-adds a vector: exact products on every CPU. kFactor is what widened weights leave out.
template <class Weight>
struct FloatProducts {
  using Bits = typename Weight::Bits;
  using Number = float;
  using Operand = Pair;
  static constexpr int kStep = 2 * kLanes;
  static constexpr bool kInOrder = __is_same(Weight, Fp16);
  static constexpr float kFactor = __is_same(Weight, E4m3fn) ? 0x1p8f : __is_same(Weight, E4m3fnuz) ? 0x1p7f : 1.0f;

  static Operand weights(const Bits* p) { return Weight::widen(p); }
  static Operand numbers(const float* p) { return {load<f32v>(p), load<f32v>(p + kLanes)}; }
  static void keep(float* to, const Operand& numbers) {
    store(to, numbers.first);
    store(to + kLanes, numbers.second);
  }
  static f32v add(f32v sum, const Operand& w, const Operand& x) {
    return multiply_add(w.second, x.second, multiply_add(w.first, x.first, sum));
  }
  static float number(float value) { return value; }
  // Where element k of a row lies among its numbers.
  static int64_t place(int64_t k) {
    const int64_t at = k % kStep;
    return kInOrder ? k : k - at + (at % 2 != 0 ? at / 2 : kLanes + at / 2);
  }
  template <class In>
  static void pack(float* to, const uint16_t* from) {
    if constexpr (__is_same(In, Bf16) && !kInOrder) {
      keep(to, Bf16::widen(from));
    } else {
      for (int i = 0; i < kStep; ++i) to[place(i)] = In::to_float(from[i]);
    }
  }
  static void pack_codes(float* to, const Bits* from) {
    Operand numbers = weights(from);
    numbers.first *= kFactor;
    numbers.second *= kFactor;
    keep(to, numbers);
  }
};

#if AITERLITE_CPU_BF16_DOT
// Numbers in bf16, as VDPBF16PS takes them: those below 2^-126 count as zero.
template <class Weight>
struct DotProducts : DotBf16<Weight> {
  using Base = DotBf16<Weight>;
  using Bits = typename Base::Bits;
  using Number = uint16_t;
  using Operand = typename Base::Operand;
  static constexpr int kStep = Base::kStep;
  static constexpr bool kInOrder = __is_same(Weight, Bf16);

  static Operand numbers(const uint16_t* p) { return Base::tokens(p); }
  static void keep(uint16_t* to, const Operand& numbers) { memcpy(to, &numbers, sizeof(numbers)); }
  static uint16_t number(float value) { return Bf16::from_float(value); }
  // The lower and the upper 8 of each 16 elements go to two vectors.
  static int64_t place(int64_t k) {
    const int64_t at = k % kStep;
    return kInOrder ? k : k - at + at % 16 / 8 * 32 + at / 16 * 8 + at % 8;
  }
  template <class In>
  static void pack(uint16_t* to, const uint16_t* from) {
    static_assert(__is_same(In, Bf16));
    for (int i = 0; i < kStep; i += 8) memcpy(to + place(i), from + i, 8 * sizeof(*to));
  }
  static void pack_codes(uint16_t* to, const Bits* from) { keep(to, Base::weights(from)); }
};
#endif

// As an integer: the address may lie beyond the weights, and a prefetch of such a one does nothing.
inline void prefetch(const void* at, int64_t ahead) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(at) + ahead), 0, 2);
}

// sums[t * stride + r] += over `groups` groups of K, w[r] * x[t] * factor[t]. Weights are numbers already where
// kDecoded; else lines of them `ahead` bytes further are asked for.
template <class Arithmetic, int kTokens, bool kDecoded, class Weights>
__attribute__((noinline)) void expert_tile(const Weights* const (&w)[kTileRows],
                                           const typename Arithmetic::Number* const* x, const float* const* factor,
                                           int64_t offset, int64_t groups, int64_t ahead, f32v* sums, int64_t stride) {
  using Operand = typename Arithmetic::Operand;
  constexpr int kStep = Arithmetic::kStep, kSteps = kGroup / kStep;
  constexpr int kAsk = kStep * sizeof(Weights) < 64 ? 64 / sizeof(Weights) : kStep;
  const typename Arithmetic::Number* tokens[kTokens];
  for (int t = 0; t < kTokens; ++t) tokens[t] = x[t] + offset * kGroup;
  for (int64_t g = 0; g < groups; ++g) {
    f32v acc[kTokens][kTileRows] = {};
    for (int s = 0; s < kSteps; ++s) {
      const int64_t at = g * kGroup + s * kStep;
      if (!kDecoded && s * kStep % kAsk == 0) {
        for (int r = 0; r < kTileRows; ++r) prefetch(w[r] + at, ahead);
      }
      Operand xs[kTokens];
      for (int t = 0; t < kTokens; ++t) xs[t] = Arithmetic::numbers(tokens[t] + at);
      for (int r = 0; r < kTileRows; ++r) {
        Operand row;
        if constexpr (kDecoded) {
          row = Arithmetic::numbers(w[r] + at);
        } else {
          row = Arithmetic::weights(w[r] + at);
        }
        for (int t = 0; t < kTokens; ++t) acc[t][r] = Arithmetic::add(acc[t][r], row, xs[t]);
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      const f32v by = factor[t][offset + g] - f32v{};
      f32v* to = sums + t * stride;
      for (int r = 0; r < kTileRows; ++r) to[r] = multiply_add(acc[t][r], by, to[r]);
    }
  }
}

template <class Arithmetic, bool kDecoded, class Weights>
inline void expert_tile(int tokens, const Weights* const (&w)[kTileRows], const typename Arithmetic::Number* const* x,
                        const float* const* factor, int64_t offset, int64_t groups, int64_t ahead, f32v* sums,
                        int64_t stride) {
  if constexpr (kTileTokens > 2) {
    if (tokens == 4) return expert_tile<Arithmetic, 4, kDecoded>(w, x, factor, offset, groups, ahead, sums, stride);
    if (tokens == 3) return expert_tile<Arithmetic, 3, kDecoded>(w, x, factor, offset, groups, ahead, sums, stride);
  }
  if (tokens == 2) return expert_tile<Arithmetic, 2, kDecoded>(w, x, factor, offset, groups, ahead, sums, stride);
  return expert_tile<Arithmetic, 1, kDecoded>(w, x, factor, offset, groups, ahead, sums, stride);
}

// An expert's matrix of `k` columns, in rows or shuffled.
template <class Bits>
struct ExpertMatrix {
  // Shuffled: of 16 rows, pieces of 16 bytes of each row in turn.
  static constexpr int64_t kPiece = 16 / sizeof(Bits);
  const Bits* data;
  int64_t k;
  bool shuffled;
  int64_t stride = k;  // from row to row

  const Bits* row(int64_t n) const {
    return shuffled ? data + n / kPanelRows * kPanelRows * k + n % kPanelRows * kPiece : data + n * stride;
  }
  // `count` elements of a shuffled row, from element `from` on, as they are in a row; zeros up to `room`.
  static void in_row(Bits* to, const Bits* row, int64_t from, int64_t count, int64_t room) {
    for (int64_t i = 0; i < count; i += kPiece) memcpy(to + i, row + (from + i) * kPanelRows, 16);
    if (count < room) memset(to + count, 0, (room - count) * sizeof(Bits));
  }
};

// The tokens that a panel multiplies: their numbers, padded with zeros to whole groups, and a factor for each group.
template <class Arithmetic>
struct PanelTokens {
  int64_t count;
  const typename Arithmetic::Number* x[kPanelTokens];
  const float* factor[kPanelTokens];
};

// All tiles of 4 rows over groups [offset, offset + groups), of weights that lie there in rows.
template <class Arithmetic>
__attribute__((noinline)) void tiles_of_rows(const typename Arithmetic::Bits* const (&w)[kTileRows],
                                             const PanelTokens<Arithmetic>& tokens, int64_t offset, int64_t groups,
                                             int64_t ahead, f32v* sums, int64_t stride) {
  using Number = typename Arithmetic::Number;
  if (tokens.count <= kTileTokens) {
    return expert_tile<Arithmetic, false>(static_cast<int>(tokens.count), w, tokens.x, tokens.factor, offset, groups,
                                          ahead, sums, stride);
  }
  constexpr int kStep = Arithmetic::kStep;
  alignas(64) Number numbers[kTileRows][kStripGroups * kGroup];
  const Number* const rows[kTileRows] = {numbers[0], numbers[1], numbers[2], numbers[3]};
  for (int64_t first = 0; first < groups; first += kStripGroups) {
    const int64_t strip = min(kStripGroups, groups - first);
    for (int r = 0; r < kTileRows; ++r) {
      const auto* from = w[r] + first * kGroup;
      for (int64_t i = 0; i < strip * kGroup; i += kStep) {
        prefetch(from + i, ahead);
        Arithmetic::keep(numbers[r] + i, Arithmetic::weights(from + i));
      }
    }
    const int64_t pieces = ceil_div(tokens.count, kTileTokens);
    for (int64_t p = 0; p < pieces; ++p) {
      const int64_t begin = tokens.count * p / pieces, end = tokens.count * (p + 1) / pieces;
      expert_tile<Arithmetic, true>(static_cast<int>(end - begin), rows, tokens.x + begin, tokens.factor + begin,
                                    offset + first, strip, 0, sums + begin * stride, stride);
    }
  }
}

// sums[t][r] = rows [first, first + count) of a matrix, at most 16, times the tokens. Where there are fewer, the last
// one is multiplied again, and its sums are not used.
template <class Arithmetic>
void expert_panel(const ExpertMatrix<typename Arithmetic::Bits>& matrix, int64_t first, int64_t count,
                  const PanelTokens<Arithmetic>& tokens, float (*sums)[kPanelRows]) {
  using Bits = typename Arithmetic::Bits;
  constexpr int kTiles = kPanelRows / kTileRows;
  alignas(64) f32v lanes[kPanelTokens][kPanelRows];
  memset(lanes, 0, tokens.count * sizeof(lanes[0]));
  // In rows, a tile takes one row of each quarter, so that the next tile goes on where this one ends.
  const auto row_of = [&](int tile, int r) {
    return first + min(matrix.shuffled ? tile * kTileRows + r : r * kTiles + tile, count - 1);
  };
  const int64_t whole = matrix.k / kGroup, rest = matrix.k % kGroup;
  alignas(64) Bits strip[kPanelRows][2 * kGroup];
  if (matrix.shuffled) {
    for (int64_t k = 0; k < matrix.k; k += 2 * kGroup) {
      const int64_t here = min(2 * kGroup, matrix.k - k), room = padded(here);
      for (int r = 0; r < kPanelRows; ++r) {
        matrix.in_row(strip[r], matrix.row(first + min(r, count - 1)), k, here, room);
      }
      for (int tile = 0; tile < kTiles; ++tile) {
        const Bits* w[kTileRows];
        for (int r = 0; r < kTileRows; ++r) w[r] = strip[tile * kTileRows + r];
        tiles_of_rows<Arithmetic>(w, tokens, k / kGroup, room / kGroup, 0, lanes[0] + tile * kTileRows, kPanelRows);
      }
    }
  } else {
    const int64_t bytes = matrix.k * static_cast<int64_t>(sizeof(Bits));
    const int64_t ahead = bytes < 4096 ? kPanelRows * bytes : 2048;
    for (int tile = 0; tile < kTiles; ++tile) {
      const Bits* w[kTileRows];
      for (int r = 0; r < kTileRows; ++r) w[r] = matrix.row(row_of(tile, r));
      f32v* to = lanes[0] + tile * kTileRows;
      tiles_of_rows<Arithmetic>(w, tokens, 0, whole, ahead, to, kPanelRows);
      if (rest == 0) continue;
      for (int r = 0; r < kTileRows; ++r) {
        memcpy(strip[r], w[r] + whole * kGroup, rest * sizeof(Bits));
        memset(strip[r] + rest, 0, (kGroup - rest) * sizeof(Bits));
        w[r] = strip[r];
      }
      tiles_of_rows<Arithmetic>(w, tokens, whole, 1, 0, to, kPanelRows);
    }
  }
  for (int64_t t = 0; t < tokens.count; ++t) {
    for (int tile = 0; tile < kTiles; ++tile) {
      const f32v* of = lanes[t] + tile * kTileRows;
      const f32q four = sum_lanes(of[0], of[1], of[2], of[3]) * Arithmetic::kFactor;
      for (int r = 0; r < kTileRows; ++r) sums[t][matrix.shuffled ? tile * kTileRows + r : r * kTiles + tile] = four[r];
    }
  }
}

}  // namespace aiterlite::cpu
