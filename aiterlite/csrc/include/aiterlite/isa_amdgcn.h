// AMD CDNA: the primitives behind platform.h, vector.h, types.h and fragment.h as clang builtins. Wave64.
#pragma once
#include <stdint.h>

#define AITERLITE_DEVICE __attribute__((device, always_inline)) inline

// The workgroup size is exact: a launch with another one is undefined. Without the attribute the compiler assumes 1024
// threads and leaves half of the registers unused; HIP's __launch_bounds__ does not exist without HIP's headers.
#define AITERLITE_KERNEL(threads) \
  extern "C" __attribute__((global, visibility("default"), amdgpu_flat_work_group_size(threads, threads))) void

#define AITERLITE_SHARED(type, name, count) static __attribute__((shared)) type name[count]

namespace aiterlite {

inline constexpr uint32_t kWaveSize = 64;
inline constexpr uint32_t kSimdRegisters = 32768;  // 32-bit registers of each of the four SIMDs that share the waves

// A load that some lanes skip costs a branch here, so callers prefer a valid address and a select.
inline constexpr bool kPredicatedLoads = false;

AITERLITE_DEVICE uint32_t thread_id() { return __builtin_amdgcn_workitem_id_x(); }
AITERLITE_DEVICE uint32_t workgroup_id() { return __builtin_amdgcn_workgroup_id_x(); }
AITERLITE_DEVICE uint32_t uniform(uint32_t value) { return __builtin_amdgcn_readfirstlane(value); }

AITERLITE_DEVICE void workgroup_barrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

// The compiler moves no instruction across.
AITERLITE_DEVICE void schedule_barrier() { __builtin_amdgcn_sched_barrier(0); }

// The value of lane (lane ^ mask). Every lane of the wave takes part.
AITERLITE_DEVICE float shuffle_xor(float value, uint32_t mask) {
  const uint32_t source = (thread_id() ^ mask) % kWaveSize;
  return __builtin_bit_cast(
      float, __builtin_amdgcn_ds_bpermute(static_cast<int32_t>(source * 4), __builtin_bit_cast(int32_t, value)));
}

// The value, which the compiler cannot compute with any earlier than here.
AITERLITE_DEVICE uint16_t opaque(uint16_t value) {
  asm volatile("" : "+v"(value));
  return value;
}

struct alignas(16) Vector16 {
  uint32_t word[4];
};

namespace amdgcn {
using Words = uint32_t __attribute__((ext_vector_type(4)));
using Halves = _Float16 __attribute__((ext_vector_type(4)));
using Halves8 = _Float16 __attribute__((ext_vector_type(8)));
using Shorts = int16_t __attribute__((ext_vector_type(4)));
using Bfloats8 = __bf16 __attribute__((ext_vector_type(8)));
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
AITERLITE_DEVICE void store_u16(void* p, uint16_t value) { *(amdgcn::Global<uint16_t>*)p = value; }
AITERLITE_DEVICE void store_u32(void* p, uint32_t value) { *(amdgcn::Global<uint32_t>*)p = value; }

struct alignas(16) Quad {
  float value[4];
};
AITERLITE_DEVICE void store_quad(float* p, const Quad& value) {
  *(amdgcn::Global<amdgcn::Floats>*)p = __builtin_bit_cast(amdgcn::Floats, value);
}

// One workgroup hands sums to another through memory: publish or publish_add, complete_published, a barrier of the
// workgroup, count_in; whoever counts in last: accept_published, load_published.
// The chip's dies have an L2 each. A release fence of the agent would write the whole L2 back; instead what is
// published is written through it (agent-scope stores and atomics), so that being complete is being visible.
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

AITERLITE_DEVICE float half_bits_to_float(uint16_t bits) { return __builtin_bit_cast(_Float16, bits); }
AITERLITE_DEVICE uint16_t float_to_half_bits(float value) {
  return __builtin_bit_cast(uint16_t, static_cast<_Float16>(value));
}

// d[16x16] += a[16xK] b[Kx16]. A lane holds 16 bytes, 8 or 16 k values, of row (lane % 16) of a and of column
// (lane % 16) of b; which ones is free as long as both agree. d: row 4 * (lane / 16) + i, column lane % 16.
AITERLITE_DEVICE void mfma_16x16_bf16(float (&d)[4], const Vector16& a, const Vector16& b) {
  auto sum = __builtin_bit_cast(amdgcn::Floats, d);
#if defined(__gfx950__)
  sum = __builtin_amdgcn_mfma_f32_16x16x32_bf16(__builtin_bit_cast(amdgcn::Bfloats8, a),
                                                __builtin_bit_cast(amdgcn::Bfloats8, b), sum, 0, 0, 0);
#else
  struct Pair {
    amdgcn::Shorts part[2];
  };
  const auto a4 = __builtin_bit_cast(Pair, a);
  const auto b4 = __builtin_bit_cast(Pair, b);
  sum = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(a4.part[0], b4.part[0], sum, 0, 0, 0);
  sum = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(a4.part[1], b4.part[1], sum, 0, 0, 0);
#endif
  for (int i = 0; i < 4; ++i) d[i] = sum[i];
}
AITERLITE_DEVICE void mfma_16x16_fp16(float (&d)[4], const Vector16& a, const Vector16& b) {
  auto sum = __builtin_bit_cast(amdgcn::Floats, d);
#if defined(__gfx950__)
  sum = __builtin_amdgcn_mfma_f32_16x16x32_f16(__builtin_bit_cast(amdgcn::Halves8, a),
                                               __builtin_bit_cast(amdgcn::Halves8, b), sum, 0, 0, 0);
#else
  struct Pair {
    amdgcn::Halves part[2];
  };
  const auto a4 = __builtin_bit_cast(Pair, a);
  const auto b4 = __builtin_bit_cast(Pair, b);
  sum = __builtin_amdgcn_mfma_f32_16x16x16f16(a4.part[0], b4.part[0], sum, 0, 0, 0);
  sum = __builtin_amdgcn_mfma_f32_16x16x16f16(a4.part[1], b4.part[1], sum, 0, 0, 0);
#endif
  for (int i = 0; i < 4; ++i) d[i] = sum[i];
}
// e4m3fnuz on gfx942, e4m3fn on gfx950: one instruction, whose format is the chip's.
AITERLITE_DEVICE void mfma_16x16_fp8(float (&d)[4], const Vector16& a, const Vector16& b) {
  struct Pair {
    int64_t part[2];
  };
  auto sum = __builtin_bit_cast(amdgcn::Floats, d);
  // Whole vectors up to here: told of its halves, the compiler loads one of them a second time by itself.
  auto a_words = __builtin_bit_cast(amdgcn::Words, a), b_words = __builtin_bit_cast(amdgcn::Words, b);
  asm("" : "+v"(a_words), "+v"(b_words));
  const auto a2 = __builtin_bit_cast(Pair, a_words);
  const auto b2 = __builtin_bit_cast(Pair, b_words);
  sum = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(a2.part[0], b2.part[0], sum, 0, 0, 0);
  sum = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(a2.part[1], b2.part[1], sum, 0, 0, 0);
  for (int i = 0; i < 4; ++i) d[i] = sum[i];
}

}  // namespace aiterlite
