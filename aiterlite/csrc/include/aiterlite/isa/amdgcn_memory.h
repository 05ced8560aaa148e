// AMD: loads and stores of global memory, and sums handed from one workgroup to another through it.
#pragma once
#include <aiterlite/isa/amdgcn_core.h>

namespace aiterlite {

namespace amdgcn {
using Words = uint32_t __attribute__((ext_vector_type(4)));
using Words2 = uint32_t __attribute__((ext_vector_type(2)));
using Floats = float __attribute__((ext_vector_type(4)));

// Pointers in a by-value argument struct are generic; without the cast loads become flat_load, which also waits on LDS.
template <class T>
using Global = __attribute__((address_space(1))) T;
template <class T>
AITERLITE_DEVICE const Global<T>* to_global(const void* p) {
  return (const Global<T>*)p;
}
}  // namespace amdgcn

AITERLITE_DEVICE Vector16 load_vector(const void* p) {
  return __builtin_bit_cast(Vector16, *amdgcn::to_global<amdgcn::Words>(p));
}
AITERLITE_DEVICE Vector16 load_vector_streaming(const void* p) {
  return __builtin_bit_cast(Vector16, __builtin_nontemporal_load(amdgcn::to_global<amdgcn::Words>(p)));
}
// Whether rows of which rows are made are streamed (vector.h).
inline constexpr bool kStreamsRows = true;

template <bool streaming>
AITERLITE_DEVICE Vector16 load_vector(const void* p) {
  const auto* at = amdgcn::to_global<amdgcn::Words>(p);
  if constexpr (streaming) {
    return __builtin_bit_cast(Vector16, __builtin_nontemporal_load(at));
  } else {
    return __builtin_bit_cast(Vector16, *at);
  }
}

// Zeros where not wanted; what is at `safe` is read instead.
template <bool streaming>
AITERLITE_DEVICE Vector16 load_vector_if(const void* p, bool wanted, const void* safe) {
  Vector16 v = load_vector<streaming>(wanted ? p : safe);
#pragma unroll
  for (uint32_t& word : v.word) word = wanted ? word : 0;
  return v;
}
AITERLITE_DEVICE uint8_t load_u8(const void* p) { return *amdgcn::to_global<uint8_t>(p); }
AITERLITE_DEVICE uint16_t load_u16(const void* p) { return *amdgcn::to_global<uint16_t>(p); }
AITERLITE_DEVICE float load_f32(const void* p) { return *amdgcn::to_global<float>(p); }
AITERLITE_DEVICE int32_t load_i32(const void* p) { return *amdgcn::to_global<int32_t>(p); }
AITERLITE_DEVICE int64_t load_i64(const void* p) { return *amdgcn::to_global<int64_t>(p); }
// Of memory that nobody writes while the kernel runs: a scalar load, where the compiler knows that all lanes want the
// same word.
AITERLITE_DEVICE int32_t load_constant_i32(const void* p) {
  return *(const __attribute__((address_space(4))) int32_t*)reinterpret_cast<uintptr_t>(p);
}
AITERLITE_DEVICE void store_u8(void* p, uint8_t value) { *(amdgcn::Global<uint8_t>*)p = value; }
AITERLITE_DEVICE void store_u16(void* p, uint16_t value) { *(amdgcn::Global<uint16_t>*)p = value; }
AITERLITE_DEVICE void store_u32(void* p, uint32_t value) { *(amdgcn::Global<uint32_t>*)p = value; }

AITERLITE_DEVICE Vector8 load_vector8(const void* p) {
  return __builtin_bit_cast(Vector8, *amdgcn::to_global<amdgcn::Words2>(p));
}
AITERLITE_DEVICE void store_vector8(void* p, const Vector8& value) {
  *(amdgcn::Global<amdgcn::Words2>*)p = __builtin_bit_cast(amdgcn::Words2, value);
}

AITERLITE_DEVICE void store_quad(float* p, const Quad& value) {
  *(amdgcn::Global<amdgcn::Floats>*)p = __builtin_bit_cast(amdgcn::Floats, value);
}

// One workgroup hands sums to another through memory: publish or publish_add, complete_published, a barrier of the
// workgroup, count_in; the last one to count in: accept_published, load_published. The chip's dies have an L2 each. A
// release fence of the agent would write the whole L2 back; instead what is published is written through it
// (agent-scope stores and atomics), so that it is visible once it is complete.
AITERLITE_DEVICE void publish(float* p, const Quad& value) {
  struct Halves {
    uint64_t part[2];
  };
  const auto halves = __builtin_bit_cast(Halves, value);
  auto* at = (amdgcn::Global<uint64_t>*)p;
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    __scoped_atomic_store_n(at + i, halves.part[i], __ATOMIC_RELAXED, __MEMORY_SCOPE_DEVICE);
  }
}
AITERLITE_DEVICE void publish_add(float* p, float value) {
  __scoped_atomic_fetch_add((amdgcn::Global<float>*)p, value, __ATOMIC_RELAXED, __MEMORY_SCOPE_DEVICE);
}
AITERLITE_DEVICE void complete_published() { asm volatile("s_waitcnt vmcnt(0)" ::: "memory"); }
AITERLITE_DEVICE uint32_t count_in(uint32_t* p) {
  return __scoped_atomic_fetch_add((amdgcn::Global<uint32_t>*)p, 1u, __ATOMIC_RELAXED, __MEMORY_SCOPE_DEVICE);
}
AITERLITE_DEVICE void accept_published() { __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "agent"); }
AITERLITE_DEVICE Quad load_published(const float* p) {
  return __builtin_bit_cast(Quad, *amdgcn::to_global<amdgcn::Floats>(p));
}

}  // namespace aiterlite
