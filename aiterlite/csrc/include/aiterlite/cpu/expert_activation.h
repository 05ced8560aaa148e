// What an expert makes of a gate and an up value, on a CPU: fused_moe/activation.h.
#pragma once
#include <aiterlite/cpu/activation.h>
#include <aiterlite/fused_moe/args.h>

namespace aiterlite::cpu {

enum ExpertActivation { kExpertSilu, kExpertGelu, kExpertSwiglu };  // args.activation

inline f32v expert_activation(const aiterlite_fused_moe_cpu_args& args, f32v gate, f32v up) {
  if (args.activation == kExpertSilu) return silu(gate) * up;
  if (args.activation == kExpertGelu) return gelu(gate) * up;
  const float limit = args.call.limit;
  gate = gate > limit ? f32v{} + limit : gate;
  up = up > limit ? f32v{} + limit : up < -limit ? f32v{} - limit : up;
  return gate * sigmoid(gate * args.call.beta) * (up + args.call.linear_beta);
}

}  // namespace aiterlite::cpu
