// RMSNorm of the rows of one tensor or of two on a CPU: norm/pair_args.h, cpu/rms_norm.h. Rows of the second tensor
// follow those of the first.
#include <aiterlite/cpu/rms_norm.h>
#include <aiterlite/norm/pair_args.h>

namespace {

using namespace aiterlite::cpu;
using namespace aiterlite::cpu::norm;
using Args = aiterlite_norm_pair_args;
using Task = void (*)(int64_t, int64_t, void*);

template <class In>
int32_t run_pair(const Args& args, parallel_for_t parallel_for, Task coded) {
  aiterlite_norm_args first = {};
  first.x = args.x;
  first.weight = args.weight;
  first.residual_in = args.residual_in;
  first.residual_out = args.residual_out;
  first.out = coded != nullptr ? args.codes : args.out;
  first.scales = args.scales;
  first.stride_x = args.stride_x;
  first.stride_in = args.stride_in;
  first.stride_sum = args.stride_sum;
  first.stride_out = coded != nullptr ? args.stride_codes : args.stride_out;
  first.rows = args.rows;
  first.width = args.width;
  first.group = args.group;
  first.transposed = args.transposed;
  first.gemma = args.gemma;
  first.epsilon = args.epsilon;
  first.inverse_width = args.inverse_width;
  Call call = {first};
  if (coded != nullptr) {
    call.plain = static_cast<uint16_t*>(args.out);
    call.stride_plain = args.stride_out;
  }
  const int32_t failed = run(call, parallel_for, coded != nullptr ? coded : run_plain<In>);
  if (failed != 0 || args.second_x == nullptr) return failed;
  aiterlite_norm_args second = {};
  second.x = args.second_x;
  second.weight = args.second_weight;
  second.out = args.second_out;
  second.stride_x = args.second_stride_x;
  second.stride_out = args.second_stride_out;
  second.rows = args.rows;
  second.width = args.second_width;
  second.gemma = args.gemma;
  second.epsilon = args.second_epsilon;
  second.inverse_width = args.second_inverse_width;
  return run({second}, parallel_for, run_plain<In>);
}

}  // namespace

#define AITERLITE_PAIR(name, In, coded)                                                                             \
  AITERLITE_EXPORT int32_t aiterlite_norm_pair_cpu_##name(const Args* args, parallel_for_t parallel_for, int32_t) { \
    return run_pair<In>(*args, parallel_for, coded);                                                                \
  }
#define AITERLITE_PAIR_CODES(name, In)                                   \
  AITERLITE_PAIR(name, In, nullptr)                                      \
  AITERLITE_PAIR(name##_e4m3fn, In, (run_codes<In, EncodeE4m3<false>>))  \
  AITERLITE_PAIR(name##_e4m3fnuz, In, (run_codes<In, EncodeE4m3<true>>)) \
  AITERLITE_PAIR(name##_int8, In, (run_codes<In, EncodeInt8>))
AITERLITE_PAIR_CODES(bf16, Bf16)
AITERLITE_PAIR_CODES(fp16, Fp16)
