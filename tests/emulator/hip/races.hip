// Waves that exchange values through LDS, with and without the barriers that this takes.
//
// exchange: each work-item leaves a value and takes that of its mirror image, which another wave wrote. rounds: the
// same four times over with one buffer, where a second barrier must keep the next round's values from overwriting what
// is yet to be read; after some hundred instructions of arithmetic waves that stay close get away without it. The
// `racy_` twins lack that one barrier each.
#include <device.h>

template <bool synchronised>
INLINE void exchange_values(const uint32_t* x, uint32_t* out, uint32_t* tile) {
  const uint32_t t = thread_x(), i = group_x() * 256 + t;
  tile[t] = x[i];
  if (synchronised) barrier();
  out[i] = tile[255 - t];
}

KERNEL(256) exchange(const uint32_t* x, uint32_t* out) {
  SHARED(uint32_t, tile, 256);
  exchange_values<true>(x, out, tile);
}

KERNEL(256) racy_exchange(const uint32_t* x, uint32_t* out) {
  SHARED(uint32_t, tile, 256);
  exchange_values<false>(x, out, tile);
}

template <bool synchronised>
INLINE void exchange_rounds(const uint32_t* x, uint32_t* out, uint32_t* tile) {
  const uint32_t t = thread_x(), i = group_x() * 256 + t;
  uint32_t v = x[i];
  for (uint32_t round = 0; round < 4; ++round) {
    tile[t] = v;
    barrier();
    v = v * 3 + tile[255 - t];
#pragma unroll
    for (uint32_t j = 0; j < 40; ++j) v = v * 5 + (v >> 7) + j;
    if (synchronised) barrier();
  }
  out[i] = v;
}

KERNEL(256) rounds(const uint32_t* x, uint32_t* out) {
  SHARED(uint32_t, tile, 256);
  exchange_rounds<true>(x, out, tile);
}

KERNEL(256) racy_rounds(const uint32_t* x, uint32_t* out) {
  SHARED(uint32_t, tile, 256);
  exchange_rounds<false>(x, out, tile);
}
