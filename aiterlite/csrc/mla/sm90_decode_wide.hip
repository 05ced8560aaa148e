// MLA decode on sm_90 for 33 packed rows of q and more: softmax(scale * q k^T) v over paged rows of 16-bit KV, for a
// plan's pieces or for equal splits (mla/args.h). Fewer rows, and 8-bit KV: mla/sm90_decode.hip.
//
// Formulation. Rows of q are rows of matrix products: S = q K^T, then O = P V. All operands lie in shared memory, in
// tiles of 64 rows of 128 bytes that the matrix unit reads without conflicts; K and V are the same tiles, V with its
// rows as k. Weights P are 16-bit numbers. What that rounding loses is multiplied too where they are bf16: of each two
// neighbouring tokens the larger loss, as a sparse operand (keep_larger), which leaves 0.2 of the loss, at most half.
//
// Tiling. A workgroup has 64 packed rows of q (row by row, head by head) and runs over its pieces in tiles of 64
// tokens, two of them in shared memory. Four warps have the copy engine bring them as boxes of 16 tokens
// (mla/sm90_boxes.h) where pages hold such; else they copy rows, 16 bytes a lane to where they are swizzled. They run
// ahead over the ends of pieces. Two warpgroups multiply, and take turns with tiles: one makes scores and weights of a
// tile, then both multiply those with half of its 512 values each. Tiles are copied and given back in five parts: the
// halves of the values of each group, and the rest of the keys, in whose place the weights cross.
//
// Traffic. KV once a workgroup from memory; from shared memory, for a tile, q, K and V once, bf16's V and the weights
// twice, once of two times from registers. q once a piece; o, or float parts and their log-sums, once.
//
// Order. A row's bits depend on its piece's tokens alone. No atomics.
//
// What no row may see: as in mla/sm90_decode.hip.
#include <aiterlite/mla/sm90_wide_copy.h>
#include <aiterlite/mla/sm90_wide_finish.h>
#include <aiterlite/mla/sm90_wide_scores.h>
#include <aiterlite/mla/sm90_wide_values.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::mla;
using namespace aiterlite::mla::wide;

using Element = AITERLITE_KV;
using Out = AITERLITE_OUT;
static_assert(__is_same(AITERLITE_Q, Element) && sizeof(Element) == 2, "q and KV are of one 16-bit type");

constexpr bool kByBoxes = AITERLITE_BOXES;
using Args = Choose<kByBoxes, aiterlite_sm90_mla_args, aiterlite_mla_decode_args>::Type;
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the tiles do not fit AITERLITE_SHARED_BYTES");

constexpr bool kLow = kWeightParts<Element> > 1;

template <class Take>
AITERLITE_DEVICE void for_each_piece(const aiterlite_mla_decode_args& args, const Take& take) {
  mla::for_each_piece<AITERLITE_PLANNED, kRows>(args, take);
}

template <class Given>
AITERLITE_DEVICE void copy_pieces(const Given& args, Shared& shared) {
  const aiterlite_mla_decode_args& decode = decode_args(args);
  const auto pieces = [&](const auto& take) { for_each_piece(decode, take); };
  if constexpr (kByBoxes) {
    copy_slabs<Element>(decode, reinterpret_cast<const TensorMap&>(args.kv_map), wave_id() - kMultipliers / kWaveSize,
                        pieces, shared);
  } else {
    copy_rows<Element>(decode, pieces, shared);
  }
}

// This group does not need a tile's values any more.
AITERLITE_DEVICE void release(const WidePlace& place, uint32_t stage, Shared& shared) {
  if (place.lane != 0) return;
  shared.empty[stage][place.group].arrive();
  shared.empty[stage][kGroups + place.group].arrive();
  shared.empty[stage][kParts - 1].arrive();
}
// Nor the halves, when products of each are done, which are the last two committed groups.
AITERLITE_DEVICE void release_halves(const WidePlace& place, uint32_t stage, Shared& shared) {
  await_group<1>();
  if (place.lane == 0) shared.empty[stage][place.group].arrive();
  await_group<0>();
  if (place.lane != 0) return;
  shared.empty[stage][kGroups + place.group].arrive();
  shared.empty[stage][kParts - 1].arrive();
}

// A turn of a group: tile `tile` - 1, whose weights come from the other group, if there is one, and tile `tile`, whose
// scores and weights are this group's affair, if there is one. Groups have tiles by the stages that these are in.
//
// What all wait for is: weights of a tile, the other group's products of them, its next scores, and their weights. A
// group's products of its own weights give way to those scores; they are made while the other group makes its weights.
// The second number comes amid the scores, when it is there and before the values are given back.
template <bool kOther, bool kOwn>
AITERLITE_DEVICE void take_turn(const aiterlite_mla_decode_args& args, const Extent& extent, float scale, State& state,
                                const WidePlace& place, uint32_t tile, uint32_t number, Shared& shared) {
  const uint32_t own = number % kStages, other = 1 - own;
  if constexpr (kOther) {
    named_barrier_wait(kWeightsBarrier + other, kMultipliers);
    if constexpr (!kByBoxes) publish_to_engines();
    const float relative[2] = {shared.relative[other][place.row(0)], shared.relative[other][place.row(1)]};
    if (any_lane(relative[0] != state.relative[0] || relative[1] != state.relative[1])) make_relative(state, relative);
    if (is_partly_visible(extent, tile - 1)) add_partly_visible<Element>(extent, state, place, tile - 1, other, shared);
    add_values<Element>(state, place, other, shared);
  }
  const auto add_low_of_other = [&] {
    if constexpr (kOther && kLow) {
      named_barrier_wait(kLowBarrier + other, kMultipliers);
      add_low_values<Element>(state, place, other, shared);
    }
  };
  if constexpr (!kOwn) {
    add_low_of_other();
    if constexpr (kOther) release_halves(place, other, shared);
    return;
  }
  float scores[kScores];
  const uint32_t parity = number / kStages & 1;
  add_scores<Element, kByBoxes, 0, kGroups>(scores, own, parity, shared);
  add_low_of_other();
  add_scores<Element, kByBoxes, kGroups, kParts>(scores, own, parity, shared);
  if constexpr (kOther) {
    named_barrier_arrive(kTurnBarrier + other, kMultipliers);
    await_group<1>();
    release(place, other, shared);
  }
  await_group<0>();
  const Vector16 exist = shared.exist[own];
  const bool all = (exist.word[0] & exist.word[1] & exist.word[2] & exist.word[3]) == 0x0f0f0f0fu;
  if (args.scale < 0.0f) {
#pragma unroll
    for (float& score : scores) score = -score;
  }
  mask_scores(scores, extent, place, tile, exist, all, shared);
  make_weights(scores, scale, state);
  if (place.lane % 4 == 0) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) shared.relative[own][place.row(i)] = state.relative[i];
  }
  if (kByBoxes && !all) {
    const uint32_t count = count_lanes(shared.exist[own].word[place.warp]);
    Sm90Boxes<Element>::clear_unseen(shared.kv[own][0].bytes, place.warp, count, kGroups * kOwnBoxes);
    publish_to_engines();
  }
  // Other warps of the group too have read the keys in whose place weights go, and here is what they have cleared.
  named_barrier_wait(kGroupBarrier + place.group, kGroupThreads);
  store_weights<Element>(scores, place, shared.weights(own));
  named_barrier_arrive(kWeightsBarrier + own, kMultipliers);
  sum_weights(scores, state);
  if constexpr (kLow) {
    keep_larger<Element>(scores, place, own, shared);
    named_barrier_arrive(kLowBarrier + own, kMultipliers);
  }
  if (tile + 1 < extent.tiles()) {
    named_barrier_wait(kTurnBarrier + own, kMultipliers);
  } else {
    named_barrier_wait(kGroupBarrier + place.group, kGroupThreads);
  }
  if (is_partly_visible(extent, tile)) add_partly_visible<Element>(extent, state, place, tile, own, shared);
  // From registers, where copying threads have not taken them.
  if constexpr (kByBoxes) {
    uint32_t rounded[kTokens / 16][4];
    round_weights<Element>(scores, rounded);
    add_values<Element>(state, rounded, place, own, shared);
  } else {
    add_values<Element>(state, place, own, shared);
  }
  if constexpr (kLow) add_low_values<Element>(state, place, own, shared);
  release_halves(place, own, shared);
}

AITERLITE_DEVICE void run_piece(const aiterlite_mla_decode_args& args, const Extent& extent, State& state,
                                const WidePlace& place, uint32_t before, Shared& shared) {
  // Masked scores, which are -inf, must remain so.
  const float scale = __builtin_fmaxf(__builtin_fabsf(args.scale) * kLog2E, 1e-37f);
  const uint32_t tiles = extent.tiles();
  uint32_t tile = 0;
  if (tiles > 0 && before % kStages == place.group) {
    take_turn<false, true>(args, extent, scale, state, place, 0, before, shared);
    tile = 1;
  }
#pragma unroll 1
  for (; tile + 1 < tiles; tile += kGroups) {
    take_turn<true, true>(args, extent, scale, state, place, tile + 1, before + tile + 1, shared);
  }
  if (tile < tiles) take_turn<true, false>(args, extent, scale, state, place, tile + 1, before + tile + 1, shared);
}

AITERLITE_DEVICE void multiply_pieces(const aiterlite_mla_decode_args& args, Shared& shared) {
  // The compiler must know that descriptors are the same in all lanes.
  const uint32_t wave = shuffle(thread_id() / kWaveSize, 0);
  const WidePlace place = {wave / kGroupWaves, wave % kGroupWaves, lane_id()};
  uint32_t before = 0;  // tiles of earlier pieces
  for_each_piece(args, [&](const Work& work, const Extent& extent) {
    State state;
    // Nobody reads the piece before any more.
    named_barrier_wait(kAllBarrier, kMultipliers);
    load_queries<Element>(args, work, extent, place, shared);
    commit_copies();
    await_copies<0>();
    publish_to_engines();
    named_barrier_wait(kAllBarrier, kMultipliers);
#pragma unroll
    for (float (&half)[kValues] : state.values) {
#pragma unroll
      for (float& value : half) value = 0.0f;
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      state.weights[i] = 0.0f;
      state.relative[i] = kLowest;
    }
    run_piece(args, extent, state, place, before, shared);
    before += extent.tiles();
    finish<Out>(args, state, place, shared);
  });
}

}  // namespace

AITERLITE_KERNEL(kThreads)
aiterlite_sm90_mla_decode_wide(const __grid_constant__ Args args) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  if (thread_id() == 0) {
    if constexpr (kByBoxes) fetch_map_early(reinterpret_cast<const TensorMap&>(args));
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      for (uint32_t part = 0; part < kParts; ++part) {
        shared.full[stage][part].open(kByBoxes ? kCopyWarps : kCopyThreads + kCopyWarps);
        shared.empty[stage][part].open(part + 1 < kParts ? kGroupWaves : kGroups * kGroupWaves);
      }
    }
    publish_barriers();
  }
  workgroup_barrier();
  await_predecessors();
  admit_successors();
  if (thread_id() >= kMultipliers) {
    give_registers<kByBoxes ? 24 : 40>();
    copy_pieces(args, shared);
  } else {
    take_registers<kByBoxes ? 240 : 232>();
    multiply_pieces(decode_args(args), shared);
  }
}
