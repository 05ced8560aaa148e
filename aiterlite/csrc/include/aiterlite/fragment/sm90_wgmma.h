// sm_90's matrix unit for a warpgroup, four waves that begin at a multiple of four: d[64 rows, N columns] += a b, of 16
// k of bf16 or fp16, or 32 of e4m3fn. N is 8, 16, 24, 32, 40, 48, 64, 96, 128 or 256, twice the count of a
// thread's sums.
//
// Lane l of wave v holds the sum d[4 j + 2 i + c] at row 16 v + l / 4 + 8 i and column 8 j + l % 4 * 2 + c. b lies in
// shared memory; a there too, or in registers, which hold 16 rows a wave as mma.sync has them (fragment/mma_sync.h,
// fragment/e4m3_operand.h; e4m3fn itself: ldmatrix's 16-byte rows as they are, load_a). Operands in shared memory are
// described by a 64-bit descriptor. A descriptor must be the same in all lanes, and the compiler must know it (take the
// wave's number from a shuffle): else each instruction waits for it, 20 cycles.
//
// On an H200 an instruction takes max(13, N / 2) cycles with a in registers, max(16 + N / 4, N / 2) with a in shared
// memory; groups must be unrolled, and ptxas says C75xx where it serialized them. AMD: fragment/mfma.h.
#pragma once
#include <aiterlite/fragment/sm90_sums.h>
#include <aiterlite/numeric/types.h>

#if !AITERLITE_NVIDIA
#error "aiterlite/fragment/sm90_wgmma.h: AMD GPUs multiply with fragment/mfma.h"
#endif

namespace aiterlite {

inline constexpr uint32_t kGroupRows = 64;
inline constexpr uint32_t kGroupWaves = 4;
inline constexpr uint32_t kSwizzledElements = 64;  // k of a tile, 16 bits each

// How a tile's rows are permuted in shared memory: Swizzled<rows, 128, 64 or 32> of tile/layout.h, or not at all.
enum class Swizzle : uint64_t { kNone = 0, k128 = 1, k64 = 2, k32 = 3 };

// The descriptor of an operand whose rows are rows (columns) of the product and run along k: `stride` bytes from 8 of
// them to the next 8. Without swizzle an operand consists of pieces of 8 rows of 16 bytes, 128 contiguous bytes each,
// and `leading` is the distance of those that are neighbours along k. Operands whose rows are k (transposed, 16-bit
// types only), swizzled by 128 bytes: `stride` from 8 k to the next 8, `leading` from 64 of its elements to the
// next 64.
AITERLITE_DEVICE uint64_t operand_descriptor(const void* operand, Swizzle swizzle, uint32_t stride, uint32_t leading) {
  return static_cast<uint64_t>(swizzle) << 62 | static_cast<uint64_t>(stride / 16) << 32 |
         static_cast<uint64_t>(leading / 16) << 16 | (shared_address(operand) & 0x3ffff) / 16;
}

// The matrix descriptor of a tile of rows of 128 bytes, swizzled, that begins at a multiple of 1024 bytes.
AITERLITE_DEVICE uint64_t tile_descriptor(const void* tile) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kStride = uint64_t{1024 / 16} << 32;
  constexpr uint64_t kUnused = uint64_t{1} << 16;
  return kSwizzle128 | kStride | kUnused | (shared_address(tile) & 0x3ffff) / 16;
}
// The same, `k` elements of 16 bits on.
AITERLITE_DEVICE uint64_t advanced(uint64_t descriptor, uint32_t k) { return descriptor + k * 2 / 16; }
AITERLITE_DEVICE uint64_t advanced_bytes(uint64_t descriptor, uint32_t bytes) { return descriptor + bytes / 16; }

// Between the last ordinary access to sums, or to what is multiplied, and the first multiplication.
AITERLITE_DEVICE void begin_group() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
AITERLITE_DEVICE void commit_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most `pending` committed groups are still running.
template <uint32_t pending>
AITERLITE_DEVICE void await_group() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
// Sums before the first group and after the last one: the compiler moves no ordinary instruction on them across, for
// which ptxas would serialize the multiplications (C7515).
template <uint32_t count>
AITERLITE_DEVICE void hold_sums(float (&d)[count]) {
#pragma unroll
  for (uint32_t i = 0; i < count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// What the sums begin with; and whether the rows of an operand in shared memory run along k, or are k (transposed).
enum class Start { kSums, kZero };
enum class Rows { kAlongK, kAreK };

// For N columns, of which a thread has `count` sums: a and b in shared memory; a in registers. The numbers are the
// places of the operands after the sums.
#define AITERLITE_WGMMA_16BIT(columns, count, type, name, p0, p1, p2, p3, p4, p5, p6)                               \
  template <Start kStart = Start::kSums, Rows kA = Rows::kAlongK, Rows kB = Rows::kAlongK>                          \
  AITERLITE_DEVICE void multiply_group(name, float (&d)[count], uint64_t a, uint64_t b) {                           \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type " {" AITERLITE_PLACES##count \
                 "}, %" #p0 ", %" #p1 ", %" #p2 ", 1, 1, %" #p3 ", %" #p4 ";"                                       \
                 : AITERLITE_SUMS##count(0)                                                                         \
                 : "l"(a), "l"(b), "n"(kStart == Start::kSums), "n"(kA == Rows::kAreK), "n"(kB == Rows::kAreK));    \
  }                                                                                                                 \
  template <Start kStart = Start::kSums, Rows kB = Rows::kAlongK>                                                   \
  AITERLITE_DEVICE void multiply_group(name, float (&d)[count], const uint32_t (&a)[4], uint64_t b) {               \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type " {" AITERLITE_PLACES##count \
                 "}, {%" #p0 ", %" #p1 ", %" #p2 ", %" #p3 "}, %" #p4 ", %" #p5 ", 1, 1, %" #p6 ";"                 \
                 : AITERLITE_SUMS##count(0)                                                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kStart == Start::kSums),                 \
                   "n"(kB == Rows::kAreK));                                                                         \
  }
#define AITERLITE_WGMMA(columns, count, p0, p1, p2, p3, p4, p5, p6, p7)                                     \
  AITERLITE_WGMMA_16BIT(columns, count, "bf16", bf16, p0, p1, p2, p3, p4, p5, p6)                           \
  AITERLITE_WGMMA_16BIT(columns, count, "f16", fp16, p0, p1, p2, p3, p4, p5, p6)                            \
  template <Start kStart = Start::kSums>                                                                    \
  AITERLITE_DEVICE void multiply_group(e4m3fn, float (&d)[count], uint64_t a, uint64_t b) {                 \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #columns "k32.f32.e4m3.e4m3 {" AITERLITE_PLACES##count \
                 "}, %" #p0 ", %" #p1 ", %" #p2 ", 1, 1;"                                                   \
                 : AITERLITE_SUMS##count(0)                                                                 \
                 : "l"(a), "l"(b), "n"(kStart == Start::kSums));                                            \
  }                                                                                                         \
  template <Start kStart = Start::kSums>                                                                    \
  AITERLITE_DEVICE void multiply_group(e4m3fn, float (&d)[count], const uint32_t (&a)[4], uint64_t b) {     \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #columns "k32.f32.e4m3.e4m3 {" AITERLITE_PLACES##count \
                 "}, {%" #p0 ", %" #p1 ", %" #p2 ", %" #p3 "}, %" #p4 ", %" #p5 ", 1, 1;"                   \
                 : AITERLITE_SUMS##count(0)                                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kStart == Start::kSums));        \
  }
AITERLITE_WGMMA(8, 4, 4, 5, 6, 7, 8, 9, 10, 11)
AITERLITE_WGMMA(16, 8, 8, 9, 10, 11, 12, 13, 14, 15)
AITERLITE_WGMMA(24, 12, 12, 13, 14, 15, 16, 17, 18, 19)
AITERLITE_WGMMA(32, 16, 16, 17, 18, 19, 20, 21, 22, 23)
AITERLITE_WGMMA(40, 20, 20, 21, 22, 23, 24, 25, 26, 27)
AITERLITE_WGMMA(48, 24, 24, 25, 26, 27, 28, 29, 30, 31)
AITERLITE_WGMMA(64, 32, 32, 33, 34, 35, 36, 37, 38, 39)
AITERLITE_WGMMA(96, 48, 48, 49, 50, 51, 52, 53, 54, 55)
AITERLITE_WGMMA(128, 64, 64, 65, 66, 67, 68, 69, 70, 71)
AITERLITE_WGMMA(256, 128, 128, 129, 130, 131, 132, 133, 134, 135)
#undef AITERLITE_WGMMA

// 32 k of an a of which one of k = 2 n and 2 n + 1 is no zero, both operands in shared memory and b's rows k: as long
// as 16 k take otherwise. a holds the 16 that count, side by side; `which` names them, in lanes that are 0 or 1 modulo
// 4: for rows l / 4 (low half) and l / 4 + 8 of a wave, k 16 (l % 2) onwards, two bits each of k modulo 4, in their
// order.
#define AITERLITE_WGMMA_SPARSE(type, name)                                                                    \
  AITERLITE_DEVICE void multiply_group_sparse(name, float (&d)[64], uint64_t a, uint64_t b, uint32_t which) { \
    asm volatile("wgmma.mma_async.sp.sync.aligned.m64n128k32.f32." type "." type " {" AITERLITE_PLACES64      \
                 "}, %64, %65, %66, 0, 1, 1, 1, 0, 1;"                                                        \
                 : AITERLITE_SUMS64(0)                                                                        \
                 : "l"(a), "l"(b), "r"(which));                                                               \
  }
AITERLITE_WGMMA_SPARSE("bf16", bf16)
AITERLITE_WGMMA_SPARSE("f16", fp16)
#undef AITERLITE_WGMMA_SPARSE
#undef AITERLITE_WGMMA_16BIT

}  // namespace aiterlite
