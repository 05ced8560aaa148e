// Rows of a table moved by index: out[to[i], :] = table[from[i], :], or zeros where from[i] is negative.
//
// Work-items are 16 columns x 8 moves x 2 halves of a row; elements are 16 bits. Indices are 64-bit, each `to`
// distinct. gather_pointers does the same with one address a move, read from memory: pages that lie anywhere. Each
// element moves once; columns are any number.
#include <device.h>

DEVICE void copy_row(const uint16_t* from, uint16_t* to, uint32_t cols) {
  const uint32_t half = (cols + 1) / 2;
  const uint32_t begin = thread_z() * half;
  const uint32_t end = smaller(cols, begin + half);
  for (uint32_t c = begin + thread_x(); c < end; c += 16) to[c] = from ? from[c] : 0;
}

KERNEL(256)
gather_scatter(const uint16_t* table, const int64_t* from, const int64_t* to, uint16_t* out, uint32_t moves,
               uint32_t cols) {
  const uint32_t i = group_x() * 8 + thread_y();
  if (i >= moves) return;
  copy_row(from[i] < 0 ? nullptr : table + from[i] * cols, out + to[i] * cols, cols);
}

KERNEL(256) gather_pointers(const uint64_t* pages, uint16_t* out, uint32_t moves, uint32_t cols) {
  const uint32_t i = group_x() * 8 + thread_y();
  if (i >= moves) return;
  copy_row(reinterpret_cast<const uint16_t*>(pages[i]), out + static_cast<uint64_t>(i) * cols, cols);
}
