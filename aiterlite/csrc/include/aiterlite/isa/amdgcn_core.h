// AMD CDNA, gfx942 and gfx950: what a kernel is, who a thread is, and barriers. Wave64.
#pragma once
#include <stdint.h>

#define AITERLITE_DEVICE __attribute__((device, always_inline)) inline
#include <aiterlite/isa/registers.h>

// The workgroup size is exact: a launch with another one is undefined. Without the attribute the compiler assumes 1024
// threads and leaves half of the registers unused; HIP's __launch_bounds__ does not exist without HIP's headers.
#define AITERLITE_KERNEL(threads) \
  extern "C" __attribute__((global, visibility("default"), amdgpu_flat_work_group_size(threads, threads))) void

// Registers for at least so many waves a SIMD: where loads of the next step are under way, the compiler takes more than
// half of them by itself.
#define AITERLITE_KERNEL_WAVES(threads, waves)                                                            \
  extern "C" __attribute__((global, visibility("default"), amdgpu_flat_work_group_size(threads, threads), \
                            amdgpu_waves_per_eu(waves))) void

// The compiler weighs registers against waves by itself.
#define AITERLITE_KERNEL_RESIDENT(threads, workgroups) AITERLITE_KERNEL(threads)

#define AITERLITE_SHARED(type, name, count) static __attribute__((shared)) type name[count]
// One object in LDS, whose size the launch gives: that of the object.
#define AITERLITE_DYNAMIC_SHARED(type, name)                                   \
  extern __attribute__((shared, aligned(1024))) char aiterlite_shared_bytes[]; \
  type& name = *reinterpret_cast<type*>(aiterlite_shared_bytes)

namespace aiterlite {

inline constexpr uint32_t kWaveSize = 64;
inline constexpr uint32_t kSimdRegisters = 32768;  // 32-bit registers of each of the four SIMDs that share the waves

// A load that some lanes skip costs a branch here, so callers prefer a valid address and a select.
inline constexpr bool kPredicatedLoads = false;

AITERLITE_DEVICE uint32_t thread_id() { return __builtin_amdgcn_workitem_id_x(); }
AITERLITE_DEVICE uint32_t workgroup_id() { return __builtin_amdgcn_workgroup_id_x(); }
AITERLITE_DEVICE uint32_t workgroup_id_y() { return __builtin_amdgcn_workgroup_id_y(); }
AITERLITE_DEVICE uint32_t uniform(uint32_t value) { return __builtin_amdgcn_readfirstlane(value); }

AITERLITE_DEVICE void workgroup_barrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

// The compiler moves no instruction across.
AITERLITE_DEVICE void schedule_barrier() { __builtin_amdgcn_sched_barrier(0); }

// A wave of higher priority, 0 to 3, issues before others of its SIMD.
template <uint32_t kPriority>
AITERLITE_DEVICE void set_wave_priority() {
  static_assert(kPriority <= 3, "set_wave_priority: the priority is 0 to 3");
  __builtin_amdgcn_s_setprio(kPriority);
}

// The value. The compiler cannot compute with it before this point.
AITERLITE_DEVICE uint16_t opaque(uint16_t value) {
  asm volatile("" : "+v"(value));
  return value;
}

// The same of a vector, whose words stay together: if told of its halves, the compiler loads one of them a second time.
AITERLITE_DEVICE Vector16 opaque(const Vector16& value) {
  using Words = uint32_t __attribute__((ext_vector_type(4)));
  auto words = __builtin_bit_cast(Words, value);
  asm("" : "+v"(words));
  return __builtin_bit_cast(Vector16, words);
}

// The value is in its registers here, and what uses it comes later: where the last load of several is named first, one
// wait serves all of them.
AITERLITE_DEVICE void arrive(Vector16& value) {
  using Words = uint32_t __attribute__((ext_vector_type(4)));
  auto words = __builtin_bit_cast(Words, value);
  asm volatile("" : "+v"(words));
  value = __builtin_bit_cast(Vector16, words);
}
AITERLITE_DEVICE void arrive(uint32_t& value) { asm volatile("" : "+v"(value)); }
// The sums of a product of 32 x 32. Products whose sums only some lanes use would move to where those are alone.
AITERLITE_DEVICE void arrive(float (&sums)[16]) {
  using Floats = float __attribute__((ext_vector_type(16)));
  auto all = __builtin_bit_cast(Floats, sums);
  asm volatile("" : "+v"(all));
  for (int i = 0; i < 16; ++i) sums[i] = all[i];
}

// Two additions of two floats each.
AITERLITE_DEVICE void add_quad(Quad& sum, const Quad& more) {
  using Pair = float __attribute__((ext_vector_type(2)));
  struct Pairs {
    Pair part[2];
  };
  auto sums = __builtin_bit_cast(Pairs, sum);
  const auto others = __builtin_bit_cast(Pairs, more);
  sums.part[0] += others.part[0], sums.part[1] += others.part[1];
  sum = __builtin_bit_cast(Quad, sums);
}

// What only sm_90 has.
AITERLITE_ABSENT(named_barrier_wait, "AMD has one barrier a workgroup, workgroup_barrier")
AITERLITE_ABSENT(named_barrier_arrive, "AMD has one barrier a workgroup, workgroup_barrier")
AITERLITE_ABSENT_FOR(uint32_t kRegisters, give_registers, "registers of an AMD wave are fixed when it starts")
AITERLITE_ABSENT_FOR(uint32_t kRegisters, take_registers, "registers of an AMD wave are fixed when it starts")
AITERLITE_ABSENT(cluster_barrier, "AMD has no clusters; pass sums through memory (publish, count_in)")
AITERLITE_ABSENT(address_in_rank, "AMD has no distributed shared memory; pass sums through memory (publish, count_in)")
AITERLITE_ABSENT(store_in_rank, "AMD has no distributed shared memory; pass sums through memory (publish, count_in)")
AITERLITE_ABSENT(load_from_rank, "AMD has no distributed shared memory; pass sums through memory (publish, count_in)")
AITERLITE_ABSENT(add_in_rank, "AMD has no distributed shared memory; pass sums through memory (publish, count_in)")
// And what NVIDIA has in general.
AITERLITE_ABSENT(load_matrices, "AMD reads 8 or 16 bytes a lane: fragment/mfma.h")
AITERLITE_ABSENT(load_matrices_transposed, "AMD has no ldmatrix; gfx950 has load_transposed_16bit: fragment/mfma.h")
AITERLITE_ABSENT(store_matrices, "AMD writes 8 or 16 bytes a lane: store_shared_8, store_shared_16")
AITERLITE_ABSENT(store_matrices_transposed, "AMD writes 8 or 16 bytes a lane: store_shared_8, store_shared_16")
AITERLITE_ABSENT(copy_word_async, "AMD loads a wave's worth of consecutive LDS: load_to_lds; both: tile/copy.h")
AITERLITE_ABSENT(copy_async, "AMD loads a wave's worth of consecutive LDS: load_to_lds; both: tile/copy.h")

}  // namespace aiterlite
