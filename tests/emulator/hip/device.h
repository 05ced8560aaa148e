// The vocabulary of the corpus: what a kernel needs of HIP, without HIP's headers.
//
// Kernels that use nothing of a wave (no cross-lane builtin, no matrix instruction) also compile for the host, where
// host.h runs the work-items of a workgroup as fibers; CORPUS_HOST selects that.
#pragma once
#include <stdint.h>

#if defined(CORPUS_HOST)
#include <host.h>
#else

// Not always_inline: at -O0 every helper is a real call with a stack frame.
#define DEVICE static inline __attribute__((device))
// For helpers whose builtins want constant operands.
#define INLINE static inline __attribute__((device, always_inline))
#define CONSTANT static __attribute__((constant)) const
#define SHARED(type, name, count) static __attribute__((shared)) type name[count]
#define DYNAMIC_SHARED(type, name) extern __attribute__((shared)) type name[]

// The workgroup size is exact. Without the attribute the compiler assumes 1024 work-items.
#define KERNEL(threads) \
  extern "C" __attribute__((global, visibility("default"), amdgpu_flat_work_group_size(threads, threads))) void

using float16 = _Float16;

INLINE uint32_t thread_x() { return __builtin_amdgcn_workitem_id_x(); }
INLINE uint32_t thread_y() { return __builtin_amdgcn_workitem_id_y(); }
INLINE uint32_t thread_z() { return __builtin_amdgcn_workitem_id_z(); }
INLINE uint32_t group_x() { return __builtin_amdgcn_workgroup_id_x(); }
INLINE uint32_t group_y() { return __builtin_amdgcn_workgroup_id_y(); }
INLINE uint32_t group_z() { return __builtin_amdgcn_workgroup_id_z(); }
// These two come from the implicit kernel arguments, or from the dispatch packet.
INLINE uint32_t group_size_x() { return __builtin_amdgcn_workgroup_size_x(); }
INLINE uint32_t grid_size_x() { return __builtin_amdgcn_grid_size_x(); }

INLINE uint32_t lane_id() { return __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0)); }
INLINE uint32_t wave_id() { return __builtin_amdgcn_readfirstlane(thread_x() / 64); }

INLINE void barrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

// One atomic of the memory model, relaxed, for the whole device.
#define ATOMIC(operation, pointer, value) \
  __hip_atomic_##operation(pointer, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT)

template <class T>
INLINE bool compare_swap(T* p, T& expected, T wanted) {
  return __hip_atomic_compare_exchange_strong(p, &expected, wanted, __ATOMIC_RELAXED, __ATOMIC_RELAXED,
                                              __HIP_MEMORY_SCOPE_AGENT);
}
#endif

INLINE float bf16_to_float(uint16_t bits) { return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16); }

// To nearest, ties to even; a NaN stays one.
INLINE uint16_t float_to_bf16(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

template <class T>
INLINE T smaller(T a, T b) {
  return b < a ? b : a;
}
template <class T>
INLINE T larger(T a, T b) {
  return a < b ? b : a;
}
