// The sum over a token's slots on a CPU: in float, slot by slot, rounded once, as on a GPU.
#include <aiterlite/cpu/element.h>
#include <aiterlite/host_abi.h>
#include <aiterlite/moe_sorting/args.h>

namespace {

struct Fp32 {
  using Bits = float;
  static float to_float(float value) { return value; }
  static float from_float(float value) { return value; }
};

constexpr int64_t kColumns = 256;

template <class Element>
void sum_tokens(int64_t begin, int64_t end, void* context) {
  using Bits = typename Element::Bits;
  const auto& args = *static_cast<const aiterlite_moe_sum_args*>(context);
  for (int64_t token = begin; token < end; ++token) {
    const auto* rows = static_cast<const Bits*>(args.input) + token * args.stride_token;
    auto* to = static_cast<Bits*>(args.output) + token * args.stride_out;
    for (int64_t first = 0; first < args.width; first += kColumns) {
      const int64_t count = args.width - first < kColumns ? args.width - first : kColumns;
      float sums[kColumns] = {};
      for (int64_t slot = 0; slot < args.topk; ++slot) {
        const Bits* row = rows + slot * args.stride_slot + first;
        for (int64_t i = 0; i < count; ++i) sums[i] += Element::to_float(row[i]);
      }
      for (int64_t i = 0; i < count; ++i) to[first + i] = Element::from_float(sums[i]);
    }
  }
}

}  // namespace

#define MOE_SUM(name, Element)                                                                               \
  AITERLITE_EXPORT int32_t aiterlite_moe_sum_cpu_##name(const aiterlite_moe_sum_args* args,                  \
                                                        parallel_for_t parallel_for, int32_t) {              \
    return parallel_for(0, args->tokens, 8, sum_tokens<Element>, const_cast<aiterlite_moe_sum_args*>(args)); \
  }
MOE_SUM(bf16, aiterlite::cpu::Bf16)
MOE_SUM(fp16, aiterlite::cpu::Fp16)
MOE_SUM(fp32, Fp32)
