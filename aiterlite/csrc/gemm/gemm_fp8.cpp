// The skinny GEMM of 8-bit floats in the same host unit: y[n, m] = (sum_k x[n, k] * w[m, k]) * scale_x[n] *
// scale_w[m] + bias in bf16 or fp16. Both e4m3 types run on every CPU; their products are exact in fp32.
#include <aiterlite/cpu/skinny_gemm.h>
#include <aiterlite/gemm_args.h>

namespace {

using namespace aiterlite::cpu;

template <class Weight, class Result>
int32_t run(const aiterlite_scaled_gemm_args& args, parallel_for_t parallel_for, int32_t num_threads) {
  Problem problem = {};
  problem.x = args.x;
  problem.w = args.weight;
  problem.bias = args.bias;
  problem.y = args.y;
  problem.scale_x = static_cast<const float*>(args.scale_x);
  problem.scale_w = static_cast<const float*>(args.scale_w);
  problem.stride_x = args.stride_x;
  problem.stride_w = args.stride_w;
  problem.stride_bias = args.stride_bias;
  problem.stride_y = args.stride_y;
  problem.stride_scale_x = args.stride_scale_x;
  problem.stride_scale_w = args.stride_scale_w;
  problem.n = args.n;
  problem.m = args.m;
  problem.k = args.k;
  return multiply<Weight, Result>(problem, parallel_for, num_threads);
}

}  // namespace

#define AITERLITE_SCALED(name, Weight, Result)                                                               \
  AITERLITE_EXPORT int32_t aiterlite_wv_split_k_q_cpu_##name(const aiterlite_scaled_gemm_args* args,         \
                                                             parallel_for_t parallel_for, int32_t threads) { \
    return run<Weight, Result>(*args, parallel_for, threads);                                                \
  }
AITERLITE_SCALED(e4m3fn_bf16, E4m3fn, Bf16)
AITERLITE_SCALED(e4m3fn_fp16, E4m3fn, Fp16)
AITERLITE_SCALED(e4m3fnuz_bf16, E4m3fnuz, Bf16)
AITERLITE_SCALED(e4m3fnuz_fp16, E4m3fnuz, Fp16)
