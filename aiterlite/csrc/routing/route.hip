// Routes tokens to experts: of each row of gating the `topk` experts of the greatest choice, and their weights
// (routing/args.h). gfx942, gfx950, sm_90.
//
//   score   sigmoid(x), or the row's softmax     choice  score + bias; without a bias x itself, which orders as well
//   groups  are ranked by the sum of their two greatest choices, without a bias by the greatest; those behind the first
//           kTopkGroups are dropped                      weight  the score, over their sum where asked for, times scale
//
// A token is kLanes lanes of a wave, each of which holds kEach neighbouring experts of one group: a warp on NVIDIA, 16
// lanes or more on AMD, where lanes of a row exchange without the LDS unit. One pass, no shared memory, no barrier. The
// scores of the chosen are computed once more by a lane each, from x, which is in the cache: to carry them along would
// double what a lane sorts. Traffic: gating once (and `topk` elements of it again, from the first cache), bias from the
// second cache, 8 bytes a choice. What takes the time of few tokens is one read, then `topk` rounds of a maximum.
//
// NaN and what lies below -87 is -87 to a sigmoid, so that no score is zero or subnormal; to a softmax NaN and -inf are
// the least number and +inf is the greatest. A choice that is NaN is -inf.
#include <aiterlite/block/online_softmax.h>
#include <aiterlite/numeric/types.h>
#include <aiterlite/overlap.h>
#include <aiterlite/routing/args.h>
#include <aiterlite/routing/select.h>
#include <aiterlite/vector.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::routing;
using fp32 = float;
using Gating = AITERLITE_GATING;
using Bias = AITERLITE_BIAS;

constexpr uint32_t kExperts = AITERLITE_EXPERTS, kTopk = AITERLITE_TOPK, kGroups = AITERLITE_GROUPS,
                   kTopkGroups = AITERLITE_TOPK_GROUPS, kLanes = AITERLITE_LANES, kEach = AITERLITE_EACH,
                   kShared = AITERLITE_SHARED_EXPERTS, kThreads = AITERLITE_WAVES * kWaveSize;
constexpr bool kSoftmax = AITERLITE_SOFTMAX, kBiased = AITERLITE_BIASED, kRenorm = AITERLITE_RENORM,
               kAligned = AITERLITE_ALIGNED;
constexpr uint32_t kGroupSize = kExperts / kGroups, kGroupLanes = AITERLITE_GROUP_LANES;
// The lanes, a power of two, among the first of which are those with a choice each.
constexpr uint32_t kChosenLanes = kTopk <= 1    ? 1
                                  : kTopk <= 2  ? 2
                                  : kTopk <= 4  ? 4
                                  : kTopk <= 8  ? 8
                                  : kTopk <= 16 ? 16
                                                : 32;
// Rounds whose moves can overlap; many would only be long.
constexpr uint32_t kUnrolled = kTopk <= 10 ? kTopk : 1;
constexpr float kLeastLogit = -87.0f, kMost = 0x1.fffffep127f;

static_assert(kGroups * kGroupLanes <= kLanes && kGroupLanes * kEach >= kGroupSize && kChosenLanes <= kLanes &&
                  kShared <= kLanes && kLanes <= kWaveSize && kTopkGroups <= kGroups,
              "the plan cuts a row into lanes, each in one group");

template <class Element>
AITERLITE_DEVICE float load_element(const Element* p) {
  if constexpr (sizeof(Element) == 4) {
    return load_f32(p);
  } else {
    return to_float(Element{load_u16(p)});
  }
}

// Numbers beyond the last are those at `row`, and mean nothing.
template <class Element>
AITERLITE_DEVICE void load_elements(const Element* row, uint32_t first, uint32_t count, float (&value)[kEach]) {
  if constexpr (kAligned) {
    constexpr uint32_t kVector = kVectorElements<Element>;
#pragma unroll
    for (uint32_t v = 0; v < kEach; v += kVector) {
      const Element* at = row + (v < count ? first + v : 0);
      const Vector16 words = load_vector<false>(at);
#pragma unroll
      for (uint32_t i = 0; i < kVector; ++i) {
        if constexpr (sizeof(Element) == 4) {
          value[v + i] = __builtin_bit_cast(float, words.word[i]);
        } else {
          value[v + i] = to_float(Element{static_cast<uint16_t>(words.word[i / 2] >> (16 * (i % 2)))});
        }
      }
    }
  } else {
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) value[i] = load_element(row + (i < count ? first + i : 0));
  }
}

// A number of the least that a score can be made of, and NaN as that.
AITERLITE_DEVICE float tamed(float x) {
  return kSoftmax ? __builtin_fminf(__builtin_fmaxf(x, -kMost), kMost) : __builtin_fmaxf(x, kLeastLogit);
}
AITERLITE_DEVICE float sigmoid(float x) {
  return fast_reciprocal(1.0f + fast_exp2(__builtin_fmaxf(x, kLeastLogit) * -kLog2E));
}
// What a score is relative to the row's greatest.
AITERLITE_DEVICE float exponential(float x, float most) { return fast_exp2((tamed(x) - most) * kLog2E); }

// Whether this lane's group is not among the first.
AITERLITE_DEVICE bool is_dropped(const Sorted<kEach>& sorted, uint32_t first_lane_of_token, uint32_t group) {
  const TopTwo top = reduce_lanes<kGroupLanes>(sorted.top_two(), MergeTopTwo{});
  uint32_t rank = top.first;
  if constexpr (kBiased && kGroupSize > 1) {
    // The sum of infinities of both signs is NaN, which ranks as -inf.
    rank = rank_of(__builtin_fmaxf(value_of(top.first) + value_of(top.second), -__builtin_inff()));
  }
  uint32_t ahead = 0;
#pragma unroll
  for (uint32_t g = 0; g < kGroups; ++g) {
    const uint32_t other = shuffle(rank, first_lane_of_token + g * kGroupLanes);
    ahead += other > rank - (g < group ? 1u : 0u) ? 1 : 0;
  }
  return ahead >= kTopkGroups;
}

}  // namespace

AITERLITE_KERNEL(kThreads) aiterlite_route(aiterlite_routing_args args) {
  const uint32_t lane = lane_id() % kLanes, first_lane_of_token = lane_id() / kLanes * kLanes;
  const int64_t own = int64_t{workgroup_id()} * (kThreads / kLanes) + thread_id() / kLanes;
  const bool exists = own < args.tokens;
  // Every lane takes part in what lanes do together.
  const int64_t token = exists ? own : args.tokens - 1;
  const uint32_t group = lane / kGroupLanes, part = lane % kGroupLanes * kEach;
  const uint32_t first = group * kGroupSize + part;
  // The first condition of each is known when this is compiled: then all lanes are full.
  const uint32_t left = kGroupLanes * kEach == kGroupSize || part + kEach <= kGroupSize ? kEach
                        : part < kGroupSize                                             ? kGroupSize - part
                                                                                        : 0;
  const uint32_t count = kGroups * kGroupLanes == kLanes || group < kGroups ? left : 0;
  const auto* row = static_cast<const Gating*>(args.gating) + token * args.stride_gating;

  await_predecessors();
  // At once: what a kernel of so few registers could take from others is less than the time to start the next one.
  admit_successors();
  float x[kEach], bias[kEach];
  load_elements(row, first, count, x);
  if constexpr (kBiased) load_elements(static_cast<const Bias*>(args.bias), first, count, bias);

  uint32_t rank[kEach];
#pragma unroll
  for (uint32_t i = 0; i < kEach; ++i) {
    float choice = kSoftmax ? tamed(x[i]) : __builtin_fmaxf(x[i], -kMost);
    if constexpr (kBiased) choice = __builtin_fmaxf(sigmoid(x[i]) + bias[i], -__builtin_inff());
    rank[i] = i < count ? rank_of(choice) : 0;
  }
  Sorted<kEach> sorted(rank);
  if constexpr (kTopkGroups < kGroups) sorted.drop(is_dropped(sorted, first_lane_of_token, group));

  uint32_t expert = 0, most = 0;
#pragma unroll kUnrolled
  for (uint32_t round = 0; round < kTopk; ++round) {
    const uint32_t best = greatest_of_lanes<kLanes>(sorted.greatest());
    const FirstLane winner = first_of_lanes<kLanes>(sorted.greatest() == best);
    const uint32_t taken = shuffle(first + sorted.place(), winner.first);
    if (round == 0) most = best;
    expert = lane == round ? taken : expert;
    sorted.take(winner.own);
  }

  const float chosen = load_element(row + expert);
  const float top = kSoftmax ? value_of(most) : 0.0f;
  float weight = kSoftmax ? exponential(chosen, top) : sigmoid(chosen);
  if constexpr (kRenorm) {
    weight *= fast_reciprocal(reduce_lanes<kChosenLanes>(lane < kTopk ? weight : 0.0f, Sum{}));
  } else if constexpr (kSoftmax) {
    float sum = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i) sum += i < count ? exponential(x[i], top) : 0.0f;
    weight *= fast_reciprocal(reduce_lanes<kLanes>(sum, Sum{}));
  }
  weight *= args.scale;

  if (!exists) return;
  float* weights = args.weights + token * args.stride_weights;
  int32_t* ids = args.ids + token * args.stride_ids;
  if (lane < kTopk) {
    store_u32(weights + lane, __builtin_bit_cast(uint32_t, weight));
    store_u32(ids + lane, expert);
    if (args.token_expert_indices != nullptr) {
      const auto index = static_cast<uint32_t>(lane * static_cast<uint32_t>(args.tokens) + token);
      store_u32(args.token_expert_indices + token * args.stride_indices + lane, index);
    }
  }
#if AITERLITE_SHARED_EXPERTS
  if (lane >= kShared) return;
  const float score = AITERLITE_SHARED_SCORED ? sigmoid(load_element(row + kExperts + lane)) : 1.0f;
  store_u32(weights + kTopk + lane, __builtin_bit_cast(uint32_t, score));
  if (!AITERLITE_SHARED_SCORED)
    store_u32(ids + kTopk + lane, kExperts + (static_cast<uint32_t>(token) + lane) % kShared);
#endif
}
