// GEMM of MXFP4 weights on a CPU: gemm_mxfp4/args.h, of x in bf16, in fp16 and in MXFP4.
//
// Tokens become numbers once a chunk, in the order in which the tiles of cpu/mxfp4_tile.h read them; packed ones are
// multiplied by their scales on the way, which is exact. Then each task has panels of 16 rows of weights, whose codes
// go from memory to registers and are looked up there. Shuffled weights are put in rows first, 16 of them a strip.
//
// Where there is AMX, a panel's 16 rows and up to 16 tokens are multiplied in tiles (cpu/mxfp4_amx.h). Panels whose
// scales or chunks whose tokens do not fit that are multiplied otherwise.
//
// With VDPBF16PS, which takes subnormal numbers for zero, tokens may have no number below 2^-110 but zero: products,
// and sums of them, are then multiples of 2^-118. Where one has, multiply-adds serve that call's tokens.
#include <aiterlite/cpu/memory.h>
#include <aiterlite/cpu/mxfp4_amx.h>
#include <aiterlite/cpu/mxfp4_tile.h>
#include <aiterlite/gemm_mxfp4/cpu_args.h>
#include <aiterlite/host_abi.h>

namespace {

using namespace aiterlite::cpu;
using Args = aiterlite_gemm_mxfp4_cpu_args;

constexpr int64_t kPanelRows = 16, kPanelTokens = 32;
constexpr int64_t kChunkTokens = 512;
constexpr int64_t kSerialWork = 1 << 17;  // multiply-adds that are not worth waking a thread for
constexpr int64_t kBlock = 32;
constexpr float kLeast = 0x1p-110f;

enum class Kind { kBf16, kFp16, kFp4 };
enum Result { kResultBf16, kResultFp16, kResultFloat };

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

// Tokens [first, first + count) of a batch as floats, one after the other for `take`.
template <Kind kKind>
struct Tokens {
  const Args& args;
  int64_t batch;

  // Elements [k, k + count) of a token, zeros up to kMxStep.
  void read(float (&to)[kMxStep], int64_t token, int64_t k, int64_t count) const {
    const aiterlite_gemm_mxfp4_args& gemm = args.gemm;
    const int64_t row = batch * gemm.stride_x_batch + token * gemm.stride_x;
    for (int64_t i = count; i < kMxStep; ++i) to[i] = 0.0f;
    if constexpr (kKind == Kind::kFp4) {
      const auto* codes = static_cast<const uint8_t*>(gemm.x) + row + k / 2;
      const auto* scales = static_cast<const uint8_t*>(gemm.x_scale) + batch * gemm.stride_x_scale_batch;
      const ScaleRow scale =
          ScaleRow::of(scales, token, gemm.stride_x_scale, gemm.stride_x_scale_block, args.x_scale_shuffled != 0);
      for (int64_t i = 0; i < count; i += kBlock) {
        const float by = e8m0_to_float(scale.byte((k + i) / kBlock));
        for (int64_t j = 0; j < kBlock; ++j) {
          const int code = codes[(i + j) / 2] >> (j % 2 * 4);
          to[i + j] = ((code & 8) != 0 ? -kE2m1[code & 7] : kE2m1[code & 7]) * by;
        }
      }
    } else {
      const auto* from = static_cast<const uint16_t*>(gemm.x) + row + k;
      for (int64_t i = 0; i < count; ++i)
        to[i] = kKind == Kind::kBf16 ? Bf16::to_float(from[i]) : Fp16::to_float(from[i]);
    }
  }
  // Whether VDPBF16PS loses nothing of any of them.
  bool are_normal(int64_t first, int64_t count) const {
    float values[kMxStep];
    bool found = false;
    for (int64_t token = first; token < first + count; ++token) {
      for (int64_t k = 0; k < args.gemm.k; k += kMxStep) {
        read(values, token, k, min(kMxStep, args.gemm.k - k));
        for (const float value : values) {
          const uint32_t magnitude = float_to_bits(value) & 0x7fffffffu;
          found |= magnitude - 1 < float_to_bits(kLeast) - 1;
        }
      }
    }
    return !found;
  }
};

template <Kind kKind, class Arithmetic>
class Product {
  using Number = typename Arithmetic::Number;
  using Work = void (Product::*)(int64_t begin, int64_t end);

 public:
  Product(const Args& given, parallel_for_t parallel_for, int32_t threads, int64_t batch)
      : given_(given),
        args_(given.gemm),
        parallel_for_(parallel_for),
        threads_(threads),
        batch_(batch),
        steps_(ceil_div(args_.k, kMxStep)),
        panels_(ceil_div(args_.m, kPanelRows)) {}

  int32_t run(int64_t first_token, int64_t tokens) {
    first_token_ = first_token;
    tokens_ = tokens;
    if (!x_.make(tokens * steps_ * kMxStep)) return kNoMemory;
    int32_t status = share(tokens, 16 * args_.k, &Product::pack);
    if (status == 0) status = share(panels_, kPanelRows * tokens * args_.k, &Product::multiply);
    return status;
  }

#if AITERLITE_CPU_AMX
  // The same in tiles. `done` says whether it could be: where not, nothing has been written.
  int32_t run_in_tiles(int64_t first_token, int64_t tokens, bool& done) {
    first_token_ = first_token;
    tokens_ = tokens;
    done = false;
    if (!words_.make(tokens * steps_ * MxAmx::kStepWords) || !left_.make(panels_)) return kNoMemory;
    unfit_ = 0;
    int32_t status = share(tokens, 16 * args_.k, &Product::pack_words);
    if (status != 0 || unfit_ != 0) return status;
    done = true;
    status = share(panels_, kPanelRows * args_.k, &Product::multiply_in_tiles);
    bool any = false;
    for (int64_t panel = 0; panel < panels_; ++panel) any |= left_.at[panel] != 0;
    if (status != 0 || !any) return status;
    some_ = true;
    status = run(first_token, tokens);
    some_ = false;
    return status;
  }
#endif

 private:
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

  void pack(int64_t begin, int64_t end) {
    const Tokens<kKind> tokens = {given_, batch_};
    float values[kMxStep];
    for (int64_t token = begin; token < end; ++token) {
      for (int64_t step = 0; step < steps_; ++step) {
        tokens.read(values, first_token_ + token, step * kMxStep, min(kMxStep, args_.k - step * kMxStep));
        Number* to = x_.at + (token * steps_ + step) * kMxStep;
        for (int64_t unit = 0; unit < kMxStep; unit += Arithmetic::kUnit) {
          for (int64_t i = 0; i < Arithmetic::kUnit; ++i) {
            to[unit + Arithmetic::place(i)] = Arithmetic::number(values[unit + i]);
          }
        }
      }
    }
  }

  void multiply(int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      if (some_ && left_.at[panel] == 0) continue;
      for (int64_t t = 0; t < tokens_; t += kPanelTokens) {
        multiply_panel(panel * kPanelRows, t, min(kPanelTokens, tokens_ - t));
      }
    }
  }

  // Codes of K that are no whole step, or of rows that are shuffled, go through `held`.
  const uint8_t* codes(uint8_t* held, int64_t row, int64_t step, int64_t steps) const {
    const auto* w = static_cast<const uint8_t*>(args_.w) + batch_ * args_.stride_w_batch;
    const int64_t from = step * kMxStep / 2, bytes = min(steps * kMxStep, args_.k - step * kMxStep) / 2;
    if (given_.w_shuffled == 0) {
      const uint8_t* at = w + row * args_.stride_w + from;
      if (bytes == steps * kMxStep / 2) return at;
      memcpy(held, at, bytes);
    } else {
      const uint8_t* at = w + row / 16 * 16 * (args_.k / 2) + row % 16 * 16;
      for (int64_t i = 0; i < bytes; i += 16) memcpy(held + i, at + (from + i) * 16, 16);
    }
    memset(held + bytes, 0, steps * kMxStep / 2 - bytes);
    return held;
  }

  void multiply_panel(int64_t first_row, int64_t first, int64_t count) {
    constexpr int kTiles = kPanelRows / kMxRows;
    const int64_t rows = min(kPanelRows, args_.m - first_row);
    alignas(64) f32v lanes[kPanelTokens][kPanelRows];
    memset(lanes, 0, count * sizeof(lanes[0]));
    alignas(64) uint8_t held[kMxRows][kMxStripSteps * kMxStep / 2];
    alignas(64) float scale[kMxRows][kMxStripSteps * kMxStep / kBlock];
    const auto* scales = static_cast<const uint8_t*>(args_.w_scale) + batch_ * args_.stride_w_scale_batch;
    // A tile takes one row of each quarter, so that the next tile goes on where this one ends.
    const auto row_of = [&](int tile, int r) { return min(r * kTiles + tile, rows - 1); };
    for (int tile = 0; tile < kTiles; ++tile) {
      for (int64_t step = 0; step < steps_; step += kMxStripSteps) {
        const int64_t strip = min(kMxStripSteps, steps_ - step);
        const uint8_t* w[kMxRows];
        const float* by[kMxRows];
        for (int r = 0; r < kMxRows; ++r) {
          const int64_t row = first_row + row_of(tile, r);
          const ScaleRow of_row =
              ScaleRow::of(scales, row, args_.stride_w_scale, args_.stride_w_scale_block, given_.w_scale_shuffled != 0);
          const int64_t blocks = min(strip * kMxStep, args_.k - step * kMxStep) / kBlock;
          of_row.read(scale[r], step * kMxStep / kBlock, blocks, strip * kMxStep / kBlock);
          w[r] = codes(held[r], row, step, strip);
          by[r] = scale[r];
        }
        for (int64_t t = 0; t < count; t += kMxTokens) {
          const int here = static_cast<int>(min(kMxTokens, count - t));
          const Number* x[kMxTokens];
          for (int i = 0; i < here; ++i) x[i] = x_.at + ((first + t + i) * steps_ + step) * kMxStep;
          mxfp4_tile<Arithmetic>(here, w, by, x, strip, t == 0 ? kAhead : 0, lanes[t] + tile * kMxRows, kPanelRows);
        }
      }
    }
    for (int64_t t = 0; t < count; ++t) {
      for (int tile = 0; tile < kTiles; ++tile) {
        const f32v* of = lanes[t] + tile * kMxRows;
        const f32q four = sum_lanes(of[0], of[1], of[2], of[3]);
        for (int r = 0; r < kMxRows; ++r) {
          if (r * kTiles + tile < rows) finish(first_token_ + first + t, first_row + r * kTiles + tile, four[r]);
        }
      }
    }
  }

#if AITERLITE_CPU_AMX
  // Words of tokens in groups of as many as a tile takes: [group][step][word][token].
  void pack_words(int64_t begin, int64_t end) {
    const Tokens<kKind> tokens = {given_, batch_};
    float values[kMxStep];
    bool fits = true;
    for (int64_t token = begin; token < end; ++token) {
      const int64_t first = token / MxAmx::kMostTokens * MxAmx::kMostTokens;
      const int64_t group = min(MxAmx::kMostTokens, tokens_ - first);
      uint32_t* to = words_.at + first * steps_ * MxAmx::kStepWords + token - first;
      for (int64_t step = 0; step < steps_; ++step) {
        tokens.read(values, first_token_ + token, step * kMxStep, min(kMxStep, args_.k - step * kMxStep));
        uint32_t found = 0;
        for (const float value : values) {
          const uint32_t magnitude = float_to_bits(value) & 0x7fffffffu;
          found |= static_cast<uint32_t>(magnitude - 1 < float_to_bits(MxAmx::kLeast) - 1) |
                   static_cast<uint32_t>(magnitude >= float_to_bits(MxAmx::kMost));
        }
        fits &= found == 0;
        for (int64_t i = 0; i < MxAmx::kStepWords; ++i, to += group) *to = MxAmx::word(values, i);
      }
    }
    if (!fits) __atomic_store_n(&unfit_, 1, __ATOMIC_RELAXED);
  }

  void multiply_in_tiles(int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      bool fits = true;
      for (int64_t first = 0; first < tokens_ && fits; first += MxAmx::kMostTokens) {
        // Lines of the next panel are asked for, but of a task's first one only its own could be.
        const int64_t ahead = first > 0 ? 0 : panel == begin ? kAhead : kPanelRows * args_.stride_w;
        fits = multiply_tiles(panel * kPanelRows, first, min(MxAmx::kMostTokens, tokens_ - first), ahead);
      }
      left_.at[panel] = fits ? 0 : 1;
    }
  }
  bool multiply_tiles(int64_t first_row, int64_t first, int64_t count, int64_t ahead) {
    const int64_t rows = min(kPanelRows, args_.m - first_row);
    alignas(64) uint8_t held[kPanelRows][kMxStripSteps * kMxStep / 2];
    alignas(64) uint16_t less[kPanelRows][kMxStripSteps * kMxStep / kBlock];
    const auto* scales = static_cast<const uint8_t*>(args_.w_scale) + batch_ * args_.stride_w_scale_batch;
    MxAmx tiles(static_cast<int>(count));
    for (int64_t step = 0; step < steps_; step += kMxStripSteps) {
      const int64_t strip = min(kMxStripSteps, steps_ - step), first_block = step * kMxStep / kBlock;
      const int64_t blocks = min(strip * kMxStep, args_.k - step * kMxStep) / kBlock;
      MxAmx::Strip w;
      for (int64_t r = 0; r < kPanelRows; ++r) {
        const int64_t row = first_row + min(r, rows - 1);
        const ScaleRow scale =
            ScaleRow::of(scales, row, args_.stride_w_scale, args_.stride_w_scale_block, given_.w_scale_shuffled != 0);
        w.codes[r] = codes(held[r], row, step, strip);
        if (!subtrahends(less[r], scale, first_block, blocks, strip * kMxStep / kBlock, w.codes[r])) return false;
        w.less[r] = less[r];
      }
      tiles.add(w, words_.at + (first * steps_ + step * count) * MxAmx::kStepWords, strip, ahead);
    }
    alignas(64) float sums[MxAmx::kRows][MxAmx::kMostTokens];
    tiles.finish(sums);
    for (int64_t t = 0; t < count; ++t) {
      for (int64_t r = 0; r < rows; ++r) finish(first_token_ + first + t, first_row + r, sums[r][t]);
    }
    return true;
  }
  // What scales take from exponents; false where one does not fit. A least one with codes of zeros does.
  static bool subtrahends(uint16_t* to, const ScaleRow& scale, int64_t first, int64_t count, int64_t room,
                          const uint8_t* codes) {
    constexpr int64_t kBytes = 2 * kLanes;
    typedef uint8_t bytes_v __attribute__((vector_size(kBytes)));
    alignas(64) uint8_t held[kMxStripSteps * kMxStep / kBlock];
    const uint8_t* bytes = held;
    if (!scale.shuffled && scale.step == 1 && count % kBytes == 0) {
      bytes = scale.at + first;
    } else {
      for (int64_t i = 0; i < count; ++i) held[i] = scale.byte(first + i);
      memset(held + count, MxAmx::kMostScale, room - count);
    }
    memset(to + count, 0, (room - count) * sizeof(*to));
    constexpr uint16_t kRange = MxAmx::kMostScale - MxAmx::kLeastScale;
    u16v unfit = {};
    for (int64_t i = 0; i < count; i += kBytes) {
      const u16v byte = __builtin_convertvector(load<bytes_v>(bytes + i), u16v);
      unfit |= (u16v)((u16v)(byte - MxAmx::kLeastScale) > kRange);
      store(to + i, (u16v)((MxAmx::kMostScale - byte) << 7));
    }
    const bool fits = _mm512_test_epi16_mask((__m512i)unfit, (__m512i)unfit) == 0;
    for (int64_t i = 0; i < count && !fits; ++i) {
      if (MxAmx::fits(bytes[i])) continue;
      uint8_t any = 0;
      for (int64_t j = 0; j < kBlock / 2; ++j) any |= codes[i * kBlock / 2 + j] & 0x77;
      if (bytes[i] != 0 || any != 0) return false;
    }
    return true;
  }
#endif

  void finish(int64_t token, int64_t row, float sum) const {
    float value = args_.alpha * sum;
    if (args_.bias != nullptr) {
      const int64_t at = token * args_.stride_bias + row;
      const auto* words = static_cast<const uint16_t*>(args_.bias);
      const float bias = args_.bias_is_float != 0       ? static_cast<const float*>(args_.bias)[at]
                         : given_.result == kResultFp16 ? Fp16::to_float(words[at])
                                                        : Bf16::to_float(words[at]);
      value += args_.beta * bias;
    }
    const int64_t at = batch_ * args_.stride_y_batch + token * args_.stride_y + row;
    if (given_.result == kResultFloat) {
      static_cast<float*>(args_.y)[at] = value;
    } else {
      static_cast<uint16_t*>(args_.y)[at] =
          given_.result == kResultFp16 ? Fp16::from_float(value) : Bf16::from_float(value);
    }
  }

  static constexpr int64_t kAhead = 1024;

  const Args& given_;
  const aiterlite_gemm_mxfp4_args& args_;
  parallel_for_t parallel_for_;
  int64_t threads_;
  int64_t batch_;
  int64_t steps_;
  int64_t panels_;
  Memory<Number> x_;
  Memory<uint32_t> words_;  // of tokens, as tiles take them
  Memory<uint8_t> left_;    // panels that tiles did not take
  bool some_ = false;       // only those are multiplied
  int32_t unfit_ = 0;
  int64_t first_token_ = 0, tokens_ = 0;
  Work work_ = nullptr;
};

template <Kind kKind>
int32_t run(const Args& args, parallel_for_t parallel_for, int32_t threads) {
  const aiterlite_gemm_mxfp4_args& gemm = args.gemm;
  if (gemm.n <= 0 || gemm.m <= 0) return 0;
  for (int64_t batch = 0; batch < gemm.batch; ++batch) {
    for (int64_t first = 0; first < gemm.n; first += kChunkTokens) {
      const int64_t count = min(kChunkTokens, gemm.n - first);
      int32_t status = 0;
#if AITERLITE_CPU_AMX
      if (kKind != Kind::kFp16 && has_bf16_dot() && has_amx()) {
        bool done = false;
        status = Product<kKind, MxFloatProducts>(args, parallel_for, threads, batch).run_in_tiles(first, count, done);
        if (status != 0) return status;
        if (done) continue;
      }
#endif
#if AITERLITE_CPU_BF16_DOT
      // Halves have more bits than bf16.
      if (kKind != Kind::kFp16 && has_bf16_dot() && Tokens<kKind>{args, batch}.are_normal(first, count)) {
        status = Product<kKind, MxDotProducts>(args, parallel_for, threads, batch).run(first, count);
        if (status != 0) return status;
        continue;
      }
#endif
      status = Product<kKind, MxFloatProducts>(args, parallel_for, threads, batch).run(first, count);
      if (status != 0) return status;
    }
  }
  return 0;
}

}  // namespace

AITERLITE_EXPORT int32_t aiterlite_gemm_mxfp4_cpu_bf16(const Args* args, parallel_for_t parallel_for, int32_t threads) {
  return run<Kind::kBf16>(*args, parallel_for, threads);
}
AITERLITE_EXPORT int32_t aiterlite_gemm_mxfp4_cpu_fp16(const Args* args, parallel_for_t parallel_for, int32_t threads) {
  return run<Kind::kFp16>(*args, parallel_for, threads);
}
AITERLITE_EXPORT int32_t aiterlite_gemm_mxfp4_cpu_fp4(const Args* args, parallel_for_t parallel_for, int32_t threads) {
  return run<Kind::kFp4>(*args, parallel_for, threads);
}
