// NVIDIA: matrix instructions of a warp (mma.sync), d += a b. Float sums. Those of a warpgroup: fragment/sm90_wgmma.h.
#pragma once
#include <aiterlite/isa/ptx_core.h>

namespace aiterlite {

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

}  // namespace aiterlite
