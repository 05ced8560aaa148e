// f16 values as f32 and back with their NaNs left as they are (the conversions of convert.h quiet them), for
// comparisons, min and max.
#pragma once
#include <aiterlite/emulator/lanes.h>

namespace aiterlite::emulator {

inline vf32 raw_f16(vu32 h) {
  const vu32 sign = (h & 0x8000u) << 16;
  const vu32 e = h & 0x7c00u;
  const vu32 normal = ((h & 0x7fffu) << 13) + (112u << 23);
  const vu32 special = ((h & 0x7fffu) << 13) | 0x7f800000u;
  const vf32 denormal = __builtin_convertvector(as_i32(h & 0x3ffu), vf32) * 0x1p-24f;
  vu32 r = select(e == 0x7c00u, special, normal);
  r = select(e == 0u, bits(denormal), r);
  return as_f32(r | sign);
}

// A value that is an f16, as its bits.
inline vu32 raw_f16_bits(vf32 v) {
  const vu32 x = bits(v);
  const vu32 a = x & 0x7fffffffu;
  vu32 code = encode_magnitude<5, 10, 15>(x, Rounding::zero);
  code = select(a >= 0x7f800000u, 0x7c00u | ((a >> 13) & 0x3ffu), code);
  return code | ((x >> 16) & 0x8000u);
}

// The result of picking one of several f16 values.
inline vu32 picked_f16(const Wave& w, vf32 v) {
  return raw_f16_bits(mode_denorm_f16_f64(w.mode) == 3 ? v : flush_f16(v));
}

}  // namespace aiterlite::emulator
