// Inclusive prefix sums of each row, in wrapping 32-bit integers; out[row, i] = sum of x[row, 0..i].
//
// A workgroup a row, in chunks of 128 with a carry: Hillis-Steele over two LDS buffers, 7 steps a chunk. Reads and
// writes each element once; any length. The buffers are dynamic LDS: 2 * 128 * 4 bytes.
#include <device.h>

KERNEL(128) scan(const int32_t* x, int32_t* out, int32_t length) {
  DYNAMIC_SHARED(uint32_t, buffer);
  const uint32_t t = thread_x();
  const uint64_t row = static_cast<uint64_t>(group_x()) * length;
  uint32_t carry = 0;
  for (int32_t begin = 0; begin < length; begin += 128) {
    const int32_t i = begin + static_cast<int32_t>(t);
    uint32_t from = 0;
    buffer[t] = i < length ? static_cast<uint32_t>(x[row + i]) : 0;
    barrier();
    for (uint32_t step = 1; step < 128; step <<= 1) {
      const uint32_t to = 128 - from;
      buffer[to + t] = buffer[from + t] + (t >= step ? buffer[from + t - step] : 0);
      from = to;
      barrier();
    }
    if (i < length) out[row + i] = static_cast<int32_t>(carry + buffer[from + t]);
    carry += buffer[from + 127];
    barrier();
  }
}
