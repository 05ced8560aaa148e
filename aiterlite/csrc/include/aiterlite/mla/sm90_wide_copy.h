// The warps of mla/sm90_decode_wide.hip that copy: what boxes fill (mla/sm90_boxes.h), and rows one by one where pages
// hold no boxes.
#pragma once
#include <aiterlite/mla/sm90_wide.h>
#include <aiterlite/tile/sm90_turn.h>

namespace aiterlite::mla::wide {

AITERLITE_DEVICE void set_exist(Shared& shared, uint32_t stage, uint32_t slab, uint32_t count) {
  const uint32_t bits = (1u << count) - 1;
  shared.exist[stage].word[slab] = (bits & 0xfu) | (bits & 0xf0u) << 4 | (bits & 0xf00u) << 8 | (bits & 0xf000u) << 12;
}

// A warp's 16 tokens of each tile: the other copying warps have the others (mla/sm90_boxes.h).
template <class Element, class Pieces>
AITERLITE_DEVICE void copy_slabs(const aiterlite_mla_decode_args& args, const TensorMap& map, uint32_t slab,
                                 const Pieces& for_each_piece, Shared& shared) {
  using Boxes = Sm90Boxes<Element>;
  const uint32_t lane = lane_id();
  const uint64_t once = keep_briefly();
  uint32_t number = 0;  // of tiles
  for_each_piece([&](const Work& work, const Extent& extent) {
    // Two words, since there are few registers: the page, the slot in it times 32 and the count of tokens.
    const auto place_of = [&](uint32_t at) -> Vector8 {
      const Slab found = slab_of(args, work, extent, at + slab * kSlabTokens);
      return {{static_cast<uint32_t>(found.page), static_cast<uint32_t>(found.slot * 32 + found.count)}};
    };
    Vector8 next = place_of(0);
#pragma unroll 1
    for (uint32_t at = 0; at < static_cast<uint32_t>(extent.most_seen); at += kTokens) {
      const Vector8 place = next;
      const uint32_t stage = number % kStages, count = place.word[1] % 32;
      next = place_of(at + kTokens);
      char* to = shared.kv[stage][0].bytes;
#pragma unroll 1
      for (uint32_t i = 0; i < kParts; ++i) {
        const uint32_t part = part_of(stage, i), first = part * kHalfBoxes;
        const uint32_t panels = panels_of(i);
        shared.empty[stage][part].wait(~(number / kStages) & 1);
        if (count == 0) {
          Boxes::clear_slab(to + first * Boxes::kPanelBytes, slab, 0, panels);
          publish_to_engines();
        }
        wave_barrier();
        if (lane == 0) {
          if (i == 0) set_exist(shared, stage, slab, count);
          shared.full[stage][part].arrive_expecting(count == 0 ? 0 : panels * Boxes::kBoxBytes);
        }
        wave_barrier();
        if (count != 0 && lane >= first && lane < first + panels) {
          copy_box(to + lane * Boxes::kPanelBytes + slab * Boxes::kBoxBytes, map, lane * 64, place.word[1] / 32,
                   place.word[0], shared.full[stage][part], once);
        }
      }
      ++number;
    }
  });
}

// Eight lanes copy a row, and those 16, 32 and 48 rows on.
inline constexpr uint32_t kCopiedAtOnce = kCopyThreads / 8, kRounds = kTokens / kCopiedAtOnce;
template <class Element, class Pieces>
AITERLITE_DEVICE void copy_rows(const aiterlite_mla_decode_args& args, const Pieces& for_each_piece, Shared& shared) {
  const uint32_t thread = thread_id() - kMultipliers, row = thread / 8, chunk = thread % 8, warp = thread / kWaveSize;
  const auto* buffer = static_cast<const Element*>(args.kv_buffer) + chunk * 8;
  RingTurn<kStages> turn = {0, 1};
  for_each_piece([&](const Work& work, const Extent& extent) {
    const auto offset_of = [&](uint32_t tile, uint32_t round) -> int64_t {
      const auto at = static_cast<int32_t>(tile * kTokens + round * kCopiedAtOnce + row);
      return at < extent.most_seen ? token_offset(args, work, work.begin + at) : -1;
    };
    const uint32_t tiles = extent.tiles();
    int64_t next[kRounds];
#pragma unroll
    for (uint32_t round = 0; round < kRounds; ++round) next[round] = offset_of(0, round);
#pragma unroll 1
    for (uint32_t tile = 0; tile < tiles; ++tile) {
      const uint32_t stage = turn.stage;
      int64_t offset[kRounds];
#pragma unroll
      for (uint32_t round = 0; round < kRounds; ++round) {
        offset[round] = next[round];
        next[round] = offset_of(tile + 1, round);
      }
#pragma unroll
      for (uint32_t part = 0; part < kParts; ++part) {
        shared.empty[stage][part].wait(turn.parity);
#pragma unroll
        for (uint32_t round = 0; round < kRounds; ++round) {
          const bool exists = offset[round] >= 0;
          const Element* from = buffer + (exists ? offset[round] : 0);
          char* to = shared.kv[stage][part * kHalfBoxes].at(round * kCopiedAtOnce + row, chunk);
#pragma unroll
          for (uint32_t box = 0; box < panels_of(part); ++box) {
            copy_async(to + box * sizeof(Box), from + (part * kHalfBoxes + box) * 64, exists);
          }
          if (part > 0) continue;
          uint32_t exist = lanes_where(exists) & 0x01010101u;
          exist = (exist | exist >> 7 | exist >> 14 | exist >> 21) & 0xfu;
          if (lane_id() == 0) {
            reinterpret_cast<uint8_t*>(&shared.exist[stage])[round * kCopyWarps + warp] = static_cast<uint8_t>(exist);
          }
        }
        shared.full[stage][part].arrive_after_copies();
        if (lane_id() == 0) shared.full[stage][part].arrive();
      }
      turn.advance();
    }
  });
}

}  // namespace aiterlite::mla::wide
