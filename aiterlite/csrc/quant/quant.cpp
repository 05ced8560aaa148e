// Quantisation on a CPU: quant/args.h. A task is some rows, or a share of a tensor; what shares a scale is read twice,
// the second time from the first cache where it is a row. Divisions are the machine's own, so that the bits are those
// of any target.
#include <aiterlite/cpu/quantise.h>
#include <aiterlite/host_abi.h>
#include <aiterlite/quant/args.h>

namespace {

using namespace aiterlite::cpu;

// kLeastMaximum of quant/strip.h.
constexpr float kLeastMaximum = 1e-10f;
// Elements below which a thread of its own costs more than it saves.
constexpr int64_t kTask = 32768;
constexpr int64_t kMostShares = 256;

template <class Out>
float scale_of(float most) {
  return (most > kLeastMaximum ? most : kLeastMaximum) / Out::kLargest;
}

struct Divide {
  float scale;
  f32v operator()(f32v x) const { return x / scale; }
};
struct Multiply {
  float by;
  f32v operator()(f32v x) const { return x * by; }
};

struct Rows {
  const aiterlite_quant_rows_args* args;
  int64_t live;
};

template <class In, class Out>
void run_rows(int64_t begin, int64_t end, void* context) {
  const auto& call = *static_cast<const Rows*>(context);
  const aiterlite_quant_rows_args& args = *call.args;
  for (int64_t row = begin; row < end; ++row) {
    const auto* x = static_cast<const uint16_t*>(args.x) + row * args.stride_x;
    auto* out = static_cast<uint8_t*>(args.out) + row * args.width;
    for (int64_t g = 0; g < args.groups; ++g) {
      const float scale = scale_of<Out>(greatest<In>(x + g * args.group, args.group));
      encode_all<In, Out>(out + g * args.group, x + g * args.group, args.group, Divide{scale});
      args.scales[args.transposed ? g * call.live + row : row * args.groups + g] = scale;
    }
  }
}

template <class In, class Out>
int32_t quantise_rows(const aiterlite_quant_rows_args& args, parallel_for_t parallel_for) {
  Rows call = {&args, args.rows};
  if (args.num_rows != nullptr) {
    const int64_t asked = int64_t{*args.num_rows} * args.num_rows_factor;
    call.live = asked < args.rows ? asked : args.rows;
  }
  if (call.live <= 0) return 0;
  const int64_t grain = args.width < kTask ? kTask / args.width : 1;
  return parallel_for(0, call.live, grain, run_rows<In, Out>, &call);
}

// A tensor in shares of whole tasks.
struct Tensor {
  const aiterlite_quant_tensor_args* args;
  int64_t each, shares;
  float scale;
  float greatest[kMostShares];

  explicit Tensor(const aiterlite_quant_tensor_args& given) : args(&given), scale(0.0f) {
    const int64_t tasks = (given.count + kTask - 1) / kTask;
    each = (tasks + kMostShares - 1) / kMostShares * kTask;
    shares = (given.count + each - 1) / each;
  }
  const uint16_t* x(int64_t share) const { return static_cast<const uint16_t*>(args->x) + share * each; }
  uint8_t* out(int64_t share) const { return static_cast<uint8_t*>(args->out) + share * each; }
  int64_t count(int64_t share) const {
    const int64_t left = args->count - share * each;
    return left < each ? left : each;
  }
};

template <class In>
void run_maxima(int64_t begin, int64_t end, void* context) {
  auto& call = *static_cast<Tensor*>(context);
  for (int64_t s = begin; s < end; ++s) call.greatest[s] = greatest<In>(call.x(s), call.count(s));
}

template <class In, class Out, class Scaling>
void run_shares(int64_t begin, int64_t end, void* context) {
  const auto& call = *static_cast<const Tensor*>(context);
  for (int64_t s = begin; s < end; ++s) encode_all<In, Out>(call.out(s), call.x(s), call.count(s), Scaling{call.scale});
}

template <class In, class Out>
int32_t quantise_tensor(const aiterlite_quant_tensor_args& args, parallel_for_t parallel_for) {
  Tensor call(args);
  const int32_t failed = parallel_for(0, call.shares, 1, run_maxima<In>, &call);
  if (failed != 0) return failed;
  float most = 0.0f;
  for (int64_t s = 0; s < call.shares; ++s) most = call.greatest[s] > most ? call.greatest[s] : most;
  *args.scale = call.scale = scale_of<Out>(most);
  return parallel_for(0, call.shares, 1, run_shares<In, Out, Divide>, &call);
}

template <class In, class Out>
int32_t quantise_static(const aiterlite_quant_tensor_args& args, parallel_for_t parallel_for) {
  Tensor call(args);
  call.scale = 1.0f / *args.scale;
  return parallel_for(0, call.shares, 1, run_shares<In, Out, Multiply>, &call);
}

}  // namespace

#define AITERLITE_QUANT(name, In, Out)                                                                \
  AITERLITE_EXPORT int32_t aiterlite_quant_rows_cpu_##name(const aiterlite_quant_rows_args* args,     \
                                                           parallel_for_t parallel_for, int32_t) {    \
    return quantise_rows<In, Out>(*args, parallel_for);                                               \
  }                                                                                                   \
  AITERLITE_EXPORT int32_t aiterlite_quant_tensor_cpu_##name(const aiterlite_quant_tensor_args* args, \
                                                             parallel_for_t parallel_for, int32_t) {  \
    return quantise_tensor<In, Out>(*args, parallel_for);                                             \
  }                                                                                                   \
  AITERLITE_EXPORT int32_t aiterlite_quant_static_cpu_##name(const aiterlite_quant_tensor_args* args, \
                                                             parallel_for_t parallel_for, int32_t) {  \
    return quantise_static<In, Out>(*args, parallel_for);                                             \
  }
AITERLITE_QUANT(bf16_e4m3fn, Bf16, EncodeE4m3<false>)
AITERLITE_QUANT(bf16_e4m3fnuz, Bf16, EncodeE4m3<true>)
AITERLITE_QUANT(bf16_int8, Bf16, EncodeInt8)
AITERLITE_QUANT(fp16_e4m3fn, Fp16, EncodeE4m3<false>)
AITERLITE_QUANT(fp16_e4m3fnuz, Fp16, EncodeE4m3<true>)
AITERLITE_QUANT(fp16_int8, Fp16, EncodeInt8)
