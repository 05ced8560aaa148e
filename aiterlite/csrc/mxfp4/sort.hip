// MX scales of rows in the order of entries sorted by experts: mxfp4/sort_args.h. One source for gfx942, gfx950 and
// sm_90.
//
// A workgroup of 256 threads has a tile of 32 entries by 8 blocks. Each thread brings a byte, beside its neighbours',
// to its place in shared memory; 16 lanes store the tile, 16 bytes each. Traffic a tile: an entry of 4 bytes and 8
// scales for each of 32 entries in, 256 bytes out.
#include <aiterlite/mxfp4/sort_args.h>
#include <aiterlite/overlap.h>
#include <aiterlite/tile/mx_scale_tile.h>

namespace {

using namespace aiterlite;

constexpr uint32_t kThreads = kScaleTileRows * kScaleTileBlocks, kSlotShift = 24, kTokenMask = (1u << kSlotShift) - 1;

}  // namespace

AITERLITE_KERNEL(kThreads)
aiterlite_mxfp4_sort(aiterlite_mxfp4_sort_args args) {
  AITERLITE_SHARED(Vector16, shared, kScaleTileBytes / sizeof(Vector16));
  const uint32_t tile = workgroup_id(), thread = thread_id();
  const auto row_tile = static_cast<uint32_t>(uint64_t{tile} * args.multiplier >> args.shift);
  const uint32_t block_tile = tile - row_tile * static_cast<uint32_t>(args.block_tiles);
  const uint32_t of_tile = thread % kScaleTileBlocks, row = thread / kScaleTileBlocks;
  const uint32_t entry = row_tile * kScaleTileRows + row, block = block_tile * kScaleTileBlocks + of_tile;

  await_predecessors();
  const int32_t valid = load_i32(args.num_valid_ids);
  const bool counts = static_cast<int32_t>(entry) < valid && entry < static_cast<uint32_t>(args.entries);
  const auto id = static_cast<uint32_t>(load_i32(args.sorted_ids + (counts ? entry : 0)));
  const uint32_t token = id & kTokenMask, slot = id >> kSlotShift, topk = static_cast<uint32_t>(args.topk);
  const bool there = counts && token < static_cast<uint32_t>(args.tokens) && (topk == 1 || slot < topk) &&
                     block < static_cast<uint32_t>(args.blocks);
  const int64_t from = topk == 1 ? token : int64_t{token} * topk + slot;
  const auto* row_scales = static_cast<const uint8_t*>(args.row_scales);
  const uint8_t byte = load_u8(row_scales + (there ? from * args.stride_row + block * args.stride_block : 0));
  reinterpret_cast<uint8_t*>(shared)[place_in_scale_tile(row, of_tile)] = there ? byte : 0;
  admit_successors();
  workgroup_barrier();
  if (thread < kScaleTileBytes / 16) {
    auto* to = static_cast<uint8_t*>(args.scales) + int64_t{tile} * kScaleTileBytes + thread * 16;
    store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, shared[thread]));
  }
}
