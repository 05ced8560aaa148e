// MLA decode on sm_90 for 33 packed rows of q and more: softmax(scale * q k^T) v over paged rows of 16-bit KV, for a
// plan's pieces or for equal splits (mla/args.h). Fewer rows, and 8-bit KV: mla/sm90_decode.hip.
//
// Formulation. Rows of q are rows of matrix products: S = q K^T, then O = P V. All operands lie in shared memory, in
// tiles of 64 rows of 128 bytes that the matrix unit reads without conflicts; K and V are the same tiles, V with its
// rows as k. Only the last 64 of q's 576 elements are in registers, for want of space.
//
// Tiling. A workgroup has 64 packed rows of q (row by row, head by head) and runs over its pieces in tiles of 64
// tokens, two of them in shared memory. Four warps have the copy engine bring them as boxes of 16 tokens
// (mla/sm90_boxes.h) where pages hold such; else eight copy rows, 16 bytes a lane to where they are swizzled. They run
// ahead over the ends of pieces. Two warpgroups multiply: for scores each has 32 of the tokens, for values half of the
// 512. Weights cross by shared memory.
//
// Traffic. KV once a workgroup from memory; from shared memory, for a tile, K and V once, q and the weights twice. q
// once a piece; o, or float parts and their log-sums, once.
//
// Order. A row's bits depend on its piece's tokens alone. No atomics.
//
// What no row may see: as in mla/sm90_decode.hip. Weights of bf16 are two numbers here too.
#include <aiterlite/block/online_softmax.h>
#include <aiterlite/block/reduce.h>
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/mla/sm90_boxes.h>
#include <aiterlite/numeric/pack.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;
using mla::Destination;
using mla::Extent;
using mla::kAllBarrier;
using mla::kGroupBarrier;
using mla::kGroups;
using mla::kGroupThreads;
using mla::kKeyDim;
using mla::kLowest;
using mla::kMultipliers;
using mla::kSlack;
using mla::kValueDim;
using mla::static_for;
using mla::Work;

using Element = AITERLITE_KV;
using Out = AITERLITE_OUT;
static_assert(__is_same(AITERLITE_Q, Element) && sizeof(Element) == 2, "q and KV are of one 16-bit type");

constexpr bool kByBoxes = AITERLITE_BOXES;
using Args = mla::Choose<kByBoxes, aiterlite_sm90_mla_args, aiterlite_mla_decode_args>::Type;
constexpr uint32_t kRows = kGroupRows, kTokens = mla::kTileTokens, kStages = 2;
constexpr uint32_t kCopyWarps = kByBoxes ? mla::kSlabs : 8, kCopyThreads = kCopyWarps * kWaveSize,
                   kThreads = kMultipliers + kCopyThreads;
constexpr uint32_t kBoxes = kKeyDim / 64, kOwnBoxes = kValueDim / 64 / kGroups;
constexpr uint32_t kOwnTokens = kTokens / kGroups, kScores = kOwnTokens / 2;
// A product of all 256 columns of a group would need more registers than the compiler counts on.
constexpr uint32_t kHalves = 2, kValues = kOwnBoxes / kHalves * 32;
constexpr uint32_t kWeightParts = mla::kWeightParts<Element>;

// 64 rows of 64 elements; 16-byte chunks of a row are permuted by its number.
struct alignas(1024) Box {
  char bytes[64 * 128];

  AITERLITE_DEVICE char* at(uint32_t row, uint32_t chunk) { return bytes + row * 128 + (chunk ^ (row & 7)) * 16; }
  AITERLITE_DEVICE const Element& element(uint32_t row, uint32_t column) const {
    return reinterpret_cast<const Element*>(bytes + row * 128 + (column / 8 ^ (row & 7)) * 16)[column % 8];
  }
};
struct Shared {
  Box kv[kStages][kBoxes];
  Box q[kBoxes - 1];
  Box weights[kWeightParts];
  Barrier full[kStages];
  Barrier empty[kStages];
  Vector16 exist[kStages];  // four rows a byte
  float of_group[kGroups][kRows];
  Destination destination[kRows];
};
static_assert(sizeof(Box) == mla::Sm90Boxes<Element>::kPanelBytes, "a box is a panel of the copy engine's boxes");
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the tiles do not fit AITERLITE_SHARED_BYTES");

template <class Take>
AITERLITE_DEVICE void for_each_piece(const aiterlite_mla_decode_args& args, const Take& take) {
  mla::for_each_piece<AITERLITE_PLANNED, kRows>(args, take);
}

// The copying warps ---------------------------------------------------------------------------------------------------

struct Ring {
  Shared& shared;

  AITERLITE_DEVICE char* tile(uint32_t stage) { return shared.kv[stage][0].bytes; }
  AITERLITE_DEVICE Barrier& full(uint32_t stage) { return shared.full[stage]; }
  AITERLITE_DEVICE Barrier& empty(uint32_t stage) { return shared.empty[stage]; }
  AITERLITE_DEVICE void set_exist(uint32_t stage, uint32_t slab, uint32_t bits) {
    shared.exist[stage].word[slab] =
        (bits & 0xfu) | (bits & 0xf0u) << 4 | (bits & 0xf00u) << 8 | (bits & 0xf000u) << 12;
  }
};
AITERLITE_DEVICE void copy_pieces(const aiterlite_sm90_mla_args& args, Shared& shared) {
  const auto pieces = [&](const auto& take) { for_each_piece(args.decode, take); };
  Ring ring = {shared};
  mla::copy_boxes<Element, kStages>(args.decode, reinterpret_cast<const TensorMap&>(args.kv_map),
                                    wave_id() - kMultipliers / kWaveSize, pieces, ring);
}

// Eight lanes copy a row, and the one 32 rows on.
AITERLITE_DEVICE void copy_pieces(const aiterlite_mla_decode_args& args, Shared& shared) {
  const uint32_t thread = thread_id() - kMultipliers, row = thread / 8, chunk = thread % 8, warp = thread / kWaveSize;
  const auto* buffer = static_cast<const Element*>(args.kv_buffer) + chunk * 8;
  uint32_t stage = 0, parity = 1;
  for_each_piece(args, [&](const Work& work, const Extent& extent) {
    const auto offset_of = [&](uint32_t tile, uint32_t half) -> int64_t {
      const auto at = static_cast<int32_t>(tile * kTokens + half * 32 + row);
      return at < extent.most_seen ? mla::token_offset(args, work, work.begin + at) : -1;
    };
    const uint32_t tiles = extent.tiles();
    int64_t next[2] = {-1, -1};
    if (tiles > 0) next[0] = offset_of(0, 0), next[1] = offset_of(0, 1);
#pragma unroll 1
    for (uint32_t tile = 0; tile < tiles; ++tile) {
      const int64_t offset[2] = {next[0], next[1]};
      if (tile + 1 < tiles) next[0] = offset_of(tile + 1, 0), next[1] = offset_of(tile + 1, 1);
      shared.empty[stage].wait(parity);
#pragma unroll
      for (uint32_t half = 0; half < 2; ++half) {
        const bool exists = offset[half] >= 0;
        const Element* from = buffer + (exists ? offset[half] : 0);
        char* to = shared.kv[stage][0].at(half * 32 + row, chunk);
#pragma unroll
        for (uint32_t box = 0; box < kBoxes; ++box) copy_async(to + box * sizeof(Box), from + box * 64, exists);
        uint32_t exist = lanes_where(exists) & 0x01010101u;
        exist = (exist | exist >> 7 | exist >> 14 | exist >> 21) & 0xfu;
        if (lane_id() == 0) {
          reinterpret_cast<uint8_t*>(&shared.exist[stage])[half * 8 + warp] = static_cast<uint8_t>(exist);
        }
      }
      shared.full[stage].arrive_after_copies();
      if (lane_id() == 0) shared.full[stage].arrive();
      if (++stage == kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
  });
}

// The multiplying warps -----------------------------------------------------------------------------------------------

struct Place {
  uint32_t group, warp, lane;

  // Of the two rows that a thread has.
  AITERLITE_DEVICE uint32_t row(uint32_t i) const { return warp * 16 + lane / 4 + 8 * i; }
  // Score k is of row(k / 2 % 2) and of this token of a tile.
  AITERLITE_DEVICE uint32_t token(uint32_t k) const { return group * kOwnTokens + k / 4 * 8 + lane % 4 * 2 + k % 2; }
};

// What a thread has of its two rows: sums of weighted values, its part of the sums of weights, what both are relative
// to; how many tokens the rows see; q's last elements as operands a.
struct State {
  float values[kHalves][kValues];
  float weights[2], relative[2];
  int32_t seen[2];
  uint32_t last_q[4][4];
};

AITERLITE_DEVICE void load_queries(const aiterlite_mla_decode_args& args, const Work& work, const Extent& extent,
                                   const Place& place, State& state, Shared& shared) {
  const auto* q = static_cast<const Element*>(args.q);
  const uint32_t warp = place.group * kGroupWaves + place.warp;
#pragma unroll 4
  for (uint32_t row = warp; row < kRows; row += kGroups * kGroupWaves) {
    const mla::PackedRow packed = extent.row(args, work, static_cast<int32_t>(row));
    if (place.lane == 0) shared.destination[row] = packed.destination;
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t chunk = place.lane + i * kWaveSize;
      store_shared_16(shared.q[chunk / 8].at(row, chunk % 8), load_vector<false>(q + packed.q * kKeyDim + chunk * 8));
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const mla::PackedRow packed = extent.row(args, work, static_cast<int32_t>(place.row(i)));
    state.seen[i] = packed.seen;
    const Element* from = q + packed.q * kKeyDim + (kBoxes - 1) * 64 + place.lane % 4 * 2;
#pragma unroll
    for (uint32_t x = 0; x < 4; ++x) {
#pragma unroll
      for (uint32_t half = 0; half < 2; ++half) {
        state.last_q[x][2 * half + i] = __builtin_bit_cast(uint32_t, load_f32(from + x * 16 + half * 8));
      }
    }
  }
}

// Asks for a tile's scores, of this group's tokens.
AITERLITE_DEVICE void start_scores(float (&scores)[kScores], const State& state, const Place& place, uint32_t number,
                                   Shared& shared) {
  const uint32_t stage = number % kStages;
  shared.full[stage].wait(number / kStages & 1);
  // What was copied 16 bytes at a time.
  if constexpr (!kByBoxes) publish_to_engines();
  const uint64_t q = tile_descriptor(&shared.q[0]);
  const uint64_t k = tile_descriptor(&shared.kv[stage][0]) + place.group * kOwnTokens * 128 / 16;
  begin_group();
  static_for<kBoxes>([&](auto number) {
    constexpr uint32_t kBox = decltype(number)::value;
#pragma unroll
    for (uint32_t x = 0; x < 4; ++x) {
      const uint64_t b = advanced_bytes(k, kBox * sizeof(Box) + x * 32);
      const uint64_t a = advanced_bytes(q, kBox * sizeof(Box) + x * 32);
      if constexpr (kBox + 1 == kBoxes) {
        multiply_group(Element{}, scores, state.last_q[x], b);
      } else if (kBox + x == 0) {
        multiply_group<Start::kZero>(Element{}, scores, a, b);
      } else {
        multiply_group(Element{}, scores, a, b);
      }
    }
  });
  commit_group();
}

// Asks for the products of a tile's weights and values.
AITERLITE_DEVICE void start_values(State& state, const Place& place, uint32_t stage, Shared& shared) {
  const uint64_t p = tile_descriptor(&shared.weights[0]);
  const uint64_t v = operand_descriptor(&shared.kv[stage][place.group * kOwnBoxes], Swizzle::k128, 1024, sizeof(Box));
  begin_group();
#pragma unroll
  for (uint32_t x = 0; x < kTokens / 16; ++x) {
#pragma unroll
    for (uint32_t part = 0; part < kWeightParts; ++part) {
#pragma unroll
      for (uint32_t half = 0; half < kHalves; ++half) {
        multiply_group<Start::kSums, Rows::kAlongK, Rows::kAreK>(
            Element{}, state.values[half], advanced_bytes(p, part * sizeof(Box) + x * 32),
            advanced_bytes(v, half * (kOwnBoxes / kHalves) * sizeof(Box) + x * 16 * 128));
      }
    }
  }
  commit_group();
}

// Scales a tile's scores, and selects those to -inf that a row does not see.
AITERLITE_DEVICE void mask_scores(float (&scores)[kScores], const State& state, const Extent& extent, float scale,
                                  const Place& place, uint32_t tile, const Shared& shared, uint32_t stage) {
#pragma unroll
  for (float& score : scores) score *= scale;
  const Vector16 exist = shared.exist[stage];
  const bool all = (exist.word[0] & exist.word[1] & exist.word[2] & exist.word[3]) == 0x0f0f0f0fu;
  if (all && static_cast<int32_t>((tile + 1) * kTokens) <= extent.least_seen) return;
#pragma unroll
  for (uint32_t k = 0; k < kScores; ++k) {
    const uint32_t token = place.token(k);
    const bool exists = reinterpret_cast<const uint8_t*>(&shared.exist[stage])[token / 4] >> token % 4 & 1;
    const bool visible = static_cast<int32_t>(tile * kTokens + token) < state.seen[k / 2 % 2];
    if (!exists || !visible) scores[k] = -__builtin_inff();
  }
}

AITERLITE_DEVICE bool has_grown(const float (&scores)[kScores], const State& state) {
  bool grown = false;
#pragma unroll
  for (uint32_t k = 0; k < kScores; ++k) grown |= scores[k] > state.relative[k / 2 % 2] + kSlack;
  return grown;
}

// Makes the sums relative to the greatest score of each row so far, where that is far above what they are relative to.
AITERLITE_DEVICE void renew_maxima(const float (&scores)[kScores], State& state, const Place& place, Shared& shared) {
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    float most = kLowest;
#pragma unroll
    for (uint32_t k = 0; k < kScores; ++k) {
      if (k / 2 % 2 == i) most = __builtin_fmaxf(most, scores[k]);
    }
    most = reduce_lanes<4>(most, Max{});
    if (place.lane % 4 == 0) shared.of_group[place.group][place.row(i)] = most;
  }
  named_barrier_wait(kAllBarrier, kMultipliers);
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const float most = __builtin_fmaxf(shared.of_group[0][place.row(i)], shared.of_group[1][place.row(i)]);
    const float next = most > state.relative[i] + kSlack ? most : state.relative[i];
    const float factor = fast_exp2(state.relative[i] - next);
    state.relative[i] = next;
    state.weights[i] *= factor;
#pragma unroll
    for (float (&half)[kValues] : state.values) {
#pragma unroll
      for (uint32_t k = 0; k < kValues; ++k) {
        if (k / 2 % 2 == i) half[k] *= factor;
      }
    }
  }
}

// A tile's weights, rounded, to shared memory.
AITERLITE_DEVICE void make_weights(const float (&scores)[kScores], State& state, const Place& place, Shared& shared) {
  uint32_t weights[kWeightParts][kScores / 2];
#pragma unroll
  for (uint32_t w = 0; w < kScores / 2; ++w) {
    float weight[2];
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) {
      weight[e] = fast_exp2(scores[2 * w + e] - state.relative[w % 2]);
      state.weights[w % 2] += weight[e];
    }
#pragma unroll
    for (uint32_t part = 0; part < kWeightParts; ++part) {
      weights[part][w] = mla::take_part<Element>(weight);
    }
  }
  const uint32_t row = place.warp * 16 + place.lane % 16, chunk = place.group * (kOwnTokens / 8) + place.lane / 16;
#pragma unroll
  for (uint32_t part = 0; part < kWeightParts; ++part) {
#pragma unroll
    for (uint32_t pair = 0; pair < kOwnTokens / 16; ++pair) {
      const uint32_t (&all)[kScores / 2] = weights[part];
      const uint32_t words[4] = {all[4 * pair], all[4 * pair + 1], all[4 * pair + 2], all[4 * pair + 3]};
      store_matrices(shared.weights[part].at(row, chunk + 2 * pair), words);
    }
  }
  publish_to_engines();
}

// A token that only some of the workgroup's rows see, of which a value of this group is not finite: these values are
// added under a select, and are zeros for the matrix product that follows.
AITERLITE_DEVICE void add_partly_visible(const Extent& extent, State& state, const Place& place, uint32_t tile,
                                         uint32_t stage, Shared& shared) {
  const auto base = static_cast<int32_t>(tile * kTokens);
  const int32_t begin = extent.least_seen > base ? extent.least_seen - base : 0;
  const int32_t most = extent.most_seen - base, end = most < static_cast<int32_t>(kTokens) ? most : kTokens;
  const uint32_t thread = place.warp * kWaveSize + place.lane, barrier = kGroupBarrier + place.group;
  constexpr uint32_t kChunks = kOwnBoxes * 8;
  Box* boxes = &shared.kv[stage][place.group * kOwnBoxes];
  bool broken = false;
#pragma unroll 1
  for (uint32_t at = begin * kChunks + thread; at < end * kChunks; at += kGroupThreads) {
    broken |= mla::any_not_finite<Element>(load_shared_16(boxes[at % kChunks / 8].at(at / kChunks, at % 8)));
  }
  if (!named_barrier_any(barrier, kGroupThreads, broken)) return;
#pragma unroll 1
  for (int32_t token = begin; token < end; ++token) {
    char* chunk = boxes[thread % kChunks / 8].at(token, thread % 8);
    if (!named_barrier_any(barrier, kGroupThreads, mla::any_not_finite<Element>(load_shared_16(chunk)))) continue;
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      float weight = 0.0f;
#pragma unroll
      for (const Box& part : shared.weights) weight += to_float(part.element(place.row(i), token));
      const bool visible = base + token < state.seen[i];
#pragma unroll
      for (uint32_t k = 0; k < kHalves * kValues; ++k) {
        if (k / 2 % 2 != i) continue;
        const uint32_t dim = k / 4 * 8 + place.lane % 4 * 2 + k % 2;
        const float value = to_float(boxes[dim / 64].element(token, dim % 64));
        if (visible) state.values[k / kValues][k % kValues] += weight * value;
      }
    }
    named_barrier_wait(barrier, kGroupThreads);
    if (thread < kChunks) store_shared_16(chunk, {});
  }
  publish_to_engines();
  named_barrier_wait(barrier, kGroupThreads);
}

AITERLITE_DEVICE void finish(const aiterlite_mla_decode_args& args, const State& state, const Place& place,
                             Shared& shared) {
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const float total = reduce_lanes<4>(state.weights[i], Sum{});
    if (place.lane % 4 == 0) shared.of_group[place.group][place.row(i)] = total;
  }
  named_barrier_wait(kAllBarrier, kMultipliers);
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const Destination destination = shared.destination[place.row(i)];
    if (!destination.exists()) continue;
    const float total = shared.of_group[0][place.row(i)] + shared.of_group[1][place.row(i)];
    const float by = total == 0.0f ? 0.0f : 1.0f / total;
    const int64_t at = destination.row() * kValueDim + place.group * kOwnBoxes * 64 + place.lane % 4 * 2;
#pragma unroll
    for (uint32_t j = 0; j < kHalves * kValues / 4; ++j) {
      const float (&half)[kValues] = state.values[j / (kValues / 4)];
      const uint32_t k = j % (kValues / 4) * 4 + 2 * i;
      if (destination.partial()) {
        store_vector8(args.partial + at + j * 8, mla::as_words(half[k] * by, half[k + 1] * by));
      } else {
        store_u32(static_cast<Out*>(args.o) + at + j * 8, pack_pair(Out{}, half[k] * by, half[k + 1] * by));
      }
    }
    float* log_sums = destination.partial() ? args.partial_lse : args.lse;
    if (place.group == 0 && place.lane % 4 == 0 && log_sums != nullptr) {
      const float log_sum = total == 0.0f ? -__builtin_inff() : (state.relative[i] + fast_log2(total)) * kLn2;
      store_u32(log_sums + destination.row(), __builtin_bit_cast(uint32_t, log_sum));
    }
  }
}

AITERLITE_DEVICE void run_piece(const aiterlite_mla_decode_args& args, const Extent& extent, State& state,
                                const Place& place, uint32_t before, Shared& shared) {
  const float scale = args.scale * kLog2E;
  const uint32_t tiles = extent.tiles();
#pragma unroll 1
  for (uint32_t tile = 0; tile < tiles; ++tile) {
    const uint32_t stage = (before + tile) % kStages;
    float scores[kScores];
    start_scores(scores, state, place, before + tile, shared);
    await_group<0>();
    mask_scores(scores, state, extent, scale, place, tile, shared, stage);
    // Here both groups have also read the weights before.
    if (named_barrier_any(kAllBarrier, kMultipliers, has_grown(scores, state))) {
      renew_maxima(scores, state, place, shared);
    }
    if constexpr (kByBoxes) {
      const uint32_t count = count_lanes(shared.exist[stage].word[place.warp]);
      char* values = shared.kv[stage][place.group * kOwnBoxes].bytes;
      mla::Sm90Boxes<Element>::clear_unseen(values, place.warp, count, kOwnBoxes);
    }
    make_weights(scores, state, place, shared);
    named_barrier_wait(kAllBarrier, kMultipliers);
    if (extent.least_seen<extent.most_seen&& static_cast<int32_t>((tile + 1) * kTokens)> extent.least_seen) {
      add_partly_visible(extent, state, place, tile, stage, shared);
    }
    start_values(state, place, stage, shared);
    await_group<0>();
    if (place.lane == 0) shared.empty[stage].arrive();
  }
}

AITERLITE_DEVICE void multiply_pieces(const aiterlite_mla_decode_args& args, Shared& shared) {
  // The compiler must know that descriptors are the same in all lanes.
  const uint32_t wave = shuffle(thread_id() / kWaveSize, 0);
  const Place place = {wave / kGroupWaves, wave % kGroupWaves, lane_id()};
  uint32_t before = 0;  // tiles of earlier pieces
  for_each_piece(args, [&](const Work& work, const Extent& extent) {
    State state;
    // Nobody reads the piece before any more.
    named_barrier_wait(kAllBarrier, kMultipliers);
    load_queries(args, work, extent, place, state, shared);
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
    finish(args, state, place, shared);
  });
}

}  // namespace

AITERLITE_KERNEL(kThreads)
aiterlite_sm90_mla_decode_wide(const __grid_constant__ Args args) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  if (thread_id() == 0) {
    if constexpr (kByBoxes) fetch_map_early(reinterpret_cast<const TensorMap&>(args));
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      shared.full[stage].open(kByBoxes ? kCopyWarps : kCopyThreads + kCopyWarps);
      shared.empty[stage].open(kGroups * kGroupWaves);
    }
    publish_barriers();
  }
  workgroup_barrier();
  await_predecessors();
  admit_successors();
  if (thread_id() >= kMultipliers) {
    give_registers<kByBoxes ? 24 : 32>();
    copy_pieces(args, shared);
  } else {
    take_registers<kByBoxes ? 240 : 224>();
    multiply_pieces(mla::decode_args(args), shared);
  }
}
