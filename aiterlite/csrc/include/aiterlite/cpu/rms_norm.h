// Rows of RMSNorm on a CPU: norm/args.h. A task is some rows; a row is read twice, the second time from the first
// caches, and made in chunks that lie on the stack. What is quantised is the rounded result, as on a GPU.
#pragma once
#include <aiterlite/cpu/quantise.h>
#include <aiterlite/host_abi.h>
#include <aiterlite/norm/args.h>
#include <math.h>

namespace aiterlite::cpu::norm {

// kLeastMaximum of quant/strip.h.
constexpr float kLeastMaximum = 1e-10f;
// Elements below which a thread of its own costs more than it saves.
constexpr int64_t kTask = 16384;
// Elements made at once; whole groups of any size.
constexpr int64_t kChunk = 8192;

// From float chunks, in a loop that vectorises.
template <class In>
void narrow(uint16_t* to, const float* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = In::from_float(from[i]);
}
template <class In>
void widen(float* to, const uint16_t* from, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, widen_in_order(In{}, from + i));
  for (; i < count; ++i) to[i] = In::to_float(from[i]);
}

// Four chains of vectors, which meet in pairs, then lane by lane.
inline float squares(const float* h, int64_t count) {
  f32v chain[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      const auto value = load<f32v>(h + i + j * kLanes);
      chain[j] = multiply_add(value, value, chain[j]);
    }
  }
  float rest = 0.0f;
  for (; i < count; ++i) rest += h[i] * h[i];
  const f32v all = (chain[0] + chain[1]) + (chain[2] + chain[3]);
  for (int lane = 0; lane < kLanes; ++lane) rest += all[lane];
  return rest;
}

template <class In>
struct Row {
  const aiterlite_norm_args& args;
  const uint16_t* h;
  float by;

  // Elements `first` on of the result.
  __attribute__((noinline)) void make(uint16_t* to, int64_t first, int64_t count) const {
    float value[kChunk], factor[kChunk];
    widen<In>(value, h + first, count);
    widen<In>(factor, static_cast<const uint16_t*>(args.weight) + first, count);
    for (int64_t i = 0; i < count; ++i) value[i] *= by;
    if (args.model_sensitive) {
      for (int64_t i = 0; i < count; ++i) value[i] = In::to_float(In::from_float(value[i]));
    }
    if (args.gemma) {
      for (int64_t i = 0; i < count; ++i) factor[i] += 1.0f;
    }
    for (int64_t i = 0; i < count; ++i) value[i] *= factor[i];
    narrow<In>(to, value, count);
  }
};

template <class In>
__attribute__((noinline)) Row<In> row_of(const aiterlite_norm_args& args, int64_t row) {
  const auto* x = static_cast<const uint16_t*>(args.x) + row * args.stride_x;
  const uint16_t* h = x;
  float sum = 0.0f;
  for (int64_t first = 0; first < args.width; first += kChunk) {
    const int64_t count = args.width - first < kChunk ? args.width - first : kChunk;
    float value[kChunk];
    widen<In>(value, x + first, count);
    if (args.residual_out != nullptr) {
      const auto* in = static_cast<const uint16_t*>(args.residual_in) + row * args.stride_in + first;
      auto* out = static_cast<uint16_t*>(args.residual_out) + row * args.stride_sum;
      float other[kChunk];
      widen<In>(other, in, count);
      for (int64_t i = 0; i < count; ++i) value[i] += other[i];
      narrow<In>(out + first, value, count);
      widen<In>(value, out + first, count);
      h = out;
    }
    sum += squares(value, count);
  }
  return {args, h, 1.0f / sqrtf(sum * args.inverse_width + args.epsilon)};
}

struct Divide {
  float scale;
  f32v operator()(f32v x) const { return x / scale; }
};
template <class Out>
float scale_of(float most) {
  return (most > kLeastMaximum ? most : kLeastMaximum) / Out::kLargest;
}

// Tasks' context. `plain`, where it is not null, takes what is quantised.
struct Call {
  aiterlite_norm_args args;
  uint16_t* plain = nullptr;
  int64_t stride_plain = 0;
};

template <class In>
void run_plain(int64_t begin, int64_t end, void* context) {
  const aiterlite_norm_args& args = static_cast<const Call*>(context)->args;
  for (int64_t row = begin; row < end; ++row) {
    const Row<In> made = row_of<In>(args, row);
    auto* out = static_cast<uint16_t*>(args.out) + row * args.stride_out;
    for (int64_t first = 0; first < args.width; first += kChunk) {
      made.make(out + first, first, args.width - first < kChunk ? args.width - first : kChunk);
    }
  }
}

template <class In, class Out>
void run_codes(int64_t begin, int64_t end, void* context) {
  const auto& call = *static_cast<const Call*>(context);
  const aiterlite_norm_args& args = call.args;
  const int64_t groups = args.width / args.group;
  const bool whole = args.group == args.width;
  uint16_t made[kChunk];
  for (int64_t r = begin; r < end; ++r) {
    const Row<In> row = row_of<In>(args, r);
    auto* out = static_cast<uint8_t*>(args.out) + r * args.stride_out;
    float scale = 0.0f;
    if (whole) {
      float most = 0.0f;
      for (int64_t first = 0; first < args.width; first += kChunk) {
        const int64_t count = args.width - first < kChunk ? args.width - first : kChunk;
        row.make(made, first, count);
        const float of_chunk = greatest<In>(made, count);
        most = of_chunk > most ? of_chunk : most;
      }
      args.scales[r] = scale = scale_of<Out>(most);
    }
    for (int64_t first = 0; first < args.width; first += kChunk) {
      const int64_t count = args.width - first < kChunk ? args.width - first : kChunk;
      // A row of one chunk is still there.
      if (!whole || args.width > kChunk) row.make(made, first, count);
      if (call.plain != nullptr) memcpy(call.plain + r * call.stride_plain + first, made, count * sizeof *made);
      if (whole) {
        encode_all<In, Out>(out + first, made, count, Divide{scale});
        continue;
      }
      for (int64_t at = 0; at < count; at += args.group) {
        const int64_t group = (first + at) / args.group;
        scale = scale_of<Out>(greatest<In>(made + at, args.group));
        args.scales[args.transposed ? group * args.rows + r : r * groups + group] = scale;
        encode_all<In, Out>(out + first + at, made + at, args.group, Divide{scale});
      }
    }
  }
}

inline int32_t run(Call call, parallel_for_t parallel_for, void (*rows)(int64_t, int64_t, void*)) {
  const int64_t grain = call.args.width < kTask ? kTask / call.args.width : 1;
  return parallel_for(0, call.args.rows, grain, rows, &call);
}

}  // namespace aiterlite::cpu::norm
