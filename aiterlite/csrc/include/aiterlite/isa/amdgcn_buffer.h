// AMD: memory through a resource that knows its size. What lies outside arrives as zeros, in registers and in LDS, and
// is not read: rows that do not exist need no branch, and leave nothing in a tile that could be a NaN.
#pragma once
#include <aiterlite/isa/amdgcn_lds.h>

namespace aiterlite {

class Buffer {
 public:
  // `bytes` from an address on that is the same in all lanes of the wave; offsets are below 2^32.
  AITERLITE_DEVICE Buffer(const void* first, uint32_t bytes)
      : resource_(__builtin_amdgcn_make_buffer_rsrc(const_cast<void*>(first), 0, bytes, kRawWords)) {
    const auto address = reinterpret_cast<uint64_t>(first);
    const auto low = static_cast<uint32_t>(address), high = static_cast<uint32_t>(address >> 32) & 0xffffu;
    words_ = amdgcn::Words{uniform(low), uniform(high), uniform(bytes), kRawWords};
    // A load may read what the vector unit made scalar five instructions later at the earliest; in load_to_lds the
    // compiler does not see the reading.
    asm("s_nop 4" : "+s"(words_));
  }

  // At a multiple of 4. Each 4 of 16 bytes are inside or outside on their own.
  AITERLITE_DEVICE Vector16 load(uint32_t offset) const {
    return __builtin_bit_cast(Vector16,
                              __builtin_amdgcn_raw_buffer_load_b128(resource_, static_cast<int>(offset), 0, 0));
  }
  // At `offset` + `base`, which is the same in all lanes of the wave.
  template <bool streaming>
  AITERLITE_DEVICE Vector16 load(uint32_t offset, uint32_t base) const {
    constexpr int kNonTemporal = 2;
    return __builtin_bit_cast(
        Vector16, __builtin_amdgcn_raw_buffer_load_b128(resource_, static_cast<int>(offset), static_cast<int>(base),
                                                        streaming ? kNonTemporal : 0));
  }
  AITERLITE_DEVICE uint32_t load_word(uint32_t offset, uint32_t base) const {
    return __builtin_amdgcn_raw_buffer_load_b32(resource_, static_cast<int>(offset), static_cast<int>(base), 0);
  }
  AITERLITE_DEVICE Vector8 load_pair(uint32_t offset, uint32_t base) const {
    return __builtin_bit_cast(
        Vector8, __builtin_amdgcn_raw_buffer_load_b64(resource_, static_cast<int>(offset), static_cast<int>(base), 0));
  }
  AITERLITE_DEVICE uint32_t load_byte(uint32_t offset, uint32_t base) const {
    return __builtin_amdgcn_raw_buffer_load_b8(resource_, static_cast<int>(offset), static_cast<int>(base), 0);
  }
  // Lane l's kBytes at its offset, to `to` + l * kBytes; see load_to_lds.
  template <uint32_t kBytes = kLoadToLdsBytes>
  AITERLITE_DEVICE void load_to_lds(uint32_t offset, void* to) const {
    static_assert(kBytes == 4 || kBytes == kLoadToLdsBytes,
                  "Buffer::load_to_lds: gfx942 loads 4 bytes a lane into LDS, gfx950 4 or 16 (8 bytes do not exist)");
    const uint32_t place = amdgcn::lds_address(to);
    if constexpr (kBytes == 4) {
      asm volatile("s_nop 0\n\tbuffer_load_dword %1, %2, 0 offen lds" ::"{m0}"(place), "v"(offset), "s"(words_)
                   : "memory");
    } else {
      asm volatile("s_nop 0\n\tbuffer_load_dwordx4 %1, %2, 0 offen lds" ::"{m0}"(place), "v"(offset), "s"(words_)
                   : "memory");
    }
  }

 private:
  static constexpr int kRawWords = 0x00027000;  // the last word of a resource of plain 32-bit data
  __amdgpu_buffer_rsrc_t resource_;
  amdgcn::Words words_;  // the same, for load_to_lds
};

}  // namespace aiterlite
