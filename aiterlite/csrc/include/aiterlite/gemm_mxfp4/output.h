// The end of an output: alpha, then beta times the bias, at float, then one rounding.
#pragma once
#include <aiterlite/gemm_mxfp4/args.h>
#include <aiterlite/numeric/pack.h>

namespace aiterlite::gemm_mxfp4 {

// Result: bf16, fp16 or float. kBias: there may be one.
template <class Result, bool kBias = true>
struct Output {
  const aiterlite_gemm_mxfp4_args& args;
  uint32_t batch;

  AITERLITE_DEVICE float finished(float sum, uint32_t n, uint32_t m) const {
    float value = args.alpha * sum;
    if (kBias && args.bias != nullptr) {
      const int64_t at = n * args.stride_bias + m;
      if (args.bias_is_float != 0) {
        value = __builtin_fmaf(args.beta, load_f32(static_cast<const float*>(args.bias) + at), value);
      } else if constexpr (sizeof(Result) == 2) {
        const uint16_t bits = load_u16(static_cast<const Result*>(args.bias) + at);
        value = __builtin_fmaf(args.beta, to_float(Result{bits}), value);
      }
    }
    return value;
  }
  AITERLITE_DEVICE Result* at(uint32_t n, uint32_t m) const {
    return static_cast<Result*>(args.y) + batch * args.stride_y_batch + n * args.stride_y + m;
  }
  AITERLITE_DEVICE void store(float sum, uint32_t n, uint32_t m) const {
    const float value = finished(sum, n, m);
    if constexpr (sizeof(Result) == 2) {
      store_u16(at(n, m), from_float<Result>(value).bits);
    } else {
      store_u32(at(n, m), __builtin_bit_cast(uint32_t, value));
    }
  }
  // Whether four neighbouring rows, from a multiple of four on, exist together and can be stored as a vector.
  AITERLITE_DEVICE bool comes_in_fours() const {
    const auto y = reinterpret_cast<uintptr_t>(args.y);
    const auto rows = static_cast<uint32_t>(args.m | args.stride_y | args.stride_y_batch);
    return (y % (4 * sizeof(Result)) | rows % 4) == 0;
  }
  // Those of four neighbouring rows that exist.
  AITERLITE_DEVICE void store_four(const float (&sums)[4], uint32_t n, uint32_t m, bool in_fours) const {
    if (in_fours) {
      if (m >= static_cast<uint32_t>(args.m)) return;
      float value[4];
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) value[i] = finished(sums[i], n, m + i);
      if constexpr (sizeof(Result) == 2) {
        store_vector8(at(n, m), {{pack_pair(Result{}, value[0], value[1]), pack_pair(Result{}, value[2], value[3])}});
      } else {
        store_quad(at(n, m), {{value[0], value[1], value[2], value[3]}});
      }
      return;
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      if (m + i < static_cast<uint32_t>(args.m)) store(sums[i], n, m + i);
    }
  }
};

}  // namespace aiterlite::gemm_mxfp4
