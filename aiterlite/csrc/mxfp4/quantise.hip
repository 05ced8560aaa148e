// Rows of bf16 or fp16, or act(gate) * up of them, as MXFP4: mxfp4/quant_args.h. One source for gfx942, gfx950 and
// sm_90.
//
// A workgroup of 256 threads has a tile of 32 rows by 8 blocks, 8,192 elements. Four neighbouring lanes hold a block, 8
// elements each, and have four blocks, of rows 8 apart: every load is 16 bytes, of 512 that lie beside each other, and
// four (with gates, eight) are under way in each lane. Lanes of a quad find the greatest magnitudes of two blocks at
// once, and transpose their codes, so that each lane stores the 16 bytes of one block.
//
// Scale bytes meet in shared memory, in the order in which they lie in memory: shuffled, 16 lanes store the tile's 256
// bytes, zeros where there is no row or no block; otherwise each thread stores one byte, beside its neighbours'.
//
// Traffic an element: 2 bytes in (gated: 4), 0.53 out. No atomics, nothing is added up: same operands, same bits.
//
// A grid that is on the chip all at once (AITERLITE_EARLY) fetches its rows before its predecessors have ended, and
// lets its successors start at once.
#include <aiterlite/activation/gated.h>
#include <aiterlite/block/quad.h>
#include <aiterlite/mxfp4/quant_args.h>
#include <aiterlite/numeric/mxfp4_encode.h>
#include <aiterlite/overlap.h>
#include <aiterlite/tile/mx_scale_tile.h>

namespace {

using namespace aiterlite;
using In = AITERLITE_ELEMENT;

constexpr uint32_t kThreads = 256, kUnits = 4, kBlock = 32, kStep = kThreads / 4 / kScaleTileBlocks;
constexpr int kActivation = AITERLITE_ACTIVATION, kRows = 0, kColumns = 1, kShuffled = 2, kLayout = AITERLITE_LAYOUT;
constexpr bool kAligned = AITERLITE_ALIGNED, kParted = AITERLITE_PARTED, kGated = kActivation != activation::kNone,
               kEarly = AITERLITE_EARLY;
static_assert(kStep * kUnits == kScaleTileRows, "four steps of a quad are a tile's rows");
static_assert(kLayout == kRows || kLayout == kColumns || kLayout == kShuffled,
              "AITERLITE_LAYOUT must be 0 (rows), 1 (columns) or 2 (shuffled)");

AITERLITE_DEVICE uint32_t live_rows(const aiterlite_mxfp4_quant_args& args) {
  if (args.num_rows == nullptr) return static_cast<uint32_t>(args.rows);
  const int64_t asked = int64_t{load_i32(args.num_rows)} * args.num_rows_factor;
  return asked < 0 ? 0 : static_cast<uint32_t>(asked < args.rows ? asked : args.rows);
}

// Where a thread's byte of a tile lies in shared memory, and which row and block it is of.
struct Place {
  uint32_t row, block;
};
AITERLITE_DEVICE Place stored_by(uint32_t thread) {
  if constexpr (kLayout == kColumns) return {thread % kScaleTileRows, thread / kScaleTileRows};
  return {thread / kScaleTileBlocks, thread % kScaleTileBlocks};
}
AITERLITE_DEVICE uint32_t staged_at(uint32_t row, uint32_t block) {
  if constexpr (kLayout == kShuffled) return place_in_scale_tile(row, block);
  if constexpr (kLayout == kColumns) return block * kScaleTileRows + row;
  return row * kScaleTileBlocks + block;
}

}  // namespace

AITERLITE_KERNEL_RESIDENT(kThreads, AITERLITE_RESIDENT)
aiterlite_mxfp4_quantise(aiterlite_mxfp4_quant_args args) {
  AITERLITE_SHARED(Vector16, shared, kScaleTileBytes / sizeof(Vector16));
  const auto block_tiles = static_cast<uint32_t>(args.block_tiles), blocks = static_cast<uint32_t>(args.blocks);
  const uint32_t tile = workgroup_id();
  const auto row_tile = static_cast<uint32_t>(uint64_t{tile} * args.multiplier >> args.shift);
  const uint32_t block_tile = tile - row_tile * block_tiles;
  const uint32_t thread = thread_id(), part = thread % 4, quad = thread / 4;
  const uint32_t first = row_tile * kScaleTileRows + quad / kScaleTileBlocks;
  const uint32_t of_tile = quad % kScaleTileBlocks, block = block_tile * kScaleTileBlocks + of_tile;

  const auto* x = static_cast<const In*>(args.x);
  // A block, of which nothing is read that is not there.
  int64_t column = int64_t{block} * kBlock;
  if constexpr (kParted) {
    const uint32_t part_blocks = static_cast<uint32_t>(args.part_blocks), which = block / part_blocks;
    column = which * args.stride_part + int64_t{block - which * part_blocks} * kBlock;
  }
  const auto at = [&](uint32_t unit) { return x + int64_t{first + unit * kStep} * args.stride_x + column; };
  const int64_t to_up = int64_t{blocks} * kBlock;

  if constexpr (kEarly) {
    admit_successors();
    // How many rows there are is not known yet where a tensor says so. A line holds two blocks.
    if (args.num_rows == nullptr && block < blocks && part == 0 && of_tile % 2 == 0) {
#pragma unroll
      for (uint32_t u = 0; u < kUnits; ++u) {
        if (first + u * kStep >= static_cast<uint32_t>(args.rows)) continue;
        prefetch_operand(at(u));
        if constexpr (kGated) prefetch_operand(at(u) + to_up);
      }
    }
  }
  await_predecessors();
  const uint32_t live = live_rows(args);
  auto* scales = static_cast<uint8_t*>(args.scales);
  const auto store_tile = [&](const Vector16& part_of_tile) {
    auto* to = scales + int64_t{tile} * kScaleTileBytes + thread * 16;
    store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, part_of_tile));
  };
  // A tile of padding alone, which of few rows are most; the same for all threads.
  if (row_tile * kScaleTileRows >= live) {
    if (kLayout == kShuffled && thread < kScaleTileBytes / 16) store_tile(Vector16{});
    return;
  }

  Vector16 value[kUnits];
  [[maybe_unused]] Vector16 up[kUnits];
#pragma unroll
  for (uint32_t u = 0; u < kUnits; ++u) {
    const uint32_t left = first + u * kStep < live && block < blocks ? kBlock : 0;
    value[u] = quant::load_eight<kAligned, Reuse::kRow>(at(u), part * 8, left, x);
    if constexpr (kGated) up[u] = quant::load_eight<kAligned, Reuse::kRow>(at(u) + to_up, part * 8, left, x);
  }
  if constexpr (kGated) {
#pragma unroll
    for (uint32_t u = 0; u < kUnits; ++u) value[u] = activation::gated<In, kActivation, false>(value[u], up[u], 0.0f);
  }
  if constexpr (!kEarly) admit_successors();

  // The greatest magnitudes of two blocks in a word.
  uint32_t most[kUnits / 2];
#pragma unroll
  for (uint32_t i = 0; i < kUnits / 2; ++i) {
    const uint32_t a = greatest_halves(value[2 * i]), b = greatest_halves(value[2 * i + 1]);
    most[i] = greatest_in_quad(greater_u16_pair(pick_bytes<0, 1, 4, 5>(a, b), pick_bytes<2, 3, 6, 7>(a, b)));
  }
  const MxScaleRule rule = {args.carry, args.least};
  uint32_t byte[kUnits];
  Vector16 codes;
#pragma unroll
  for (uint32_t u = 0; u < kUnits; ++u) {
    byte[u] = mx_scale_byte(float_bits_of<In>(u % 2 == 0 ? most[u / 2] & 0xffffu : most[u / 2] >> 16), rule);
    codes.word[u] = encode_eight_by<In>(value[u], byte[u]);
  }

  // From here on a lane has one block, that of its own unit.
  codes = transpose_in_quad(codes, part);
  const uint32_t lower = part % 2 == 0 ? byte[0] : byte[1], upper = part % 2 == 0 ? byte[2] : byte[3];
  const uint32_t row = first + part * kStep;
  auto* staged = reinterpret_cast<uint8_t*>(shared);
  staged[staged_at(row % kScaleTileRows, of_tile)] = static_cast<uint8_t>(part < 2 ? lower : upper);
  if (row < live && block < blocks) {
    auto* to = static_cast<uint8_t*>(args.out) + (int64_t{row} * blocks + block) * (kBlock / 2);
    if constexpr (kAligned) {
      store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, codes));
    } else {
#pragma unroll
      for (uint32_t i = 0; i < 16; ++i) store_u8(to + i, static_cast<uint8_t>(codes.word[i / 4] >> (i % 4 * 8)));
    }
  }

  workgroup_barrier();
  if constexpr (kLayout == kShuffled) {
    if (thread < kScaleTileBytes / 16) store_tile(shared[thread]);
  } else {
    const Place place = stored_by(thread);
    const uint32_t r = row_tile * kScaleTileRows + place.row, b = block_tile * kScaleTileBlocks + place.block;
    if (r < live && b < blocks) store_u8(scales + r * args.stride_row + b * args.stride_block, staged[thread]);
  }
}
