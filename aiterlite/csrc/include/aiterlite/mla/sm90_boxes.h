// Tiles of 64 rows of KV that sm_90's copy engine brings as boxes of 16 tokens by 64 elements, from pages of a multiple
// of 16 tokens, and lays as the matrix unit and ldmatrix read them without conflicts: panels of 64 elements of every
// row, one behind the other, whose 16-byte chunks are permuted. Nine copies for 16 tokens, where a row each would
// be 16.
//
// Four warps ask, each for its 16 tokens of a tile (a slab). A box holds what its page has: tokens behind the last one
// that anybody sees come too, and who takes the tile zeroes their values (clear_unseen), since a weight of zero does
// not remove a NaN; their scores are selected anyway. Pieces begin at multiples of 16 tokens, so a slab lies in one
// page; one without a page is zeros.
#pragma once
#include <aiterlite/mla/sm90_args.h>
#include <aiterlite/mla/sm90_piece.h>
#include <aiterlite/tile/layout.h>
#include <aiterlite/tile/sm90_copy.h>

namespace aiterlite::mla {

inline constexpr uint32_t kSlabTokens = 16, kSlabs = kTileTokens / kSlabTokens, kPanels = kKeyDim / 64;
static_assert(kSplitTokens % kSlabTokens == 0, "a split begins with a slab");

template <class Kv>
struct Sm90Boxes {
  using Panel = Swizzled<kTileTokens, 64 * sizeof(Kv)>;
  static constexpr uint32_t kRowBytes = Panel::kRowBytes, kBoxBytes = kSlabTokens * kRowBytes,
                            kPanelBytes = Panel::kBytes, kBytes = kPanels * kPanelBytes;

  // Byte `byte` of a row, as of any layout.
  AITERLITE_DEVICE static constexpr uint32_t at(uint32_t row, uint32_t byte) {
    return byte / kRowBytes * kPanelBytes + Panel::at(row, byte % kRowBytes);
  }

  // A warp: a slab's tokens from `token` on become zeros, in the first `panels` of the tile.
  AITERLITE_DEVICE static void clear_slab(char* tile, uint32_t slab, uint32_t token, uint32_t panels) {
#pragma unroll 1
    for (uint32_t panel = 0; panel < panels; ++panel) {
      char* box = tile + panel * kPanelBytes + slab * kBoxBytes;
      for (uint32_t at = token * kRowBytes + lane_id() * 16; at < kBoxBytes; at += kWaveSize * 16) {
        store_shared_16(box + at, {});
      }
    }
  }
  // The same of a slab that has `count` tokens, if that is some.
  AITERLITE_DEVICE static void clear_unseen(char* tile, uint32_t slab, uint32_t count, uint32_t panels) {
    if (count % kSlabTokens != 0) clear_slab(tile, slab, count, panels);
  }
};

AITERLITE_DEVICE const aiterlite_mla_decode_args& decode_args(const aiterlite_mla_decode_args& args) { return args; }
AITERLITE_DEVICE const aiterlite_mla_decode_args& decode_args(const aiterlite_sm90_mla_args& args) {
  return args.decode;
}

// Where a slab lies; count 0: nowhere.
struct Slab {
  int32_t page, slot, count;
};
AITERLITE_DEVICE Slab slab_of(const aiterlite_mla_decode_args& args, const Work& work, const Extent& extent,
                              uint32_t at) {
  const int32_t left = extent.most_seen - static_cast<int32_t>(at);
  if (left <= 0) return {0, 0, 0};
  const int32_t token = work.begin + static_cast<int32_t>(at), page_of = token / args.page_size;
  const int64_t index = work.first_index + page_of;
  const int32_t page = index >= 0 && index < args.indices ? load_int(args.kv_indices, index) : -1;
  if (page < 0 || page >= args.pages) return {0, 0, 0};
  const auto most = static_cast<int32_t>(kSlabTokens);
  return {page, token - page_of * args.page_size, left < most ? left : most};
}

// One of the kSlabs warps that copy, for all pieces. `ring` has tile(stage), full(stage), empty(stage), and
// set_exist(stage, slab, bits).
template <class Kv, uint32_t kStages, class Pieces, class Ring>
AITERLITE_DEVICE void copy_boxes(const aiterlite_mla_decode_args& args, const TensorMap& map, uint32_t slab,
                                 const Pieces& for_each_piece, Ring& ring) {
  using Boxes = Sm90Boxes<Kv>;
  const uint32_t lane = lane_id();
  const uint64_t once = keep_briefly();
  uint32_t stage = 0, parity = 1;
  for_each_piece([&](const Work& work, const Extent& extent) {
    const uint32_t tiles = extent.tiles();
    const auto place_of = [&](uint32_t tile) {
      return slab_of(args, work, extent, tile * kTileTokens + slab * kSlabTokens);
    };
    Slab next = place_of(0);
#pragma unroll 1
    for (uint32_t tile = 0; tile < tiles; ++tile) {
      const Slab place = next;
      if (tile + 1 < tiles) next = place_of(tile + 1);
      ring.empty(stage).wait(parity);
      char* to = ring.tile(stage);
      Barrier& full = ring.full(stage);
      if (place.count == 0) {
        Boxes::clear_slab(to, slab, 0, kPanels);
        publish_to_engines();
      }
      wave_barrier();
      if (lane == 0) {
        ring.set_exist(stage, slab, (1u << place.count) - 1);
        full.arrive_expecting(place.count == 0 ? 0 : kPanels * Boxes::kBoxBytes);
      }
      wave_barrier();
      if (place.count != 0 && lane < kPanels) {
        copy_box(to + lane * Boxes::kPanelBytes + slab * Boxes::kBoxBytes, map, lane * 64,
                 static_cast<uint32_t>(place.slot), static_cast<uint32_t>(place.page), full, once);
      }
      if (++stage == kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
  });
}

}  // namespace aiterlite::mla
