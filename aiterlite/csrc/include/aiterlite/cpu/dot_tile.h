// Register tile of a skinny GEMM: 4 weight rows times up to kTileTokens tokens, over part of K.
//
// A step of K reads and widens one vector of each weight row and one of each token, and does 8 * tokens multiply-adds
// on 4 * tokens accumulators: enough of them to hide the latency of one, few enough to stay in registers.
#pragma once
#include <aiterlite/cpu/element.h>

namespace aiterlite::cpu {

constexpr int kTileRows = 4;
constexpr int kTileTokens = kVectorRegisters / 8;
constexpr int kStep = 2 * kLanes;  // elements of K per step
// How far before its use a weight is asked for. The 4 rows of a tile are 4 streams; the hardware's prefetchers follow
// each only to the end of a page.
constexpr int kAheadBytes = 2048;

// sums[t][r] = sum over `steps` steps of w[r] * x[t]. x is packed: [steps][kTokens][kStep] of Weight::Token.
template <class Weight, int kTokens>
__attribute__((noinline)) void dot_tile(const typename Weight::Bits* const (&w)[kTileRows], const uint16_t* x,
                                        int64_t steps, f32q* sums) {
  f32v acc[kTokens][kTileRows] = {};
  for (int64_t i = 0; i < steps; ++i, x += kTokens * kStep) {
    Pair xs[kTokens];
    for (int t = 0; t < kTokens; ++t) xs[t] = Weight::Token::widen(x + t * kStep);
    for (int r = 0; r < kTileRows; ++r) {
      const auto* at = w[r] + i * kStep;
      // As an integer: the address may lie beyond the row, and a prefetch of such a one does nothing.
      __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(at) + kAheadBytes));
      const Pair row = Weight::widen(at);
      for (int t = 0; t < kTokens; ++t) {
        acc[t][r] = multiply_add(row.second, xs[t].second, multiply_add(row.first, xs[t].first, acc[t][r]));
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) sums[t] = sum_lanes(acc[t][0], acc[t][1], acc[t][2], acc[t][3]);
}

// The tile for a count of tokens that is known at run time only, 1 to kTileTokens.
template <class Weight>
inline void dot_tile(int tokens, const typename Weight::Bits* const (&w)[kTileRows], const uint16_t* x, int64_t steps,
                     f32q* sums) {
  if constexpr (kTileTokens > 2) {
    if (tokens == 4) return dot_tile<Weight, 4>(w, x, steps, sums);
    if (tokens == 3) return dot_tile<Weight, 3>(w, x, steps, sums);
  }
  if (tokens == 2) return dot_tile<Weight, 2>(w, x, steps, sums);
  return dot_tile<Weight, 1>(w, x, steps, sums);
}

}  // namespace aiterlite::cpu
