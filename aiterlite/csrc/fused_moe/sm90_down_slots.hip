// Stage 2 of the fused mixture of experts on sm_90, for any number of tokens: the products of h with w2, weighted, a
// row for each pair of token and slot. The sum over slots follows (fused_moe/sum.hip).
//
// Formulation. As in stage 1 (fused_moe/sm90_stream.h); the boxes are neighbours, so a tile is 256 elements of a
// block's rows of the result. Tiles are shared out whole.
//
// Traffic. Weights of each expert once a block; for each step of 32 KiB of them kColumns * 128 bytes of h, from the L2.
// Rows of slots once: 2 bytes an element, written, and read by the sum.
//
// Order. K in steps. An entry's bits depend on its row of h, its expert and its weight alone. No atomics.
//
// Grid: `workgroups`, one a multiprocessor. Of lists that a caller brings, a mark in local_topk_ids says which pairs
// have a row.
#include <aiterlite/fused_moe/sm90_stream.h>
#include <aiterlite/numeric/pack.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::experts;

using Out = AITERLITE_ELEMENT;
constexpr uint32_t kTileBarrier = 1, kTileRows = 2 * kRows;

struct Shared {
  Ring ring;
  alignas(16) uint16_t rows[kColumns][kTileRows + 8];  // of entries, on their way to memory
};
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");

// What a thread needs to know of a block's entries, read once for all tiles of the block.
struct Entries {
  static constexpr uint32_t kChunks = kTileRows / 8,
                            kEach = kMultipliers / kChunks;  // columns that are written at once
  static constexpr uint32_t kWritten = kColumns / kEach, kNoPair = ~0u;
  uint32_t block = ~0u;
  float weight[kColumns / 4];  // of the columns that it multiplies
  uint32_t pair[kWritten];     // of those that it writes

  AITERLITE_DEVICE void read(const Lists& lists, const Place& place, uint32_t wanted) {
    if (wanted == block) return;
    block = wanted;
#pragma unroll
    for (uint32_t k = 0; k < kColumns / 4; ++k) {
      weight[k] = AITERLITE_WEIGHTED_INPUT ? 1.0f : lists.weight(block * kColumns + place.column(k / 2, k % 2));
    }
#pragma unroll
    for (uint32_t i = 0; i < kWritten; ++i) {
      const uint32_t entry = block * kColumns + place.thread / kChunks + i * kEach;
      pair[i] = lists.token(entry) == ~0u ? kNoPair : lists.pair(entry);
    }
  }
};

// The end of a tile: weighted rows, to memory.
AITERLITE_DEVICE void write(const Args& args, const Lists& lists, Shared& shared, const Entries& entries,
                            const Tile& tile, const Place& place, const Piece& piece) {
  const auto width = static_cast<uint32_t>(args.moe.width), first_row = piece.part * kTileRows;
  float row_scale[2][2] = {{1.0f, 1.0f}, {1.0f, 1.0f}};
  if constexpr (kRowScales) {
    const float* scale = args.moe.w2_scale + uint64_t{lists.expert(piece.block)} * width;
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
      for (uint32_t box = 0; box < 2; ++box) {
        const uint32_t row = first_row + box * kRows + place.row(i);
        if (row < width) row_scale[box][i] = load_f32(scale + row);
      }
    }
  }
  // Four matrices of 8 columns by 8 rows: two columns' worth of 16 rows of a warp.
  const uint32_t to_row = place.warp * 16 + place.lane / 8 % 2 * 8;
#pragma unroll
  for (uint32_t box = 0; box < 2; ++box) {
    const float (&sums)[kSums] = box == 0 ? tile.first : tile.second;
#pragma unroll
    for (uint32_t j = 0; j < kColumns / 8; j += 2) {
      uint32_t packed[4] = {};
#pragma unroll
      for (uint32_t m = 0; m < 4 && j + m / 2 < kColumns / 8; ++m) {
        const uint32_t k = 4 * j + 2 * m;
        const float scale = row_scale[box][m % 2];
        packed[m] = pack_pair(Out{}, sums[k] * (scale * entries.weight[k / 4 * 2]),
                              sums[k + 1] * (scale * entries.weight[k / 4 * 2 + 1]));
      }
      const uint32_t column = 8 * j + place.lane / 16 * 8 + place.lane % 8;
      // Of an odd number of matrices the last pair writes one twice.
      const uint32_t kept = column < kColumns ? column : column - 8;
      if (j + 1 == kColumns / 8) packed[2] = packed[0], packed[3] = packed[1];
      store_matrices_transposed(&shared.rows[kept][box * kRows + to_row], packed);
    }
  }
  named_barrier_wait(kTileBarrier, kMultipliers);
  const uint32_t row = place.thread % Entries::kChunks * 8;
#pragma unroll
  for (uint32_t i = 0; i < Entries::kWritten; ++i) {
    const uint32_t column = place.thread / Entries::kChunks + i * Entries::kEach, pair = entries.pair[i];
    if (pair == Entries::kNoPair || first_row + row >= width) continue;
    auto* to = static_cast<uint16_t*>(args.moe.slots) + uint64_t{pair} * width + first_row + row;
    const Vector16 bytes = load_shared_16(&shared.rows[column][row]);
    store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, bytes));
    if (AITERLITE_GIVEN && first_row + row == 0) store_u32(const_cast<int32_t*>(args.moe.local_topk_ids) + pair, 1);
  }
  named_barrier_wait(kTileBarrier, kMultipliers);
}

}  // namespace

AITERLITE_KERNEL(kStreamThreads)
aiterlite_sm90_moe_down_slots(const __grid_constant__ aiterlite_sm90_moe_gemm_args given) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  const Args& args = given.experts;
  const auto& w_map = reinterpret_cast<const TensorMap&>(given.w_map);
  const uint32_t warp = shuffle(thread_id() / kWaveSize, 0);
  if (thread_id() == 0) {
    shared.ring.open();
    fetch_map_early(w_map);
  }
  workgroup_barrier();
  admit_successors();
  const auto width = static_cast<uint32_t>(args.moe.width), inter = static_cast<uint32_t>(args.moe.inter);
  const uint32_t steps = inter / kStep, parts = (width + kTileRows - 1) / kTileRows;
  // Stage 1's end began after the sorting had ended, so this kernel did too: lists are there, and weights.
  const ListShared none;
  const Lists lists(args, none);
  const Cut cut(steps, parts, lists.blocks(), static_cast<uint32_t>(args.workgroups), steps);

  if (warp < kGathererWarp) {
    await_predecessors();
    const Place place(thread_id());
    Entries entries;
    multiply<false>(cut, shared.ring, [&](const Piece& piece, Tile& tile) {
      entries.read(lists, place, piece.block);
      write(args, lists, shared, entries, tile, place, piece);
    });
  } else if (warp < kGathererWarp + kGatherers / kWaveSize) {
    await_predecessors();
    const Source source = {static_cast<const uint8_t*>(args.moe.h), int64_t{inter} * static_cast<int64_t>(sizeof(Code)),
                           args.moe.h_scale, 1, args.entry_pitch};
    const auto row_of = [&](const Piece& piece, uint32_t column) {
      const uint32_t entry = piece.block * kColumns + column;
      return lists.token(entry) == ~0u ? kNoRow : entry;
    };
    const auto scales_of = [&](const Piece& piece, uint32_t second) {
      // Behind the last rows of an expert are another's, of which nothing is written.
      const uint32_t rows = width / kRows, row = piece.part * 2 + second;
      const uint64_t expert_rows = uint64_t{lists.expert(piece.block)} * rows;
      return args.moe.w2_scale + (expert_rows + (row < rows ? row : rows - 1)) * (inter / kRows);
    };
    gather(cut, shared.ring, source, thread_id() - kMultipliers, row_of, scales_of);
  } else {
    if (lane_id() == 0) {
      const uint64_t once = keep_briefly();
      copy_weights(cut, shared.ring, [&](const Piece& piece) {
        const uint32_t first = lists.expert(piece.block) * width + piece.part * kTileRows;
        return [&, first](uint8_t* to, uint32_t step, uint32_t box, Barrier& full) {
          const uint32_t row = first + box * kRows;
          if constexpr (AITERLITE_SHUFFLED) {
            copy_box(to, w_map, 0, row / 16, step * (kStepBytes / 16), full, once);
          } else {
            copy_box(to, w_map, step * kStep, row, full, once);
          }
        };
      });
    }
    await_predecessors();
  }
}
