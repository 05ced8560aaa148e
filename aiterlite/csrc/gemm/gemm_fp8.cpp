// The skinny GEMM of 8-bit floats in the same host unit: y[n, m] = (sum_k x[n, k] * w[m, k]) * scale_x * scale_w[m] +
// bias in bf16 or fp16. Both e4m3 types run on every CPU; their products are exact in fp32.
#include <aiterlite/cpu/skinny_gemm.h>
#include <aiterlite/gemm_args.h>
#include <aiterlite/host_abi.h>
#include <aiterlite/kernarg.h>

namespace {

using namespace aiterlite::cpu;

constexpr int32_t kInvalid = -1;

#define ARGUMENT(field) AITERLITE_KERNARG_FIELD(aiterlite_scaled_gemm_args, field)
constexpr aiterlite_kernarg_field kArguments[] = {
    AITERLITE_KERNARG_STRUCT(aiterlite_scaled_gemm_args),
    ARGUMENT(x),
    ARGUMENT(w),
    ARGUMENT(bias),
    ARGUMENT(y),
    ARGUMENT(scale_x),
    ARGUMENT(scale_w),
    ARGUMENT(stride_x),
    ARGUMENT(stride_w),
    ARGUMENT(stride_bias),
    ARGUMENT(stride_y),
    ARGUMENT(stride_scale_w),
    ARGUMENT(n),
    ARGUMENT(m),
    ARGUMENT(k),
    ARGUMENT(reserved),
    AITERLITE_KERNARG_END,
};
#undef ARGUMENT
static_assert(aiterlite::covers_struct(kArguments), "list every field of aiterlite_scaled_gemm_args, in order");
constexpr size_t kArgumentCount = sizeof(kArguments) / sizeof(kArguments[0]) - 2;

template <class Weight>
int32_t multiply_to(int32_t result, Problem& problem, parallel_for_t parallel_for, int32_t threads) {
  return result == 1 ? multiply<Weight, Fp16>(problem, parallel_for, threads)
                     : multiply<Weight, Bf16>(problem, parallel_for, threads);
}

}  // namespace

AITERLITE_EXPORT const aiterlite_kernarg_field* aiterlite_scaled_gemm_args_layout(void) { return kArguments; }

// Strides in elements; scale_x is one float, scale_w one for each row, stride_scale_w apart (0: one for all). element 0
// is e4m3fn, 1 e4m3fnuz; result, the type of bias and y, 0 is bf16, 1 fp16. Returns as aiterlite_wv_split_k_cpu does.
AITERLITE_EXPORT int32_t aiterlite_wv_split_k_q_cpu(const void* x, const void* w, const void* bias, void* y,
                                                    const void* scale_x, const void* scale_w, int64_t stride_x,
                                                    int64_t stride_w, int64_t stride_bias, int64_t stride_y,
                                                    int64_t stride_scale_w, int64_t n, int64_t m, int64_t k,
                                                    int32_t element, int32_t result, parallel_for_t parallel_for,
                                                    int32_t num_threads) {
  if (n < 0 || m < 0 || k < 0 || (element != 0 && element != 1) || (result != 0 && result != 1)) return kInvalid;
  if (n == 0 || m == 0) return 0;
  Problem problem = {};
  problem.x = x;
  problem.w = w;
  problem.bias = bias;
  problem.y = y;
  problem.scale_x = static_cast<const float*>(scale_x);
  problem.scale_w = static_cast<const float*>(scale_w);
  problem.stride_x = stride_x;
  problem.stride_w = stride_w;
  problem.stride_bias = stride_bias;
  problem.stride_y = stride_y;
  problem.stride_scale_w = stride_scale_w;
  problem.n = n;
  problem.m = m;
  problem.k = k;
  return element == 1 ? multiply_to<E4m3fnuz>(result, problem, parallel_for, num_threads)
                      : multiply_to<E4m3fn>(result, problem, parallel_for, num_threads);
}

// As aiterlite_wv_split_k_launch, with aiterlite_scaled_gemm_args. A kernel may declare the struct or each of its
// fields: the driver reads as many pointers as there are parameters, and the first field's address is the struct's.
AITERLITE_EXPORT int32_t aiterlite_wv_split_k_q_launch(launch_t launch, void* function, void* stream, uint32_t grid,
                                                       uint32_t block, uint32_t shared_bytes, const void* x,
                                                       const void* w, const void* bias, void* y, const void* scale_x,
                                                       const void* scale_w, int64_t stride_x, int64_t stride_w,
                                                       int64_t stride_bias, int64_t stride_y, int64_t stride_scale_w,
                                                       int64_t n, int64_t m, int64_t k) {
  const auto n32 = static_cast<int32_t>(n), m32 = static_cast<int32_t>(m), k32 = static_cast<int32_t>(k);
  if (n != n32 || m != m32 || k != k32) return kInvalid;
  aiterlite_scaled_gemm_args args = {x,           w,        bias,           y,   scale_x, scale_w, stride_x, stride_w,
                                     stride_bias, stride_y, stride_scale_w, n32, m32,     k32,     0};
  void* params[kArgumentCount];
  for (size_t i = 0; i < kArgumentCount; ++i) params[i] = reinterpret_cast<char*>(&args) + kArguments[i + 1].offset;
  return launch(function, grid, 1, 1, block, 1, 1, shared_bytes, stream, params, nullptr);
}
