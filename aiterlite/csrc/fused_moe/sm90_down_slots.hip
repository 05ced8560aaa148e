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
  float weight[kColumns];                              // of a block's entries
};
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");
static_assert(kSplit, "a thread has rows of one box");

constexpr uint32_t kChunks = kTileRows / 8, kEach = kMultipliers / kChunks;  // rows of entries that are written at once
constexpr uint32_t kWritten = (kColumns + kEach - 1) / kEach, kNoPair = ~0u;

AITERLITE_DEVICE void barrier() { named_barrier_wait(kTileBarrier, kMultipliers); }

// What a thread writes of a block's tiles; read once for all of them.
struct Entries {
  uint32_t block = ~0u;
  uint32_t pair[kWritten];

  AITERLITE_DEVICE void read(const Lists& lists, Shared& shared, const Place& place, uint32_t wanted) {
    if (wanted == block) return;
    block = wanted;
    if (place.thread < kColumns) {
      const uint32_t entry = block * kColumns + place.thread;
      shared.weight[place.thread] = AITERLITE_WEIGHTED_INPUT ? 1.0f : lists.weight(entry);
    }
#pragma unroll
    for (uint32_t i = 0; i < kWritten; ++i) {
      const uint32_t column = place.thread / kChunks + i * kEach, entry = block * kColumns + column;
      pair[i] = column < kColumns && lists.token(entry) != ~0u ? lists.pair(entry) : kNoPair;
    }
    barrier();
  }
};

// The end of a tile: weighted rows, to memory.
AITERLITE_DEVICE void write(const Args& args, const Lists& lists, Shared& shared, const Entries& entries,
                            const Tile& tile, const Place& place, const Piece& piece) {
  const auto width = static_cast<uint32_t>(args.moe.width), first_row = piece.part * kTileRows;
  float row_scale[2] = {1.0f, 1.0f}, bias[2] = {};
  const auto read_rows = [&](const float* rows, float (&into)[2]) {
    const float* of = rows + uint64_t{lists.expert(piece.block)} * width;
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t row = first_row + place.row(i);
      if (row < width) into[i] = load_f32(of + row);
    }
  };
  if constexpr (kTensorScales) {
    row_scale[0] = row_scale[1] = load_f32(args.moe.w2_scale + lists.expert(piece.block));
  } else if constexpr (kRowScales) {
    read_rows(args.moe.w2_scale, row_scale);
  }
  if constexpr (AITERLITE_BIAS2) read_rows(args.moe.bias2, bias);
  // Matrices of 8 columns by 8 rows, which are stored by columns: a warp's 16 rows of two of the thread's pairs of
  // columns at once. Of an odd number the last is stored twice.
#pragma unroll
  for (uint32_t j = 0; j < kColumns / 8; j += 2) {
    uint32_t packed[4];
#pragma unroll
    for (uint32_t m = 0; m < 4; ++m) {
      const uint32_t column = j + m / 2 < kColumns / 8 ? j + m / 2 : j, k = 4 * column + 2 * (m % 2);
      const float* weight = shared.weight + place.column(column, 0);
      float value[2] = {tile.first[k] * (row_scale[m % 2] * weight[0]),
                        tile.first[k + 1] * (row_scale[m % 2] * weight[1])};
      if constexpr (AITERLITE_BIAS2) {
        value[0] = __builtin_fmaf(bias[m % 2], weight[0], value[0]);
        value[1] = __builtin_fmaf(bias[m % 2], weight[1], value[1]);
      }
      packed[m] = pack_pair(Out{}, value[0], value[1]);
    }
    const uint32_t second = j + 1 < kColumns / 8 ? place.lane / 16 : 0;
    store_matrices_transposed(&shared.rows[8 * (j + second) + place.lane % 8][place.warp * 16 + place.lane / 8 % 2 * 8],
                              packed);
  }
  barrier();
  const uint32_t row = place.thread % kChunks * 8;
  Vector16 bytes[kWritten];
#pragma unroll
  for (uint32_t i = 0; i < kWritten; ++i) {
    const uint32_t column = place.thread / kChunks + i * kEach;
    bytes[i] = load_shared_16(&shared.rows[column < kColumns ? column : 0][row]);
  }
#pragma unroll
  for (uint32_t i = 0; i < kWritten; ++i) {
    if (entries.pair[i] == kNoPair || first_row + row >= width) continue;
    auto* to = static_cast<uint16_t*>(args.moe.slots) + uint64_t{entries.pair[i]} * width + first_row + row;
    store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, bytes[i]));
    if (AITERLITE_GIVEN && first_row + row == 0) {
      store_u32(const_cast<int32_t*>(args.moe.local_topk_ids) + entries.pair[i], 1);
    }
  }
  barrier();
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
  const EarlyLists early(args, none);
  const Lists lists(args, none);
  const WholeTiles cut(steps, parts, early.blocks(), static_cast<uint32_t>(args.workgroups));

  if (warp < kGathererWarp) {
    await_predecessors();
    const Place place(thread_id());
    Entries entries;
    multiply<false>(cut, shared.ring, [&](const Piece& piece, Tile& tile) {
      entries.read(lists, shared, place, piece.block);
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
      uint32_t block = ~0u, expert = 0;
      copy_weights(cut, shared.ring, [&](const Piece& piece) {
        // A block's tiles follow each other.
        if (piece.block != block) {
          block = piece.block;
          expert = early.expert(block);
        }
        const uint32_t first = expert * width + piece.part * kTileRows;
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
