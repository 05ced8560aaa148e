// act(gate) * up on a CPU: activation/args.h. A task is some rows; a row is made in chunks that lie on the stack. What
// is quantised is the rounded result, as on a GPU: a row with one scale is made twice where it is longer than a chunk.
#include <aiterlite/activation/args.h>
#include <aiterlite/cpu/gated.h>
#include <aiterlite/host_abi.h>

namespace {

using namespace aiterlite::cpu;
using Args = aiterlite_activation_args;

// kLeastMaximum of quant/strip.h.
constexpr float kLeastMaximum = 1e-10f;
// Elements below which a thread of its own costs more than it saves.
constexpr int64_t kTask = 8192;
// Elements made at once; whole groups of any size.
constexpr int64_t kChunk = 4096;
// Elements `first` on of a row.
template <class In>
void make(const Args& args, uint16_t* to, int64_t row, int64_t first, int64_t count) {
  const auto* gate = static_cast<const uint16_t*>(args.x) + row * args.stride_x + first;
  gate_elements<In>(args.activation, to, gate, gate + args.width, count, args.limit);
}

int64_t chunk_at(const Args& args, int64_t first) { return args.width - first < kChunk ? args.width - first : kChunk; }

template <class In>
void run_plain(int64_t begin, int64_t end, void* context) {
  const auto& args = *static_cast<const Args*>(context);
  for (int64_t row = begin; row < end; ++row) {
    auto* out = static_cast<uint16_t*>(args.out) + row * args.stride_out;
    for (int64_t first = 0; first < args.width; first += kChunk) {
      make<In>(args, out + first, row, first, chunk_at(args, first));
    }
  }
}

struct Divide {
  float scale;
  f32v operator()(f32v x) const { return x / scale; }
};
template <class Out>
float scale_of(float most) {
  return (most > kLeastMaximum ? most : kLeastMaximum) / Out::kLargest;
}

template <class In, class Out>
void encode_row(const Args& args, int64_t row, uint8_t* out) {
  uint16_t made[kChunk];
  float most = 0.0f;
  for (int64_t first = 0; first < args.width; first += kChunk) {
    const int64_t count = chunk_at(args, first);
    make<In>(args, made, row, first, count);
    const float of_chunk = greatest<In>(made, count);
    most = of_chunk > most ? of_chunk : most;
  }
  const float scale = args.scales[row] = scale_of<Out>(most);
  for (int64_t first = 0; first < args.width; first += kChunk) {
    const int64_t count = chunk_at(args, first);
    // A row of one chunk is still there.
    if (args.width > kChunk) make<In>(args, made, row, first, count);
    encode_all<In, Out>(out + first, made, count, Divide{scale});
  }
}

template <class In, class Out>
void encode_groups(const Args& args, int64_t row, uint8_t* out) {
  uint16_t made[kChunk];
  const int64_t groups = args.width / args.group;
  for (int64_t first = 0; first < args.width; first += kChunk) {
    const int64_t count = chunk_at(args, first);
    make<In>(args, made, row, first, count);
    for (int64_t at = 0; at < count; at += args.group) {
      const int64_t group = (first + at) / args.group;
      const float scale = scale_of<Out>(greatest<In>(made + at, args.group));
      args.scales[args.transposed ? group * args.rows + row : row * groups + group] = scale;
      encode_all<In, Out>(out + first + at, made + at, args.group, Divide{scale});
    }
  }
}

template <class In, class Out>
void run_codes(int64_t begin, int64_t end, void* context) {
  const auto& args = *static_cast<const Args*>(context);
  for (int64_t row = begin; row < end; ++row) {
    auto* out = static_cast<uint8_t*>(args.out) + row * args.stride_out;
    if (args.group == args.width) {
      encode_row<In, Out>(args, row, out);
    } else {
      encode_groups<In, Out>(args, row, out);
    }
  }
}

int32_t run(const Args* args, parallel_for_t parallel_for, void (*rows)(int64_t, int64_t, void*)) {
  const int64_t grain = args->width < kTask ? kTask / args->width : 1;
  return parallel_for(0, args->rows, grain, rows, const_cast<Args*>(args));
}

}  // namespace

#define AITERLITE_ACTIVATION(name, rows)                                                           \
  AITERLITE_EXPORT int32_t aiterlite_activation_cpu_##name(const aiterlite_activation_args* args,  \
                                                           parallel_for_t parallel_for, int32_t) { \
    return run(args, parallel_for, rows);                                                          \
  }
#define AITERLITE_ACTIVATION_CODES(name, In)                               \
  AITERLITE_ACTIVATION(name, run_plain<In>)                                \
  AITERLITE_ACTIVATION(name##_e4m3fn, (run_codes<In, EncodeE4m3<false>>))  \
  AITERLITE_ACTIVATION(name##_e4m3fnuz, (run_codes<In, EncodeE4m3<true>>)) \
  AITERLITE_ACTIVATION(name##_int8, (run_codes<In, EncodeInt8>))
AITERLITE_ACTIVATION_CODES(bf16, Bf16)
AITERLITE_ACTIVATION_CODES(fp16, Fp16)
