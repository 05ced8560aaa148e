// How weights and entries reach the matrix unit on sm_90: a ring of steps in shared memory, of 256 rows of weights in
// two boxes, and of a block's entries, 128 bytes of K each, with the scales of both. Stage 1 has gate rows and up rows
// in the boxes, stage 2 two neighbours.
//
// A thread asks the copy engine for weights, three warps gather the entries' rows, 16 bytes a lane, to where the matrix
// unit wants them, and two warpgroups multiply, each 64 rows of both boxes, or four, each 64 rows of one. 8-bit
// products of 128 K are added in float, by the scales of both operands.
#pragma once
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/fused_moe/sm90_cut.h>
#include <aiterlite/tile/sm90_copy.h>
#include <aiterlite/tile/sm90_turn.h>

namespace aiterlite::experts {

inline constexpr uint32_t kStages = AITERLITE_STAGES, kGatherers = 96, kGathererWarp = kMultipliers / kWaveSize;
inline constexpr uint32_t kStreamThreads = kMultipliers + kGatherers + kWaveSize;

struct alignas(1024) Stage {
  uint8_t w[2][kRows * kStepBytes];
  uint8_t x[kColumns * kStepBytes];
  float scale[kColumns + 2];  // of entries; of the boxes, or, where they lie so (kByGroup), of their halves
};
struct Ring {
  Stage stage[kStages];
  Barrier full[kStages];
  Barrier empty[kStages];

  // One thread; others may use it behind a barrier.
  AITERLITE_DEVICE void open() {
    for (uint32_t i = 0; i < kStages; ++i) {
      full[i].open(1 + kGatherers);
      empty[i].open(kMultipliers / kWaveSize);
    }
    publish_barriers();
  }
};

using Turn = RingTurn<kStages>;

// One thread: the weights of all steps. `box_of(piece)` gives what asks for one box of a step: (to, step, box,
// barrier).
template <class Cut, class BoxOf>
AITERLITE_DEVICE void copy_weights(const Cut& cut, Ring& ring, const BoxOf& box_of) {
  // Steps that are asked for together, so that memory sees more than 128 bytes of a row at once.
  constexpr uint32_t kTogether = AITERLITE_TOGETHER;
  Turn turn;
  cut.for_each_piece(workgroup_id(), [&](const Piece& piece) {
    const auto copy = box_of(piece);
    const auto expect = [&](const Turn& at) {
      ring.empty[at.stage].wait(at.parity ^ 1);
      ring.full[at.stage].arrive_expecting(sizeof(Stage::w));
    };
    const auto ask = [&](const Turn& at, uint32_t step, uint32_t box) {
      copy(ring.stage[at.stage].w[box], step, box, ring.full[at.stage]);
    };
    uint32_t step = piece.first;
    const uint32_t end = piece.first + piece.count;
#pragma unroll 1
    for (; step + kTogether <= end; step += kTogether) {
      Turn at[kTogether];
#pragma unroll
      for (Turn& one : at) {
        one = turn;
        expect(one);
        turn.advance();
      }
#pragma unroll
      for (uint32_t box = 0; box < 2; ++box) {
#pragma unroll
        for (uint32_t i = 0; i < kTogether; ++i) ask(at[i], step + i, box);
      }
    }
#pragma unroll 1
    for (; step < end; ++step, turn.advance()) {
      expect(turn);
      ask(turn, step, 0);
      ask(turn, step, 1);
    }
  });
}

// What entries are: their rows, `stride` bytes apart, and their scales, in elements.
struct Source {
  const uint8_t* rows;
  int64_t stride;
  const float* scale;
  int64_t scale_row, scale_step;
};
// None: filled with zeros.
inline constexpr uint32_t kNoRow = ~0u;

// Three warps. `row_of(piece, column)` is the source's row of an entry, and `scales_of(piece, second)` where the scales
// of the boxes' first step are.
template <class Cut, class RowOf, class ScalesOf>
AITERLITE_DEVICE void gather(const Cut& cut, Ring& ring, const Source& source, uint32_t thread, const RowOf& row_of,
                             const ScalesOf& scales_of) {
  constexpr uint32_t kAtOnce = kGatherers / 8, kHeld = (kColumns + kAtOnce - 1) / kAtOnce;  // rows; of a thread
  const uint32_t chunk = thread % 8, first = thread / 8;
  // The first threads fetch the scale of an entry each, the last two one of the weights.
  const bool of_entry = kIsFp8 && thread < kColumns;
  const bool of_weights = kIsFp8 && !kRowScales && !of_entry && thread >= kGatherers - 2;
  const uint32_t place = of_entry ? thread : kColumns + thread - (kGatherers - 2);
  Turn turn;
  uint32_t block = ~0u;
  const uint8_t* from[kHeld] = {};
  uint32_t wanted = 0;  // a bit for each row
  const float* scale = nullptr;
  int64_t scale_step = 0;
  bool exists = false;
  cut.for_each_piece(workgroup_id(), [&](const Piece& piece) {
    // A block's tiles may follow each other, and have the same entries.
    if (piece.block != block) {
      block = piece.block;
      wanted = 0;
#pragma unroll
      for (uint32_t i = 0; i < kHeld; ++i) {
        const uint32_t column = first + kAtOnce * i, row = column < kColumns ? row_of(piece, column) : kNoRow;
        wanted |= static_cast<uint32_t>(row != kNoRow) << i;
        from[i] = source.rows + (row != kNoRow ? row * source.stride : 0) + chunk * 16;
      }
      if (of_entry) {
        const uint32_t row = row_of(piece, thread);
        exists = row != kNoRow;
        scale = source.scale + (exists ? row * source.scale_row : 0);
        scale_step = exists ? source.scale_step : 0;
      }
    }
    if (of_weights) {
      exists = true;
      scale = scales_of(piece, thread - (kGatherers - 2));
      scale_step = 1;
    }
#pragma unroll 1
    for (uint32_t step = piece.first; step < piece.first + piece.count; ++step, turn.advance()) {
      Stage& stage = ring.stage[turn.stage];
      ring.empty[turn.stage].wait(turn.parity ^ 1);
#pragma unroll
      for (uint32_t i = 0; i < kHeld; ++i) {
        const uint32_t column = first + kAtOnce * i;
        if (column < kColumns) {
          uint8_t* to = stage.x + column * kStepBytes + (chunk ^ column % 8) * 16;
          const bool exists_row = wanted >> i & 1;
          copy_async(to, from[i] + (exists_row ? step * kStepBytes : 0), exists_row);
        }
      }
      if (of_entry || of_weights) copy_word_async(stage.scale + place, scale + step * scale_step, exists);
      ring.full[turn.stage].arrive_after_copies();
    }
  });
}

// The multiplying warpgroups. `end(piece, tile)` takes a piece's sums. kByGroup: a box has one scale for the first
// warpgroup's rows and one for the other's, the same in both boxes.
template <bool kByGroup, class Cut, class End>
AITERLITE_DEVICE void multiply(const Cut& cut, Ring& ring, const End& end) {
  const Place place(thread_id());
  const uint32_t warpgroup = shuffle(place.warp / kGroupWaves, 0);
  const uint32_t group = warpgroup % 2, box = warpgroup / 2;  // the box of a warpgroup that has one
  // Operands without swizzle, as shuffled weights lie: panels of two pieces of 8 rows, then 16 bytes of K on.
  constexpr uint32_t kPieceBytes = 128, kAlongK = kRows / 8 * kPieceBytes;
  constexpr uint32_t kAdvance = AITERLITE_SHUFFLED ? 2 * kAlongK : 32;
  const auto descriptor = [&](const uint8_t* w) {
    const uint8_t* own = w + group * kGroupRows * (AITERLITE_SHUFFLED ? 16 : kStepBytes);
    return AITERLITE_SHUFFLED ? operand_descriptor(own, Swizzle::kNone, kPieceBytes, kAlongK) : tile_descriptor(own);
  };
  Turn turn;
  cut.for_each_piece(workgroup_id(), [&](const Piece& piece) {
    Tile tile = {};
#pragma unroll 1
    for (uint32_t step = 0; step < piece.count; ++step, turn.advance()) {
      const Stage& stage = ring.stage[turn.stage];
      ring.full[turn.stage].wait(turn.parity);
      publish_to_engines();
      const uint64_t first = descriptor(stage.w[kSplit ? box : 0]), second = descriptor(stage.w[1]);
      const uint64_t x = tile_descriptor(stage.x);
      if constexpr (kIsFp8) {
        float part_first[kSums], part_second[kSums];
        begin_group();
        multiply_group<Start::kZero>(Code{}, part_first, first, x);
        if constexpr (!kSplit) multiply_group<Start::kZero>(Code{}, part_second, second, x);
#pragma unroll
        for (uint32_t k = 1; k < 4; ++k) {
          multiply_group(Code{}, part_first, advanced_bytes(first, k * kAdvance), advanced_bytes(x, k * 32));
          if constexpr (!kSplit) {
            multiply_group(Code{}, part_second, advanced_bytes(second, k * kAdvance), advanced_bytes(x, k * 32));
          }
        }
        commit_group();
        float scale[kColumns / 4];
#pragma unroll
        for (uint32_t k = 0; k < kColumns / 4; ++k) scale[k] = stage.scale[place.column(k / 2, k % 2)];
        const float of_first = kRowScales ? 1.0f : stage.scale[kColumns + (kByGroup ? group : kSplit ? box : 0)];
        const float of_second = kRowScales ? 1.0f : stage.scale[kColumns + (kByGroup ? group : 1)];
        await_group<0>();
        if (place.lane == 0) ring.empty[turn.stage].arrive();
#pragma unroll
        for (uint32_t k = 0; k < kSums; ++k) {
          const float of_column = scale[k / 4 * 2 + k % 2];
          tile.first[k] = __builtin_fmaf(part_first[k], of_column * of_first, tile.first[k]);
          if constexpr (!kSplit) tile.second[k] = __builtin_fmaf(part_second[k], of_column * of_second, tile.second[k]);
        }
      } else {
        begin_group();
#pragma unroll
        for (uint32_t k = 0; k < 4; ++k) {
          multiply_group(Code{}, tile.first, advanced_bytes(first, k * kAdvance), advanced_bytes(x, k * 32));
          if constexpr (!kSplit) {
            multiply_group(Code{}, tile.second, advanced_bytes(second, k * kAdvance), advanced_bytes(x, k * 32));
          }
        }
        commit_group();
        await_group<0>();
        if (place.lane == 0) ring.empty[turn.stage].arrive();
      }
    }
    end(piece, tile);
  });
}

}  // namespace aiterlite::experts
