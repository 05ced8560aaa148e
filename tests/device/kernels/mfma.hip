// Products of one wave on AMD: tiles of a and b, rows of 256 bytes along k, from LDS; d row-major.
#include <aiterlite/fragment/mfma.h>
#include <aiterlite/tile/copy.h>

namespace {

using aiterlite::bf16;
using aiterlite::fp16;
using aiterlite::Mfma;
using aiterlite::NativeFp8;
using aiterlite::pitch_for;
using aiterlite::Reading;
using aiterlite::Vector16;
using aiterlite::Vector8;

constexpr uint32_t kRowBytes = 256;
template <uint32_t kSize>
using Padded =
    aiterlite::Padded<kSize, kRowBytes, pitch_for<kSize == 16 ? Reading::kOperand16 : Reading::kOperand32>(kRowBytes)>;
template <uint32_t kSize>
using Swizzled = aiterlite::Swizzled<kSize, kRowBytes>;

template <class Layout>
AITERLITE_DEVICE void fill(void* tile, const char* from) {
  aiterlite::start_fill<Layout, 64>(tile, [&](uint32_t row) { return from + row * Layout::kRowBytes; });
  aiterlite::await_fills<Layout, 64, 0>();
}

template <uint32_t kSize>
AITERLITE_DEVICE void store(float* d, const float (&sums)[Mfma<kSize>::kSums]) {
  const uint32_t lane = aiterlite::lane_id();
  for (uint32_t i = 0; i < Mfma<kSize>::kSums; ++i) {
    d[Mfma<kSize>::sum_row(lane, i) * kSize + Mfma<kSize>::sum_column(lane)] = sums[i];
  }
}

template <class Element, uint32_t kSize, class Layout>
AITERLITE_DEVICE void product(const void* tile_a, const void* tile_b, float* d) {
  float sums[Mfma<kSize>::kSums] = {};
  for (uint32_t byte = 0; byte < kRowBytes; byte += 16 * Mfma<kSize>::kVectors) {
    aiterlite::multiply(Element{}, sums, Mfma<kSize>::template operand<Layout>(tile_a, 0, byte),
                        Mfma<kSize>::template operand<Layout>(tile_b, 0, byte));
  }
  store<kSize>(d, sums);
}

// 32 bytes a lane.
template <uint32_t kSize, class Layout>
AITERLITE_DEVICE void wide_product(const void* tile_a, const void* tile_b, float* d) {
  constexpr uint32_t kStep = 16 * Mfma<kSize>::kVectors;
  float sums[Mfma<kSize>::kSums] = {};
  for (uint32_t byte = 0; byte < kRowBytes; byte += 2 * kStep) {
    const Vector16 a[2] = {Mfma<kSize>::template operand<Layout>(tile_a, 0, byte),
                           Mfma<kSize>::template operand<Layout>(tile_a, 0, byte + kStep)};
    const Vector16 b[2] = {Mfma<kSize>::template operand<Layout>(tile_b, 0, byte),
                           Mfma<kSize>::template operand<Layout>(tile_b, 0, byte + kStep)};
    aiterlite::multiply(NativeFp8{}, sums, a, b);
  }
  store<kSize>(d, sums);
}

// 8 bytes a lane.
template <class Element, class Layout>
AITERLITE_DEVICE void narrow_product(const void* tile_a, const void* tile_b, float* d) {
  const uint32_t lane = aiterlite::lane_id();
  float sums[4] = {};
  for (uint32_t byte = 0; byte < kRowBytes; byte += 32) {
    const uint32_t at = Layout::at(Mfma<16>::index(lane), byte + 8 * Mfma<16>::vector(lane));
    aiterlite::multiply(Element{}, sums, aiterlite::load_shared_8(static_cast<const char*>(tile_a) + at),
                        aiterlite::load_shared_8(static_cast<const char*>(tile_b) + at));
  }
  store<16>(d, sums);
}

}  // namespace

#define PRODUCT_KERNEL(name, size, layout, ...)                       \
  AITERLITE_KERNEL(64) name(const char* a, const char* b, float* d) { \
    using Layout = layout<size>;                                      \
    AITERLITE_SHARED(Vector16, tile_a, Layout::kBytes / 16);          \
    AITERLITE_SHARED(Vector16, tile_b, Layout::kBytes / 16);          \
    fill<Layout>(tile_a, a);                                          \
    fill<Layout>(tile_b, b);                                          \
    aiterlite::workgroup_barrier();                                   \
    __VA_ARGS__(tile_a, tile_b, d);                                   \
  }
PRODUCT_KERNEL(product_bf16_16, 16, Padded, product<bf16, 16, Layout>)
PRODUCT_KERNEL(product_fp16_16, 16, Swizzled, product<fp16, 16, Layout>)
PRODUCT_KERNEL(product_fp8_16, 16, Padded, product<NativeFp8, 16, Layout>)
PRODUCT_KERNEL(product_bf16_32, 32, Swizzled, product<bf16, 32, Layout>)
PRODUCT_KERNEL(product_fp16_32, 32, Padded, product<fp16, 32, Layout>)
PRODUCT_KERNEL(product_fp8_32, 32, Swizzled, product<NativeFp8, 32, Layout>)
PRODUCT_KERNEL(wide_fp8_16, 16, Padded, wide_product<16, Layout>)
PRODUCT_KERNEL(wide_fp8_32, 32, Padded, wide_product<32, Layout>)
PRODUCT_KERNEL(narrow_bf16_16, 16, Swizzled, narrow_product<bf16, Layout>)
PRODUCT_KERNEL(narrow_fp16_16, 16, Padded, narrow_product<fp16, Layout>)
PRODUCT_KERNEL(narrow_fp8_16, 16, Padded, narrow_product<NativeFp8, Layout>)

#if defined(__gfx950__)
// d[16 columns of the tile][16] = tile^T p^T: the tile has k down its 64 rows, of 64 bytes; p is [16][64] of the same
// type.
AITERLITE_KERNEL(64) transposed_16bit(const char* v, const uint16_t* p, float* d) {
  using Layout = aiterlite::Padded<64, 64, pitch_for<Reading::kOperand16>(64)>;
  AITERLITE_SHARED(Vector16, tile, Layout::kBytes / 16);
  fill<Layout>(tile, v);
  aiterlite::workgroup_barrier();
  const uint32_t lane = aiterlite::lane_id(), group = lane / 16;
  for (uint32_t column = 0; column < 32; column += 16) {
    float sums[4] = {};
    for (uint32_t row = 0; row < 64; row += 32) {
      const auto a = aiterlite::transposed_operand_16bit<Layout>(tile, row, 2 * column);
      const uint16_t* mine = p + lane % 16 * 64 + row;
      struct {
        uint16_t half[8];
      } b;
      for (uint32_t i = 0; i < 8; ++i) b.half[i] = mine[i / 4 * 16 + 4 * group + i % 4];
      aiterlite::multiply(bf16{}, sums, a, __builtin_bit_cast(Vector16, b));
    }
    store<16>(d + column * 16, sums);
  }
}
AITERLITE_KERNEL(64) transposed_8bit(const char* v, const uint8_t* p, float* d) {
  using Layout = aiterlite::Padded<64, 64, pitch_for<Reading::kOperand32>(64)>;
  AITERLITE_SHARED(Vector16, tile, Layout::kBytes / 16);
  fill<Layout>(tile, v);
  aiterlite::workgroup_barrier();
  const uint32_t lane = aiterlite::lane_id(), group = lane / 16;
  for (uint32_t column = 0; column < 64; column += 16) {
    float sums[4] = {};
    const auto a = aiterlite::transposed_operand_8bit<Layout>(tile, 0, column);
    struct {
      uint8_t byte[16];
    } b;
    for (uint32_t i = 0; i < 16; ++i) b.byte[i] = p[lane % 16 * 64 + i / 8 * 32 + 8 * group + i % 8];
    aiterlite::multiply(NativeFp8{}, sums, a, __builtin_bit_cast(Vector16, b));
    store<16>(d + column * 16, sums);
  }
}
// a and b are [16][128], scales [16][4]: of blocks of 32 k.
AITERLITE_KERNEL(64)
scaled_fp8(const Vector16* a, const Vector16* b, const uint8_t* scale_a, const uint8_t* scale_b, float* d) {
  const uint32_t lane = aiterlite::lane_id(), row = lane % 16, block = lane / 16;
  const Vector16 mine[2] = {a[row * 8 + block], a[row * 8 + 4 + block]};
  const Vector16 others[2] = {b[row * 8 + block], b[row * 8 + 4 + block]};
  float sums[4] = {};
  aiterlite::mfma_16x16x128_fp8_scaled(sums, mine, others, scale_a[row * 4 + block], scale_b[row * 4 + block]);
  store<16>(d, sums);
}
#endif
