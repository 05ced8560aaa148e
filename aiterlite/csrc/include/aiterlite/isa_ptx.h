// NVIDIA sm_80 and later: the primitives behind platform.h, vector.h, types.h, fragment.h and cluster.h as PTX. Warp32.
#pragma once
#include <stdint.h>

#define AITERLITE_DEVICE __device__ __forceinline__

// The second bound, one resident workgroup, is what makes ptxas keep a batch of loads together: left to aim for
// occupancy it sinks loads between the instructions that use the first ones, to save registers.
#define AITERLITE_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads, 1)
#define AITERLITE_CLUSTER_ATTRIBUTE(size) __cluster_dims__(size, 1, 1)
#define AITERLITE_SHARED(type, name, count) __shared__ type name[count]
// One object at a multiple of 1024 bytes, in shared memory that the launch sizes: that of the object and 1024 more.
#define AITERLITE_DYNAMIC_SHARED(type, name)       \
  extern __shared__ char aiterlite_shared_bytes[]; \
  type& name = *reinterpret_cast<type*>((reinterpret_cast<uintptr_t>(aiterlite_shared_bytes) + 1023) & ~uintptr_t{1023})

namespace aiterlite {

inline constexpr uint32_t kWaveSize = 32;
inline constexpr uint32_t kSimdRegisters = 16384;  // 32-bit registers of each of the four SIMDs that share the waves

// A lane that skips a load costs nothing.
inline constexpr bool kPredicatedLoads = true;

AITERLITE_DEVICE uint32_t thread_id() { return threadIdx.x; }
AITERLITE_DEVICE uint32_t workgroup_id() { return blockIdx.x; }
// Telling ptxas would take a shuffle, which costs more than the scalar arithmetic that it allows.
AITERLITE_DEVICE uint32_t uniform(uint32_t value) { return value; }
AITERLITE_DEVICE void workgroup_barrier() { __syncthreads(); }

// ptxas knows no such thing; see AITERLITE_KERNEL.
AITERLITE_DEVICE void schedule_barrier() {}

// The value of lane (lane ^ mask). Every lane of the wave takes part.
AITERLITE_DEVICE float shuffle_xor(float value, uint32_t mask) {
  return __shfl_xor_sync(0xffffffffu, value, static_cast<int>(mask));
}

// The value, which the compiler cannot compute with any earlier than here.
AITERLITE_DEVICE uint16_t opaque(uint16_t value) {
  asm volatile("" : "+h"(value));
  return value;
}

struct alignas(16) Vector16 {
  uint32_t word[4];
};

// Volatile keeps the loads in program order. What is streamed passes by L1, and comes from memory in whole lines. Not
// the non-coherent loads: an overlapped kernel starts while its operands may still be written.
#define AITERLITE_LOAD_STREAMING "ld.global.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
#define AITERLITE_LOAD_REUSED "ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
#define AITERLITE_LOAD_IF(load)  \
  "{\n"                          \
  ".reg .pred wanted;\n"         \
  "setp.ne.b32 wanted, %5, 0;\n" \
  "mov.b32 %0, 0;\n"             \
  "mov.b32 %1, 0;\n"             \
  "mov.b32 %2, 0;\n"             \
  "mov.b32 %3, 0;\n"             \
  "@wanted " load                \
  "\n"                           \
  "}"

template <bool streaming>
AITERLITE_DEVICE Vector16 load_vector(const void* p) {
  Vector16 v;
  if constexpr (streaming) {
    asm volatile(AITERLITE_LOAD_STREAMING
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(p));
  } else {
    asm volatile(AITERLITE_LOAD_REUSED : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3]) : "l"(p));
  }
  return v;
}

// Zeros, and no access, where not wanted.
template <bool streaming>
AITERLITE_DEVICE Vector16 load_vector_if(const void* p, bool wanted, const void*) {
  Vector16 v;
  if constexpr (streaming) {
    asm volatile(AITERLITE_LOAD_IF(AITERLITE_LOAD_STREAMING)
                 : "=&r"(v.word[0]), "=&r"(v.word[1]), "=&r"(v.word[2]), "=&r"(v.word[3])
                 : "l"(p), "r"(static_cast<int>(wanted)));
  } else {
    asm volatile(AITERLITE_LOAD_IF(AITERLITE_LOAD_REUSED)
                 : "=&r"(v.word[0]), "=&r"(v.word[1]), "=&r"(v.word[2]), "=&r"(v.word[3])
                 : "l"(p), "r"(static_cast<int>(wanted)));
  }
  return v;
}

#undef AITERLITE_LOAD_STREAMING
#undef AITERLITE_LOAD_REUSED
#undef AITERLITE_LOAD_IF

AITERLITE_DEVICE uint8_t load_u8(const void* p) { return *static_cast<const uint8_t*>(p); }
AITERLITE_DEVICE uint16_t load_u16(const void* p) { return *static_cast<const uint16_t*>(p); }
AITERLITE_DEVICE float load_f32(const void* p) { return *static_cast<const float*>(p); }
AITERLITE_DEVICE void store_u16(void* p, uint16_t value) { *static_cast<uint16_t*>(p) = value; }
AITERLITE_DEVICE void store_u32(void* p, uint32_t value) { *static_cast<uint32_t*>(p) = value; }

struct alignas(16) Quad {
  float value[4];
};
AITERLITE_DEVICE void store_quad(float* p, const Quad& value) { *reinterpret_cast<Quad*>(p) = value; }

// One workgroup hands sums to another through memory: publish or publish_add, complete_published, a barrier of the
// workgroup, count_in; whoever counts in last: accept_published, load_published. Loads pass by L1, which is not
// coherent.
AITERLITE_DEVICE void publish(float* p, const Quad& value) { store_quad(p, value); }
AITERLITE_DEVICE void publish_add(float* p, float value) {
  asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(p), "f"(value) : "memory");
}
AITERLITE_DEVICE void complete_published() { __threadfence(); }
AITERLITE_DEVICE uint32_t count_in(uint32_t* p) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(p) : "memory");
  return before;
}
AITERLITE_DEVICE void accept_published() { __threadfence(); }
AITERLITE_DEVICE Quad load_published(const float* p) {
  Quad quad;
  asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(quad.value[0]), "=f"(quad.value[1]), "=f"(quad.value[2]), "=f"(quad.value[3])
               : "l"(p)
               : "memory");
  return quad;
}

AITERLITE_DEVICE float half_bits_to_float(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
AITERLITE_DEVICE uint16_t float_to_half_bits(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// d[16x8] += a[16xK] b[Kx8], K 16 for 16-bit types and 32 for 8-bit ones. A word holds p = 2 or 4 elements. a0, a1: row
// g = lane / 4 and row g + 8 at k from pc on (c = lane % 4); a2, a3: the same rows at k + 4p. b0, b1: column g at these
// k. d: rows g, g, g + 8, g + 8, columns 2c, 2c + 1, 2c, 2c + 1. 8-bit types: sm_89 and later.
#define AITERLITE_MMA_M16N8(name, k, type)                                                                   \
  AITERLITE_DEVICE void name(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, \
                             uint32_t b1) {                                                                  \
    asm("mma.sync.aligned.m16n8" k ".row.col.f32." type "." type                                             \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "                                                \
        "{%0, %1, %2, %3};"                                                                                  \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                     \
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));                                             \
  }
AITERLITE_MMA_M16N8(mma_m16n8k16_bf16, "k16", "bf16")
AITERLITE_MMA_M16N8(mma_m16n8k16_fp16, "k16", "f16")
AITERLITE_MMA_M16N8(mma_m16n8k32_e4m3, "k32", "e4m3")
#undef AITERLITE_MMA_M16N8

// Programmatic dependent launch, sm_90 and later: see overlap.h.
AITERLITE_DEVICE void wait_for_prerequisites() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
AITERLITE_DEVICE void launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// Thread-block clusters, sm_90 and later. Threads of a workgroup may leave a barrier of the cluster only after all
// threads of all its workgroups have arrived.
AITERLITE_DEVICE uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
AITERLITE_DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
AITERLITE_DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

AITERLITE_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// A mailbox counts the bytes that arrive from the cluster. One thread opens it; the fence orders that before the
// cluster barrier that follows.
AITERLITE_DEVICE void mailbox_open(uint64_t* mailbox, uint32_t bytes) {
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;\n"
      "fence.mbarrier_init.release.cluster;\n"
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(mailbox)),
      "r"(bytes)
      : "memory");
}
// Stores to where `local` lies in the workgroup of rank `to`, and counts it in the mailbox there. Nothing waits.
AITERLITE_DEVICE void mailbox_send(uint64_t* mailbox, uint32_t to, float* local, float value) {
  asm volatile(
      "{\n"
      ".reg .b32 data, box;\n"
      "mapa.shared::cluster.u32 data, %0, %2;\n"
      "mapa.shared::cluster.u32 box, %1, %2;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [data], %3, [box];\n"
      "}" ::"r"(shared_address(local)),
      "r"(shared_address(mailbox)), "r"(to), "f"(value)
      : "memory");
}
AITERLITE_DEVICE void mailbox_send(uint64_t* mailbox, uint32_t to, Quad* local, const Quad& value) {
  asm volatile(
      "{\n"
      ".reg .b32 data, box;\n"
      "mapa.shared::cluster.u32 data, %0, %2;\n"
      "mapa.shared::cluster.u32 box, %1, %2;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [data], {%3, %4, %5, %6}, [box];\n"
      "}" ::"r"(shared_address(local)),
      "r"(shared_address(mailbox)), "r"(to), "f"(value.value[0]), "f"(value.value[1]), "f"(value.value[2]),
      "f"(value.value[3])
      : "memory");
}
// Returns when all bytes have arrived, and makes them visible to this thread.
AITERLITE_DEVICE void mailbox_wait(uint64_t* mailbox) {
  asm volatile(
      "{\n"
      ".reg .pred complete;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 complete, [%0], 0;\n"
      "@!complete bra again;\n"
      "}" ::"r"(shared_address(mailbox))
      : "memory");
}

}  // namespace aiterlite
