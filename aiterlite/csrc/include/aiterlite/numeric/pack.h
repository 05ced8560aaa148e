// Two floats as a word of two 16-bit ones, the first in the lower half, to nearest even: what becomes a matrix operand.
// The bits of from_float but for NaN, which becomes one of the target's. By instruction on sm_90 and gfx950; gfx942
// rounds bf16 in integers.
#pragma once
#include <aiterlite/numeric/types.h>

namespace aiterlite {

AITERLITE_DEVICE uint32_t pack_pair(fp16, float low, float high) { return native_pack_fp16(low, high); }
AITERLITE_DEVICE uint32_t pack_pair(bf16, float low, float high) {
#if defined(__gfx942__) || defined(AITERLITE_HOST_SIM)
  return from_float<bf16>(low).bits | static_cast<uint32_t>(from_float<bf16>(high).bits) << 16;
#else
  return native_pack_bf16(low, high);
#endif
}

}  // namespace aiterlite
