// Scales of blocks as powers of two (OCP MX's e8m0): code c is 2^(c - 127), 255 is NaN. In integers on every target;
// 2^-127, a denormal float, included.
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite {

struct e8m0 {
  uint8_t bits;
};

AITERLITE_DEVICE float to_float(e8m0 scale) {
  const uint32_t code = scale.bits;
  const uint32_t bits = code == 0 ? 0x00400000u : code << 23;
  return __builtin_bit_cast(float, code == 255 ? 0x7fc00000u : bits);
}

// Byte `kIndex` of a word of four.
template <uint32_t kIndex>
AITERLITE_DEVICE float unpack_e8m0(uint32_t word) {
  static_assert(kIndex < 4, "unpack_e8m0: a word holds four scales");
  return to_float(e8m0{static_cast<uint8_t>(word >> (8 * kIndex))});
}

}  // namespace aiterlite
