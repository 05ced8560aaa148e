// The skinny GEMM on a CPU: y[n, m] = sum_k x[n, k] * w[m, k] + bias, bf16 or fp16, for few tokens n and many m. Serves
// every number of tokens. aiterlite_batched_gemm_* does many such products. The implementation is cpu/skinny_gemm.h.
#include <aiterlite/cpu/skinny_gemm.h>
#include <aiterlite/gemm_args.h>

#include <atomic>

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

template <class Element>
aiterlite_gemm_args product(const aiterlite_batched_gemm_args& given, int64_t batch) {
  using Bits = typename Element::Bits;
  aiterlite_gemm_args args = given.first;
  args.x = static_cast<const Bits*>(args.x) + batch * given.stride_x_batch;
  args.weight = static_cast<const Bits*>(args.weight) + batch * given.stride_w_batch;
  if (args.bias != nullptr) args.bias = static_cast<const Bits*>(args.bias) + batch * given.stride_bias_batch;
  args.y = static_cast<Bits*>(args.y) + batch * given.stride_y_batch;
  return args;
}

struct Products {
  const aiterlite_batched_gemm_args* args;
  std::atomic<int32_t> status;
};

template <class Element>
void work_products(int64_t begin, int64_t end, void* context) {
  auto& products = *static_cast<Products*>(context);
  for (int64_t batch = begin; batch < end; ++batch) {
    const int32_t status = run<Element>(product<Element>(*products.args, batch), nullptr, 1);
    if (status != 0) products.status = status;
  }
}

// Threads share the products, whole ones each, where these are as many.
template <class Element>
int32_t run_batched(const aiterlite_batched_gemm_args& args, parallel_for_t parallel_for, int32_t num_threads) {
  const double multiply_adds = static_cast<double>(args.batch) * args.first.n * args.first.m * args.first.k;
  if (parallel_for != nullptr && args.batch >= num_threads && multiply_adds >= kSerialWork) {
    Products products{&args, 0};
    const int32_t status = parallel_for(0, args.batch, 1, work_products<Element>, &products);
    return status != 0 ? status : products.status.load();
  }
  for (int64_t batch = 0; batch < args.batch; ++batch) {
    const int32_t status = run<Element>(product<Element>(args, batch), parallel_for, num_threads);
    if (status != 0) return status;
  }
  return 0;
}

}  // namespace

AITERLITE_EXPORT int32_t aiterlite_batched_gemm_cpu_bf16(const aiterlite_batched_gemm_args* args,
                                                         parallel_for_t parallel_for, int32_t num_threads) {
  return run_batched<Bf16>(*args, parallel_for, num_threads);
}

AITERLITE_EXPORT int32_t aiterlite_batched_gemm_cpu_fp16(const aiterlite_batched_gemm_args* args,
                                                         parallel_for_t parallel_for, int32_t num_threads) {
  return run_batched<Fp16>(*args, parallel_for, num_threads);
}

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
