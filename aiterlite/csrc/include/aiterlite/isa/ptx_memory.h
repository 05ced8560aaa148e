// NVIDIA: loads and stores of global memory, and sums handed from one workgroup to another through it.
#pragma once
#include <aiterlite/isa/ptx_core.h>

namespace aiterlite {

// Volatile keeps the loads in program order. Streamed loads bypass L1, and come from memory in whole lines. They are
// not the non-coherent loads, since an overlapped kernel starts while its operands may still be written.
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

// Whether rows of which rows are made are streamed. On an H200 4,096 rows of 7,168 are quantised in 24.0 us by loads
// that bypass L1 and in 22.5 by ordinary ones; the norm takes 31.2 and 30.6, with a residual 60.4 and 58.9, a gate 13.8
// and 13.2.
inline constexpr bool kStreamsRows = false;

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

// Brings a line to the second cache, which every access sees: what is written afterwards is not missed.
AITERLITE_DEVICE void prefetch_line(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

AITERLITE_DEVICE uint8_t load_u8(const void* p) { return *static_cast<const uint8_t*>(p); }
AITERLITE_DEVICE uint16_t load_u16(const void* p) { return *static_cast<const uint16_t*>(p); }
AITERLITE_DEVICE float load_f32(const void* p) { return *static_cast<const float*>(p); }
AITERLITE_DEVICE int32_t load_i32(const void* p) { return *static_cast<const int32_t*>(p); }
AITERLITE_DEVICE int64_t load_i64(const void* p) { return *static_cast<const int64_t*>(p); }
AITERLITE_DEVICE int32_t load_constant_i32(const void* p) { return *static_cast<const int32_t*>(p); }
AITERLITE_DEVICE void store_u8(void* p, uint8_t value) { *static_cast<uint8_t*>(p) = value; }
AITERLITE_DEVICE void store_u16(void* p, uint16_t value) { *static_cast<uint16_t*>(p) = value; }
AITERLITE_DEVICE void store_u32(void* p, uint32_t value) { *static_cast<uint32_t*>(p) = value; }
AITERLITE_DEVICE Vector8 load_vector8(const void* p) { return *static_cast<const Vector8*>(p); }
AITERLITE_DEVICE void store_vector8(void* p, const Vector8& value) { *static_cast<Vector8*>(p) = value; }

// A word as the L2 has it. For what is read before await_predecessors: an L1 may still hold what was there when another
// kernel looked.
AITERLITE_DEVICE uint32_t load_latest(const void* p) {
  uint32_t word;
  asm volatile("ld.relaxed.gpu.global.b32 %0, [%1];" : "=r"(word) : "l"(p) : "memory");
  return word;
}

// A byte, and 16 of a stream that comes in whole lines, in the same way.
AITERLITE_DEVICE uint32_t load_latest_byte(const void* p) {
  uint32_t byte;
  asm volatile("ld.relaxed.gpu.global.u8 %0, [%1];" : "=r"(byte) : "l"(p));
  return byte;
}
AITERLITE_DEVICE Vector16 load_latest_vector(const void* p) {
  Vector16 v;
  asm volatile("ld.relaxed.gpu.global.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(p));
  return v;
}

AITERLITE_DEVICE void store_quad(float* p, const Quad& value) { *reinterpret_cast<Quad*>(p) = value; }

// One workgroup hands sums to another through memory: publish or publish_add, complete_published, a barrier of the
// workgroup, count_in; the last one to count in: accept_published, load_published. Loads bypass L1, which is not
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

}  // namespace aiterlite
