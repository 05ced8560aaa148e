// Register tile of a skinny GEMM: a few weight rows times up to kTileTokens tokens, over part of K.
//
// A step of K reads one vector of each weight row and one of each token, and adds to rows * tokens accumulators: enough
// of them to hide the latency of an addition, few enough to stay in registers.
#pragma once
#include <aiterlite/cpu/arithmetic.h>

namespace aiterlite::cpu {

constexpr int kTileTokens = kVectorRegisters / 8;
constexpr int64_t kStrip = 1024;  // elements of K that one sum runs over

// The weights that a tile asks for while it computes: those `bytes` beyond its own, of rows [first, last), into the
// second-level cache. It asks for a line a step: more at once than the core has miss buffers for would stop it.
struct Ahead {
  int64_t bytes = 0;
  int first = 0;
  int last = 0;
};

// As an integer: the address may lie beyond the weights, and a prefetch of such a one does nothing.
inline void prefetch(const void* at, int64_t ahead) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(at) + ahead), 0, 2);
}

// sums[t][r] += sum over `steps` steps of w[r] * x[t], lane by lane, strip by strip. x is packed:
// [steps][kTokens][kStep].
template <class Arithmetic, int kRows, int kTokens>
__attribute__((noinline)) void dot_tile(const typename Arithmetic::Bits* const (&w)[kRows], const uint16_t* x,
                                        int64_t steps, Ahead ahead, f32v (*sums)[kRows]) {
  using Operand = typename Arithmetic::Operand;
  constexpr int kStep = Arithmetic::kStep;
  static_assert(kStrip % kStep == 0);
  for (int64_t i = 0; i < steps;) {
    const int64_t end = steps - i < kStrip / kStep ? steps : i + kStrip / kStep;
    f32v acc[kTokens][kRows] = {};
    for (; i < end; ++i, x += kTokens * kStep) {
      for (int r = ahead.first; r < ahead.last; ++r) prefetch(w[r] + i * kStep, ahead.bytes);
      Operand xs[kTokens];
      for (int t = 0; t < kTokens; ++t) xs[t] = Arithmetic::tokens(x + t * kStep);
      for (int r = 0; r < kRows; ++r) {
        const Operand row = Arithmetic::weights(w[r] + i * kStep);
        for (int t = 0; t < kTokens; ++t) acc[t][r] = Arithmetic::add(acc[t][r], row, xs[t]);
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      for (int r = 0; r < kRows; ++r) sums[t][r] += acc[t][r];
    }
  }
}

// The tile for a count of tokens that is known at run time only, 1 to kTileTokens.
template <class Arithmetic, int kRows>
inline void dot_tile(int tokens, const typename Arithmetic::Bits* const (&w)[kRows], const uint16_t* x, int64_t steps,
                     Ahead ahead, f32v (*sums)[kRows]) {
  if constexpr (kTileTokens > 2) {
    if (tokens == 4) return dot_tile<Arithmetic, kRows, 4>(w, x, steps, ahead, sums);
    if (tokens == 3) return dot_tile<Arithmetic, kRows, 3>(w, x, steps, ahead, sums);
  }
  if (tokens == 2) return dot_tile<Arithmetic, kRows, 2>(w, x, steps, ahead, sums);
  return dot_tile<Arithmetic, kRows, 1>(w, x, steps, ahead, sums);
}

}  // namespace aiterlite::cpu
