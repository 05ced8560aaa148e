// AMD: the local data share. Reads and writes of 8 and 16 bytes a lane, loads from memory straight into it, and
// gfx950's reads that transpose.
#pragma once
#include <aiterlite/isa/amdgcn_memory.h>

namespace aiterlite {

namespace amdgcn {
using Pair = uint32_t __attribute__((ext_vector_type(2)));
using Shorts4 = int16_t __attribute__((ext_vector_type(4)));
using Ints2 = int32_t __attribute__((ext_vector_type(2)));
template <class T>
using Shared = __attribute__((address_space(3))) T;
template <class T>
AITERLITE_DEVICE Shared<T>* to_shared(const void* p) {
  return (Shared<T>*)p;
}
// The place must be the same in all lanes.
AITERLITE_DEVICE uint32_t lds_address(const void* p) {
  return uniform(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(to_shared<char>(p))));
}
}  // namespace amdgcn

AITERLITE_DEVICE Vector16 load_shared_16(const void* p) {
  return __builtin_bit_cast(Vector16, *amdgcn::to_shared<amdgcn::Words>(p));
}
AITERLITE_DEVICE Vector8 load_shared_8(const void* p) {
  return __builtin_bit_cast(Vector8, *amdgcn::to_shared<amdgcn::Pair>(p));
}
AITERLITE_DEVICE void store_shared_16(void* p, const Vector16& v) {
  *amdgcn::to_shared<amdgcn::Words>(p) = __builtin_bit_cast(amdgcn::Words, v);
}
AITERLITE_DEVICE void store_shared_8(void* p, const Vector8& v) {
  *amdgcn::to_shared<amdgcn::Pair>(p) = __builtin_bit_cast(amdgcn::Pair, v);
}

// Lane l's kBytes at `from` (its own address) go to `to` + l * kBytes, where `to` is the same in all lanes of the wave.
// Lanes that are switched off leave their place as it is. No register is touched, and only await_loads waits. Written
// out, because the compiler knows that the builtin writes LDS, and would wait for all of them before each read of LDS
// and at each workgroup_barrier. Now it counts fewer loads than there are, and so waits longer for its own, never less.
#if defined(__gfx950__)
inline constexpr uint32_t kLoadToLdsBytes = 16;
#else
inline constexpr uint32_t kLoadToLdsBytes = 4;
#endif
template <uint32_t kBytes = kLoadToLdsBytes>
AITERLITE_DEVICE void load_to_lds(const void* from, void* to) {
  static_assert(kBytes == 4 || kBytes == kLoadToLdsBytes,
                "load_to_lds: gfx942 loads 4 bytes a lane into LDS, gfx950 4 or 16 (8 bytes do not exist)");
  const uint32_t place = amdgcn::lds_address(to);
  // M0 holds the place, and must have been written an instruction before.
  if constexpr (kBytes == 4) {
    asm volatile("s_nop 0\n\tglobal_load_lds_dword %1, off" ::"{m0}"(place), "v"(from) : "memory");
  } else {
    asm volatile("s_nop 0\n\tglobal_load_lds_dwordx4 %1, off" ::"{m0}"(place), "v"(from) : "memory");
  }
}

// Until at most `pending` loads of the wave, to registers or to LDS, are on their way; loads complete in order.
template <uint32_t pending>
AITERLITE_DEVICE void await_loads() {
  static_assert(pending < 64, "await_loads: the counter has 6 bits");
  asm volatile("s_waitcnt vmcnt(%0)" ::"n"(pending) : "memory");
}

// Transposing reads: 16 lanes read a matrix of 16 columns, row by row, 8 bytes a lane (4 lanes a row of 16-bit
// elements, 2 a row of 8-bit ones), and lane l gets column l % 16: 4 or 8 elements down the rows.
#if defined(__gfx950__)
AITERLITE_DEVICE Vector8 load_transposed_16bit(const void* p) {
  return __builtin_bit_cast(Vector8, __builtin_amdgcn_ds_read_tr16_b64_v4i16(amdgcn::to_shared<amdgcn::Shorts4>(p)));
}
AITERLITE_DEVICE Vector8 load_transposed_8bit(const void* p) {
  return __builtin_bit_cast(Vector8, __builtin_amdgcn_ds_read_tr8_b64_v2i32(amdgcn::to_shared<amdgcn::Ints2>(p)));
}
#else
AITERLITE_ABSENT(load_transposed_16bit, "gfx942 has no transposing LDS read; see fragment/transpose.h")
AITERLITE_ABSENT(load_transposed_8bit, "gfx942 has no transposing LDS read; see fragment/transpose.h")
#endif

}  // namespace aiterlite
