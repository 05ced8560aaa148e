// Host unit of the skinny GEMM: y[n, m] = sum_k x[n, k] * w[m, k] + bias, bf16 or fp16, for few tokens n and many m.
//
// The CPU implementation is cpu/skinny_gemm.h; device implementations are launched through aiterlite_wv_split_k_launch.
#include <aiterlite/cpu/skinny_gemm.h>
#include <aiterlite/gemm_args.h>
#include <aiterlite/host_abi.h>
#include <aiterlite/kernarg.h>

namespace {

using namespace aiterlite::cpu;

constexpr int32_t kAbi = 1;
constexpr int32_t kInvalid = -1;

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
  problem.x = x;
  problem.w = w;
  problem.bias = bias;
  problem.y = y;
  problem.stride_x = stride_x;
  problem.stride_w = stride_w;
  problem.stride_bias = stride_bias;
  problem.stride_y = stride_y;
  problem.n = n;
  problem.m = m;
  problem.k = k;
  return element == 1 ? multiply<Fp16, Fp16>(problem, parallel_for, num_threads)
                      : multiply<Bf16, Bf16>(problem, parallel_for, num_threads);
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
