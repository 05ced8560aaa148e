// NVIDIA: e4m3fn in shared memory to fp16 operands a of mma.sync and of a warpgroup's product, in registers. ldmatrix
// moves pairs of bytes, so elements come out in an order of their own; b must have the same order of k.
//
// The conversion is two values an instruction (cvt), 84 a cycle and multiprocessor of an H200 with what belongs to it;
// doing it by shifts is slower. AMD multiplies 8-bit operands as they are: fragment/mfma.h.
#pragma once
#include <aiterlite/fragment/mma_sync.h>
#include <aiterlite/numeric/fp8.h>

namespace aiterlite {

struct E4m3Operand {
  // Where b must have element k of every 16: k = 4 c + j is at 2 c + j, or for j of 2 and 3 at 8 + 2 c + j - 2.
  AITERLITE_DEVICE static constexpr uint32_t position(uint32_t k) {
    return k / 16 * 16 + k % 4 / 2 * 8 + k % 16 / 4 * 2 + k % 2;
  }

  // a of two products in a row: 16 rows from `row` on, 32 bytes (k) from `byte` on, as fp16.
  template <class Layout>
  AITERLITE_DEVICE static void load_a(uint32_t (&a)[2][4], const void* tile, uint32_t row, uint32_t byte) {
    uint32_t raw[4];
    MmaSync::load_a<Layout>(raw, tile, row, byte);
    widen_a(a, raw);
  }
  // Only converts what load_matrices gave, so that the next load can be asked for before.
  AITERLITE_DEVICE static void widen_a(uint32_t (&a)[2][4], const uint32_t (&raw)[4]) {
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        uint32_t pair[2];
        widen_fp8<e4m3fn>(fp16{}, raw[2 * half + i], pair);
        a[half][i] = pair[0];
        a[half][2 + i] = pair[1];
      }
    }
  }

  // a of two products, k is 16 rows from `row` on: a's 16 rows are the even columns of the 32 from `byte` on in a[0],
  // the odd ones in a[1].
  template <class Layout>
  AITERLITE_DEVICE static void load_a_transposed(uint32_t (&a)[2][4], const void* tile, uint32_t row, uint32_t byte) {
    uint32_t raw[4];
    MmaSync::load_a_transposed<Layout>(raw, tile, row, byte);
    widen_a_transposed(a, raw);
  }
  AITERLITE_DEVICE static void widen_a_transposed(uint32_t (&a)[2][4], const uint32_t (&raw)[4]) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t even = pick_bytes<0, 2, 4, 6>(raw[i], raw[2 + i]);
      const uint32_t odd = pick_bytes<1, 3, 5, 7>(raw[i], raw[2 + i]);
      uint32_t pair[2];
      widen_fp8<e4m3fn>(fp16{}, even, pair);
      a[0][i] = pair[0];
      a[0][2 + i] = pair[1];
      widen_fp8<e4m3fn>(fp16{}, odd, pair);
      a[1][i] = pair[0];
      a[1][2 + i] = pair[1];
    }
  }

  // a of two products one behind the other along k, which is 32 rows from `row` on: a's rows g and g + 8 are columns
  // 2 g and 2 g + 1 of the 16 from `byte` on. b has the natural order of k.
  template <class Layout>
  AITERLITE_DEVICE static void fetch_a_paired(uint32_t (&raw)[4], const void* tile, uint32_t row, uint32_t byte) {
    load_matrices_transposed(raw, static_cast<const char*>(tile) + Layout::at(row + lane_id(), byte));
  }
  AITERLITE_DEVICE static void widen_a_paired(uint32_t (&a)[2][4], const uint32_t (&raw)[4]) {
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t even = pick_bytes<0, 2, 4, 6>(raw[2 * half], raw[2 * half + 1]);
      const uint32_t odd = pick_bytes<1, 3, 5, 7>(raw[2 * half], raw[2 * half + 1]);
      uint32_t pair[2];
      widen_fp8<e4m3fn>(fp16{}, even, pair);
      a[half][0] = pair[0];
      a[half][2] = pair[1];
      widen_fp8<e4m3fn>(fp16{}, odd, pair);
      a[half][1] = pair[0];
      a[half][3] = pair[1];
    }
  }
};

}  // namespace aiterlite
