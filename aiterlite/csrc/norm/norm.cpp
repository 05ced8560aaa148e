// RMSNorm on a CPU: cpu/rms_norm.h.
#include <aiterlite/cpu/rms_norm.h>

using namespace aiterlite::cpu;
using namespace aiterlite::cpu::norm;

#define AITERLITE_NORM(name, rows)                                                                                 \
  AITERLITE_EXPORT int32_t aiterlite_norm_cpu_##name(const aiterlite_norm_args* args, parallel_for_t parallel_for, \
                                                     int32_t) {                                                    \
    return run({*args}, parallel_for, rows);                                                                       \
  }
#define AITERLITE_NORM_CODES(name, In)                               \
  AITERLITE_NORM(name, run_plain<In>)                                \
  AITERLITE_NORM(name##_e4m3fn, (run_codes<In, EncodeE4m3<false>>))  \
  AITERLITE_NORM(name##_e4m3fnuz, (run_codes<In, EncodeE4m3<true>>)) \
  AITERLITE_NORM(name##_int8, (run_codes<In, EncodeInt8>))
AITERLITE_NORM_CODES(bf16, Bf16)
AITERLITE_NORM_CODES(fp16, Fp16)
