// Products of one warp on NVIDIA, by ldmatrix from tiles; and matrices stored by stmatrix.
#include <aiterlite/fragment/e4m3_operand.h>
#include <aiterlite/fragment/mma_sync.h>
#include <aiterlite/tile/copy.h>

namespace {

using aiterlite::bf16;
using aiterlite::fp16;
using aiterlite::MmaSync;
using aiterlite::pitch_for;
using aiterlite::Reading;
using aiterlite::Vector16;

template <uint32_t kRows, uint32_t kRowBytes>
using Padded = aiterlite::Padded<kRows, kRowBytes, pitch_for<Reading::kOperand16>(kRowBytes)>;

template <class Layout>
AITERLITE_DEVICE void fill(void* tile, const char* from) {
  aiterlite::start_fill<Layout, 32>(tile, [&](uint32_t row) { return from + row * Layout::kRowBytes; });
  aiterlite::await_fills<Layout, 32, 0>();
}

AITERLITE_DEVICE void store(float* d, const float (&sums)[4], uint32_t columns) {
  const uint32_t lane = aiterlite::lane_id();
  for (uint32_t i = 0; i < 4; ++i) d[MmaSync::sum_row(lane, i) * columns + MmaSync::sum_column(lane, i)] = sums[i];
}

// d[16][8] = a[16][64] b[8][64]^T.
template <class Element, class A, class B>
AITERLITE_DEVICE void product(const char* a, const char* b, float* d, void* tile_a, void* tile_b) {
  fill<A>(tile_a, a);
  fill<B>(tile_b, b);
  aiterlite::workgroup_barrier();
  float sums[4] = {};
  for (uint32_t byte = 0; byte < 128; byte += 64) {
    uint32_t fragment_b[2][2];
    MmaSync::load_b<B>(fragment_b, tile_b, 0, byte);
    for (uint32_t half = 0; half < 2; ++half) {
      uint32_t fragment_a[4];
      MmaSync::load_a<A>(fragment_a, tile_a, 0, byte + 32 * half);
      aiterlite::multiply(Element{}, sums, fragment_a, fragment_b[half]);
    }
  }
  store(d, sums, 8);
}

}  // namespace

AITERLITE_KERNEL(32) warp_product_bf16(const char* a, const char* b, float* d) {
  AITERLITE_SHARED(Vector16, tile_a, 1024);
  AITERLITE_SHARED(Vector16, tile_b, 1024);
  product<bf16, Padded<16, 128>, Padded<8, 128>>(a, b, d, tile_a, tile_b);
}
AITERLITE_KERNEL(32) warp_product_fp16(const char* a, const char* b, float* d) {
  AITERLITE_SHARED(Vector16, tile_a, 1024);
  AITERLITE_SHARED(Vector16, tile_b, 1024);
  product<fp16, aiterlite::Swizzled<16, 128>, aiterlite::Swizzled<8, 128>>(a, b, d, tile_a, tile_b);
}

// d[16][16] = a^T b, both [16 of k][16].
AITERLITE_KERNEL(32) warp_product_transposed(const char* a, const char* b, float* d) {
  using Layout = Padded<16, 32>;
  AITERLITE_SHARED(Vector16, tile_a, Layout::kBytes / 16);
  AITERLITE_SHARED(Vector16, tile_b, Layout::kBytes / 16);
  fill<Layout>(tile_a, a);
  fill<Layout>(tile_b, b);
  aiterlite::workgroup_barrier();
  uint32_t fragment_a[4], fragment_b[2][2];
  MmaSync::load_a_transposed<Layout>(fragment_a, tile_a, 0, 0);
  MmaSync::load_b_transposed<Layout>(fragment_b, tile_b, 0, 0);
  for (uint32_t half = 0; half < 2; ++half) {
    float sums[4] = {};
    aiterlite::multiply(bf16{}, sums, fragment_a, fragment_b[half]);
    store(d + 8 * half, sums, 16);
  }
}

// d[16][8] = a[16][32, e4m3fn] b[8][32, fp16]^T, through the order of k that the operand has.
AITERLITE_KERNEL(32) warp_product_e4m3(const char* a, const uint16_t* b, float* d) {
  using A = Padded<16, 32>;
  using B = Padded<8, 64>;
  AITERLITE_SHARED(Vector16, tile_a, A::kBytes / 16);
  AITERLITE_SHARED(Vector16, tile_b, B::kBytes / 16);
  fill<A>(tile_a, a);
  for (uint32_t i = aiterlite::lane_id(); i < 8 * 32; i += 32) {
    const uint32_t at = B::at(i / 32, 2 * aiterlite::E4m3Operand::position(i % 32));
    reinterpret_cast<uint16_t*>(tile_b)[at / 2] = b[i];
  }
  aiterlite::workgroup_barrier();
  uint32_t fragment_a[2][4], fragment_b[2][2];
  aiterlite::E4m3Operand::load_a<A>(fragment_a, tile_a, 0, 0);
  MmaSync::load_b<B>(fragment_b, tile_b, 0, 0);
  float sums[4] = {};
  for (uint32_t half = 0; half < 2; ++half) aiterlite::multiply(fp16{}, sums, fragment_a[half], fragment_b[half]);
  store(d, sums, 8);
}

// d[32][8] = v^T b^T: v is [16 of k][32, e4m3fn], b [8][16, fp16].
AITERLITE_KERNEL(32) warp_product_e4m3_transposed(const char* v, const char* b, float* d) {
  using V = Padded<16, 32>;
  using B = Padded<8, 64>;
  AITERLITE_SHARED(Vector16, tile_v, V::kBytes / 16);
  AITERLITE_SHARED(Vector16, tile_b, B::kBytes / 16);
  fill<V>(tile_v, v);
  fill<B>(tile_b, b);
  aiterlite::workgroup_barrier();
  uint32_t fragment_a[2][4], fragment_b[2][2];
  aiterlite::E4m3Operand::load_a_transposed<V>(fragment_a, tile_v, 0, 0);
  MmaSync::load_b<B>(fragment_b, tile_b, 0, 0);
  for (uint32_t odd = 0; odd < 2; ++odd) {
    float sums[4] = {};
    aiterlite::multiply(fp16{}, sums, fragment_a[odd], fragment_b[0]);
    store(d + 8 * odd, sums, 16);
  }
}

// Four matrices from registers, as they are and transposed; out[64][8] each, 16 bits.
AITERLITE_KERNEL(32) store_four_matrices(const uint32_t* x, Vector16* out) {
  AITERLITE_SHARED(Vector16, tile, 64);
  const uint32_t lane = aiterlite::lane_id();
  const uint32_t r[4] = {x[lane], x[32 + lane], x[64 + lane], x[96 + lane]};
  aiterlite::store_matrices(tile + lane, r);
  aiterlite::store_matrices_transposed(tile + 32 + lane, r);
  aiterlite::workgroup_barrier();
  out[lane] = tile[lane];
  out[32 + lane] = tile[32 + lane];
}
