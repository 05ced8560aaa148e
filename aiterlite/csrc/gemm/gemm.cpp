// The skinny GEMM on a CPU: y[n, m] = sum_k x[n, k] * w[m, k] + bias, bf16 or fp16, for few tokens n and many m. Serves
// every number of tokens. The implementation is cpu/skinny_gemm.h.
#include <aiterlite/cpu/skinny_gemm.h>
#include <aiterlite/gemm_args.h>

namespace {

using namespace aiterlite::cpu;

// A result that is not rounded.
struct Float {
  using Bits = float;
  static float to_float(float value) { return value; }
  static float from_float(float value) { return value; }
};

template <class Element, class Result = Element>
int32_t run(const aiterlite_gemm_args& args, parallel_for_t parallel_for, int32_t num_threads) {
  Problem problem = {};
  problem.x = args.x;
  problem.w = args.weight;
  problem.bias = args.bias;
  problem.y = args.y;
  problem.stride_x = args.stride_x;
  problem.stride_w = args.stride_w;
  problem.stride_bias = args.stride_bias;
  problem.stride_y = args.stride_y;
  problem.n = args.n;
  problem.m = args.m;
  problem.k = args.k;
  return multiply<Element, Result>(problem, parallel_for, num_threads);
}

}  // namespace

AITERLITE_EXPORT int32_t aiterlite_wv_split_k_cpu_bf16(const aiterlite_gemm_args* args, parallel_for_t parallel_for,
                                                       int32_t num_threads) {
  return run<Bf16>(*args, parallel_for, num_threads);
}

AITERLITE_EXPORT int32_t aiterlite_wv_split_k_cpu_fp16(const aiterlite_gemm_args* args, parallel_for_t parallel_for,
                                                       int32_t num_threads) {
  return run<Fp16>(*args, parallel_for, num_threads);
}

AITERLITE_EXPORT int32_t aiterlite_wv_split_k_cpu_bf16_float(const aiterlite_gemm_args* args,
                                                             parallel_for_t parallel_for, int32_t num_threads) {
  return run<Bf16, Float>(*args, parallel_for, num_threads);
}

AITERLITE_EXPORT int32_t aiterlite_wv_split_k_cpu_fp16_float(const aiterlite_gemm_args* args,
                                                             parallel_for_t parallel_for, int32_t num_threads) {
  return run<Fp16, Float>(*args, parallel_for, num_threads);
}
