// Tiles of AMX: a product of 16 x 32 and 32 x 16 bf16 numbers an instruction, added to 16 x 16 sums in fp32.
//
// No level of x86-64 has it, so a unit for AVX-512 asks CPU and kernel, and spells the instructions itself; a compiler
// that knows nothing of them leaves the eight registers alone. An operand `a` is 16 rows of 32 numbers. An operand `b`
// is 16 rows too: row i holds, for each of 16 columns, numbers 2i and 2i + 1. Subnormal operands and results count as
// zero, and sums round to nearest, whatever the thread's mode.
#pragma once
#include <aiterlite/cpu/simd.h>

// For tests: 0 makes a unit for AVX-512 act as on a CPU without AMX.
#ifndef AITERLITE_CPU_AMX
#if AITERLITE_CPU_BF16_DOT && defined(__x86_64__) && defined(__linux__)
#define AITERLITE_CPU_AMX 1
#else
#define AITERLITE_CPU_AMX 0
#endif
#endif

#if AITERLITE_CPU_AMX
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__clang__)
#include <cpuid.h>
#endif

namespace aiterlite::cpu {

constexpr int64_t kTileBytes = 1024, kTileLine = 64;

// Whether this process may use tiles. Linux gives them to a process that asks, for good: its threads' signal frames
// grow by 8 KiB where they have used tiles. It refuses where an alternate signal stack is too small for that.
inline bool has_amx() {
#if defined(__clang__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & 1u << 22) == 0) return false;
#else
  if (!__builtin_cpu_supports("amx-bf16")) return false;
#endif
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

// All eight registers as 16 rows of 64 bytes, and at the end as the thread had them: libraries keep theirs. With fewer
// columns than 16 registers 0 to 3, sums, and 6 and 7, operands b, are as narrow.
class Tiles {
 public:
  explicit Tiles(int columns = 16) {
    asm volatile("sttilecfg %0" : "=m"(before_));
    Layout layout = {};
    layout.palette = 1;
    for (int i = 0; i < 8; ++i) {
      layout.row_bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? kTileLine : 4 * columns);
      layout.rows[i] = 16;
    }
    asm volatile("ldtilecfg %0" : : "m"(layout));
  }
  ~Tiles() { asm volatile("ldtilecfg %0" : : "m"(before_)); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

 private:
  struct Layout {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };
  Layout before_;
};

template <int kTile>
inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// 16 rows, `stride` bytes apart.
template <int kTile>
inline void tile_load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void tile_store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
}
// sums += a * b.
template <int kSums, int kA, int kB>
inline void tile_dot() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kA), "i"(kB));
}

// Word j of to + 64 i is word i of from + j stride, of 16 x 16.
inline void transpose_words(void* to, const void* from, int64_t stride) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(static_cast<const char*>(from) + i * stride);
  // Word i of 4 rows side by side in each quarter, then quarters where they belong.
  for (int i = 0; i < 16; i += 4) {
    const __m512i lower0 = (__m512i)__builtin_shufflevector((i32v)a[i], (i32v)a[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8,
                                                            24, 9, 25, 12, 28, 13, 29);
    const __m512i upper0 = (__m512i)__builtin_shufflevector((i32v)a[i], (i32v)a[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10,
                                                            26, 11, 27, 14, 30, 15, 31);
    const __m512i lower1 = (__m512i)__builtin_shufflevector((i32v)a[i + 2], (i32v)a[i + 3], 0, 16, 1, 17, 4, 20, 5, 21,
                                                            8, 24, 9, 25, 12, 28, 13, 29);
    const __m512i upper1 = (__m512i)__builtin_shufflevector((i32v)a[i + 2], (i32v)a[i + 3], 2, 18, 3, 19, 6, 22, 7, 23,
                                                            10, 26, 11, 27, 14, 30, 15, 31);
    typedef int64_t i64v __attribute__((vector_size(64)));
    b[i] = (__m512i)__builtin_shufflevector((i64v)lower0, (i64v)lower1, 0, 8, 2, 10, 4, 12, 6, 14);
    b[i + 1] = (__m512i)__builtin_shufflevector((i64v)lower0, (i64v)lower1, 1, 9, 3, 11, 5, 13, 7, 15);
    b[i + 2] = (__m512i)__builtin_shufflevector((i64v)upper0, (i64v)upper1, 0, 8, 2, 10, 4, 12, 6, 14);
    b[i + 3] = (__m512i)__builtin_shufflevector((i64v)upper0, (i64v)upper1, 1, 9, 3, 11, 5, 13, 7, 15);
  }
  // b[4 j + i], quarter q: word 4 q + i of rows 4 j to 4 j + 3.
  for (int i = 0; i < 4; ++i) {
    const i32v r0 = (i32v)b[i], r1 = (i32v)b[4 + i], r2 = (i32v)b[8 + i], r3 = (i32v)b[12 + i];
    const i32v low01 = __builtin_shufflevector(r0, r1, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const i32v high01 = __builtin_shufflevector(r0, r1, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    const i32v low23 = __builtin_shufflevector(r2, r3, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const i32v high23 = __builtin_shufflevector(r2, r3, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    char* at = static_cast<char*>(to) + i * kTileLine;
    store(at, __builtin_shufflevector(low01, low23, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23));
    store(at + 4 * kTileLine,
          __builtin_shufflevector(low01, low23, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
    store(at + 8 * kTileLine,
          __builtin_shufflevector(high01, high23, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23));
    store(at + 12 * kTileLine,
          __builtin_shufflevector(high01, high23, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
  }
}

}  // namespace aiterlite::cpu

#endif  // AITERLITE_CPU_AMX
