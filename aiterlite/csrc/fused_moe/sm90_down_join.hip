// Stage 2 of the fused mixture of experts on sm_90, for tokens whose sums no workgroup has room for: the products of h
// with w2, and biases, weighted, and their sum over the slots of each token, in one launch.
//
// Formulation. As in stage 1 weights are rows and entries columns: a tile is 256 rows of w2 by a block of entries. Its
// weighted sums go to memory, a row of 256 elements a slot. All blocks' tiles of the same 256 elements follow each
// other, and what they leave is added up while those of the next are made: so the rows of slots that are still to be
// added, some 8 MB for 1,024 tokens, stay in the L2. Of kParts times 256 elements rows lie in memory; who stores the
// next waits until the oldest have been fetched.
//
// Tiling. Workgroups take tiles, and tokens whose slots are to be added, from counters. Roles in one: a lane takes
// tiles and asks the copy engine for weights; a warp asks for h, which stage 1 has laid out as the matrix unit wants
// it, and for scales; two warpgroups multiply, 64 rows of either box each; two sets of two warps take tiles in turn
// from shared memory to memory; a lane watches how far all workgroups are; kAdders warps add, and have the copy engine
// fetch a token's rows while they add those of the one before.
//
// Traffic. w2 of each expert that has entries once a block. For each tile of 64 KiB of it (of 256 inner) a block's live
// rows of h, from the L2. Rows of slots are written to the L2 and read there once; they are written over, and the last
// discarded, so that they need not go to memory. out once.
//
// Order. K in steps, then a token's slots in their order. Counters say who and when, never in which order, so the same
// operands give the same bits. Who adds waits for the tiles of a part, and who stores for the sums of the part kParts
// before: all of these were taken before, by workgroups that run, so all end, however few of them run at a time.
//
// Grid: `workgroups`, one a multiprocessor. `arrived` is zeros (fused_moe/sm90_prepare.hip).
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/fused_moe/sm90_join.h>
#include <aiterlite/fused_moe/sm90_join_slots.h>
#include <aiterlite/numeric/pack.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::experts;
using namespace aiterlite::experts::join;

AITERLITE_DEVICE void multiply(const Args& args, const Lists& lists, const Work& work, Shared& shared) {
  const Place place(thread_id());
  const uint32_t group = shuffle(place.warp / kGroupWaves, 0), lane = place.lane;
  constexpr uint32_t kPieceBytes = 128, kAlongK = kRows / 8 * kPieceBytes;
  constexpr uint32_t kAdvance = AITERLITE_SHUFFLED ? 2 * kAlongK : 32;
  const auto descriptor = [&](const uint8_t* w) {
    const uint8_t* own = w + group * kGroupRows * (AITERLITE_SHUFFLED ? 16 : kStepBytes);
    return AITERLITE_SHUFFLED ? operand_descriptor(own, Swizzle::kNone, kPieceBytes, kAlongK) : tile_descriptor(own);
  };
  const auto width = static_cast<uint32_t>(args.moe.width);
  Turn turn;
  Tickets tickets;
  uint32_t set = 0, parity = 1;  // of rows_empty
#pragma unroll 1
  for (uint32_t tile = tickets.pop(shared); tile < work.tiles; tile = tickets.pop(shared)) {
    float sums[2][kSums] = {}, weight[kColumns / 4];
#pragma unroll 1
    for (uint32_t step = 0; step < work.steps; ++step, turn.advance()) {
      const Stage& stage = shared.stage[turn.stage];
      shared.full[turn.stage].wait(turn.parity);
      const uint64_t w[2] = {descriptor(stage.w[0]), descriptor(stage.w[1])}, h = tile_descriptor(stage.h);
      if constexpr (kIsFp8) {
        float first[kSums], second[kSums];
        begin_group();
        multiply_group<Start::kZero>(Code{}, first, w[0], h);
        multiply_group<Start::kZero>(Code{}, second, w[1], h);
#pragma unroll
        for (uint32_t k = 1; k < 4; ++k) {
          multiply_group(Code{}, first, advanced_bytes(w[0], k * kAdvance), advanced_bytes(h, k * 32));
          multiply_group(Code{}, second, advanced_bytes(w[1], k * kAdvance), advanced_bytes(h, k * 32));
        }
        commit_group();
        float scale[kColumns / 4];
#pragma unroll
        for (uint32_t k = 0; k < kColumns / 4; ++k) {
          scale[k] = stage.scale[place.column(k / 2, k % 2)];
          weight[k] = AITERLITE_WEIGHTED_INPUT ? 1.0f : stage.weight[place.column(k / 2, k % 2)];
        }
        const float of_first = kRowScales ? 1.0f : stage.w_scale[0], of_second = kRowScales ? 1.0f : stage.w_scale[1];
        await_group<0>();
        if (lane == 0) shared.empty[turn.stage].arrive();
#pragma unroll
        for (uint32_t k = 0; k < kSums; ++k) {
          const float of_column = scale[k / 4 * 2 + k % 2];
          sums[0][k] = __builtin_fmaf(first[k], of_column * of_first, sums[0][k]);
          sums[1][k] = __builtin_fmaf(second[k], of_column * of_second, sums[1][k]);
        }
      } else {
        begin_group();
#pragma unroll
        for (uint32_t k = 0; k < 4; ++k) {
          multiply_group(Code{}, sums[0], advanced_bytes(w[0], k * kAdvance), advanced_bytes(h, k * 32));
          multiply_group(Code{}, sums[1], advanced_bytes(w[1], k * kAdvance), advanced_bytes(h, k * 32));
        }
        commit_group();
#pragma unroll
        for (uint32_t k = 0; k < kColumns / 4; ++k) {
          weight[k] = AITERLITE_WEIGHTED_INPUT ? 1.0f : stage.weight[place.column(k / 2, k % 2)];
        }
        await_group<0>();
        if (lane == 0) shared.empty[turn.stage].arrive();
      }
    }
    float row_scale[2][2] = {{1.0f, 1.0f}, {1.0f, 1.0f}}, bias[2][2] = {};
    if constexpr (kRowScales || AITERLITE_BIAS2) {
      const uint32_t expert = lists.expert(work.block(tile));
      const uint64_t first = uint64_t{expert} * width;
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t row = work.part(tile) * kTileRows + i / 2 * kRows + place.row(i % 2);
        if (row >= width) continue;
        const float* scale = args.moe.w2_scale + (kTensorScales ? expert : first + row);
        if constexpr (kRowScales) row_scale[i / 2][i % 2] = load_f32(scale);
        if constexpr (AITERLITE_BIAS2) bias[i / 2][i % 2] = load_f32(args.moe.bias2 + first + row);
      }
    }
    shared.rows_empty[set].wait(parity);
    // Matrices of 8 columns by 8 rows, which are stored by columns: a warp's 16 rows of two of the thread's pairs of
    // columns at once. Of an odd number the last is stored twice.
#pragma unroll
    for (uint32_t box = 0; box < 2; ++box) {
#pragma unroll
      for (uint32_t j = 0; j < kColumns / 8; j += 2) {
        uint32_t packed[4];
#pragma unroll
        for (uint32_t m = 0; m < 4; ++m) {
          const uint32_t column = j + m / 2 < kColumns / 8 ? j + m / 2 : j, k = 4 * column + 2 * (m % 2);
          float value[2];
#pragma unroll
          for (uint32_t c = 0; c < 2; ++c) {
            const float of_entry = weight[2 * column + c];
            value[c] = sums[box][k + c] * (row_scale[box][m % 2] * of_entry);
            if constexpr (AITERLITE_BIAS2) value[c] = __builtin_fmaf(bias[box][m % 2], of_entry, value[c]);
          }
          packed[m] = pack_pair(Out{}, value[0], value[1]);
        }
        const uint32_t second = j + 1 < kColumns / 8 ? lane / 16 : 0;
        uint16_t* row = shared.rows[set][8 * (j + second) + lane % 8];
        store_matrices_transposed(row + box * kRows + place.warp * 16 + lane / 8 % 2 * 8, packed);
      }
    }
    wave_barrier();
    if (lane == 0) shared.rows_full[set].arrive();
    if (++set == kSets) {
      set = 0;
      parity ^= 1;
    }
  }
}

}  // namespace

AITERLITE_KERNEL(kThreads) aiterlite_sm90_moe_down_join(const __grid_constant__ aiterlite_sm90_moe_gemm_args given) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  const Args& args = given.experts;
  const auto& w_map = reinterpret_cast<const TensorMap&>(given.w_map);
  const uint32_t warp = shuffle(thread_id() / kWaveSize, 0);
  if (thread_id() == 0) {
    shared.open();
    fetch_map_early(w_map);
  }
  workgroup_barrier();
  admit_successors();
  // Stage 1's end began after the sorting had ended, so this kernel did too: lists are there, and zeros.
  const ListShared none;
  const EarlyLists early(args, none);
  const Lists lists(args, none);
  const Work work(args, early);
  if (warp < kMultiplierWarps) {
    take_registers<AITERLITE_MULTIPLIER_REGISTERS>();
    await_predecessors();
    return multiply(args, lists, work, shared);
  }
  give_registers<AITERLITE_OTHER_REGISTERS>();
  if (warp == kAskerWarp) {
    if (lane_id() == 0) ask_for_weights(args, w_map, early, work, shared);
    await_predecessors();
    return;
  }
  if (warp == kAskerWarp + 1) return ask_for_entries(args, early, work, shared);
  await_predecessors();
  if (warp < kAskerWarp) return store(args, lists, work, shared, warp - kStorerWarp);
  if (warp == kWatcherWarp && lane_id() == 0) return watch(args, work, shared);
  if (warp >= kAdderWarp && warp < kAdderWarp + kAdders) return add(args, work, shared, warp - kAdderWarp);
}
