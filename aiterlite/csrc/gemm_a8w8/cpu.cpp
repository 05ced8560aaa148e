// GEMM of 8-bit floats with scales on a CPU: gemm_a8w8/args.h, of both e4m3 types.
//
// Tokens are taken in chunks, so that memory has a bound. A chunk's tokens become numbers, as the tiles of
// cpu/expert_tile.h read them; then each task has panels of 16 rows of weights, which are read once a chunk (once for
// each 32 tokens from the second-level cache) and multiplied by all of them. Where x comes in 16 bits it is quantised
// on the way, by the bits of any target.
//
// The bits of an output depend on its operands only. Products are exact in fp32, and a group's 128 of them are summed
// before its scale is multiplied.
#include <aiterlite/cpu/expert_tile.h>
#include <aiterlite/cpu/memory.h>
#include <aiterlite/cpu/quantise.h>
#include <aiterlite/gemm_a8w8/cpu_args.h>
#include <aiterlite/host_abi.h>

namespace {

using namespace aiterlite::cpu;
using Args = aiterlite_gemm_a8w8_cpu_args;

constexpr int64_t kChunkRows = 512;       // of x
constexpr int64_t kSerialWork = 1 << 17;  // multiply-adds that are not worth waking a thread for
constexpr float kLeastMaximum = 1e-10f;   // of quant/strip.h

struct Divide {
  float scale;
  f32v operator()(f32v x) const { return x / scale; }
};

template <class Weight, class Encode, class Result, class Arithmetic>
class Product {
  using Bits = typename Arithmetic::Bits;
  using Number = typename Arithmetic::Number;
  using Work = void (Product::*)(int64_t begin, int64_t end);

 public:
  Product(const Args& given, parallel_for_t parallel_for, int32_t threads)
      : args_(given.gemm),
        how_(given),
        parallel_for_(parallel_for),
        threads_(threads),
        groups_(ceil_div(args_.k, kGroup)),
        panels_(ceil_div(args_.m, kPanelRows)) {}

  int32_t run() {
    if (args_.n <= 0 || args_.m <= 0 || args_.batch <= 0) return 0;
    const int64_t tokens = min(args_.n, kChunkRows), batches = min(args_.batch, kChunkRows / tokens);
    if (!x_.make(tokens * batches * groups_ * kGroup) || !factor_.make(tokens * batches * groups_)) return kNoMemory;
    for (first_batch_ = 0; first_batch_ < args_.batch; first_batch_ += batches) {
      for (first_token_ = 0; first_token_ < args_.n; first_token_ += tokens) {
        tokens_ = min(tokens, args_.n - first_token_);
        const int64_t here = min(batches, args_.batch - first_batch_);
        int32_t status = share(here * tokens_, 64 * args_.k, &Product::pack);
        if (status == 0) status = share(here * panels_, kPanelRows * tokens_ * args_.k, &Product::multiply);
        if (status == 0) status = status_;
        if (status != 0) return status;
      }
    }
    return 0;
  }

 private:
  // Calls `work` on parts of so many tasks, by threads of which each has some.
  int32_t share(int64_t tasks, int64_t work_each, Work work) {
    work_ = work;
    const int64_t most = ceil_div(kSerialWork, work_each > 0 ? work_each : 1);
    if (parallel_for_ == nullptr || threads_ <= 1 || tasks <= most) {
      (this->*work)(0, tasks);
      return 0;
    }
    const int64_t each = ceil_div(tasks, 8 * threads_);
    return parallel_for_(0, tasks, each > most ? each : most, call, this);
  }
  static void call(int64_t begin, int64_t end, void* context) {
    auto& product = *static_cast<Product*>(context);
    (product.*product.work_)(begin, end);
  }

  // Rows of the chunk as numbers, with a scale for each group.
  void pack(int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t batch = first_batch_ + row / tokens_, token = first_token_ + row % tokens_;
      Number* to = x_.at + row * groups_ * kGroup;
      float* factor = factor_.at + row * groups_;
      const int64_t at = batch * args_.stride_x_batch + token * args_.stride_x;
      if (how_.quantise != 0) {
        quantise(to, factor, at);
        continue;
      }
      const Bits* from = static_cast<const Bits*>(args_.x) + at;
      for (int64_t g = 0; g < groups_; ++g)
        pack_group(to + g * kGroup, from + g * kGroup, min(kGroup, args_.k - g * kGroup));
      const float* scale = args_.x_scale + batch * args_.stride_x_scale_batch + token * args_.stride_x_scale;
      for (int64_t g = 0; g < groups_; ++g)
        factor[g] = how_.x_groups != 0 ? scale[g * args_.stride_x_scale_group] : 1.0f;
    }
  }
  static void pack_group(Number* to, const Bits* from, int64_t count) {
    constexpr int64_t kStep = Arithmetic::kStep;
    Bits held[kGroup] = {};
    if (count < kGroup) from = static_cast<const Bits*>(memcpy(held, from, count * sizeof(Bits)));
    for (int64_t k = 0; k < kGroup; k += kStep) Arithmetic::pack_codes(to + k, from + k);
  }
  void quantise(Number* to, float* factor, int64_t at) {
    const uint16_t* from = static_cast<const uint16_t*>(args_.x) + at;
    for (int64_t g = 0; g < groups_; ++g) {
      const int64_t count = min(kGroup, args_.k - g * kGroup);
      const float most = greatest<Result>(from + g * kGroup, count);
      const float scale = (most > kLeastMaximum ? most : kLeastMaximum) / Encode::kLargest;
      Bits codes[kGroup] = {};
      encode_all<Result, Encode>(codes, from + g * kGroup, count, Divide{scale});
      pack_group(to + g * kGroup, codes, kGroup);
      factor[g] = scale;
    }
  }

  // Panels of rows of weights, of any batch, times the chunk's tokens of that one.
  void multiply(int64_t begin, int64_t end) {
    Memory<float> products;
    if (!products.make(how_.w_blocks != 0 ? kPanelTokens * groups_ : 0)) {
      __atomic_store_n(&status_, kNoMemory, __ATOMIC_RELAXED);
      return;
    }
    for (int64_t task = begin; task < end; ++task) {
      const int64_t own = task / panels_, first = task % panels_ * kPanelRows;
      for (int64_t t = 0; t < tokens_; t += kPanelTokens) {
        multiply_panel(own, first, t, min(kPanelTokens, tokens_ - t), products.at);
      }
    }
  }
  void multiply_panel(int64_t own, int64_t first, int64_t first_token, int64_t count, float* products) {
    const int64_t batch = first_batch_ + own, rows = min(kPanelRows, args_.m - first);
    PanelTokens<Arithmetic> tokens;
    tokens.count = count;
    const float* w_scale = args_.w_scale + batch * args_.stride_w_scale_batch;
    for (int64_t t = 0; t < count; ++t) {
      const int64_t row = own * tokens_ + first_token + t;
      tokens.x[t] = x_.at + row * groups_ * kGroup;
      const float* of_x = tokens.factor[t] = factor_.at + row * groups_;
      if (how_.w_blocks == 0) continue;
      const float* of_w = w_scale + first / kGroup * args_.stride_w_scale;
      for (int64_t g = 0; g < groups_; ++g) products[t * groups_ + g] = of_x[g] * of_w[g];
      tokens.factor[t] = products + t * groups_;
    }
    alignas(64) float sums[kPanelTokens][kPanelRows];
    const Bits* data = static_cast<const Bits*>(args_.w) + batch * args_.stride_w_batch;
    expert_panel<Arithmetic>({data, args_.k, how_.shuffled != 0, args_.stride_w}, first, rows, tokens, sums);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t token = first_token_ + first_token + t;
      const float of_token =
          how_.x_groups != 0 ? 1.0f : args_.x_scale[batch * args_.stride_x_scale_batch + token * args_.stride_x_scale];
      uint16_t* y = static_cast<uint16_t*>(args_.y) + batch * args_.stride_y_batch + token * args_.stride_y + first;
      const auto* bias = static_cast<const uint16_t*>(args_.bias);
      if (bias != nullptr) bias += batch * args_.stride_bias_batch + first;
      for (int64_t r = 0; r < rows; ++r) {
        float sum = sums[t][r] * of_token;
        if (how_.w_blocks == 0) sum *= w_scale[(first + r) * args_.stride_w_scale];
        if (bias != nullptr) sum += Result::to_float(bias[r]);
        y[r] = Result::from_float(sum);
      }
    }
  }

  const aiterlite_gemm_a8w8_args& args_;
  const Args& how_;
  parallel_for_t parallel_for_;
  int64_t threads_;
  int64_t groups_, panels_;  // of 128 k; of 16 rows
  Memory<Number> x_;
  Memory<float> factor_;
  int64_t first_batch_ = 0, first_token_ = 0, tokens_ = 0;  // of the chunk
  Work work_ = nullptr;
  int32_t status_ = 0;
};

template <class Weight, class Encode, class Result>
int32_t run(const Args& args, parallel_for_t parallel_for, int32_t threads) {
#if AITERLITE_CPU_BF16_DOT
  if (has_bf16_dot()) return Product<Weight, Encode, Result, DotProducts<Weight>>(args, parallel_for, threads).run();
#endif
  return Product<Weight, Encode, Result, FloatProducts<Weight>>(args, parallel_for, threads).run();
}

}  // namespace

#define GEMM_A8W8(name, Weight, Encode, Result)                                                          \
  AITERLITE_EXPORT int32_t aiterlite_gemm_a8w8_cpu_##name(const Args* args, parallel_for_t parallel_for, \
                                                          int32_t threads) {                             \
    return run<Weight, Encode, Result>(*args, parallel_for, threads);                                    \
  }
GEMM_A8W8(e4m3fn_bf16, E4m3fn, EncodeE4m3<false>, Bf16)
GEMM_A8W8(e4m3fn_fp16, E4m3fn, EncodeE4m3<false>, Fp16)
GEMM_A8W8(e4m3fnuz_bf16, E4m3fnuz, EncodeE4m3<true>, Bf16)
GEMM_A8W8(e4m3fnuz_fp16, E4m3fnuz, EncodeE4m3<true>, Fp16)
