// tile/sm90_copy.h on the host: boxes of tensors of two and three dimensions, and bytes in a row. Found before the
// header of that name.
#pragma once
#include <aiterlite/tile/sm90_barrier.h>

namespace aiterlite {

struct TensorMap {
  uint64_t address, size[3], stride[2], box[3], swizzle, element_bytes, unused[5];
};
static_assert(sizeof(TensorMap) == 128);

inline uint64_t keep_briefly() { return 0; }
inline uint64_t keep_long() { return 0; }
inline void fetch_map_early(const TensorMap&) {}
inline void prefetch_box(const TensorMap&, uint32_t, uint32_t, uint32_t) {}

inline void land_box(void* to, const TensorMap& map, uint32_t x, uint32_t y, uint32_t z, Barrier& barrier) {
  auto* bytes = static_cast<uint8_t*>(to);
  const uint64_t e = map.element_bytes;
  for (uint64_t k = 0, at = 0; k < map.box[2]; ++k) {
    for (uint64_t j = 0; j < map.box[1]; ++j) {
      for (uint64_t i = 0; i < map.box[0] * e; ++i, ++at) {
        const bool inside = x * e + i < map.size[0] * e && y + j < map.size[1] && z + k < map.size[2];
        const auto* from = reinterpret_cast<const uint8_t*>(map.address);
        // The place of 16 bytes is exchanged by the row, of 128 bytes, within 8 of them.
        const uint64_t place = map.swizzle != 0 ? at ^ (at / 128 % 8 * 16) : at;
        bytes[place] = inside ? from[i + e * (x + (y + j) * map.stride[0] + (z + k) * map.stride[1])] : 0;
      }
    }
  }
  barrier.land_bytes(static_cast<uint32_t>(e * map.box[0] * map.box[1] * map.box[2]));
}
inline void copy_box(void* to, const TensorMap& map, uint32_t x, uint32_t y, uint32_t z, Barrier& barrier, uint64_t) {
  if (reinterpret_cast<uintptr_t>(to) % (map.swizzle != 0 ? 1024 : 128) != 0) hostsim::fail("a box is not aligned");
  // The map by value: the thread that asks may have ended.
  hostsim::landing.push_back([=, &barrier] { land_box(to, map, x, y, z, barrier); });
}
inline void copy_box(void* to, const TensorMap& map, uint32_t column, uint32_t row, Barrier& barrier, uint64_t policy) {
  copy_box(to, map, column, row, 0, barrier, policy);
}
inline void copy_bytes(void* to, const void* from, uint32_t bytes, Barrier& barrier) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from) | bytes) % 16 != 0) {
    hostsim::fail("a copy of bytes in a row is not aligned");
  }
  hostsim::landing.push_back([=, &barrier] {
    memcpy(to, from, bytes);
    barrier.land_bytes(bytes);
  });
}
inline void copy_bytes_to_ranks(void* to, const void* from, uint32_t bytes, Barrier& barrier, uint16_t ranks) {
  for (uint32_t rank = 0; rank < 16; ++rank) {
    if ((ranks >> rank & 1) == 0) continue;
    if (scheduler.member(rank).running == 0) hostsim::fail("bytes were sent to a workgroup that had ended");
    copy_bytes(hostsim::in_rank(rank, static_cast<uint8_t*>(to)), from, bytes, *hostsim::in_rank(rank, &barrier));
  }
}
inline void copy_box_to_ranks(void* to, const TensorMap& map, uint32_t x, uint32_t y, uint32_t z, Barrier& barrier,
                              uint16_t ranks) {
  for (uint32_t rank = 0; rank < 16; ++rank) {
    if ((ranks >> rank & 1) == 0) continue;
    if (scheduler.member(rank).running == 0) hostsim::fail("a box was sent to a workgroup that had ended");
    auto* there = hostsim::in_rank(rank, static_cast<uint8_t*>(to));
    copy_box(there, map, x, y, z, *hostsim::in_rank(rank, &barrier), 0);
  }
}

}  // namespace aiterlite
