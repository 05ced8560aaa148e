// Stage 1 of the fused mixture of experts on sm_90: gate and up of each sorted entry, h = act(gate) * up, quantised.
//
// Formulation. Weights are rows of the product, entries its columns: few entries have an expert, and 64 rows are the
// least. Gate and up rows stream from memory once a block of entries (fused_moe/sm90_stream.h).
//
// Tiling. fused_moe/sm90_cut.h: shares of equal length. The two warpgroups of a workgroup have 64 gate rows and the 64
// up rows that go with them each, so that act is computed where the sums are.
//
// Traffic. Weights of each expert that has entries once a block (a second block finds them in the L2); for each step of
// 32 KiB of them kColumns * 128 bytes of x, from the L2. h once; partial sums of tiles that are cut once.
//
// Order. K in steps, within a step as the matrix unit adds, then the pieces of a cut tile in order. So the bits of an
// entry depend on its row of x, its expert, and on where cuts go, which all entries decide together; not on its column.
// No atomics.
//
// What padding would read is filled with zeros. Grid: `workgroups`, one a multiprocessor.
#include <aiterlite/fused_moe/sm90_stream.h>
#include <aiterlite/fused_moe/sm90_tile.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::experts;

constexpr uint32_t kTileBarrier = 1;

struct Shared {
  Ring ring;
  FinishShared finish;
  ListShared lists;
};
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");

}  // namespace

AITERLITE_KERNEL(kStreamThreads)
aiterlite_sm90_moe_gate_up(const __grid_constant__ aiterlite_sm90_moe_gemm_args given) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  const Args& args = given.experts;
  const auto& w_map = reinterpret_cast<const TensorMap&>(given.w_map);
  const uint32_t warp = shuffle(thread_id() / kWaveSize, 0);
  if (thread_id() == 0) {
    shared.ring.open();
    fetch_map_early(w_map);
  }
  workgroup_barrier();
  // Inline lists are made of what was there before hidden states were quantised, where a kernel does that; that one
  // waits before it lets this one start.
  if constexpr (kInline && !AITERLITE_LEADS) {
    make_lists<kStreamThreads>(args, shared.lists);
    await_predecessors();
  } else {
    await_predecessors();
    make_lists<kStreamThreads>(args, shared.lists);
  }
  admit_successors();
  const Lists lists(args, shared.lists);
  const auto cut = cut_of(args, lists);
  const auto inter = static_cast<uint32_t>(args.moe.inter);

  if (warp < kGathererWarp) {
    const Place place(thread_id());
    multiply<kInterleaved && !kTakeTurns>(cut, shared.ring, [&](const Piece& piece, Tile& tile) {
      pair_gate_and_up(tile, place);
      if (piece.whole) {
        const auto barrier = [] { named_barrier_wait(kTileBarrier, kMultipliers); };
        return finish(args, lists, shared.finish, tile, place, piece.block, piece.part, barrier);
      }
      float* to = partial_of(args, piece.slot);
      for_each_live(live_columns(lists, place, piece.block), place, [&](uint32_t k, uint32_t at) {
        to[at] = tile.first[k];
        to[at + kRows] = tile.second[k];
      });
    });
  } else if (warp < kGathererWarp + kGatherers / kWaveSize) {
    const Source source = {args.codes, args.moe.stride_x * static_cast<int64_t>(sizeof(Code)), args.code_scale,
                           args.moe.stride_scale_token, args.moe.stride_scale_group};
    const auto row_of = [&](const Piece& piece, uint32_t column) {
      return lists.token(piece.block * kColumns + column);
    };
    const auto scales_of = [&](const Piece& piece, uint32_t second) {
      const uint32_t row = kInterleaved ? 2 * piece.part + second : piece.part + second * (inter / kRows);
      const uint64_t expert_rows = uint64_t{lists.expert(piece.block)} * 2 * (inter / kRows);
      return args.moe.w1_scale + (expert_rows + row) * (static_cast<uint32_t>(args.moe.width) / kRows);
    };
    gather(cut, shared.ring, source, thread_id() - kMultipliers, row_of, scales_of);
  } else if (lane_id() == 0) {
    const uint64_t once = keep_briefly();
    copy_weights(cut, shared.ring, [&](const Piece& piece) {
      const uint32_t expert = lists.expert(piece.block), row = piece.part * kRows;
      return [&, expert, row](uint8_t* to, uint32_t step, uint32_t up, Barrier& full) {
        if constexpr (AITERLITE_SHUFFLED) {
          // Panels of 16 rows; an expert's gate panels, then its up panels.
          const uint32_t first =
              kTakeTurns ? 2 * expert * inter + 2 * row + up * kRows : (2 * expert + up) * inter + row;
          copy_box(to, w_map, 0, first / 16, step * (kStepBytes / 16), full, once);
        } else if constexpr (kInterleaved) {
          copy_box(to, w_map, step * kStep, up, expert * inter + row, full, once);
        } else {
          copy_box(to, w_map, step * kStep, row, 2 * expert + up, full, once);
        }
      };
    });
  }
}
