// NVIDIA sm_80 and later: what a kernel is, who a thread is, and barriers. Warp32.
#pragma once
#include <stdint.h>

#define AITERLITE_DEVICE __device__ __forceinline__
#include <aiterlite/isa/registers.h>

// The second bound, one resident workgroup, makes ptxas keep a batch of loads together: left to aim for occupancy it
// sinks loads between the instructions that use the first ones, to save registers.
#define AITERLITE_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads, 1)
// For kernels that hide latency by many workgroups instead: registers are limited so that so many are resident.
#define AITERLITE_KERNEL_RESIDENT(threads, workgroups) extern "C" __global__ void __launch_bounds__(threads, workgroups)
#define AITERLITE_CLUSTER_ATTRIBUTE(size) __cluster_dims__(size, 1, 1)
#define AITERLITE_SHARED(type, name, count) __shared__ type name[count]
// One object at a multiple of 1024 bytes, in shared memory whose size the launch gives. It is aligned by declaration:
// rounding its address up would hide from the compiler that it is shared memory.
#define AITERLITE_DYNAMIC_SHARED(type, name)                       \
  extern __shared__ __align__(1024) char aiterlite_shared_bytes[]; \
  type& name = *reinterpret_cast<type*>(aiterlite_shared_bytes)

namespace aiterlite {

inline constexpr uint32_t kWaveSize = 32;
inline constexpr uint32_t kSimdRegisters = 16384;  // 32-bit registers of each of the four SIMDs that share the waves

// A lane that skips a load costs nothing.
inline constexpr bool kPredicatedLoads = true;

AITERLITE_DEVICE uint32_t thread_id() { return threadIdx.x; }
AITERLITE_DEVICE uint32_t workgroup_id() { return blockIdx.x; }
AITERLITE_DEVICE uint32_t workgroup_id_y() { return blockIdx.y; }
// Telling ptxas would take a shuffle, which costs more than the scalar arithmetic that it allows.
AITERLITE_DEVICE uint32_t uniform(uint32_t value) { return value; }
AITERLITE_DEVICE void workgroup_barrier() { __syncthreads(); }

// ptxas knows no such thing; see AITERLITE_KERNEL.
AITERLITE_DEVICE void schedule_barrier() {}

AITERLITE_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Programmatic dependent launch, sm_90 and later: see overlap.h.
AITERLITE_DEVICE void wait_for_prerequisites() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
AITERLITE_DEVICE void launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

AITERLITE_ABSENT_FOR(uint32_t kPriority, set_wave_priority, "NVIDIA GPUs have no priorities of warps")

// The value. The compiler cannot compute with it before this point.
AITERLITE_DEVICE uint32_t opaque(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}
AITERLITE_DEVICE uint16_t opaque(uint16_t value) {
  asm volatile("" : "+h"(value));
  return value;
}

}  // namespace aiterlite
