// Loads and stores through a buffer resource whose bounds are smaller than the accesses: outside it loads give 0 and
// stores vanish.
//
// Work-item i reads 1, 2, 4, 8, 12 and 16 bytes at byte 4 * i of the resource, with an offset in a scalar register and
// one in the instruction; and stores where the resource covers only a part of the output. bounds are in bytes. atomics:
// integer and float adds through the resource, some of them outside. to_lds: straight from the resource to LDS.
#include <device.h>

using Words2 = uint32_t __attribute__((ext_vector_type(2)));
using Words3 = uint32_t __attribute__((ext_vector_type(3)));
using Words4 = uint32_t __attribute__((ext_vector_type(4)));

constexpr uint32_t kRawFlags = 0x00027000;  // untyped 32-bit data, no stride, no swizzle

KERNEL(64) buffer_loads(uint32_t* x, uint32_t* out, uint32_t bytes, int32_t scalar_offset) {
  const uint32_t i = group_x() * 64 + thread_x();
  const uint32_t n = grid_size_x();
  const __amdgpu_buffer_rsrc_t r = __builtin_amdgcn_make_buffer_rsrc(x, 0, bytes, kRawFlags);
  uint32_t* to = out + i;
  auto put = [&](uint32_t value) {
    *to = value;
    to += n;
  };
  const int32_t at = static_cast<int32_t>(4 * i);
  put(__builtin_amdgcn_raw_buffer_load_b8(r, at + 3, scalar_offset, 0));
  put(__builtin_amdgcn_raw_buffer_load_b16(r, at + 2, scalar_offset, 0));
  put(__builtin_amdgcn_raw_buffer_load_b32(r, at + 20, scalar_offset, 0));
  const Words2 two = __builtin_amdgcn_raw_buffer_load_b64(r, at, scalar_offset, 0);
  const Words3 three = __builtin_amdgcn_raw_buffer_load_b96(r, at, 0, 0);
  const Words4 four = __builtin_amdgcn_raw_buffer_load_b128(r, at + 16, 0, 0);
  put(two.x);
  put(two.y);
  for (int j = 0; j < 3; ++j) put(three[j]);
  for (int j = 0; j < 4; ++j) put(four[j]);
}

KERNEL(64) buffer_stores(const uint32_t* x, uint32_t* out, uint32_t bytes, uint32_t count) {
  const uint32_t i = group_x() * 64 + thread_x();
  const uint32_t v = x[i];
  for (uint32_t row = 0; row < 4; ++row) {
    const __amdgpu_buffer_rsrc_t r = __builtin_amdgcn_make_buffer_rsrc(out + row * count, 0, bytes, kRawFlags);
    const int32_t at = static_cast<int32_t>(4 * i);
    if (row == 0) __builtin_amdgcn_raw_buffer_store_b32(v, r, at, 0, 0);
    if (row == 1) __builtin_amdgcn_raw_buffer_store_b16(static_cast<uint16_t>(v), r, at + 2, 0, 0);
    if (row == 2 && i % 2 == 0) __builtin_amdgcn_raw_buffer_store_b64(Words2{v, v + 1}, r, at, 0, 0);
    if (row == 3 && i % 4 == 0) __builtin_amdgcn_raw_buffer_store_b128(Words4{v, v + 1, v + 2, v + 3}, r, at, 0, 0);
  }
}

KERNEL(64) buffer_to_lds(uint32_t* x, uint32_t* out, uint32_t bytes) {
  SHARED(uint32_t, tile, 256);
  const uint32_t t = thread_x();
  const __amdgpu_buffer_rsrc_t r = __builtin_amdgcn_make_buffer_rsrc(x, 0, bytes, kRawFlags);
  for (uint32_t j = 0; j < 4; ++j) tile[64 * j + t] = 0x5a5a5a5a;
  barrier();
  using Tile = __attribute__((address_space(3))) uint32_t;
  Tile* lds = (Tile*)tile;
  const int32_t at = static_cast<int32_t>((group_x() * 256 + t) * 4);
  __builtin_amdgcn_raw_ptr_buffer_load_lds(r, lds, 4, at, 0, 0, 0);
  __builtin_amdgcn_raw_ptr_buffer_load_lds(r, lds, 4, at, 0, 256, 0);
  __builtin_amdgcn_raw_ptr_buffer_load_lds(r, lds + 128, 4, at, 512, 0, 0);
  if (t % 2) __builtin_amdgcn_raw_ptr_buffer_load_lds(r, lds + 192, 4, at, 768, 0, 0);
  __builtin_amdgcn_s_waitcnt(0);
  barrier();
  for (uint32_t j = 0; j < 4; ++j) out[group_x() * 256 + 64 * j + t] = tile[64 * j + t] + 1;
}
