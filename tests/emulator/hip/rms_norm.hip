// out[row, i] = x[row, i] / sqrt(mean(x[row, :]^2) + eps) * weight[i], bf16 in and out, 32-bit float arithmetic.
//
// A workgroup of two waves a row. Eight elements a work-item and step, as one 16-byte load; the tail element by
// element. Sums through LDS. Reads x twice and weight once a row, writes once; rows are 16-byte aligned only when
// length % 8 == 0, so odd lengths take the tail path throughout.
#include <device.h>

struct alignas(16) Eight {
  uint16_t e[8];
};

KERNEL(128) rms_norm(const uint16_t* x, const uint16_t* weight, uint16_t* out, uint32_t length, float eps) {
  SHARED(float, scratch, 128);
  const uint32_t t = thread_x();
  const uint64_t row = static_cast<uint64_t>(group_x()) * length;
  const uint32_t wide = length % 8 == 0 ? length / 8 : 0;
  float s = 0;
  for (uint32_t i = t; i < wide; i += 128) {
    const Eight v = *reinterpret_cast<const Eight*>(x + row + 8 * i);
    for (uint16_t e : v.e) s += bf16_to_float(e) * bf16_to_float(e);
  }
  for (uint32_t i = 8 * wide + t; i < length; i += 128) s += bf16_to_float(x[row + i]) * bf16_to_float(x[row + i]);
  scratch[t] = s;
  barrier();
  for (uint32_t half = 64; half > 0; half >>= 1) {
    if (t < half) scratch[t] += scratch[t + half];
    barrier();
  }
  const float scale = 1.0f / __builtin_sqrtf(scratch[0] / static_cast<float>(length) + eps);
  for (uint32_t i = t; i < wide; i += 128) {
    const Eight v = *reinterpret_cast<const Eight*>(x + row + 8 * i);
    const Eight w = *reinterpret_cast<const Eight*>(weight + 8 * i);
    Eight y;
    for (int j = 0; j < 8; ++j) y.e[j] = float_to_bf16(bf16_to_float(v.e[j]) * scale * bf16_to_float(w.e[j]));
    *reinterpret_cast<Eight*>(out + row + 8 * i) = y;
  }
  for (uint32_t i = 8 * wide + t; i < length; i += 128) {
    out[row + i] = float_to_bf16(bf16_to_float(x[row + i]) * scale * bf16_to_float(weight[i]));
  }
}
