// MX scales of rows in the order of entries sorted by experts: mxfp4/sort_args.h. One source for gfx942, gfx950 and
// sm_90.
//
// A workgroup of 256 threads has 32 entries by 32 blocks, four tiles. Each thread brings a byte of each tile, beside
// its neighbours', to its place in shared memory; 64 lanes store the tiles, 16 bytes each. Where no entry is in use,
// nothing is read or written: most of what is allocated for the sorting of few tokens. Traffic of a workgroup: an entry
// of 4 bytes and 32 scales for each of 32 entries in, 1,024 bytes out.
#include <aiterlite/mxfp4/sort_args.h>
#include <aiterlite/overlap.h>
#include <aiterlite/tile/mx_scale_tile.h>

namespace {

using namespace aiterlite;

constexpr uint32_t kThreads = kScaleTileRows * kScaleTileBlocks, kTiles = 4, kVectors = kScaleTileBytes / 16,
                   kSlotShift = 24, kTokenMask = (1u << kSlotShift) - 1;

}  // namespace

AITERLITE_KERNEL(kThreads)
aiterlite_mxfp4_sort(aiterlite_mxfp4_sort_args args) {
  AITERLITE_SHARED(Vector16, shared, kTiles * kVectors);
  const uint32_t span = workgroup_id(), thread = thread_id();
  const auto row_tile = static_cast<uint32_t>(uint64_t{span} * args.multiplier >> args.shift);
  const auto block_tiles = static_cast<uint32_t>(args.block_tiles), blocks = static_cast<uint32_t>(args.blocks);
  const uint32_t first_tile = (span - row_tile * static_cast<uint32_t>(args.spans)) * kTiles;
  const uint32_t of_tile = thread % kScaleTileBlocks, row = thread / kScaleTileBlocks;
  const uint32_t first = row_tile * kScaleTileRows, entry = first + row;

  await_predecessors();
  admit_successors();
  const int32_t said = load_i32(args.num_valid_ids);
  const uint32_t valid = said < 0 ? 0 : static_cast<uint32_t>(said < args.entries ? said : args.entries);
  // The same for all threads.
  if (first >= valid) return;
  const bool counts = entry < valid;
  const auto id = static_cast<uint32_t>(load_i32(args.sorted_ids + (counts ? entry : 0)));
  const uint32_t token = id & kTokenMask, slot = id >> kSlotShift, topk = static_cast<uint32_t>(args.topk);
  const bool there = counts && token < static_cast<uint32_t>(args.tokens) && (topk == 1 || slot < topk);
  const int64_t from = (topk == 1 ? int64_t{token} : int64_t{token} * topk + slot) * args.stride_row;
  const auto* row_scales = static_cast<const uint8_t*>(args.row_scales);
  uint8_t byte[kTiles];
  bool wanted[kTiles];
#pragma unroll
  for (uint32_t i = 0; i < kTiles; ++i) {
    const uint32_t block = (first_tile + i) * kScaleTileBlocks + of_tile;
    wanted[i] = there && block < blocks;
    byte[i] = load_u8(row_scales + (wanted[i] ? from + block * args.stride_block : 0));
  }
  auto* staged = reinterpret_cast<uint8_t*>(shared);
#pragma unroll
  for (uint32_t i = 0; i < kTiles; ++i) {
    staged[i * kScaleTileBytes + place_in_scale_tile(row, of_tile)] = wanted[i] ? byte[i] : 0;
  }
  workgroup_barrier();
  if (thread < kTiles * kVectors && first_tile + thread / kVectors < block_tiles) {
    auto* to = static_cast<uint8_t*>(args.scales) + (int64_t{row_tile} * block_tiles + first_tile) * kScaleTileBytes;
    store_quad(reinterpret_cast<float*>(to + thread * 16), __builtin_bit_cast(Quad, shared[thread]));
  }
}
