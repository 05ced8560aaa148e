// Products of a warpgroup: d[64][N] = a[64][128 bytes] b[N][128 bytes]^T, swizzled tiles; a also from registers, and
// operands that have k down their rows.
#include <aiterlite/fragment/e4m3_operand.h>
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/tile/copy.h>
#include <aiterlite/tile/sm90_barrier.h>

namespace {

using aiterlite::bf16;
using aiterlite::e4m3fn;
using aiterlite::fp16;
using aiterlite::Rows;
using aiterlite::Start;

template <uint32_t kRows>
using Tile = aiterlite::Swizzled<kRows, 128>;

struct Shared {
  char a[64 * 128];
  char b[256 * 128];
};

template <uint32_t kRows>
AITERLITE_DEVICE void fill(void* tile, const char* from) {
  aiterlite::start_fill<Tile<kRows>, 128>(tile, [&](uint32_t row) { return from + row * 128; });
  aiterlite::await_fills<Tile<kRows>, 128, 0>();
}

template <uint32_t kSums>
AITERLITE_DEVICE void store(float* d, const float (&sums)[kSums]) {
  const uint32_t lane = aiterlite::lane_id(), wave = aiterlite::thread_id() / 32;
#pragma unroll
  for (uint32_t i = 0; i < kSums; ++i) {
    const uint32_t row = 16 * wave + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    d[row * 2 * kSums + column] = sums[i];
  }
}

// With a from shared memory or from registers, onto sums that hold what must be forgotten.
template <class Element, uint32_t kColumns, bool kFromRegisters>
AITERLITE_DEVICE void product(Shared& shared, const char* a, const char* b, float* d) {
  fill<64>(shared.a, a);
  fill<kColumns>(shared.b, b);
  aiterlite::publish_to_engines();
  aiterlite::workgroup_barrier();
  const uint64_t tile_a = aiterlite::tile_descriptor(shared.a), tile_b = aiterlite::tile_descriptor(shared.b);
  float sums[kColumns / 2];
#pragma unroll
  for (float& sum : sums) sum = 1e30f;
  uint32_t fragment[4][4];
#pragma unroll
  for (uint32_t step = 0; kFromRegisters && step < 4; ++step) {
    aiterlite::MmaSync::load_a<Tile<64>>(fragment[step], shared.a, aiterlite::thread_id() / 32 * 16, 32 * step);
  }
  aiterlite::begin_group();
  if constexpr (kFromRegisters) {
    aiterlite::multiply_group<Start::kZero>(Element{}, sums, fragment[0], tile_b);
  } else {
    aiterlite::multiply_group<Start::kZero>(Element{}, sums, tile_a, tile_b);
  }
#pragma unroll
  for (uint32_t step = 1; step < 4; ++step) {
    const uint64_t step_b = aiterlite::advanced_bytes(tile_b, 32 * step);
    if constexpr (kFromRegisters) {
      aiterlite::multiply_group(Element{}, sums, fragment[step], step_b);
    } else {
      aiterlite::multiply_group(Element{}, sums, aiterlite::advanced_bytes(tile_a, 32 * step), step_b);
    }
  }
  aiterlite::commit_group();
  aiterlite::await_group<0>();
  store(d, sums);
}

}  // namespace

#define PRODUCT_KERNEL(name, element, columns, from_registers)                                 \
  AITERLITE_KERNEL(128) name##_##element##_##columns(const char* a, const char* b, float* d) { \
    AITERLITE_DYNAMIC_SHARED(Shared, shared);                                                  \
    product<element, columns, from_registers>(shared, a, b, d);                                \
  }
#define PRODUCT_KERNELS(columns)                 \
  PRODUCT_KERNEL(group, bf16, columns, false)    \
  PRODUCT_KERNEL(group, fp16, columns, false)    \
  PRODUCT_KERNEL(group, e4m3fn, columns, false)  \
  PRODUCT_KERNEL(registers, bf16, columns, true) \
  PRODUCT_KERNEL(registers, fp16, columns, true) \
  PRODUCT_KERNEL(registers, e4m3fn, columns, true)
PRODUCT_KERNELS(8)
PRODUCT_KERNELS(16)
PRODUCT_KERNELS(24)
PRODUCT_KERNELS(32)
PRODUCT_KERNELS(40)
PRODUCT_KERNELS(48)
PRODUCT_KERNELS(64)
PRODUCT_KERNELS(96)
PRODUCT_KERNELS(128)
PRODUCT_KERNELS(256)

// d[64][128] = a^T b: a is [64 of k][64], b two tiles [64 of k][64]. And again with a from registers.
AITERLITE_KERNEL(128) group_transposed(const char* a, const char* b, float* d) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  fill<64>(shared.a, a);
  fill<64>(shared.b, b);
  fill<64>(shared.b + 64 * 128, b + 64 * 128);
  aiterlite::publish_to_engines();
  aiterlite::workgroup_barrier();
  const uint64_t tile_a = aiterlite::operand_descriptor(shared.a, aiterlite::Swizzle::k128, 1024, 64 * 128);
  const uint64_t tile_b = aiterlite::operand_descriptor(shared.b, aiterlite::Swizzle::k128, 1024, 64 * 128);
  float sums[64] = {};
  aiterlite::begin_group();
#pragma unroll
  for (uint32_t k = 0; k < 64; k += 16) {
    aiterlite::multiply_group<Start::kSums, Rows::kAreK, Rows::kAreK>(
        bf16{}, sums, aiterlite::advanced_bytes(tile_a, k * 128), aiterlite::advanced_bytes(tile_b, k * 128));
  }
  aiterlite::commit_group();
  aiterlite::await_group<0>();
  store(d, sums);

  uint32_t fragment[4][4];
#pragma unroll
  for (uint32_t step = 0; step < 4; ++step) {
    aiterlite::MmaSync::load_a_transposed<Tile<64>>(fragment[step], shared.a, 16 * step,
                                                    aiterlite::thread_id() / 32 * 32);
  }
  aiterlite::begin_group();
  aiterlite::multiply_group<Start::kZero, Rows::kAreK>(bf16{}, sums, fragment[0], tile_b);
#pragma unroll
  for (uint32_t step = 1; step < 4; ++step) {
    aiterlite::multiply_group<Start::kSums, Rows::kAreK>(bf16{}, sums, fragment[step],
                                                         aiterlite::advanced_bytes(tile_b, step * 16 * 128));
  }
  aiterlite::commit_group();
  aiterlite::await_group<0>();
  store(d + 64 * 128, sums);
}

// d[64][16] = a b^T of bf16 without swizzle: pieces of 8 rows by 16 bytes, k pieces 1024 (a) and 256 (b) bytes apart.
AITERLITE_KERNEL(128) group_pieces(const char* a, const char* b, float* d) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  const auto* rows_a = reinterpret_cast<const aiterlite::Vector16*>(a);
  const auto* rows_b = reinterpret_cast<const aiterlite::Vector16*>(b);
  for (uint32_t i = aiterlite::thread_id(); i < 64 * 8; i += 128) {
    aiterlite::store_shared_16(shared.a + i % 8 * 1024 + i / 8 * 16, rows_a[i]);
  }
  for (uint32_t i = aiterlite::thread_id(); i < 16 * 8; i += 128) {
    aiterlite::store_shared_16(shared.b + i % 8 * 256 + i / 8 * 16, rows_b[i]);
  }
  aiterlite::publish_to_engines();
  aiterlite::workgroup_barrier();
  const uint64_t tile_a = aiterlite::operand_descriptor(shared.a, aiterlite::Swizzle::kNone, 128, 1024);
  const uint64_t tile_b = aiterlite::operand_descriptor(shared.b, aiterlite::Swizzle::kNone, 128, 256);
  float sums[8] = {};
  aiterlite::begin_group();
#pragma unroll
  for (uint32_t step = 0; step < 4; ++step) {
    aiterlite::multiply_group(bf16{}, sums, aiterlite::advanced_bytes(tile_a, step * 2048),
                              aiterlite::advanced_bytes(tile_b, step * 512));
  }
  aiterlite::commit_group();
  aiterlite::await_group<0>();
  store(d, sums);
}
