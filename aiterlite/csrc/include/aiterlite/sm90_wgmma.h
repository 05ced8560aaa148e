// sm_90's matrix unit for a warpgroup, four waves that begin at a multiple of four: d[64 rows, N columns] += a b, a 64
// rows and b N columns of 16 k each, both in shared memory as tiles of 64 k (128 bytes a row, swizzled by the copy
// engine, each 8 rows 1024 bytes), which begin at multiples of 1024 bytes.
//
// Of the sums, lane l of wave v holds d[4 j + 2 i + c] at row 16 v + l / 4 + 8 i and column 8 j + l % 4 * 2 + c.
#pragma once
#include <aiterlite/types.h>

namespace aiterlite {

inline constexpr uint32_t kGroupRows = 64;
inline constexpr uint32_t kGroupWaves = 4;
inline constexpr uint32_t kSwizzledElements = 64;  // k of a tile, 16 bits each

// The matrix descriptor of a tile: address, stride of 1024 bytes between groups of 8 rows, 128-byte swizzle.
AITERLITE_DEVICE uint64_t tile_descriptor(const void* tile) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kStride = uint64_t{1024 / 16} << 32;
  constexpr uint64_t kUnused = uint64_t{1} << 16;
  return kSwizzle128 | kStride | kUnused | (shared_address(tile) & 0x3ffff) / 16;
}
// The same, `k` elements on.
AITERLITE_DEVICE uint64_t advanced(uint64_t descriptor, uint32_t k) { return descriptor + k * 2 / 16; }

// Between the last ordinary access to sums, or to what is multiplied, and the first multiplication.
AITERLITE_DEVICE void begin_group() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
AITERLITE_DEVICE void commit_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most `pending` committed groups are still running.
template <uint32_t pending>
AITERLITE_DEVICE void await_group() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// N / 2 register operands, and their places in the text of an instruction.
#define AITERLITE_SUMS4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define AITERLITE_SUMS8(i) AITERLITE_SUMS4(i), AITERLITE_SUMS4(i + 4)
#define AITERLITE_SUMS16(i) AITERLITE_SUMS8(i), AITERLITE_SUMS8(i + 8)
#define AITERLITE_SUMS32(i) AITERLITE_SUMS16(i), AITERLITE_SUMS16(i + 16)
#define AITERLITE_SUMS64(i) AITERLITE_SUMS32(i), AITERLITE_SUMS32(i + 32)
#define AITERLITE_PLACES4 "%0, %1, %2, %3"
#define AITERLITE_PLACES8 \
  AITERLITE_PLACES4       \
  ", "                    \
  "%4, %5, %6, %7"
#define AITERLITE_PLACES16 \
  AITERLITE_PLACES8        \
  ", "                     \
  "%8, %9, %10, %11, %12, %13, %14, %15"
#define AITERLITE_PLACES32 \
  AITERLITE_PLACES16       \
  ", "                     \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define AITERLITE_PLACES64                                                           \
  AITERLITE_PLACES32                                                                 \
  ", "                                                                               \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define AITERLITE_WGMMA(columns, count, a_place, b_place, type, name)                                              \
  AITERLITE_DEVICE void multiply_group(name, float (&d)[count], uint64_t a, uint64_t b) {                          \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type " {" AITERLITE_PLACES##count \
                 "}, " a_place ", " b_place ", 1, 1, 1, 0, 0;"                                                     \
                 : AITERLITE_SUMS##count(0)                                                                        \
                 : "l"(a), "l"(b));                                                                                \
  }
AITERLITE_WGMMA("8", 4, "%4", "%5", "bf16", bf16)
AITERLITE_WGMMA("8", 4, "%4", "%5", "f16", fp16)
AITERLITE_WGMMA("16", 8, "%8", "%9", "bf16", bf16)
AITERLITE_WGMMA("16", 8, "%8", "%9", "f16", fp16)
AITERLITE_WGMMA("32", 16, "%16", "%17", "bf16", bf16)
AITERLITE_WGMMA("32", 16, "%16", "%17", "f16", fp16)
AITERLITE_WGMMA("64", 32, "%32", "%33", "bf16", bf16)
AITERLITE_WGMMA("64", 32, "%32", "%33", "f16", fp16)
AITERLITE_WGMMA("128", 64, "%64", "%65", "bf16", bf16)
AITERLITE_WGMMA("128", 64, "%64", "%65", "f16", fp16)
#undef AITERLITE_WGMMA
#undef AITERLITE_PLACES4
#undef AITERLITE_SUMS4
#undef AITERLITE_PLACES8
#undef AITERLITE_SUMS8
#undef AITERLITE_PLACES16
#undef AITERLITE_SUMS16
#undef AITERLITE_PLACES32
#undef AITERLITE_SUMS32
#undef AITERLITE_PLACES64
#undef AITERLITE_SUMS64

}  // namespace aiterlite
