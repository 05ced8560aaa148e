// Skinny GEMM on a CPU: y[n, m] = sum_k x[n, k] * w[m, k] (* scale_x * scale_w[m]) + bias, few tokens n and many m.
//
// The weights are read once, and everything serves the speed of that stream:
// * Each thread owns one contiguous share of the rows, cut into 4 runs; a register tile (dot_tile.h) takes one row of
//   each run. So a thread reads 4 long contiguous streams, which the hardware's prefetchers follow across rows; 4
//   adjacent rows would end and restart its streams at every row.
// * The tokens are packed once a call in the order in which tiles read them. Up to kTileTokens tokens share
//   a tile; with more, the tiles of one strip of K follow each other, so that the weights come from L1 after the first.
// Traffic: M * K weights from memory; 2 * N * K bytes of tokens for each 4 rows, from L1 or L2.
// Arithmetic: fp32 sums over strips of K, added in order; scales and bias in fp32; one rounding to nearest even. The
// bits of y[n, m] depend on x[n], w[m], scales and bias[n, m] only: not on threads, N, M, or strides. Nothing is read
// outside the rows' K elements: the end of a row goes through a zero-filled copy.
#pragma once
#include <aiterlite/cpu/dot_tile.h>
#include <aiterlite/host_abi.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

namespace aiterlite::cpu {

constexpr int32_t kNoMemory = -2;

constexpr int64_t kStrip = 2048;         // elements of K whose weights stay in L1 for all tokens
constexpr int64_t kPanelTokens = 16;     // tokens whose sums a thread holds
constexpr double kSerialWork = 1 << 17;  // multiply-adds that are not worth waking a thread for
static_assert(kStrip % kStep == 0);

// Operands of any types; strides in elements. Without scales, scale_x is null.
struct Problem {
  const void* x;
  const void* w;
  const void* bias;
  void* y;
  const float* scale_x;
  const float* scale_w;
  int64_t stride_x, stride_w, stride_bias, stride_y, stride_scale_w;
  int64_t n, m, k;
  int64_t shares;          // that M is cut into
  const uint16_t* tokens;  // packed: [group][step of K][token of group][kStep] of Weight::Token, zero-filled
};

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Groups of at most kTileTokens tokens, as equal as can be.
inline int64_t group_count(int64_t n) { return ceil_div(n, kTileTokens); }
inline int64_t group_begin(int64_t n, int64_t group) { return n * group / group_count(n); }

template <class Weight>
void pack_tokens(const Problem& p, uint16_t* out) {
  for (int64_t g = 0; g < group_count(p.n); ++g) {
    for (int64_t k = 0; k < p.k; k += kStep) {
      for (int64_t t = group_begin(p.n, g); t < group_begin(p.n, g + 1); ++t, out += kStep) {
        const auto* from = static_cast<const typename Weight::Bits*>(p.x) + t * p.stride_x + k;
        if (p.k - k < kStep) memset(out, 0, 2 * kStep);
        Weight::pack(out, from, min(kStep, p.k - k));
      }
    }
  }
}

// sums[token][row] of 4 rows, for the tokens of groups [first_group, last_group).
template <class Weight>
void dot_rows(const Problem& p, const typename Weight::Bits* const (&rows)[kTileRows], int64_t first_group,
              int64_t last_group, f32q* sums) {
  using Bits = typename Weight::Bits;
  const int64_t row_steps = ceil_div(p.k, kStep);
  for (int64_t k = 0; k < p.k; k += kStrip) {
    const int64_t whole = min(kStrip, p.k - k) / kStep;
    const int64_t rest = min(kStrip, p.k - k) % kStep;
    const Bits* w[kTileRows];
    const Bits* w_end[kTileRows];
    Bits end[kTileRows][kStep] = {};
    for (int r = 0; r < kTileRows; ++r) {
      w[r] = rows[r] + k;
      w_end[r] = static_cast<const Bits*>(memcpy(end[r], w[r] + whole * kStep, rest * sizeof(Bits)));
    }
    f32q* out = sums;
    for (int64_t g = first_group; g < last_group; ++g) {
      const int64_t begin = group_begin(p.n, g);
      const int tokens = static_cast<int>(group_begin(p.n, g + 1) - begin);
      const uint16_t* x = p.tokens + (begin * row_steps + k / kStep * tokens) * kStep;
      f32q part[kTileTokens] = {};
      dot_tile<Weight>(tokens, w, x, whole, part);
      for (int t = 0; t < tokens; ++t) out[t] += part[t];
      if (rest != 0) {
        dot_tile<Weight>(tokens, w_end, x + whole * tokens * kStep, 1, part);
        for (int t = 0; t < tokens; ++t) out[t] += part[t];
      }
      out += tokens;
    }
  }
}

// One scale after the other: their product could overflow where what they scale does not.
template <class Weight, class Result>
void store(const Problem& p, int64_t token, int64_t row, float sum) {
  if (p.scale_x != nullptr) sum = sum * Weight::kFactor * *p.scale_x * p.scale_w[row * p.stride_scale_w];
  const auto* bias = static_cast<const uint16_t*>(p.bias);
  if (bias != nullptr) sum += Result::to_float(bias[token * p.stride_bias + row]);
  static_cast<uint16_t*>(p.y)[token * p.stride_y + row] = Result::from_float(sum);
}

// One thread's rows: tile j takes row j of each of 4 runs. Where they do not come out even, the last run is short and
// its tiles repeat the last row, unstored.
template <class Weight, class Result>
void work_share(const Problem& p, int64_t share) {
  const int64_t first = p.m * share / p.shares;
  const int64_t last = p.m * (share + 1) / p.shares;
  const int64_t run = ceil_div(last - first, kTileRows);
  constexpr int64_t kPanelGroups = kPanelTokens / kTileTokens;
  for (int64_t j = 0; j < run; ++j) {
    const typename Weight::Bits* rows[kTileRows];
    for (int r = 0; r < kTileRows; ++r) {
      rows[r] = static_cast<const typename Weight::Bits*>(p.w) + min(first + r * run + j, last - 1) * p.stride_w;
    }
    for (int64_t g = 0; g < group_count(p.n); g += kPanelGroups) {
      const int64_t g_end = min(g + kPanelGroups, group_count(p.n));
      f32q sums[kPanelTokens] = {};
      dot_rows<Weight>(p, rows, g, g_end, sums);
      for (int64_t token = group_begin(p.n, g); token < group_begin(p.n, g_end); ++token) {
        for (int r = 0; r < kTileRows; ++r) {
          const int64_t row = first + r * run + j;
          if (row < last) store<Weight, Result>(p, token, row, sums[token - group_begin(p.n, g)][r]);
        }
      }
    }
  }
}

template <class Weight, class Result>
void work(int64_t begin, int64_t end, void* context) {
  const Problem& problem = *static_cast<const Problem*>(context);
  for (int64_t share = begin; share < end; ++share) work_share<Weight, Result>(problem, share);
}

// Computes y; `shares` and `tokens` are filled in. Returns 0, kNoMemory, or what parallel_for returned.
template <class Weight, class Result>
int32_t multiply(Problem& p, parallel_for_t parallel_for, int64_t threads) {
  const int64_t bytes = p.n * ceil_div(p.k, kStep) * kStep * static_cast<int64_t>(sizeof(uint16_t));
  void* tokens = nullptr;
  if (bytes > 0 && posix_memalign(&tokens, 64, bytes) != 0) return kNoMemory;
  pack_tokens<Weight>(p, static_cast<uint16_t*>(tokens));
  p.tokens = static_cast<const uint16_t*>(tokens);
  const double multiply_adds = static_cast<double>(p.n) * p.m * p.k;
  p.shares = parallel_for == nullptr || multiply_adds < kSerialWork ? 1 : min(threads, ceil_div(p.m, kTileRows));
  int32_t status = 0;
  if (p.shares <= 1) {
    p.shares = 1;
    work<Weight, Result>(0, 1, &p);
  } else {
    status = parallel_for(0, p.shares, 1, work<Weight, Result>, &p);
  }
  free(tokens);
  return status;
}

}  // namespace aiterlite::cpu
