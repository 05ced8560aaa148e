// out[c, r] = in[r, c] through LDS, for 32-bit and for 16-bit elements.
//
// 32 x 32 tiles by 32 x 8 work-items, four rows each; a row of LDS is padded by one element against bank conflicts.
// Each element moves once through memory and once through LDS; any shape.
#include <device.h>

template <class T>
DEVICE void transpose_tile(const T* in, T* out, uint32_t rows, uint32_t cols, T (&tile)[32][33]) {
  const uint32_t tx = thread_x(), ty = thread_y();
  uint32_t c = group_x() * 32 + tx;
  for (uint32_t y = ty; y < 32; y += 8) {
    const uint32_t r = group_y() * 32 + y;
    if (r < rows && c < cols) tile[y][tx] = in[r * cols + c];
  }
  barrier();
  const uint32_t r = group_y() * 32 + tx;
  for (uint32_t y = ty; y < 32; y += 8) {
    c = group_x() * 32 + y;
    if (r < rows && c < cols) out[c * rows + r] = tile[tx][y];
  }
}

KERNEL(256) transpose_b32(const uint32_t* in, uint32_t* out, uint32_t rows, uint32_t cols) {
  SHARED(uint32_t, tile, 32)[33];
  transpose_tile(in, out, rows, cols, tile);
}

KERNEL(256) transpose_b16(const uint16_t* in, uint16_t* out, uint32_t rows, uint32_t cols) {
  SHARED(uint16_t, tile, 32)[33];
  transpose_tile(in, out, rows, cols, tile);
}
