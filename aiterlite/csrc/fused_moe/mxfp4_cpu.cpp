// A layer of a mixture of experts of MXFP4 weights on a CPU: fused_moe/args.h, for bf16 and fp16.
//
// As in fused_moe/cpu.cpp tokens are taken in chunks of 512, and a chunk in three steps of tasks:
// * tokens become numbers in the order in which the tiles of cpu/mxfp4_tile.h read them;
// * h, a task for each expert that was chosen and 32 of its `inter` elements: four panels of 16 rows of w1;
// * out, a task for some columns: panels of w2 of all experts, kept in fp32, then each token's sum over its slots, or,
//   with `by_slots`, each of them.
//
// Traffic: a chunk reads the codes and scales of an expert that was chosen once from memory (a panel of more than 32
// tokens reads its rows again, from the second-level cache); codes become numbers in registers.
//
// Rounding. With args.rounded x becomes MXFP4 or MXFP8 (RoundUp), and h does, of what it is as bf16. Else x stays as it
// is and h is fp32, or, with VDPBF16PS, bf16. That instruction takes subnormal numbers, and products, for zero; it
// serves bf16 without numbers below 2^-110 but zero, and of h what is below is rounded to zero. Sums are fp32; those
// over slots are in the order of slots, so that bits do not depend on threads, nor on other tokens.
#include <aiterlite/cpu/expert_activation.h>
#include <aiterlite/cpu/expert_pairs.h>
#include <aiterlite/cpu/mxfp4.h>
#include <aiterlite/cpu/mxfp4_panel.h>
#include <aiterlite/cpu/mxfp8.h>
#include <aiterlite/host_abi.h>

namespace {

using namespace aiterlite::cpu;
using Args = aiterlite_fused_moe_cpu_args;

constexpr int64_t kChunkTokens = 512, kBlock = 32;
constexpr int64_t kSerialWork = 1 << 17;  // multiply-adds that are not worth waking a thread for
constexpr int64_t kOutBytes = 128 << 10;  // of a task's results of w2
constexpr int64_t kMostColumns = 128;
constexpr float kLeast = 0x1p-110f;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

float number_of(uint32_t code, float scale) { return ((code & 8) != 0 ? -kE2m1[code & 7] : kE2m1[code & 7]) * scale; }

enum { kKept, kMxfp4, kMxfp8 };  // args.rounded

// A block as its codes and their scale stand for, by RoundUp.
void round_block(float* values, int32_t to) {
  if (to == kKept) return;
  if (to == kMxfp8) return round_to_mxfp8(values);
  constexpr uint32_t kCarry = 0x3fffff, kLeastByte = 1;
  uint32_t most = 0;
  for (int64_t i = 0; i < kBlock; ++i) {
    const uint32_t magnitude = float_to_bits(values[i]) & 0x7fffffffu;
    most = magnitude > most ? magnitude : most;
  }
  const uint8_t byte = mx_scale_byte(most, kCarry, kLeastByte);
  const float by = mx_half_reciprocal(byte), scale = e8m0_to_float(byte);
  for (int64_t i = 0; i < kBlock; i += kLanes) {
    alignas(64) uint32_t code[kLanes];
    store(code, encode_e2m1(load<f32v>(values + i), by));
    for (int j = 0; j < kLanes; ++j) values[i + j] = number_of(code[j], scale);
  }
}

// Tokens as floats.
template <class In>
struct Source {
  const Args& args;

  // Block `block` of a token.
  void read(float* to, int64_t token, int64_t block) const {
    const aiterlite_fused_moe_args& call = args.call;
    if (args.quantised != 0) {
      const bool packed = args.rounded != kMxfp8;
      const uint8_t* codes =
          static_cast<const uint8_t*>(call.x) + token * call.stride_x + block * kBlock / (packed ? 2 : 1);
      const auto* scales = reinterpret_cast<const uint8_t*>(call.x_scale);
      const float scale = e8m0_to_float(scales[token * call.stride_scale_token + block * call.stride_scale_group]);
      for (int64_t i = 0; i < kBlock; ++i) {
        to[i] = packed ? number_of(codes[i / 2] >> (i % 2 * 4) & 15, scale) : e4m3fn_to_float(codes[i]) * scale;
      }
      return;
    }
    const auto* from = static_cast<const uint16_t*>(call.x) + token * call.stride_x + block * kBlock;
    for (int64_t i = 0; i < kBlock; ++i) to[i] = In::to_float(from[i]);
    round_block(to, args.rounded);
  }
  // Whether VDPBF16PS loses nothing of those of [first, first + count) that are in a pair.
  bool are_normal(const Chunk& chunk) const {
    float values[kBlock];
    bool found = false;
    for (int64_t token = 0; token < chunk.tokens; ++token) {
      if (chunk.begin.at[token] == chunk.begin.at[token + 1]) continue;
      for (int64_t block = 0; block < args.call.width / kBlock; ++block) {
        read(values, chunk.first + token, block);
        for (const float value : values) {
          const uint32_t magnitude = float_to_bits(value) & 0x7fffffffu;
          found |= magnitude - 1 < float_to_bits(kLeast) - 1;
        }
      }
    }
    return !found;
  }
};

// What calls have in common, and the chunk at hand.
struct Work {
  const Args& args;
  parallel_for_t parallel_for;
  int64_t threads;
  Choices choices;
  Chunk chunk;
};

template <class In, class Arithmetic>
class Product {
  using Number = typename Arithmetic::Number;
  using Task = void (Product::*)(int64_t task, float* scratch);
  static constexpr bool kDots = sizeof(Number) == 2;

 public:
  explicit Product(Work& work)
      : work_(work),
        args_(work.args),
        call_(work.args.call),
        chunk_(work.chunk),
        room_x_(MxMatrix::steps(call_.width) * kMxStep),
        room_h_(MxMatrix::steps(call_.inter) * kMxStep),
        slices_(call_.inter / kBlock) {}

  int32_t run() {
    if (!x_.make(chunk_.tokens * room_x_) || !h_.make(chunk_.pairs * room_h_)) return kNoMemory;
    const int64_t each = chunk_.pairs * call_.inter * call_.width;
    columns_ = min(kMostColumns, kOutBytes / (4 * kMxPanelRows * (chunk_.pairs + 1)) * kMxPanelRows);
    if (columns_ < kMxPanelRows) columns_ = kMxPanelRows;
    int32_t status = share(chunk_.tokens, 64 * chunk_.pairs * call_.width, 0, &Product::pack);
    if (status == 0) status = share(chunk_.groups * slices_, 2 * each, 0, &Product::make_h);
    if (status == 0) {
      status = share(ceil_div(call_.width, columns_), each, (chunk_.pairs + 1) * columns_, &Product::make_out);
    }
    return status;
  }

 private:
  // Calls a step's tasks, each by some thread, which has so many floats of scratch.
  int32_t share(int64_t tasks, int64_t work, int64_t scratch, Task task) {
    tasks_ = tasks, next_ = 0, status_ = 0, scratch_ = scratch, task_ = task;
    const int64_t workers = min(work_.threads, tasks);
    if (work_.parallel_for == nullptr || workers <= 1 || work < kSerialWork) {
      work_on(0, 1, this);
    } else {
      const int32_t failed = work_.parallel_for(0, workers, 1, work_on, this);
      if (failed != 0) return failed;
    }
    return status_;
  }
  static void work_on(int64_t, int64_t, void* context) {
    Product& product = *static_cast<Product*>(context);
    Memory<float> scratch;
    if (!scratch.make(product.scratch_)) {
      __atomic_store_n(&product.status_, kNoMemory, __ATOMIC_RELAXED);
      return;
    }
    for (;;) {
      const int64_t task = __atomic_fetch_add(&product.next_, 1, __ATOMIC_RELAXED);
      if (task >= product.tasks_) return;
      (product.*product.task_)(task, scratch.at);
    }
  }

  // A block among the numbers of a row.
  static void keep(Number* row, int64_t block, const float* values) {
    const int64_t step = block * kBlock / kMxStep * kMxStep, first = block * kBlock - step;
    for (int64_t i = 0; i < kBlock; ++i) {
      row[step + mx_place<Arithmetic>(first + i)] = Arithmetic::number(values[i]);
    }
  }

  void pack(int64_t token, float*) {
    if (chunk_.begin.at[token] == chunk_.begin.at[token + 1]) return;
    float values[kBlock] = {};
    Number* to = x_.at + token * room_x_;
    for (int64_t block = call_.width / kBlock; block < room_x_ / kBlock; ++block) keep(to, block, values);
    for (int64_t block = 0; block < call_.width / kBlock; ++block) {
      Source<In>{args_}.read(values, chunk_.first + token, block);
      keep(to, block, values);
    }
  }

  MxMatrix matrix(const void* codes, const float* scales, int64_t expert, int64_t rows, int64_t k) const {
    return {static_cast<const uint8_t*>(codes) + expert * rows * (k / 2), reinterpret_cast<const uint8_t*>(scales), k,
            expert * rows, args_.shuffled != 0};
  }

  // 32 elements of h of one expert's pairs.
  void make_h(int64_t task, float*) {
    const ExpertGroup& group = chunk_.group.at[task / slices_];
    const int64_t block = task % slices_, first = block * kBlock;
    const bool interleaved = call_.gate_step == 2;
    const float* bias = bias_of(call_.bias1, group.expert, int64_t{2} * call_.inter, first * call_.gate_step);
    const MxMatrix w1 = matrix(call_.w1, call_.w1_scale, group.expert, int64_t{2} * call_.inter, call_.width);
    alignas(64) float sums[4][kMxPanelTokens][kMxPanelRows];
    for (int64_t begin = group.begin; begin < group.end; begin += kMxPanelTokens) {
      const ExpertPair* pair = chunk_.pair.at + begin;
      const int64_t count = min(kMxPanelTokens, group.end - begin);
      const Number* x[kMxPanelTokens];
      for (int64_t t = 0; t < count; ++t) x[t] = x_.at + pair[t].token * room_x_;
      for (int64_t p = 0; p < 4; ++p) {
        const int64_t row =
            interleaved ? 2 * first + p * kMxPanelRows : first + p % 2 * kMxPanelRows + p / 2 * call_.up_offset;
        mxfp4_panel<Arithmetic>(w1, row, kMxPanelRows, x, count, sums[p]);
      }
      for (int64_t t = 0; t < count; ++t) {
        alignas(64) float gate[kBlock], up[kBlock], h[kBlock];
        const float weight = args_.weighted_input ? pair[t].weight : 1.0f;
        for (int64_t i = 0; i < kBlock; ++i) {
          const int64_t at = interleaved ? 2 * i : i, other = interleaved ? at + 1 : i + kBlock;
          gate[i] = sums[at / kMxPanelRows][t][at % kMxPanelRows] * weight;
          up[i] = sums[other / kMxPanelRows][t][other % kMxPanelRows] * weight;
          if (bias == nullptr) continue;
          gate[i] += bias[i * call_.gate_step], up[i] += bias[i * call_.gate_step + call_.up_offset];
        }
        for (int64_t i = 0; i < kBlock; i += kLanes) {
          store(h + i, expert_activation(args_, load<f32v>(gate + i), load<f32v>(up + i)));
        }
        keep_h(h_.at + (begin + t) * room_h_, block, h);
      }
    }
  }
  void keep_h(Number* row, int64_t block, float* h) {
    if (kDots || args_.rounded != kKept) {
      for (int64_t i = 0; i < kBlock; ++i) h[i] = Bf16::to_float(Bf16::from_float(h[i]));
    }
    round_block(h, args_.rounded);
    keep(row, block, h);
    if (block + 1 < slices_) return;
    const float zeros[kBlock] = {};
    for (int64_t rest = slices_; rest < room_h_ / kBlock; ++rest) keep(row, rest, zeros);
  }

  // Some columns of out, of all tokens of the chunk.
  void make_out(int64_t task, float* scratch) {
    const int64_t first = task * columns_, last = min(first + columns_, call_.width);
    for (int64_t g = 0; g < chunk_.groups; ++g) multiply_w2(chunk_.group.at[g], first, last, scratch);
    float* sums = scratch + chunk_.pairs * columns_;
    for (int64_t t = 0; t < chunk_.tokens; ++t) {
      if (args_.by_slots) {
        store_slots<In>(args_, chunk_, t, scratch, columns_, first, last);
        continue;
      }
      for (int64_t c = 0; c < last - first; ++c) sums[c] = 0.0f;
      for (int64_t p = chunk_.begin.at[t]; p < chunk_.begin.at[t + 1]; ++p) {
        const int64_t pair = chunk_.order.at[p];
        const float weight = args_.weighted_input ? 1.0f : chunk_.pair.at[pair].weight;
        for (int64_t c = 0; c < last - first; ++c) sums[c] += weight * scratch[pair * columns_ + c];
      }
      uint16_t* to = static_cast<uint16_t*>(call_.out) + (chunk_.first + t) * call_.stride_out + first;
      for (int64_t c = 0; c < last - first; ++c) to[c] = In::from_float(sums[c]);
    }
  }
  void multiply_w2(const ExpertGroup& group, int64_t first, int64_t last, float* to) {
    const MxMatrix w2 = matrix(call_.w2, call_.w2_scale, group.expert, call_.width, call_.inter);
    alignas(64) float sums[kMxPanelTokens][kMxPanelRows];
    for (int64_t begin = group.begin; begin < group.end; begin += kMxPanelTokens) {
      const int64_t count = min(kMxPanelTokens, group.end - begin);
      const Number* h[kMxPanelTokens];
      for (int64_t t = 0; t < count; ++t) h[t] = h_.at + (begin + t) * room_h_;
      for (int64_t row = first; row < last; row += kMxPanelRows) {
        const int64_t rows = min(kMxPanelRows, last - row);
        const float* bias = bias_of(call_.bias2, group.expert, call_.width, row);
        mxfp4_panel<Arithmetic>(w2, row, rows, h, count, sums);
        for (int64_t t = 0; t < count; ++t) {
          float* at = to + (begin + t) * columns_ + row - first;
          for (int64_t r = 0; r < rows; ++r) at[r] = bias == nullptr ? sums[t][r] : sums[t][r] + bias[r];
        }
      }
    }
  }

  Work& work_;
  const Args& args_;
  const aiterlite_fused_moe_args& call_;
  const Chunk& chunk_;
  int64_t room_x_, room_h_;  // of a token's numbers, and of a row of h
  int64_t slices_;           // of 32 elements, of a row of h
  int64_t columns_ = 0;      // of a task that makes out
  Memory<Number> x_, h_;
  // The step at hand.
  int64_t tasks_ = 0, next_ = 0, scratch_ = 0;
  Task task_ = nullptr;
  int32_t status_ = 0;
};

template <class In>
int32_t run(const Args& args, parallel_for_t parallel_for, int32_t threads) {
  const aiterlite_fused_moe_args& call = args.call;
  if (call.tokens <= 0 || call.width <= 0) return 0;
  Work work = {args, parallel_for, threads, Choices(call), {}};
  if (!work.choices.read()) return kNoMemory;
  const int64_t most = min(kChunkTokens, call.tokens);
  if (!work.chunk.make(most, work.choices.most(kChunkTokens), call.experts)) return kNoMemory;
  for (int64_t first = 0; first < call.tokens; first += kChunkTokens) {
    work.chunk.take(work.choices, first, min(kChunkTokens, call.tokens - first), call.experts);
    int32_t status = 0;
#if AITERLITE_CPU_BF16_DOT
    // Halves have more bits than bf16, unless they become codes.
    const bool fits = __is_same(In, Bf16) || args.rounded != kKept || args.quantised != 0;
    if (fits && has_bf16_dot() && Source<In>{args}.are_normal(work.chunk)) {
      status = Product<In, MxDotProducts>(work).run();
      if (status != 0) return status;
      continue;
    }
#endif
    status = Product<In, MxFloatProducts>(work).run();
    if (status != 0) return status;
  }
  return 0;
}

}  // namespace

AITERLITE_EXPORT int32_t aiterlite_fused_moe_cpu_bf16_e2m1(const Args* args, parallel_for_t parallel_for,
                                                           int32_t threads) {
  return run<Bf16>(*args, parallel_for, threads);
}
AITERLITE_EXPORT int32_t aiterlite_fused_moe_cpu_fp16_e2m1(const Args* args, parallel_for_t parallel_for,
                                                           int32_t threads) {
  return run<Fp16>(*args, parallel_for, threads);
}
