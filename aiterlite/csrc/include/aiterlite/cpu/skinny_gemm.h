// Skinny GEMM on a CPU: y[n, m] = sum_k x[n, k] * w[m, k] (* scale_x[n] * scale_w[m]) + bias, few tokens n and many m.
//
// The weights are read once, and everything serves the speed of that stream:
// * Each thread owns one contiguous share of the rows, cut into as many runs as a register tile (dot_tile.h) has rows;
//   the tile takes one row of each run. So a thread reads 4 or 6 long contiguous streams, which the hardware's
//   prefetchers follow across rows; adjacent rows would end and restart its streams at every row.
// * The tokens are packed once a call in the order in which tiles read them. Up to kTileTokens tokens share a tile;
//   with more, the tiles of one strip of K follow each other, so that the weights come from L1 after the first, and
//   each asks for its part of the next strip: memory stays as busy as the tiles.
// Traffic: M * K weights from memory; 2 * N * K bytes of tokens for each tile's rows, from L1 or L2.
// Arithmetic: fp32 sums over strips of K, lane by lane, added in order, then the lanes; scales and bias in fp32; one
// rounding to nearest even. The bits of y[n, m] depend on x[n], w[m], scales and bias[n, m] only: not on threads, N, M,
// or strides. Nothing is read outside the rows' K elements: the end of a row goes through a zero-filled copy.
//
// VDPBF16PS (arithmetic.h), where the CPU has it, takes subnormal numbers for zero. A sum can lose by that
// * 2^-126 * |x[k]| in each product with a subnormal weight, and 2^-126 in each addition with a subnormal result:
//   at most K * 2^-126 * (max |x| + 1) in all. Where that is more than 2^-24 of the sum, what one rounding of it may
//   lose as well, multiply-adds sum the row again.
// * any amount where a token has a subnormal element: then they sum all its rows again.
// A sum that is NaN is summed again too: zero times infinity may stand where a subnormal times infinity belongs. This
// depends on the same x[n] and w[m] as the sum does. It is rare, or else cheap: the weights are in the cache by then.
#pragma once
#include <aiterlite/cpu/dot_tile.h>
#include <aiterlite/host_abi.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

namespace aiterlite::cpu {

// How far ahead of their use weights are asked for where all tokens share a tile. The hardware's prefetchers follow a
// row only to the end of a page.
constexpr int64_t kAheadBytes = 1024;
constexpr int64_t kShareRows = 4;        // rows that are worth a thread
constexpr int64_t kPanelTokens = 16;     // tokens whose sums a thread holds
constexpr double kSerialWork = 1 << 17;  // multiply-adds that are not worth waking a thread for

// Operands of any types; strides in elements. Without scales, scale_x is null.
struct Problem {
  const void* x;
  const void* w;
  const void* bias;
  void* y;
  const float* scale_x;
  const float* scale_w;
  int64_t stride_x, stride_w, stride_bias, stride_y, stride_scale_x, stride_scale_w;
  int64_t n, m, k;
  int64_t shares;          // that M is cut into
  const uint16_t* tokens;  // packed: [group][step of K][token of group][kStep], zero-filled
  const float* least;      // of each token: a sum that is not at least this is summed again. Where nothing is, null.
};

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Groups of at most kTileTokens tokens, as equal as can be.
inline int64_t group_count(int64_t n) { return ceil_div(n, kTileTokens); }
inline int64_t group_begin(int64_t n, int64_t group) { return n * group / group_count(n); }

template <class Arithmetic>
const typename Arithmetic::Bits* token_row(const Problem& p, int64_t token) {
  return static_cast<const typename Arithmetic::Bits*>(p.x) + token * p.stride_x;
}

template <class Arithmetic>
void pack_tokens(const Problem& p, uint16_t* out) {
  using Bits = typename Arithmetic::Bits;
  constexpr int kStep = Arithmetic::kStep;
  for (int64_t g = 0; g < group_count(p.n); ++g) {
    const int64_t begin = group_begin(p.n, g);
    const int64_t tokens = group_begin(p.n, g + 1) - begin;
    for (int64_t t = 0; t < tokens; ++t) {
      const Bits* from = token_row<Arithmetic>(p, begin + t);
      uint16_t* to = out + t * kStep;
      int64_t k = 0;
      for (; k + kStep <= p.k; k += kStep, to += tokens * kStep) Arithmetic::pack(to, from + k);
      if (k == p.k) continue;
      Bits end[kStep] = {};
      memcpy(end, from + k, (p.k - k) * sizeof(Bits));
      Arithmetic::pack(to, end);
    }
    out += tokens * ceil_div(p.k, kStep) * kStep;
  }
}

// The least that a bf16 token's sums must reach so that no flushed number can matter to them; NaN if nothing does. No
// product with a token of zeros is flushed.
inline float least_sum(const uint16_t* x, int64_t k) {
  constexpr int kCount = 2 * kLanes;
  u16v largest = {}, subnormal = {};
  const auto scan = [&](const uint16_t* at) {
    const u16v magnitude = load<u16v>(at) & 0x7fff;
    largest = magnitude > largest ? magnitude : largest;
    subnormal |= (u16v)((u16v)(magnitude - 1) < 0x7f);
  };
  int64_t i = 0;
  for (; i + kCount <= k; i += kCount) scan(x + i);
  uint16_t end[kCount] = {};
  memcpy(end, x + i, (k - i) * sizeof(uint16_t));
  scan(end);
  uint16_t most = 0, any = 0;
  for (int lane = 0; lane < kCount; ++lane) {
    most = largest[lane] > most ? largest[lane] : most;
    any |= subnormal[lane];
  }
  if (any != 0) return __builtin_nanf("");
  return most == 0 ? 0.0f : 0x1p-102f * static_cast<float>(k) * (Bf16::to_float(most) + 1.0f);
}

// The step in which K ends, of each of some rows, zero-filled.
template <class Bits, int kRows, int kStep>
struct RowEnds {
  const Bits* row[kRows];
  Bits memory[kRows][kStep] = {};

  RowEnds(const Bits* const (&rows)[kRows], int64_t k) {
    for (int r = 0; r < kRows; ++r) {
      row[r] = static_cast<const Bits*>(memcpy(memory[r], rows[r] + k / kStep * kStep, k % kStep * sizeof(Bits)));
    }
  }
};

// sums[token][row] += of some rows, for the tokens of groups [first_group, last_group).
template <class Arithmetic, int kRows>
void dot_rows(const Problem& p, const typename Arithmetic::Bits* const (&rows)[kRows], int64_t first_group,
              int64_t last_group, f32v (*sums)[kRows]) {
  using Bits = typename Arithmetic::Bits;
  constexpr int kStep = Arithmetic::kStep;
  const int64_t whole = p.k / kStep;
  const int64_t row_steps = ceil_div(p.k, kStep);
  const auto add = [&](const Bits* const(&w)[kRows], int64_t group, int64_t i, int64_t steps, Ahead ahead) {
    const int64_t begin = group_begin(p.n, group);
    const int tokens = static_cast<int>(group_begin(p.n, group + 1) - begin);
    const uint16_t* x = p.tokens + (begin * row_steps + i * tokens) * kStep;
    dot_tile<Arithmetic>(tokens, w, x, steps, ahead, sums + begin - group_begin(p.n, first_group));
  };
  const auto groups = static_cast<int>(last_group - first_group);
  if (groups == 1) {
    add(rows, first_group, 0, whole, {kAheadBytes, 0, kRows});
  } else {
    constexpr int64_t kSteps = kStrip / kStep;
    for (int64_t i = 0; i < whole; i += kSteps) {
      const Bits* w[kRows];
      for (int r = 0; r < kRows; ++r) w[r] = rows[r] + i * kStep;
      for (int g = 0; g < groups; ++g) {
        const Ahead ahead = {kStrip * static_cast<int64_t>(sizeof(Bits)), kRows * g / groups, kRows * (g + 1) / groups};
        add(w, first_group + g, i, min(kSteps, whole - i), ahead);
      }
    }
  }
  if (row_steps == whole) return;
  const RowEnds<Bits, kRows, kStep> ends(rows, p.k);
  for (int64_t g = first_group; g < last_group; ++g) add(ends.row, g, whole, 1, {});
}

// The sums of one token by multiply-adds, from where it lies.
template <class Weight, int kRows>
void dot_again(const Problem& p, const typename Weight::Bits* const (&rows)[kRows], int64_t token,
               f32v (&sums)[kRows]) {
  using Exact = MultiplyAdd<Weight>;
  using Bits = typename Weight::Bits;
  constexpr int kStep = Exact::kStep;
  const Bits* x[1] = {token_row<Exact>(p, token)};
  memset(sums, 0, sizeof(sums));
  dot_tile<Exact, kRows, 1>(rows, x[0], p.k / kStep, {}, &sums);
  if (p.k % kStep == 0) return;
  const RowEnds<Bits, kRows, kStep> ends(rows, p.k);
  const RowEnds<Bits, 1, kStep> x_end(x, p.k);
  dot_tile<Exact, kRows, 1>(ends.row, x_end.row[0], 1, {}, &sums);
}

inline int exponent_bits(float value) { return static_cast<int>(__builtin_bit_cast(uint32_t, value) >> 23 & 0xff); }
inline float power_of_two(int exponent) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(127 + exponent) << 23);
}

// sum * scale_x * scale_w, in this order, as the GPU kernel has it (csrc/gemm/wv_split_k.hip): a power of two moves
// from one scale to the other until they are about as large, so that nothing on the way overflows or is subnormal where
// the result is not. It changes no bit where nothing would without it.
inline float scaled(float sum, float scale_x, float scale_w) {
  const int apart = exponent_bits(scale_x) - exponent_bits(scale_w);
  const int half = apart < -252 ? -126 : apart > 252 ? 126 : apart >> 1;
  return sum * (scale_x * power_of_two(-half)) * (scale_w * power_of_two(half));
}

template <class Arithmetic, class Result>
void store_sum(const Problem& p, int64_t token, int64_t row, float sum) {
  if (p.scale_x != nullptr) {
    const float scale_x = p.scale_x[token * p.stride_scale_x];
    sum = scaled(sum * Arithmetic::kFactor, scale_x, p.scale_w[row * p.stride_scale_w]);
  }
  const auto* bias = static_cast<const uint16_t*>(p.bias);
  if (bias != nullptr) sum += Result::to_float(bias[token * p.stride_bias + row]);
  static_cast<typename Result::Bits*>(p.y)[token * p.stride_y + row] = Result::from_float(sum);
}

template <int kRows>
void add_lanes(const f32v (&lanes)[kRows], float (&sums)[kRows]) {
  for (int r = 0; r < kRows; r += 4) {
    const f32v none = {};
    const f32q four =
        sum_lanes(lanes[r], lanes[r + 1], r + 2 < kRows ? lanes[r + 2] : none, r + 3 < kRows ? lanes[r + 3] : none);
    for (int i = 0; i < 4 && r + i < kRows; ++i) sums[r + i] = four[i];
  }
}

// One thread's rows: tile j takes row j of each of some runs. Where they do not come out even, the last runs are short
// or empty, and their tiles repeat the last row, unstored.
template <class Arithmetic, class Weight, class Result>
void work_share(const Problem& p, int64_t share) {
  constexpr int kRows = Arithmetic::kRows;
  constexpr int64_t kPanelGroups = kPanelTokens / kTileTokens;
  const int64_t first = p.m * share / p.shares;
  const int64_t last = p.m * (share + 1) / p.shares;
  const int64_t run = ceil_div(last - first, kRows);
  for (int64_t j = 0; j < run; ++j) {
    const typename Weight::Bits* rows[kRows];
    for (int r = 0; r < kRows; ++r) {
      rows[r] = static_cast<const typename Weight::Bits*>(p.w) + min(first + r * run + j, last - 1) * p.stride_w;
    }
    for (int64_t g = 0; g < group_count(p.n); g += kPanelGroups) {
      const int64_t g_end = min(g + kPanelGroups, group_count(p.n));
      const int64_t token_begin = group_begin(p.n, g);
      const int64_t token_end = group_begin(p.n, g_end);
      f32v lanes[kPanelTokens][kRows];
      memset(lanes, 0, (token_end - token_begin) * sizeof(lanes[0]));
      dot_rows<Arithmetic>(p, rows, g, g_end, lanes);
      for (int64_t token = token_begin; token < token_end; ++token) {
        f32v(&of)[kRows] = lanes[token - token_begin];
        float sums[kRows];
        add_lanes(of, sums);
        if constexpr (Arithmetic::kFlushes) {
          bool again[kRows], any = false;
          for (int r = 0; r < kRows; ++r) any |= again[r] = !(__builtin_fabsf(sums[r]) >= p.least[token]);
          if (any) {
            float exact[kRows];
            dot_again<Weight>(p, rows, token, of);
            add_lanes(of, exact);
            for (int r = 0; r < kRows; ++r) sums[r] = again[r] ? exact[r] : sums[r];
          }
        }
        for (int r = 0; r < kRows; ++r) {
          const int64_t row = first + r * run + j;
          if (row < last) store_sum<Arithmetic, Result>(p, token, row, sums[r]);
        }
      }
    }
  }
}

template <class Arithmetic, class Weight, class Result>
void work(int64_t begin, int64_t end, void* context) {
  const Problem& problem = *static_cast<const Problem*>(context);
  for (int64_t share = begin; share < end; ++share) work_share<Arithmetic, Weight, Result>(problem, share);
}

template <class Arithmetic, class Weight, class Result>
int32_t multiply_by(Problem& p, parallel_for_t parallel_for, int64_t threads) {
  const int64_t packed = p.n * ceil_div(p.k, Arithmetic::kStep) * Arithmetic::kStep;
  const int64_t bytes = packed * sizeof(uint16_t) + p.n * sizeof(float);
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, bytes) != 0) return kNoMemory;
  auto* tokens = static_cast<uint16_t*>(memory);
  auto* least = reinterpret_cast<float*>(tokens + packed);
  pack_tokens<Arithmetic>(p, tokens);
  p.tokens = tokens;
  if constexpr (Arithmetic::kFlushes) {
    for (int64_t t = 0; t < p.n; ++t) least[t] = least_sum(token_row<Arithmetic>(p, t), p.k);
    p.least = least;
  }
  const double multiply_adds = static_cast<double>(p.n) * p.m * p.k;
  p.shares = parallel_for == nullptr || multiply_adds < kSerialWork ? 1 : min(threads, ceil_div(p.m, kShareRows));
  int32_t status = 0;
  if (p.shares <= 1) {
    p.shares = 1;
    work<Arithmetic, Weight, Result>(0, 1, &p);
  } else {
    status = parallel_for(0, p.shares, 1, work<Arithmetic, Weight, Result>, &p);
  }
  free(memory);
  return status;
}

// Computes y; `shares`, `tokens` and `least` are filled in. Returns 0, kNoMemory, or what parallel_for returned.
template <class Weight, class Result>
int32_t multiply(Problem& p, parallel_for_t parallel_for, int64_t threads) {
  if (p.n <= 0 || p.m <= 0) return 0;
#if AITERLITE_CPU_BF16_DOT
  if constexpr (!__is_same(Weight, Fp16)) {
    if (has_bf16_dot()) return multiply_by<DotBf16<Weight>, Weight, Result>(p, parallel_for, threads);
  }
#endif
  return multiply_by<MultiplyAdd<Weight>, Weight, Result>(p, parallel_for, threads);
}

}  // namespace aiterlite::cpu
