// Atomic adds of two 16-bit floats at a time, on memory and on LDS, in f16 and bf16.
//
// Addends are small integers, so that every order gives the same bits. sums[0..7]: memory f16, memory bf16, LDS f16,
// LDS bf16, two values each. One workgroup; each work-item adds once to each.
#include <device.h>

using half2 = float16 __attribute__((ext_vector_type(2)));
using short2 = int16_t __attribute__((ext_vector_type(2)));
using Half2Global = __attribute__((address_space(1))) half2;
using Half2Shared = __attribute__((address_space(3))) half2;
using Short2Global = __attribute__((address_space(1))) short2;
using Short2Shared = __attribute__((address_space(3))) short2;

KERNEL(128) packed_atomics(const uint32_t* halves, const uint32_t* bfloats, uint32_t* sums) {
  SHARED(uint32_t, lds, 2);
  const uint32_t t = thread_x();
  if (t < 2) lds[t] = 0;
  barrier();
  const half2 h = __builtin_bit_cast(half2, halves[t]);
  const short2 b = __builtin_bit_cast(short2, bfloats[t]);
  __builtin_amdgcn_global_atomic_fadd_v2f16((Half2Global*)&sums[0], h);
  __builtin_amdgcn_global_atomic_fadd_v2bf16((Short2Global*)&sums[1], b);
  __builtin_amdgcn_ds_atomic_fadd_v2f16((Half2Shared*)&lds[0], h);
  __builtin_amdgcn_ds_atomic_fadd_v2bf16((Short2Shared*)&lds[1], b);
  barrier();
  if (t < 2) sums[2 + t] = lds[t];
}
