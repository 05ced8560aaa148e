// out[row, :] = softmax(x[row, :]), 32-bit floats.
//
// A workgroup a row: maximum, sum of exponentials and quotient in three passes over the row, with an LDS tree after
// each of the first two. Reads the row three times, writes it once; any length.
#include <device.h>

template <class Combine>
INLINE float reduce(float* scratch, float value, Combine combine) {
  const uint32_t t = thread_x();
  barrier();
  scratch[t] = value;
  barrier();
  for (uint32_t half = 64; half > 0; half >>= 1) {
    if (t < half) scratch[t] = combine(scratch[t], scratch[t + half]);
    barrier();
  }
  return scratch[0];
}

KERNEL(128) softmax(const float* x, float* out, int32_t length) {
  SHARED(float, scratch, 128);
  const int32_t t = static_cast<int32_t>(thread_x());
  x += static_cast<uint64_t>(group_x()) * length;
  out += static_cast<uint64_t>(group_x()) * length;
  float m = -__builtin_inff();
  for (int32_t i = t; i < length; i += 128) m = __builtin_fmaxf(m, x[i]);
  m = reduce(scratch, m, [](float a, float b) { return __builtin_fmaxf(a, b); });
  float s = 0;
  for (int32_t i = t; i < length; i += 128) s += __builtin_expf(x[i] - m);
  s = reduce(scratch, s, [](float a, float b) { return a + b; });
  for (int32_t i = t; i < length; i += 128) out[i] = __builtin_expf(x[i] - m) / s;
}
