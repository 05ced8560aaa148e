// Transposing in registers, by picking bytes: for targets without a transposing read (gfx942, and bytes on NVIDIA), or
// where the values are in registers anyway. One v_perm_b32 or PRMT a word and step, on every target.
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite {

// 4 x 4 bytes: word r is row r before, and column r after. 8 picks.
AITERLITE_DEVICE void transpose_bytes(uint32_t (&w)[4]) {
  const uint32_t low01 = pick_bytes<0, 4, 1, 5>(w[0], w[1]), high01 = pick_bytes<2, 6, 3, 7>(w[0], w[1]);
  const uint32_t low23 = pick_bytes<0, 4, 1, 5>(w[2], w[3]), high23 = pick_bytes<2, 6, 3, 7>(w[2], w[3]);
  w[0] = pick_bytes<0, 1, 4, 5>(low01, low23);
  w[1] = pick_bytes<2, 3, 6, 7>(low01, low23);
  w[2] = pick_bytes<0, 1, 4, 5>(high01, high23);
  w[3] = pick_bytes<2, 3, 6, 7>(high01, high23);
}

// 2 x 2 elements of 16 bits: word r is row r before, and column r after. 2 picks.
AITERLITE_DEVICE void transpose_pairs(uint32_t (&w)[2]) {
  const uint32_t low = pick_bytes<0, 1, 4, 5>(w[0], w[1]), high = pick_bytes<2, 3, 6, 7>(w[0], w[1]);
  w[0] = low;
  w[1] = high;
}

}  // namespace aiterlite
