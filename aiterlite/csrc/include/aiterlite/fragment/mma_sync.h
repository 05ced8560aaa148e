// NVIDIA's matrix product of a warp, d[16 x 8] += a[16 x 16] b[16 x 8] of 16-bit operands, seen from a lane, and how
// operands get there from a tile in shared memory.
//
// d[i] is row sum_row(lane, i), column sum_column(lane, i). The a of mma.sync is also the a that a warp gives to a
// warpgroup's product of 64 rows (fragment/sm90_wgmma.h): rows 16 v on for warp v. 8-bit operands: mma.sync converts
// them on sm_90, so widen them (fragment/e4m3_operand.h). AMD: fragment/mfma.h.
#pragma once
#include <aiterlite/numeric/types.h>

#if !AITERLITE_NVIDIA
#error "aiterlite/fragment/mma_sync.h: AMD GPUs multiply with fragment/mfma.h"
#endif

namespace aiterlite {

struct MmaSync {
  static constexpr uint32_t kRows = 16, kColumns = 8, kDepth = 16, kSums = 4;

  AITERLITE_DEVICE static uint32_t sum_row(uint32_t lane, uint32_t i) { return lane / 4 + 8 * (i / 2); }
  AITERLITE_DEVICE static uint32_t sum_column(uint32_t lane, uint32_t i) { return lane % 4 * 2 + i % 2; }

  // a: 16 rows from `row` on of a tile, 32 bytes from `byte` on.
  template <class Layout>
  AITERLITE_DEVICE static void load_a(uint32_t (&a)[4], const void* tile, uint32_t row, uint32_t byte) {
    const uint32_t lane = lane_id();
    load_matrices(a, address<Layout>(tile, row + lane % 16, byte + lane / 16 * 16));
  }
  // a with rows along the tile's rows: k is 16 rows from `row` on, a's rows are the 16 columns from `byte` on.
  template <class Layout>
  AITERLITE_DEVICE static void load_a_transposed(uint32_t (&a)[4], const void* tile, uint32_t row, uint32_t byte) {
    const uint32_t lane = lane_id();
    load_matrices_transposed(a, address<Layout>(tile, row + lane % 8 + lane / 16 * 8, byte + lane / 8 % 2 * 16));
  }
  // b of two products in a row: columns are 8 rows from `row` on, k is 64 bytes from `byte` on.
  template <class Layout>
  AITERLITE_DEVICE static void load_b(uint32_t (&b)[2][2], const void* tile, uint32_t row, uint32_t byte) {
    const uint32_t lane = lane_id();
    uint32_t all[4];
    load_matrices(all, address<Layout>(tile, row + lane % 8, byte + lane / 8 * 16));
    b[0][0] = all[0], b[0][1] = all[1], b[1][0] = all[2], b[1][1] = all[3];
  }
  // b of two neighbouring products of 8 columns: k is 16 rows from `row` on, columns are 16 from `byte` on.
  template <class Layout>
  AITERLITE_DEVICE static void load_b_transposed(uint32_t (&b)[2][2], const void* tile, uint32_t row, uint32_t byte) {
    const uint32_t lane = lane_id();
    uint32_t all[4];
    load_matrices_transposed(all, address<Layout>(tile, row + lane % 16, byte + lane / 16 * 16));
    b[0][0] = all[0], b[0][1] = all[1], b[1][0] = all[2], b[1][1] = all[3];
  }

 private:
  template <class Layout>
  AITERLITE_DEVICE static const void* address(const void* tile, uint32_t row, uint32_t byte) {
    return static_cast<const char*>(tile) + Layout::at(row, byte);
  }
};

AITERLITE_DEVICE void multiply(bf16, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_m16n8k16_bf16(d, a[0], a[1], a[2], a[3], b[0], b[1]);
}
AITERLITE_DEVICE void multiply(fp16, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_m16n8k16_fp16(d, a[0], a[1], a[2], a[3], b[0], b[1]);
}

}  // namespace aiterlite
