// The end of an output: scales that are of all k, then the bias, at float, then one rounding.
#pragma once
#include <aiterlite/gemm_a8w8/args.h>
#include <aiterlite/numeric/pack.h>

namespace aiterlite::gemm_a8w8 {

// kOfToken: a token has one scale, not one for 128 k; kOfRow: so has a row of weights, not blocks of them.
template <class Result, bool kOfToken, bool kOfRow>
struct Output {
  const aiterlite_gemm_a8w8_args& args;
  uint32_t batch;

  // What a row's outputs are multiplied by, and what is added.
  struct Row {
    float scale, bias;
  };
  AITERLITE_DEVICE Row row(uint32_t m) const {
    Row made = {1.0f, 0.0f};
    if constexpr (kOfRow) {
      made.scale = load_f32(args.w_scale + batch * args.stride_w_scale_batch + m * args.stride_w_scale);
    }
    if (args.bias != nullptr) {
      const auto* bias = static_cast<const Result*>(args.bias) + batch * args.stride_bias_batch + m;
      made.bias = to_float(Result{load_u16(bias)});
    }
    return made;
  }
  AITERLITE_DEVICE float token(uint32_t n) const {
    if constexpr (kOfToken) return load_f32(args.x_scale + batch * args.stride_x_scale_batch + n * args.stride_x_scale);
    return 1.0f;
  }
  AITERLITE_DEVICE static float scaled(float sum, float of_token, const Row& row) {
    if constexpr (kOfToken) sum *= of_token;
    if constexpr (kOfRow) sum *= row.scale;
    return sum + row.bias;
  }
  AITERLITE_DEVICE static uint16_t bits(float sum, float of_token, const Row& row) {
    return from_float<Result>(scaled(sum, of_token, row)).bits;
  }
  // Whether so many neighbouring rows, from a multiple of them on, exist together and can be stored as a vector.
  AITERLITE_DEVICE bool comes_in(uint32_t rows) const {
    const auto y = reinterpret_cast<uintptr_t>(args.y);
    return (y % (2 * rows) | (args.m | args.stride_y | args.stride_y_batch) % rows) == 0;
  }
  // Those of four neighbouring rows that exist.
  AITERLITE_DEVICE void store_four(uint32_t n, uint32_t m, const float (&sums)[4], bool in_fours) const {
    const float of_token = token(n);
    if (in_fours) {
      if (m >= static_cast<uint32_t>(args.m)) return;
      float value[4];
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) value[i] = scaled(sums[i], of_token, row(m + i));
      store_vector8(at(n, m), {{pack_pair(Result{}, value[0], value[1]), pack_pair(Result{}, value[2], value[3])}});
      return;
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      if (m + i < static_cast<uint32_t>(args.m)) store_u16(at(n, m + i), bits(sums[i], of_token, row(m + i)));
    }
  }
  AITERLITE_DEVICE Result* at(uint32_t n, uint32_t m) const {
    return static_cast<Result*>(args.y) + batch * args.stride_y_batch + n * args.stride_y + m;
  }
};

}  // namespace aiterlite::gemm_a8w8
