// Where the scale is that the sum of a row of an expert's weights is multiplied by at its end: the row's own, or one
// that all rows of its tensor share (fused_moe/args.h).
#pragma once
#include <aiterlite/fused_moe/args.h>
#include <aiterlite/platform.h>

namespace aiterlite::fused_moe {

// Of all rows of w1, or of gate's (0) or up's (1), where these have one each.
AITERLITE_DEVICE const float* scale_of_gate_or_up(const aiterlite_fused_moe_args& args, uint32_t expert, uint32_t up) {
  const auto each = static_cast<uint32_t>(args.w1_scales);
  return args.w1_scale + (uint64_t{expert} * each + (up != 0 ? each - 1 : 0));
}

// Of row `row` of w1, as it lies.
template <bool kOfTensor>
AITERLITE_DEVICE const float* scale_of_w1(const aiterlite_fused_moe_args& args, uint32_t expert, uint32_t row) {
  const auto inter = static_cast<uint32_t>(args.inter);
  if constexpr (!kOfTensor) return args.w1_scale + (uint64_t{2} * expert * inter + row);
  return scale_of_gate_or_up(args, expert, args.gate_step == 2 ? row % 2 : row >= inter);
}

template <bool kOfTensor>
AITERLITE_DEVICE const float* scale_of_w2(const aiterlite_fused_moe_args& args, uint32_t expert, uint32_t row) {
  return args.w2_scale + (kOfTensor ? uint64_t{expert} : uint64_t{expert} * static_cast<uint32_t>(args.width) + row);
}

}  // namespace aiterlite::fused_moe
