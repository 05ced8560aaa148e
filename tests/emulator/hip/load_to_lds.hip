// Straight from memory to LDS: each lane names an address, and lane l's data goes to the wave's LDS base plus l times
// the size. out = the tile as it lies in LDS afterwards.
//
// Both targets move 1, 2 or 4 bytes a lane, gfx950 also 12 and 16. Lanes read in reverse order, so that the order in
// LDS shows. Four waves, each with its own part of LDS.
#include <device.h>

using Global = __attribute__((address_space(1))) uint32_t;
using Shared = __attribute__((address_space(3))) uint32_t;

KERNEL(256) load_to_lds(const uint32_t* x, uint32_t* out) {
  SHARED(uint32_t, tile, 512);
  const uint32_t t = thread_x(), lane = lane_id(), wave = wave_id();
  for (uint32_t j = 0; j < 2; ++j) tile[256 * j + t] = 0;
  barrier();
  Global* from = (Global*)(x + group_x() * 512 + wave * 128 + (63 - lane));
  Shared* to = (Shared*)(tile + wave * 128);
  __builtin_amdgcn_global_load_lds(from, to, 4, 0, 0);
  if (lane % 4 != 1) __builtin_amdgcn_global_load_lds(from + 64, to + 64, 4, 0, 0);
  __builtin_amdgcn_s_waitcnt(0);
  barrier();
  for (uint32_t j = 0; j < 2; ++j) out[group_x() * 512 + 256 * j + t] = tile[256 * j + t];
}

#if defined(__gfx950__)
KERNEL(256) load_to_lds_wide(const uint32_t* x, uint32_t* out) {
  SHARED(uint32_t, tile, 4)[512];
  const uint32_t t = thread_x(), lane = lane_id(), wave = wave_id();
  for (uint32_t j = 0; j < 8; ++j) tile[j / 2][256 * (j % 2) + t] = 0;
  barrier();
  Global* from = (Global*)(x + group_x() * 2048 + wave * 512 + (63 - lane) * 4);
  Shared* to = (Shared*)tile[wave];
  __builtin_amdgcn_global_load_lds(from, to, 16, 0, 0);
  __builtin_amdgcn_global_load_lds(from + 256, to + 256, 12, 0, 0);
  __builtin_amdgcn_s_waitcnt(0);
  barrier();
  for (uint32_t j = 0; j < 8; ++j) out[group_x() * 2048 + 256 * j + t] = tile[j / 2][256 * (j % 2) + t];
}
#endif
