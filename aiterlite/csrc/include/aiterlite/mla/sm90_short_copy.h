// mla/sm90_decode_short.hip: tiles of KV to shared memory.
#pragma once
#include <aiterlite/mla/sm90_short.h>

namespace aiterlite::mla {

// A bit each for the first `count` of a tile's tokens.
AITERLITE_DEVICE Vector8 first_of_tile(uint32_t count) {
  const uint64_t bits = count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
  return {{static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)}};
}

// A warp that copies boxes, for all tiles: whole tiles in few copies; or its slabs, a copy for each panel. Not `live`,
// it only goes the way of the first one.
template <class Cut, class Kv>
AITERLITE_DEVICE void copy_boxes(const aiterlite_mla_decode_args& args, const TensorMap& map, const ShortPiece& piece,
                                 const Divisor& pages, Slab next, bool live, typename Cut::Shared& shared) {
  using Boxes = Sm90Boxes<Kv>;
  const uint32_t warp = wave_id() - kMultipliers / kWaveSize, lane = lane_id(), tiles = live ? piece.tiles() : 1;
  const uint64_t once = keep_briefly();
  RingTurn<Cut::kStages> turn = {0, 1};
#pragma unroll 1
  for (uint32_t tile = 0; tile < tiles; ++tile) {
    const Slab place = next;
    const uint32_t stage = turn.stage;
    shared.empty[stage].wait(turn.parity);
    char* to = shared.ring[stage];
    const auto count = static_cast<uint32_t>(place.count), page = static_cast<uint32_t>(place.page);
    const auto slot = static_cast<uint32_t>(place.slot);
    if (count == 0 && live) {
#pragma unroll 1
      for (uint32_t slab = 0; slab < kSlabs; slab += Cut::kCopyWarps) Boxes::clear_slab(to, slab + warp, 0, kPanels);
      publish_to_engines();
      wave_barrier();
    }
    if constexpr (Cut::kWhole) {
      if (lane == 0 && live) {
        shared.exist[stage] = first_of_tile(count);
#pragma unroll
        for (uint32_t part = 0; part < Cut::kParts; ++part) {
          constexpr uint32_t kPartBytes = Cut::kPartPanels * Boxes::kPanelBytes;
          Barrier& full = shared.full[stage][part];
          full.arrive_expecting(count == 0 ? 0 : kPartBytes);
          if (count != 0) copy_box(to + part * kPartBytes, map, 0, slot, part * Cut::kPartPanels, page, full, once);
        }
      }
    } else {
      Barrier& full = shared.full[stage][0];
      if (lane == 0 && live) {
        shared.set_exist(stage, warp, (1u << count) - 1);
        full.arrive_expecting(count == 0 ? 0 : kPanels * Boxes::kBoxBytes);
      }
      wave_barrier();
      if (count != 0 && lane < kPanels && live) {
        copy_box(to + lane * Boxes::kPanelBytes + warp * Boxes::kBoxBytes, map, lane * 64, slot, page, full, once);
      }
    }
    if (tile + 1 < tiles) {
      PageEntry entry = {-1, -1};
      next = find_slab<Cut::kBoxTokens>(args, piece, pages, Cut::first_token(tile + 1), entry);
    }
    turn.advance();
  }
}

// One of the warps that copy rows, 16 bytes a lane: a copy of the engine for each row takes longer to ask for. Rows
// that do not exist become zeros.
template <class Cut, class Kv>
AITERLITE_DEVICE void copy_rows(const aiterlite_mla_decode_args& args, const ShortPiece& piece, const Divisor& pages,
                                const Slab& first, typename Cut::Shared& shared) {
  constexpr uint32_t kChunks = Cut::kRowBytes / 16;
  const uint32_t warp = wave_id() - kMultipliers / kWaveSize, lane = lane_id(), tiles = piece.tiles();
  const auto offset_of = [&](const Slab& one) -> int64_t {
    return lane < kSlabTokens && one.count > 0 ? one.page * args.stride_page + one.slot * args.stride_slot : -1;
  };
  int64_t next = offset_of(first);
  RingTurn<Cut::kStages> turn = {0, 1};
#pragma unroll 1
  for (uint32_t tile = 0; tile < tiles; ++tile) {
    const int64_t offset = next;
    if (tile + 1 < tiles) {
      PageEntry entry = {-1, -1};
      next = offset_of(find_slab<1>(args, piece, pages, Cut::first_token(tile + 1), entry));
    }
    const uint32_t stage = turn.stage;
    shared.empty[stage].wait(turn.parity);
#pragma unroll 2
    for (uint32_t row = 0; row < kSlabTokens; ++row) {
      const int64_t from = shuffle_value(offset, row);
      const char* bytes = reinterpret_cast<const char*>(static_cast<const Kv*>(args.kv_buffer) + (from < 0 ? 0 : from));
      char* to = shared.ring[stage] + Cut::Rows::at(warp * kSlabTokens + row, 0);
#pragma unroll
      for (uint32_t chunk = lane; chunk < kChunks; chunk += kWaveSize) {
        copy_async(to + chunk * 16, bytes + chunk * 16, from >= 0);
      }
    }
    shared.full[stage][0].arrive_after_copies();
    const uint32_t exist = lanes_where(offset >= 0);
    if (lane == 0) {
      shared.set_exist(stage, warp, exist);
      shared.full[stage][0].arrive();
    }
    turn.advance();
  }
}

}  // namespace aiterlite::mla
