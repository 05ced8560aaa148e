// Register tiles of attention on a CPU: scores of a few heads against a few rows of KV, weighted sums of values, and
// 2^x. Rows of KV are 16-bit and lie anywhere: each is reached by its own pointer.
//
// A tile of scores keeps kHeads x kRows sums over lanes; q is packed as tiles read it. A tile of values keeps kHeads
// sums of two vectors of columns and runs over rows: the rows of a block are read once a tile, from the cache. Columns
// of a sum lie as Element::widen puts them; column_of undoes that where a sum is finished. What is not to count is
// never among the rows.
#pragma once
#include <aiterlite/cpu/arithmetic.h>

namespace aiterlite::cpu {

constexpr int kScoreHeads = kVectorRegisters / 8;
constexpr int kScoreRows = 4;
constexpr int kValueHeads = kVectorRegisters / 4;

// sums[head][row] of `steps` steps; asks for the lines of rows [first, last) of `next` on the way.
template <class Element>
__attribute__((noinline)) void score_tile(const uint16_t* const (&rows)[kScoreRows], const uint16_t* q, int64_t steps,
                                          const uint16_t* const (&next)[kScoreRows], int first, int last,
                                          f32v (&sums)[kScoreHeads][kScoreRows]) {
  constexpr int kStep = 2 * kLanes;
  f32v acc[kScoreHeads][kScoreRows] = {};
  for (int64_t i = 0; i < steps; ++i, q += kScoreHeads * kStep) {
    for (int r = first; r < last; ++r) __builtin_prefetch(next[r] + i * kStep, 0, 2);
    Pair of_head[kScoreHeads];
    for (int h = 0; h < kScoreHeads; ++h) of_head[h] = Element::widen(q + h * kStep);
    for (int r = 0; r < kScoreRows; ++r) {
      const Pair row = Element::widen(rows[r] + i * kStep);
      for (int h = 0; h < kScoreHeads; ++h) {
        acc[h][r] = multiply_add(row.second, of_head[h].second, multiply_add(row.first, of_head[h].first, acc[h][r]));
      }
    }
  }
  for (int h = 0; h < kScoreHeads; ++h) {
    for (int r = 0; r < kScoreRows; ++r) sums[h][r] = acc[h][r];
  }
}

// sums[head * stride + column] = factor[head] * sums + the rows weighted, for 2 * kLanes columns. Weights are
// [row][kValueHeads].
template <class Element>
inline void value_tile(const uint16_t* const* rows, int64_t column, int64_t count, const float* weights,
                       const float* factors, float* sums, int64_t stride) {
  f32v acc[kValueHeads][2];
  for (int h = 0; h < kValueHeads; ++h) {
    for (int half = 0; half < 2; ++half) acc[h][half] = load<f32v>(sums + h * stride + half * kLanes) * factors[h];
  }
  for (int64_t r = 0; r < count; ++r, weights += kValueHeads) {
    const Pair row = Element::widen(rows[r] + column);
    for (int h = 0; h < kValueHeads; ++h) {
      const f32v weight = weights[h] - f32v{};
      acc[h][0] = multiply_add(row.first, weight, acc[h][0]);
      acc[h][1] = multiply_add(row.second, weight, acc[h][1]);
    }
  }
  for (int h = 0; h < kValueHeads; ++h) {
    for (int half = 0; half < 2; ++half) store(sums + h * stride + half * kLanes, acc[h][half]);
  }
}

// Which of 2 * kLanes columns a sum's element `at` is.
template <class Element>
constexpr int column_of(int at) {
  return __is_same(Element, Bf16) ? (at < kLanes ? 2 * at + 1 : 2 * (at - kLanes)) : at;
}

// 2^x to 2 units in the last place, for x up to 127; 0 below -126, NaN of NaN.
inline f32v exp2(f32v x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const i32v tiny = (i32v)(x < -126.0f), is_nan = (i32v)(x != x);
  const f32v held = (f32v)(((i32v)x & ~tiny & ~is_nan));
  const f32v shifted = held + kMagic;
  const f32v f = held - (shifted - kMagic);
  f32v value = f * 1.52527338e-5f + 1.54035304e-4f;
  value = multiply_add(value, f, 1.33335581e-3f - f32v{});
  value = multiply_add(value, f, 9.61812911e-3f - f32v{});
  value = multiply_add(value, f, 5.55041087e-2f - f32v{});
  value = multiply_add(value, f, 2.40226507e-1f - f32v{});
  value = multiply_add(value, f, 6.93147181e-1f - f32v{});
  value = multiply_add(value, f, 1.0f - f32v{});
  const i32v exponent = (i32v)shifted - (int32_t)0x4b400000;
  const i32v result = ((i32v)value + (exponent << 23)) & ~tiny;
  return (f32v)((result & ~is_nan) | ((i32v)x & is_nan));
}

inline float largest(f32v v) {
  float most = v[0];
  for (int i = 1; i < kLanes; ++i) most = v[i] > most ? v[i] : most;
  return most;
}
inline float sum(f32v v) {
  const f32q four = fold(v);
  return (four[0] + four[1]) + (four[2] + four[3]);
}

}  // namespace aiterlite::cpu
