// A layer of a mixture of experts on a CPU: fused_moe/args.h, for bf16 and fp16, weights of the same type or of either
// e4m3 one.
//
// Tokens are taken in chunks of 512, so that memory has a bound, and a chunk in three steps, each a list of tasks that
// threads take one after the other:
// * tokens become numbers as the tiles of cpu/expert_tile.h read them;
// * h, a task for each expert that was chosen and 16 of its `inter` elements: two panels of 16 rows of w1;
// * out, a task for some columns: panels of w2 of all experts, kept in fp32, then each token's sum over its slots, or,
//   with `by_slots`, each of them.
// So all threads have work for one token too, and a chunk reads the rows of an expert that was chosen once (a panel of
// more than 32 tokens reads its rows again, from the second-level cache).
//
// Neither x nor h is rounded to 8 bits. Products and sums are fp32. With VDPBF16PS h is rounded to bf16; else it stays
// fp32. Sums over slots are in the order of slots, so that bits do not depend on threads, nor on other tokens.
#include <aiterlite/cpu/expert_activation.h>
#include <aiterlite/cpu/expert_pairs.h>
#include <aiterlite/cpu/expert_tile.h>
#include <aiterlite/host_abi.h>

namespace {

using namespace aiterlite::cpu;
using Args = aiterlite_fused_moe_cpu_args;

constexpr int64_t kChunkTokens = 512;
constexpr int64_t kSerialWork = 1 << 17;  // multiply-adds that are not worth waking a thread for
constexpr int64_t kOutBytes = 128 << 10;  // of a task's results of w2
constexpr int64_t kMostColumns = 128;
enum { kNone, kToken, kBlock, kTensor = 4 };  // args.quant

template <class In, class Arithmetic>
class Layer {
  using Bits = typename Arithmetic::Bits;
  using Number = typename Arithmetic::Number;
  using Tokens = PanelTokens<Arithmetic>;
  using Task = void (Layer::*)(int64_t task, float* scratch);

 public:
  Layer(const Args& given, parallel_for_t parallel_for, int32_t threads)
      : args_(given),
        call_(given.call),
        parallel_for_(parallel_for),
        threads_(threads),
        choices_(given.call),
        groups_x_(ceil_div(call_.width, kGroup)),
        groups_h_(ceil_div(call_.inter, kGroup)),
        slices_(ceil_div(call_.inter, kPanelRows)) {}

  int32_t run() {
    if (call_.tokens <= 0 || call_.width <= 0) return 0;
    if (!choices_.read()) return kNoMemory;
    const int64_t most_tokens = min(kChunkTokens, call_.tokens), most_pairs = choices_.most(kChunkTokens);
    const int64_t most_groups = groups_x_ > groups_h_ ? groups_x_ : groups_h_;
    if (!chunk_.make(most_tokens, most_pairs, call_.experts) || !x_.make(most_tokens * groups_x_ * kGroup) ||
        !h_.make(most_pairs * groups_h_ * kGroup) || !ones_.make(most_groups) ||
        !x_factor_.make(args_.quantised ? most_tokens * groups_x_ : 0)) {
      return kNoMemory;
    }
    for (int64_t g = 0; g < most_groups; ++g) ones_.at[g] = 1.0f;
    for (int64_t first = 0; first < call_.tokens; first += kChunkTokens) {
      chunk_.take(choices_, first, min(kChunkTokens, call_.tokens - first), call_.experts);
      const int64_t each = chunk_.pairs * call_.inter * call_.width;
      columns_ = min(kMostColumns, kOutBytes / (4 * kPanelRows * (chunk_.pairs + 1)) * kPanelRows);
      if (columns_ < kPanelRows) columns_ = kPanelRows;
      int32_t status = share(chunk_.tokens, 64 * chunk_.pairs * call_.width, 0, &Layer::pack);
      if (status == 0) {
        status = share(chunk_.groups * slices_, 2 * each, kPanelTokens * groups_x_, &Layer::make_h);
      }
      if (status == 0) {
        const int64_t room = (chunk_.pairs + 1) * columns_;
        status = share(ceil_div(call_.width, columns_), each, room, &Layer::make_out);
      }
      if (status != 0) return status;
    }
    return 0;
  }

 private:
  // Calls a step's tasks, each by some thread, which has so many floats of scratch.
  int32_t share(int64_t tasks, int64_t work, int64_t scratch, Task task) {
    tasks_ = tasks, next_ = 0, status_ = 0, scratch_ = scratch, task_ = task;
    const int64_t workers = min(threads_, tasks);
    if (parallel_for_ == nullptr || workers <= 1 || work < kSerialWork) {
      work_on(0, 1, this);
    } else {
      const int32_t failed = parallel_for_(0, workers, 1, work_on, this);
      if (failed != 0) return failed;
    }
    return status_;
  }

  static void work_on(int64_t, int64_t, void* context) {
    Layer& layer = *static_cast<Layer*>(context);
    Memory<float> scratch;
    if (!scratch.make(layer.scratch_)) {
      __atomic_store_n(&layer.status_, kNoMemory, __ATOMIC_RELAXED);
      return;
    }
    for (;;) {
      const int64_t task = __atomic_fetch_add(&layer.next_, 1, __ATOMIC_RELAXED);
      if (task >= layer.tasks_) return;
      (layer.*layer.task_)(task, scratch.at);
    }
  }

  // A token's row as numbers, and its scales.
  void pack(int64_t token, float*) {
    if (chunk_.begin.at[token] == chunk_.begin.at[token + 1]) return;
    Number* to = x_.at + token * groups_x_ * kGroup;
    const int64_t row = chunk_.first + token;
    if (args_.quantised) {
      pack_row(to, static_cast<const Bits*>(call_.x) + row * call_.stride_x, Arithmetic::pack_codes);
      for (int64_t g = 0; g < groups_x_; ++g) {
        x_factor_.at[token * groups_x_ + g] =
            call_.x_scale[row * call_.stride_scale_token + g * call_.stride_scale_group];
      }
    } else {
      pack_row(to, static_cast<const uint16_t*>(call_.x) + row * call_.stride_x, Arithmetic::template pack<In>);
    }
  }

  template <class Element>
  void pack_row(Number* to, const Element* from, void (*step)(Number*, const Element*)) {
    constexpr int64_t kStep = Arithmetic::kStep;
    int64_t k = 0;
    for (; k + kStep <= call_.width; k += kStep) step(to + k, from + k);
    for (; k < groups_x_ * kGroup; k += kStep) {
      Element rest[kStep] = {};
      if (k < call_.width) memcpy(rest, from + k, (call_.width - k) * sizeof(Element));
      step(to + k, rest);
    }
  }

  // What a row of `groups` blocks is scaled by, of one expert's matrix of `rows` rows.
  const float* block_scales(const float* scales, int64_t expert, int64_t rows, int64_t row, int64_t groups) const {
    if (args_.quant != kBlock) return ones_.at;
    return scales + (expert * ceil_div(rows, kGroup) + row / kGroup) * groups;
  }
  float w1_scale(int64_t expert, int64_t row) const {
    const int64_t rows = int64_t{2} * call_.inter, each = call_.w1_scales;
    if (args_.quant == kToken) return call_.w1_scale[expert * rows + row];
    const bool up = call_.gate_step == 2 ? row % 2 != 0 : row >= call_.inter;
    return args_.quant == kTensor ? call_.w1_scale[expert * each + (up ? each - 1 : 0)] : 1.0f;
  }
  float w2_scale(int64_t expert, int64_t row) const {
    if (args_.quant == kToken) return call_.w2_scale[expert * call_.width + row];
    return args_.quant == kTensor ? call_.w2_scale[expert] : 1.0f;
  }

  // Rows [first, first + 16) of an expert's w1, or those that there are, times tokens.
  void multiply_w1(int64_t expert, int64_t first, Tokens& tokens, const ExpertPair* pair, float* products,
                   float (*sums)[kPanelRows]) {
    const int64_t rows = int64_t{2} * call_.inter, count = min(kPanelRows, rows - first);
    const float* scales = block_scales(call_.w1_scale, expert, rows, first, groups_x_);
    for (int64_t t = 0; t < tokens.count; ++t) {
      tokens.factor[t] = scales;
      if (!args_.quantised) continue;
      const float* of_x = x_factor_.at + pair[t].token * groups_x_;
      tokens.factor[t] = of_x;
      if (args_.quant != kBlock) continue;
      float* product = products + t * groups_x_;
      for (int64_t g = 0; g < groups_x_; ++g) product[g] = of_x[g] * scales[g];
      tokens.factor[t] = product;
    }
    const Bits* data = static_cast<const Bits*>(call_.w1) + expert * rows * call_.width;
    expert_panel<Arithmetic>({data, call_.width, args_.shuffled != 0}, first, count, tokens, sums);
    if (args_.quant != kToken && args_.quant != kTensor) return;
    for (int64_t r = 0; r < count; ++r) {
      const float scale = w1_scale(expert, first + r);
      for (int64_t t = 0; t < tokens.count; ++t) sums[t][r] *= scale;
    }
  }

  // 16 elements of h of one expert's pairs.
  void make_h(int64_t task, float* products) {
    const ExpertGroup& group = chunk_.group.at[task / slices_];
    const int64_t first = task % slices_ * kPanelRows, count = min(kPanelRows, call_.inter - first);
    const bool interleaved = call_.gate_step == 2;
    const float* bias = bias_of(call_.bias1, group.expert, int64_t{2} * call_.inter, first * call_.gate_step);
    alignas(64) float sums[2][kPanelTokens][kPanelRows], gate[kPanelRows] = {}, up[kPanelRows] = {};
    for (int64_t begin = group.begin; begin < group.end; begin += kPanelTokens) {
      const ExpertPair* pair = chunk_.pair.at + begin;
      Tokens tokens;
      tokens.count = min(kPanelTokens, group.end - begin);
      for (int64_t t = 0; t < tokens.count; ++t) tokens.x[t] = x_.at + pair[t].token * groups_x_ * kGroup;
      const int64_t lower = first * call_.gate_step;
      const int64_t upper = interleaved ? lower + kPanelRows : lower + call_.up_offset;
      multiply_w1(group.expert, lower, tokens, pair, products, sums[0]);
      // Interleaved, a last slice may have all its rows in one panel.
      if (upper < int64_t{2} * call_.inter) multiply_w1(group.expert, upper, tokens, pair, products, sums[1]);
      for (int64_t t = 0; t < tokens.count; ++t) {
        for (int64_t i = 0; i < count; ++i) {
          gate[i] = interleaved ? sums[2 * i / kPanelRows][t][2 * i % kPanelRows] : sums[0][t][i];
          up[i] = interleaved ? sums[2 * i / kPanelRows][t][2 * i % kPanelRows + 1] : sums[1][t][i];
        }
        float weight = args_.weighted_input ? pair[t].weight : 1.0f;
        if (bias != nullptr) {
          for (int64_t i = 0; i < count; ++i) {
            const float* of = bias + i * call_.gate_step;
            gate[i] = gate[i] * weight + of[0], up[i] = up[i] * weight + of[call_.up_offset];
          }
          weight = 1.0f;
        }
        store_h(h_.at + (begin + t) * groups_h_ * kGroup, first, count, gate, up, weight);
      }
    }
  }

  void store_h(Number* row, int64_t first, int64_t count, float* gate, float* up, float weight) {
    alignas(64) float h[kPanelRows];
    for (int i = 0; i < kPanelRows; i += kLanes) {
      store(h + i, expert_activation(args_, load<f32v>(gate + i) * weight, load<f32v>(up + i) * weight));
    }
    for (int64_t i = 0; i < count; ++i) row[Arithmetic::place(first + i)] = Arithmetic::number(h[i]);
    if (first + count < call_.inter) return;
    for (int64_t i = call_.inter; i < groups_h_ * kGroup; ++i) row[Arithmetic::place(i)] = Number{};
  }

  // Some columns of out, of all tokens of the chunk.
  void make_out(int64_t task, float* scratch) {
    const int64_t first = task * columns_, last = min(first + columns_, call_.width);
    for (int64_t g = 0; g < chunk_.groups; ++g) multiply_w2(chunk_.group.at[g], first, last, scratch);
    float* sums = scratch + chunk_.pairs * columns_;
    for (int64_t t = 0; t < chunk_.tokens; ++t) {
      const int64_t *p = chunk_.order.at + chunk_.begin.at[t], *end = chunk_.order.at + chunk_.begin.at[t + 1];
      if (args_.by_slots) {
        store_slots<In>(args_, chunk_, t, scratch, columns_, first, last);
        continue;
      }
      if (args_.add && p == end) continue;
      for (int64_t c = 0; c < last - first; ++c) sums[c] = 0.0f;
      for (; p < end; ++p) {
        const float* of = scratch + *p * columns_;
        const float weight = args_.weighted_input ? 1.0f : chunk_.pair.at[*p].weight;
        for (int64_t c = 0; c < last - first; ++c) sums[c] += weight * of[c];
      }
      uint16_t* to = static_cast<uint16_t*>(call_.out) + (chunk_.first + t) * call_.stride_out + first;
      for (int64_t c = 0; c < last - first; ++c) {
        to[c] = In::from_float(args_.add ? In::to_float(to[c]) + sums[c] : sums[c]);
      }
    }
  }

  void multiply_w2(const ExpertGroup& group, int64_t first, int64_t last, float* to) {
    const int64_t rows = call_.width;
    const Bits* data = static_cast<const Bits*>(call_.w2) + group.expert * rows * call_.inter;
    alignas(64) float sums[kPanelTokens][kPanelRows];
    for (int64_t begin = group.begin; begin < group.end; begin += kPanelTokens) {
      Tokens tokens;
      tokens.count = min(kPanelTokens, group.end - begin);
      for (int64_t t = 0; t < tokens.count; ++t) tokens.x[t] = h_.at + (begin + t) * groups_h_ * kGroup;
      for (int64_t row = first; row < last; row += kPanelRows) {
        const float* scales = block_scales(call_.w2_scale, group.expert, rows, row, groups_h_);
        for (int64_t t = 0; t < tokens.count; ++t) tokens.factor[t] = scales;
        const int64_t count = min(kPanelRows, last - row);
        const float* bias = bias_of(call_.bias2, group.expert, rows, row);
        expert_panel<Arithmetic>({data, call_.inter, args_.shuffled != 0}, row, count, tokens, sums);
        for (int64_t t = 0; t < tokens.count; ++t) {
          float* at = to + (begin + t) * columns_ + row - first;
          for (int64_t r = 0; r < count; ++r) {
            at[r] = sums[t][r] * w2_scale(group.expert, row + r);
            if (bias != nullptr) at[r] += bias[r];
          }
        }
      }
    }
  }

  const Args& args_;
  const aiterlite_fused_moe_args& call_;
  parallel_for_t parallel_for_;
  int64_t threads_;
  Choices choices_;
  Chunk chunk_;
  int64_t groups_x_, groups_h_;  // of 128 elements, of a token and of a row of h
  int64_t slices_;               // of 16 elements, of a row of h
  int64_t columns_ = 0;          // of a task that makes out
  Memory<Number> x_, h_;
  Memory<float> x_factor_, ones_;
  // The step at hand.
  int64_t tasks_ = 0, next_ = 0, scratch_ = 0;
  Task task_ = nullptr;
  int32_t status_ = 0;
};

template <class In, class Weight>
int32_t run(const Args& args, parallel_for_t parallel_for, int32_t threads) {
#if AITERLITE_CPU_BF16_DOT
  if constexpr (__is_same(In, Bf16)) {
    if (has_bf16_dot()) return Layer<In, DotProducts<Weight>>(args, parallel_for, threads).run();
  }
#endif
  return Layer<In, FloatProducts<Weight>>(args, parallel_for, threads).run();
}

}  // namespace

#define FUSED_MOE(name, In, Weight)                                                                      \
  AITERLITE_EXPORT int32_t aiterlite_fused_moe_cpu_##name(const Args* args, parallel_for_t parallel_for, \
                                                          int32_t threads) {                             \
    return run<In, Weight>(*args, parallel_for, threads);                                                \
  }
FUSED_MOE(bf16_none, Bf16, Bf16)
FUSED_MOE(bf16_e4m3fn, Bf16, E4m3fn)
FUSED_MOE(bf16_e4m3fnuz, Bf16, E4m3fnuz)
FUSED_MOE(fp16_none, Fp16, Fp16)
FUSED_MOE(fp16_e4m3fn, Fp16, E4m3fn)
FUSED_MOE(fp16_e4m3fnuz, Fp16, E4m3fnuz)
