// Host unit of the skinny GEMM: y[n, m] = sum_k x[n, k] * w[m, k] + bias, bf16 or fp16, for few tokens n and many m.
//
// CPU implementation. The weights are read once, and everything serves the speed of that stream:
// * Each thread owns one contiguous share of the rows, cut into 4 runs; a register tile (dot_tile.h) takes one row of
//   each run. So a thread reads 4 long contiguous streams, which the hardware's prefetchers follow across rows; 4
//   adjacent rows would end and restart its streams at every row.
// * The tokens are packed once a call in the order in which tiles read them. Up to kTileTokens tokens share
//   a tile; with more, the tiles of one strip of K follow each other, so that the weights come from L1 after the first.
// Traffic: 2 * M * K bytes of weights; 2 * N * K bytes of tokens for each 4 rows, from L1 or L2.
// Arithmetic: fp32 sums over strips of K, added in order; bias added in fp32; one rounding to nearest even. The bits of
// y[n, m] depend on x[n], w[m] and bias[n, m] only: not on threads, N, M, or strides.
// Nothing is read outside the rows' K elements: the end of a row goes through a zero-filled copy.
//
// Device implementations are launched through aiterlite_wv_split_k_launch.
#include <aiterlite/cpu/dot_tile.h>
#include <aiterlite/gemm_args.h>
#include <aiterlite/kernarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define AITERLITE_EXPORT extern "C" __attribute__((visibility("default")))

typedef int32_t (*parallel_for_t)(int64_t begin, int64_t end, int64_t grain, void (*fn)(int64_t, int64_t, void*),
                                  void* ctx);
typedef int32_t (*launch_t)(void* function, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z, uint32_t block_x,
                            uint32_t block_y, uint32_t block_z, uint32_t shared_bytes, void* stream,
                            void** kernel_params, void** extra);

namespace {

using namespace aiterlite::cpu;

constexpr int32_t kAbi = 1;
constexpr int32_t kInvalid = -1;
constexpr int32_t kNoMemory = -2;

constexpr int64_t kStrip = 2048;         // elements of K whose weights stay in L1 for all tokens
constexpr int64_t kPanelTokens = 16;     // tokens whose sums a thread holds
constexpr double kSerialWork = 1 << 17;  // multiply-adds that are not worth waking a thread for
static_assert(kStrip % kStep == 0);

struct Problem {
  const uint16_t* x;
  const uint16_t* w;
  const uint16_t* bias;
  uint16_t* y;
  int64_t stride_x, stride_w, stride_bias, stride_y;
  int64_t n, m, k;
  int64_t shares;          // that M is cut into
  const uint16_t* tokens;  // packed: [group][step of K][token of group][kStep], zero-filled
};

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Groups of at most kTileTokens tokens, as equal as can be.
inline int64_t group_count(int64_t n) { return ceil_div(n, kTileTokens); }
inline int64_t group_begin(int64_t n, int64_t group) { return n * group / group_count(n); }

void pack_tokens(const Problem& p, uint16_t* out) {
  for (int64_t g = 0; g < group_count(p.n); ++g) {
    for (int64_t k = 0; k < p.k; k += kStep) {
      for (int64_t t = group_begin(p.n, g); t < group_begin(p.n, g + 1); ++t, out += kStep) {
        const uint16_t* from = p.x + t * p.stride_x + k;
        if (p.k - k < kStep) memset(out, 0, 2 * kStep);
        memcpy(out, from, 2 * min(kStep, p.k - k));
      }
    }
  }
}

// sums[token][row] of 4 rows, for the tokens of groups [first_group, last_group).
template <class Element>
void dot_rows(const Problem& p, const uint16_t* const (&rows)[kTileRows], int64_t first_group, int64_t last_group,
              f32q* sums) {
  const int64_t row_steps = ceil_div(p.k, kStep);
  for (int64_t k = 0; k < p.k; k += kStrip) {
    const int64_t whole = min(kStrip, p.k - k) / kStep;
    const int64_t rest = min(kStrip, p.k - k) % kStep;
    const uint16_t* w[kTileRows];
    const uint16_t* w_end[kTileRows];
    uint16_t end[kTileRows][kStep] = {};
    for (int r = 0; r < kTileRows; ++r) {
      w[r] = rows[r] + k;
      w_end[r] = static_cast<const uint16_t*>(memcpy(end[r], w[r] + whole * kStep, 2 * rest));
    }
    f32q* out = sums;
    for (int64_t g = first_group; g < last_group; ++g) {
      const int64_t begin = group_begin(p.n, g);
      const int tokens = static_cast<int>(group_begin(p.n, g + 1) - begin);
      const uint16_t* x = p.tokens + (begin * row_steps + k / kStep * tokens) * kStep;
      f32q part[kTileTokens] = {};
      dot_tile<Element>(tokens, w, x, whole, part);
      for (int t = 0; t < tokens; ++t) out[t] += part[t];
      if (rest != 0) {
        dot_tile<Element>(tokens, w_end, x + whole * tokens * kStep, 1, part);
        for (int t = 0; t < tokens; ++t) out[t] += part[t];
      }
      out += tokens;
    }
  }
}

template <class Element>
void store(const Problem& p, int64_t token, int64_t row, float sum) {
  if (p.bias != nullptr) sum += Element::to_float(p.bias[token * p.stride_bias + row]);
  p.y[token * p.stride_y + row] = Element::from_float(sum);
}

// One thread's rows: tile j takes row j of each of 4 runs. Where they do not come out even, the last run is short and
// its tiles repeat the last row, unstored.
template <class Element>
void work_share(const Problem& p, int64_t share) {
  const int64_t first = p.m * share / p.shares;
  const int64_t last = p.m * (share + 1) / p.shares;
  const int64_t run = ceil_div(last - first, kTileRows);
  constexpr int64_t kPanelGroups = kPanelTokens / kTileTokens;
  for (int64_t j = 0; j < run; ++j) {
    const uint16_t* rows[kTileRows];
    for (int r = 0; r < kTileRows; ++r) rows[r] = p.w + min(first + r * run + j, last - 1) * p.stride_w;
    for (int64_t g = 0; g < group_count(p.n); g += kPanelGroups) {
      const int64_t g_end = min(g + kPanelGroups, group_count(p.n));
      f32q sums[kPanelTokens] = {};
      dot_rows<Element>(p, rows, g, g_end, sums);
      for (int64_t token = group_begin(p.n, g); token < group_begin(p.n, g_end); ++token) {
        for (int r = 0; r < kTileRows; ++r) {
          const int64_t row = first + r * run + j;
          if (row < last) store<Element>(p, token, row, sums[token - group_begin(p.n, g)][r]);
        }
      }
    }
  }
}

template <class Element>
void work(int64_t begin, int64_t end, void* context) {
  const Problem& problem = *static_cast<const Problem*>(context);
  for (int64_t share = begin; share < end; ++share) work_share<Element>(problem, share);
}

template <class Element>
int32_t multiply(Problem& p, parallel_for_t parallel_for, int64_t threads) {
  const int64_t bytes = p.n * ceil_div(p.k, kStep) * kStep * static_cast<int64_t>(sizeof(uint16_t));
  void* tokens = nullptr;
  if (bytes > 0 && posix_memalign(&tokens, 64, bytes) != 0) return kNoMemory;
  pack_tokens(p, static_cast<uint16_t*>(tokens));
  p.tokens = static_cast<const uint16_t*>(tokens);
  const double multiply_adds = static_cast<double>(p.n) * p.m * p.k;
  p.shares = parallel_for == nullptr || multiply_adds < kSerialWork ? 1 : min(threads, ceil_div(p.m, kTileRows));
  int32_t status = 0;
  if (p.shares <= 1) {
    p.shares = 1;
    work<Element>(0, 1, &p);
  } else {
    status = parallel_for(0, p.shares, 1, work<Element>, &p);
  }
  free(tokens);
  return status;
}

#define ARGUMENT(field) AITERLITE_KERNARG_FIELD(aiterlite_gemm_args, field)
constexpr aiterlite_kernarg_field kArguments[] = {
    AITERLITE_KERNARG_STRUCT(aiterlite_gemm_args),
    ARGUMENT(x),
    ARGUMENT(w),
    ARGUMENT(bias),
    ARGUMENT(y),
    ARGUMENT(stride_x),
    ARGUMENT(stride_w),
    ARGUMENT(stride_bias),
    ARGUMENT(stride_y),
    ARGUMENT(n),
    ARGUMENT(m),
    ARGUMENT(k),
    ARGUMENT(reserved),
    AITERLITE_KERNARG_END,
};
#undef ARGUMENT
static_assert(aiterlite::covers_struct(kArguments), "list every field of aiterlite_gemm_args, in order");
constexpr size_t kArgumentCount = sizeof(kArguments) / sizeof(kArguments[0]) - 2;

}  // namespace

AITERLITE_EXPORT int32_t aiterlite_gemm_abi(void) { return kAbi; }

AITERLITE_EXPORT const aiterlite_kernarg_field* aiterlite_gemm_args_layout(void) { return kArguments; }

// Strides in elements; element 0 is bf16, 1 fp16. Returns 0, -1 for an argument out of range, -2 for no memory, or what
// parallel_for returned.
AITERLITE_EXPORT int32_t aiterlite_wv_split_k_cpu(const void* x, const void* w, const void* bias, void* y,
                                                  int64_t stride_x, int64_t stride_w, int64_t stride_bias,
                                                  int64_t stride_y, int64_t n, int64_t m, int64_t k, int32_t element,
                                                  parallel_for_t parallel_for, int32_t num_threads) {
  if (n < 0 || m < 0 || k < 0 || (element != 0 && element != 1)) return kInvalid;
  if (n == 0 || m == 0) return 0;
  Problem problem = {};
  problem.x = static_cast<const uint16_t*>(x);
  problem.w = static_cast<const uint16_t*>(w);
  problem.bias = static_cast<const uint16_t*>(bias);
  problem.y = static_cast<uint16_t*>(y);
  problem.stride_x = stride_x;
  problem.stride_w = stride_w;
  problem.stride_bias = stride_bias;
  problem.stride_y = stride_y;
  problem.n = n;
  problem.m = m;
  problem.k = k;
  return element == 1 ? multiply<Fp16>(problem, parallel_for, num_threads)
                      : multiply<Bf16>(problem, parallel_for, num_threads);
}

// Calls a driver's launch (hipModuleLaunchKernel and cuLaunchKernel have this one signature) with aiterlite_gemm_args
// by value. To a driver a compiled kernel has one argument, the struct, and an assembly kernel one for each field; the
// address of the first field is that of the struct, so one list of addresses serves both.
// Returns the driver's status, or -1 for sizes beyond 32 bits.
AITERLITE_EXPORT int32_t aiterlite_wv_split_k_launch(launch_t launch, void* function, void* stream, uint32_t grid,
                                                     uint32_t block, uint32_t shared_bytes, const void* x,
                                                     const void* w, const void* bias, void* y, int64_t stride_x,
                                                     int64_t stride_w, int64_t stride_bias, int64_t stride_y, int64_t n,
                                                     int64_t m, int64_t k) {
  const auto n32 = static_cast<int32_t>(n), m32 = static_cast<int32_t>(m), k32 = static_cast<int32_t>(k);
  if (n != n32 || m != m32 || k != k32) return kInvalid;
  aiterlite_gemm_args args = {x, w, bias, y, stride_x, stride_w, stride_bias, stride_y, n32, m32, k32, 0};
  void* params[kArgumentCount];
  for (size_t i = 0; i < kArgumentCount; ++i) params[i] = reinterpret_cast<char*>(&args) + kArguments[i + 1].offset;
  return launch(function, grid, 1, 1, block, 1, 1, shared_bytes, stream, params, nullptr);
}
