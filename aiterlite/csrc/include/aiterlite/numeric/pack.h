// Two floats as a word of two 16-bit ones, the first in the lower half, to nearest even: what becomes a matrix operand.
// The bits of from_float but for NaN, which becomes one of the target's. By instruction on sm_90 and gfx950; gfx942
// rounds bf16 in integers.
#pragma once
#include <aiterlite/numeric/types.h>

namespace aiterlite {

AITERLITE_DEVICE uint32_t pack_pair(fp16, float low, float high) { return native_pack_fp16(low, high); }
AITERLITE_DEVICE uint32_t pack_pair(bf16, float low, float high) {
#if defined(__gfx942__) || defined(AITERLITE_HOST_SIM)
  // The rounded bits in the upper half. Both choices are made first, so that the compiler selects and does not branch.
  const auto rounded = [](float value) {
    const auto bits = __builtin_bit_cast(uint32_t, value);
    const uint32_t nearest = bits + 0x7fffu + ((bits >> 16) & 1u), quiet = bits | 0x400000u;
    return value == value ? nearest : quiet;
  };
  return rounded(low) >> 16 | (rounded(high) & 0xffff0000u);
#else
  return native_pack_bf16(low, high);
#endif
}

// Of two products, whose zeros keep their signs.
AITERLITE_DEVICE uint32_t pack_products(fp16, float low, float high) {
  return native_pack_fp16(product_apart(low), product_apart(high));
}
AITERLITE_DEVICE uint32_t pack_products(bf16, float low, float high) { return pack_pair(bf16{}, low, high); }

}  // namespace aiterlite
