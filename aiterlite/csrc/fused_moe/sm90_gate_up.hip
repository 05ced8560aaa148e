// Stage 1 of the fused mixture of experts on sm_90: gate and up of each sorted entry, h = act(gate) * up, quantised.
//
// Formulation. Weights are rows of the product, entries its columns (few of them have an expert, and 64 rows are the
// least): gate and up rows stream from memory once a block of entries, by the copy engine, as boxes of 128 rows of 128
// bytes. Rows of x are gathered, 16 bytes a lane, to where the matrix unit wants them. 8-bit products of 128 K are
// added in float, by the scales of both.
//
// Tiling. fused_moe/sm90_tile.h: shares of equal length. In a workgroup a thread copies weights, four warps gather x
// and scales, and two warpgroups have 64 gate rows and 64 up rows each, so that act is computed where the sums are. A
// ring of AITERLITE_STAGES steps is in shared memory.
//
// Traffic. Weights of each expert that has entries once a block (a second block finds them in the L2); for each step of
// 32 KiB of them kColumns * 128 bytes of x, from the L2. h once; partial sums of tiles that are cut once.
//
// Order. K in steps, within a step as the matrix unit adds, then the pieces of a cut tile in order. So the bits of an
// entry depend on its row of x, its expert, and on where cuts go, which all entries decide together; not on its column.
// No atomics.
//
// What padding would read is filled with zeros. Grid: `workgroups`, one a multiprocessor.
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/fused_moe/sm90_tile.h>
#include <aiterlite/overlap.h>
#include <aiterlite/tile/sm90_copy.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::experts;

constexpr uint32_t kStages = AITERLITE_STAGES, kGatherers = 96, kGathererWarp = kMultipliers / kWaveSize;
constexpr uint32_t kThreads = kMultipliers + kGatherers + kWaveSize;
constexpr uint32_t kTileBarrier = 1;

struct alignas(1024) Stage {
  uint8_t w[2][kRows * kStepBytes];  // gate, up
  uint8_t x[kColumns * kStepBytes];
  float
      scale[kColumns + 2];  // of entries; of gate and up, or, where rows take turns, of the first 64 of both, and more
};
struct Shared {
  Stage stage[kStages];
  Barrier full[kStages];
  Barrier empty[kStages];
  FinishShared finish;
  ListShared lists;
};
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");

// Where in the ring a role is.
struct Turn {
  uint32_t stage = 0, parity = 0;

  AITERLITE_DEVICE void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// One thread: the weights of all steps.
AITERLITE_DEVICE void copy_weights(const Args& args, const TensorMap& map, const Lists& lists, const Cut& cut,
                                   Shared& shared) {
  const uint64_t once = keep_briefly();
  Turn turn;
  cut.for_each_piece(workgroup_id(), [&](const Piece& piece) {
    const uint32_t expert = lists.expert(piece.block), row = piece.part * kRows;
    const auto copy = [&](uint32_t step, uint32_t up, const Turn& at) {
      uint8_t* to = shared.stage[at.stage].w[up];
      Barrier& full = shared.full[at.stage];
      if constexpr (AITERLITE_SHUFFLED) {
        // Panels of 16 rows; an expert's gate panels, then its up panels.
        const auto panels = static_cast<uint32_t>(args.moe.inter) / 16;
        copy_box(to, map, 0, (2 * expert + up) * panels + row / 16, step * (kStepBytes / 16), full, once);
      } else if constexpr (kInterleaved) {
        copy_box(to, map, step * kStep, up, expert * static_cast<uint32_t>(args.moe.inter) + row, full, once);
      } else {
        copy_box(to, map, step * kStep, row, 2 * expert + up, full, once);
      }
    };
    const auto expect = [&](const Turn& at) {
      shared.empty[at.stage].wait(at.parity ^ 1);
      shared.full[at.stage].arrive_expecting(sizeof(Stage::w));
    };
    // Two steps are asked for together, so that memory sees 256 bytes of a row at once.
    uint32_t step = piece.first;
    const uint32_t end = piece.first + piece.count;
#pragma unroll 1
    for (; step + AITERLITE_TOGETHER <= end; step += AITERLITE_TOGETHER) {
      Turn at[AITERLITE_TOGETHER];
#pragma unroll
      for (Turn& one : at) {
        one = turn;
        expect(one);
        turn.advance();
      }
#pragma unroll
      for (uint32_t up = 0; up < 2; ++up) {
#pragma unroll
        for (uint32_t i = 0; i < AITERLITE_TOGETHER; ++i) copy(step + i, up, at[i]);
      }
    }
#pragma unroll 1
    for (; step < end; ++step, turn.advance()) {
      expect(turn);
      copy(step, 0, turn);
      copy(step, 1, turn);
    }
  });
}

// Three warps: rows of x, and the scales of both.
AITERLITE_DEVICE void gather(const Args& args, const Lists& lists, const Cut& cut, Shared& shared, uint32_t thread) {
  constexpr uint32_t kHeld = (kColumns * 8 + kGatherers - 1) / kGatherers;  // rows of a thread
  const uint32_t chunk = thread % 8, first_row = thread / 8;
  const auto width = static_cast<uint32_t>(args.moe.width), inter = static_cast<uint32_t>(args.moe.inter);
  const uint32_t groups = width / kRows;
  Turn turn;
  cut.for_each_piece(workgroup_id(), [&](const Piece& piece) {
    const uint32_t first_entry = piece.block * kColumns;
    const uint8_t* from[kHeld];
    bool wanted[kHeld];
#pragma unroll
    for (uint32_t i = 0; i < kHeld; ++i) {
      const uint32_t row = first_row + kGatherers / 8 * i,
                     token = row < kColumns ? lists.token(first_entry + row) : ~0u;
      wanted[i] = token != ~0u;
      from[i] = args.codes + (wanted[i] ? uint64_t{token} * args.moe.stride_x * sizeof(Code) : 0) + chunk * 16;
    }
    // The first threads fetch a scale of x each, the last two one of w.
    const float* scale = nullptr;
    uint64_t scale_step = 0;
    uint32_t place = 0;
    bool of_entry = false;
    if constexpr (kIsFp8) {
      if (thread < kColumns) {
        const uint32_t token = lists.token(first_entry + thread);
        of_entry = token != ~0u;
        scale = args.code_scale + (of_entry ? int64_t{token} * args.moe.stride_scale_token : 0);
        scale_step = static_cast<uint64_t>(args.moe.stride_scale_group);
        place = thread;
      } else if (!kRowScales && thread >= kGatherers - 2) {
        const uint32_t second = thread - (kGatherers - 2);
        const uint32_t row = kInterleaved ? 2 * piece.part + second : piece.part + second * (inter / kRows);
        scale = args.moe.w1_scale + (uint64_t{lists.expert(piece.block)} * 2 * (inter / kRows) + row) * groups;
        scale_step = 1;
        place = kColumns + second;
        of_entry = true;
      }
    }
#pragma unroll 1
    for (uint32_t step = piece.first; step < piece.first + piece.count; ++step, turn.advance()) {
      Stage& stage = shared.stage[turn.stage];
      shared.empty[turn.stage].wait(turn.parity ^ 1);
#pragma unroll
      for (uint32_t i = 0; i < kHeld; ++i) {
        const uint32_t row = first_row + kGatherers / 8 * i;
        if (row < kColumns) {
          copy_async(stage.x + row * kStepBytes + (chunk ^ row % 8) * 16, from[i] + (wanted[i] ? step * kStepBytes : 0),
                     wanted[i]);
        }
      }
      if (scale != nullptr) copy_word_async(stage.scale + place, scale + (of_entry ? step * scale_step : 0), of_entry);
      shared.full[turn.stage].arrive_after_copies();
    }
  });
}

// Two warpgroups: 64 gate rows and 64 up rows each.
AITERLITE_DEVICE void multiply(const Args& args, const Lists& lists, const Cut& cut, Shared& shared) {
  const Place place(thread_id());
  const uint32_t group = shuffle(place.warp / kGroupWaves, 0);
  const auto barrier = [] { named_barrier_wait(kTileBarrier, kMultipliers); };
  // Operands of weights without swizzle, as shuffled ones lie: panels of two pieces of 8 rows, then 16 bytes of K on.
  constexpr uint32_t kPieceBytes = 128, kAlongK = kRows / 8 * kPieceBytes;
  const auto descriptor = [&](const uint8_t* w) {
    const uint8_t* own = w + group * kGroupRows * (AITERLITE_SHUFFLED ? 16 : kStepBytes);
    return AITERLITE_SHUFFLED ? operand_descriptor(own, Swizzle::kNone, kPieceBytes, kAlongK) : tile_descriptor(own);
  };
  constexpr uint32_t kAdvance = AITERLITE_SHUFFLED ? 2 * kAlongK : 32;
  Turn turn;
  cut.for_each_piece(workgroup_id(), [&](const Piece& piece) {
    Tile tile = {};
#pragma unroll 1
    for (uint32_t step = 0; step < piece.count; ++step, turn.advance()) {
      const Stage& stage = shared.stage[turn.stage];
      shared.full[turn.stage].wait(turn.parity);
      publish_to_engines();
      const uint64_t gate = descriptor(stage.w[0]), up = descriptor(stage.w[1]), x = tile_descriptor(stage.x);
      if constexpr (kIsFp8) {
        float part_gate[kSums], part_up[kSums];
        begin_group();
        multiply_group<Start::kZero>(e4m3fn{}, part_gate, gate, x);
        multiply_group<Start::kZero>(e4m3fn{}, part_up, up, x);
#pragma unroll
        for (uint32_t k = 1; k < 4; ++k) {
          multiply_group(e4m3fn{}, part_gate, advanced_bytes(gate, k * kAdvance), advanced_bytes(x, k * 32));
          multiply_group(e4m3fn{}, part_up, advanced_bytes(up, k * kAdvance), advanced_bytes(x, k * 32));
        }
        commit_group();
        float scale[kColumns / 4];
#pragma unroll
        for (uint32_t k = 0; k < kColumns / 4; ++k) scale[k] = stage.scale[place.column(k / 2, k % 2)];
        const float of_gate = kRowScales ? 1.0f : stage.scale[kColumns + (kInterleaved ? group : 0)];
        const float of_up = kRowScales ? 1.0f : stage.scale[kColumns + (kInterleaved ? group : 1)];
        await_group<0>();
        if (place.lane == 0) shared.empty[turn.stage].arrive();
#pragma unroll
        for (uint32_t k = 0; k < kSums; ++k) {
          const float of_column = scale[k / 4 * 2 + k % 2];
          tile.gate[k] = __builtin_fmaf(part_gate[k], of_column * of_gate, tile.gate[k]);
          tile.up[k] = __builtin_fmaf(part_up[k], of_column * of_up, tile.up[k]);
        }
      } else {
        begin_group();
#pragma unroll
        for (uint32_t k = 0; k < 4; ++k) {
          multiply_group(Code{}, tile.gate, advanced_bytes(gate, k * kAdvance), advanced_bytes(x, k * 32));
          multiply_group(Code{}, tile.up, advanced_bytes(up, k * kAdvance), advanced_bytes(x, k * 32));
        }
        commit_group();
        await_group<0>();
        if (place.lane == 0) shared.empty[turn.stage].arrive();
      }
    }
    if (piece.whole) {
      finish(args, lists, shared.finish, tile, place, piece.block, piece.part, barrier);
    } else {
      float* to = partial_of(args, piece.slot);
      for_each_live(live_columns(lists, place, piece.block), place, [&](uint32_t k, uint32_t at) {
        to[at] = tile.gate[k];
        to[at + kRows] = tile.up[k];
      });
    }
  });
}

}  // namespace

AITERLITE_KERNEL(kThreads) aiterlite_sm90_moe_gate_up(const __grid_constant__ aiterlite_sm90_moe_gemm_args given) {
  const Args& args = given.experts;
  const auto& w_map = reinterpret_cast<const TensorMap&>(given.w_map);
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  const uint32_t warp = shuffle(thread_id() / kWaveSize, 0);
  if (thread_id() == 0) {
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      shared.full[stage].open(1 + kGatherers);
      shared.empty[stage].open(kMultipliers / kWaveSize);
    }
    publish_barriers();
    fetch_map_early(w_map);
  }
  workgroup_barrier();
  // Inline lists are made of what was there before hidden states were quantised, where a kernel does that; that one
  // waits before it lets this one start.
  if constexpr (kInline && !AITERLITE_LEADS) {
    make_lists<kThreads>(args, shared.lists);
    await_predecessors();
  } else {
    await_predecessors();
    make_lists<kThreads>(args, shared.lists);
  }
  admit_successors();
  const Lists lists(args, shared.lists);
  const Cut cut(args, lists);
  if (warp < kGathererWarp) {
    multiply(args, lists, cut, shared);
  } else if (warp < kGathererWarp + kGatherers / kWaveSize) {
    gather(args, lists, cut, shared, thread_id() - kMultipliers);
  } else if (lane_id() == 0) {
    copy_weights(args, w_map, lists, cut, shared);
  }
}
