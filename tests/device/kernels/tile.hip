// Tiles in shared memory: two fills in flight, and what is then at each place of a row. Rows come in an order of their
// own, from a matrix whose rows are longer than the tile's.
#include <aiterlite/tile/copy.h>

namespace {

constexpr uint32_t kThreads = 256;

template <class Layout>
AITERLITE_DEVICE void copy_tiles(char* first, char* second, const char* x, uint32_t stride, const uint32_t* rows,
                                 char* out) {
  const auto row_of = [&](uint32_t row) { return x + rows[row] * stride; };
  const auto later_row_of = [&](uint32_t row) { return x + rows[Layout::kRows + row] * stride; };
  aiterlite::start_fill<Layout, kThreads>(first, row_of);
  aiterlite::start_fill<Layout, kThreads>(second, later_row_of);
  aiterlite::await_fills<Layout, kThreads, 1>();
  aiterlite::workgroup_barrier();
  constexpr uint32_t kRowChunks = Layout::kRowBytes / 16;
  for (uint32_t pass = 0; pass < 2; ++pass) {
    if (pass == 1) {
      aiterlite::await_fills<Layout, kThreads, 0>();
      aiterlite::workgroup_barrier();
    }
    const char* tile = pass == 0 ? first : second;
    for (uint32_t chunk = aiterlite::thread_id(); chunk < Layout::kRows * kRowChunks; chunk += kThreads) {
      const auto v = aiterlite::load_shared_16(tile + Layout::at(chunk / kRowChunks, chunk % kRowChunks * 16));
      reinterpret_cast<aiterlite::Vector16*>(out)[pass * Layout::kRows * kRowChunks + chunk] = v;
    }
  }
}

using aiterlite::pitch_for;
using aiterlite::Reading;
template <uint32_t kRows, uint32_t kRowBytes>
using Padded16 = aiterlite::Padded<kRows, kRowBytes, pitch_for<Reading::kOperand16>(kRowBytes)>;

}  // namespace

#define TILE_KERNEL(name, ...)                                                                                 \
  AITERLITE_KERNEL(kThreads) name(const char* x, const uint32_t* rows, char* out, uint32_t stride) {           \
    using Layout = __VA_ARGS__;                                                                                \
    AITERLITE_SHARED(aiterlite::Vector16, first, Layout::kBytes / 16);                                         \
    AITERLITE_SHARED(aiterlite::Vector16, second, Layout::kBytes / 16);                                        \
    copy_tiles<Layout>(reinterpret_cast<char*>(first), reinterpret_cast<char*>(second), x, stride, rows, out); \
  }
TILE_KERNEL(fill_padded_576, Padded16<16, 576>)
TILE_KERNEL(fill_padded_1152, Padded16<10, 1152>)
TILE_KERNEL(fill_odd_576, aiterlite::Padded<16, 576, pitch_for<Reading::kOperand32>(576)>)
TILE_KERNEL(fill_swizzled_64, aiterlite::Swizzled<64, 64>)
TILE_KERNEL(fill_swizzled_128, aiterlite::Swizzled<48, 128>)
TILE_KERNEL(fill_swizzled_512, aiterlite::Swizzled<16, 512>)
