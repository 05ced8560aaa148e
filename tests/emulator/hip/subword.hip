// Loads and stores narrower than a dword, signed and not, from memory and from LDS, and into either half of a register.
//
// widen[i]: sums of every narrow reading of the bytes at i. narrow_*: the same values stored in fewer bits. Addresses
// of 16-bit accesses are even, bytes anywhere. One workgroup per 64 items, all through LDS once.
#include <device.h>

KERNEL(64) subword(const uint8_t* x, int32_t* widened, uint8_t* bytes, uint16_t* shorts, uint32_t* pairs, uint32_t n) {
  SHARED(uint8_t, lds_bytes, 256);
  SHARED(uint16_t, lds_shorts, 128);
  const uint32_t t = thread_x();
  const uint32_t i = group_x() * 64 + t;
  const uint32_t at = smaller(i, n - 1);
  const int8_t* sx = reinterpret_cast<const int8_t*>(x);
  const uint16_t* hx = reinterpret_cast<const uint16_t*>(x);
  const int16_t* shx = reinterpret_cast<const int16_t*>(x);
  for (uint32_t j = 0; j < 4; ++j) lds_bytes[4 * t + (3 - j)] = x[at + j];
  lds_shorts[t] = hx[at / 2];
  lds_shorts[127 - t] = static_cast<uint16_t>(hx[at / 2 + 1] + 1);
  barrier();
  if (i >= n) return;
  const int32_t v = x[i] + 3 * sx[i + 1] + 5 * hx[i / 2] + 7 * shx[i / 2 + 1] +
                    11 * static_cast<int8_t>(lds_bytes[(5 * t + 1) % 256]) + 13 * lds_bytes[(7 * t) % 256] +
                    17 * static_cast<int16_t>(lds_shorts[(3 * t) % 128]) + 19 * lds_shorts[(t + 64) % 128];
  widened[i] = v;
  bytes[2 * i] = static_cast<uint8_t>(v >> 9);
  bytes[2 * i + 1] = x[i];
  shorts[2 * i] = static_cast<uint16_t>(static_cast<uint32_t>(v) >> 16);
  shorts[2 * i + 1] = static_cast<uint16_t>(v);
  // Two 16-bit loads that fill one register.
  pairs[i] = hx[i / 2] | static_cast<uint32_t>(hx[i / 2 + 2]) << 16;
  pairs[n + i] = static_cast<uint32_t>(x[i + 2]) << 16 | static_cast<uint16_t>(sx[i]);
}
