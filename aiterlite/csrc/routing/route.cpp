// Routes tokens to experts on a CPU: csrc/routing/route.hip says what is computed, in the same order and by the same
// rules. A task is some tokens.
//
// A row's scores and choices are made a vector at a time. Few are looked at again: those that reach a bound which the
// greatest of each lane give, some 20 of 256; which of them are chosen is counted, without a branch that depends on a
// logit and would be guessed wrongly. Ranks are signed words in the order of floats, so that a comparison of vectors is
// one instruction everywhere.
#include <aiterlite/cpu/attention.h>
#include <aiterlite/host_abi.h>
#include <aiterlite/routing/args.h>
#include <float.h>

#include <utility>

namespace {

using namespace aiterlite::cpu;

constexpr int64_t kMostExperts = 1024, kMostTopk = 32, kMostGroups = 32;
constexpr int64_t kSerialExperts = 1 << 13;  // logits that are not worth waking a thread for
constexpr float kLeastLogit = -87.0f, kLog2E = 1.44269504088896340736f;
constexpr int32_t kNothing = INT32_MIN;  // below the rank of -inf

struct Fp32 {
  using Bits = float;
  static f32v widen(const float* p) { return load<f32v>(p); }
  static float to_float(float value) { return value; }
};
struct InOrderBf16 {
  using Bits = uint16_t;
  static f32v widen(const uint16_t* p) { return (f32v)(__builtin_convertvector(load<u16v_half>(p), u32v) << 16); }
  static float to_float(uint16_t bits) { return Bf16::to_float(bits); }
};
struct InOrderFp16 {
  using Bits = uint16_t;
  static f32v widen(const uint16_t* p) { return Fp16::widen_half(load<u16v_half>(p)); }
  static float to_float(uint16_t bits) { return Fp16::to_float(bits); }
};

// A vector's lanes where they hold, else another's. NaN holds nothing, so that it gives way.
inline f32v choose(i32v holds, f32v a, f32v b) { return (f32v)(((i32v)a & holds) | ((i32v)b & ~holds)); }
inline f32v broadcast(float value) { return value - f32v{}; }
inline f32v at_least(f32v x, float least) { return choose((i32v)(x >= broadcast(least)), x, broadcast(least)); }
inline f32v at_most(f32v x, float most) { return choose((i32v)(x <= broadcast(most)), x, broadcast(most)); }
inline f32v sigmoid(f32v x) { return 1.0f / (1.0f + exp2(at_least(x, kLeastLogit) * -kLog2E)); }

inline i32v rank_of(f32v value) {
  const i32v bits = (i32v)(value + 0.0f);
  return bits ^ (i32v)((u32v)(bits >> 31) >> 1);
}
inline f32v value_of(i32v rank) { return (f32v)(rank ^ (i32v)((u32v)(rank >> 31) >> 1)); }

struct Row {
  alignas(64) float x[kMostExperts + kLanes];
  alignas(64) int32_t rank[kMostExperts + kLanes];
};

// The logits of a row as numbers, and the ranks of its choices. What lies behind the row is not read.
template <class Element, class Bias>
void rank_row(const aiterlite_routing_args& args, const typename Element::Bits* from, const typename Bias::Bits* bias,
              Row& row) {
  const auto part = [&](int64_t at, const typename Element::Bits* x, const typename Bias::Bits* b) {
    const f32v logit = Element::widen(x);
    const f32v tamed = at_most(at_least(logit, -FLT_MAX), args.softmax ? FLT_MAX : __builtin_inff());
    const f32v choice = b != nullptr ? at_least(sigmoid(logit) + Bias::widen(b), -__builtin_inff()) : tamed;
    store(row.x + at, tamed);
    store(row.rank + at, rank_of(choice));
  };
  int64_t i = 0;
  for (; i + kLanes <= args.experts; i += kLanes) part(i, from + i, bias == nullptr ? nullptr : bias + i);
  if (i == args.experts) return;
  typename Element::Bits end[kLanes] = {};
  typename Bias::Bits bias_end[kLanes] = {};
  memcpy(end, from + i, (args.experts - i) * sizeof *end);
  if (bias != nullptr) memcpy(bias_end, bias + i, (args.experts - i) * sizeof *bias_end);
  part(i, end, bias == nullptr ? nullptr : bias_end);
}

inline i32v greater_of(i32v a, i32v b) { return a > b ? a : b; }
inline i32v lesser_of(i32v a, i32v b) { return a < b ? a : b; }

struct TopTwo {
  i32v first = kNothing - i32v{};
  i32v second = kNothing - i32v{};
  void add(i32v rank, i32v next) {
    second = greater_of(greater_of(second, next), lesser_of(first, rank));
    first = greater_of(first, rank);
  }
};

template <int kStep, int... kLane>
inline i32v swap_lanes(i32v v, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(v, v, (kLane ^ kStep)...);
}
template <int kStep>
inline void fold_lanes(TopTwo& top) {
  using Lanes = std::make_integer_sequence<int, kLanes>;
  if constexpr (kStep > 0) {
    top.add(swap_lanes<kStep>(top.first, Lanes{}), swap_lanes<kStep>(top.second, Lanes{}));
    fold_lanes<kStep / 2>(top);
  }
}

inline i32v lane_numbers() {
  i32v lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane;
}

// The two greatest ranks from `begin` to `end`, in all lanes. There is a vector's room behind a row.
inline TopTwo top_two(const Row& row, int64_t begin, int64_t end) {
  const i32v nothing = kNothing - i32v{};
  TopTwo top;
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) top.add(load<i32v>(row.rank + i), nothing);
  if (i < end) top.add(lane_numbers() < (int32_t)(end - i) ? load<i32v>(row.rank + i) : nothing, nothing);
  fold_lanes<kLanes / 2>(top);
  return top;
}

// The lanes that hold, the first in the lowest bit.
inline uint32_t lanes_where(i32v holds) {
#if defined(AITERLITE_CPU_AVX512)
  return _mm512_movepi32_mask((__m512i)holds);
#elif defined(AITERLITE_CPU_AVX2)
  return (uint32_t)_mm256_movemask_ps((__m256)holds);
#else
  uint32_t lanes = 0;
  for (int i = 0; i < kLanes; ++i) lanes |= (uint32_t)(holds[i] & 1) << i;
  return lanes;
#endif
}

// How many of `count` ranks are greater than that at a place, or equal and before it. Behind the last is nothing.
inline int64_t count_ahead(const int32_t* rank, int64_t count, int64_t at) {
  const i32v lane = lane_numbers();
  int64_t ahead = 0;
  for (int64_t j = 0; j < count; j += kLanes) {
    const i32v before = lane < (int32_t)(at - j);
    ahead += __builtin_popcount(lanes_where(load<i32v>(rank + j) > rank[at] + before));
  }
  return ahead;
}

// The experts of the groups that are kept, from `begin` to `end` each.
struct Kept {
  int64_t count = 0;
  struct {
    int64_t begin, end;
  } range[kMostGroups];
};

inline Kept keep(const aiterlite_routing_args& args, bool biased, const Row& row) {
  Kept kept;
  if (args.topk_groups == args.groups) {
    kept.range[kept.count++] = {0, args.experts};
    return kept;
  }
  const int32_t size = args.experts / args.groups;
  int32_t score[kMostGroups + kLanes];
  for (int32_t g = 0; g < args.groups; ++g) {
    const TopTwo top = top_two(row, g * size, (g + 1) * size);
    const bool summed = biased && size > 1;
    score[g] =
        summed ? rank_of(at_least(value_of(top.first) + value_of(top.second), -__builtin_inff()))[0] : top.first[0];
  }
  for (int i = 0; i < kLanes; ++i) score[args.groups + i] = kNothing;
  uint64_t groups = 0;
  for (int32_t g = 0; g < args.groups; ++g) {
    groups |= (uint64_t)(count_ahead(score, args.groups, g) < args.topk_groups) << g;
  }
  for (; groups != 0; groups &= groups - 1) {
    const int64_t begin = (int64_t)__builtin_ctzll(groups) * size;
    kept.range[kept.count++] = {begin, begin + size};
  }
  return kept;
}

// A rank that at least `topk` of the kept have: each lane's topk / kLanes greatest are among all, so the least of these
// is no greater than the last that is chosen.
inline int32_t threshold(const Row& row, const Kept& kept, int64_t topk) {
  constexpr int64_t kMost = (kMostTopk + kLanes - 1) / kLanes;
  const int64_t each = (topk + kLanes - 1) / kLanes;
  i32v top[kMost];
  for (int64_t i = 0; i < each; ++i) top[i] = kNothing - i32v{};
  for (int64_t r = 0; r < kept.count; ++r) {
    for (int64_t i = kept.range[r].begin; i + kLanes <= kept.range[r].end; i += kLanes) {
      i32v rank = load<i32v>(row.rank + i);
      for (int64_t j = 0; j < each; ++j) {
        const i32v most = greater_of(top[j], rank);
        rank = lesser_of(top[j], rank);
        top[j] = most;
      }
    }
  }
  int32_t least = top[each - 1][0];
  for (int i = 1; i < kLanes; ++i) least = top[each - 1][i] < least ? top[each - 1][i] : least;
  return least;
}

// The best `topk` of some, by the number of those that are better: no branch depends on a rank. `rank` has room for a
// vector behind the last.
inline void place_by_count(int32_t* rank, const int32_t* at, int64_t count, int64_t topk, int32_t* ids) {
  for (int i = 0; i < kLanes; ++i) rank[count + i] = kNothing;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t ahead = count_ahead(rank, count, i);
    if (ahead < topk) ids[ahead] = at[i];
  }
}

// The same one after the other, for many.
inline void place_in_order(const int32_t* rank, const int32_t* at, int64_t count, int64_t topk, int32_t* ids) {
  int32_t best[kMostTopk];
  for (int64_t i = 0; i < topk; ++i) best[i] = kNothing;
  for (int64_t i = 0; i < count; ++i) {
    if (rank[i] <= best[topk - 1]) continue;
    int64_t place = topk - 1;
    for (; place > 0 && best[place - 1] < rank[i]; --place) best[place] = best[place - 1], ids[place] = ids[place - 1];
    best[place] = rank[i], ids[place] = at[i];
  }
}

inline void choose_experts(const aiterlite_routing_args& args, bool biased, const Row& row, int32_t* ids) {
  const Kept kept = keep(args, biased, row);
  const int32_t least = threshold(row, kept, args.topk);
  int32_t rank[kMostExperts + kLanes], at[kMostExperts + 1];
  int64_t count = 0;
  for (int64_t r = 0; r < kept.count; ++r) {
    int64_t i = kept.range[r].begin;
    for (; i + kLanes <= kept.range[r].end; i += kLanes) {
      for (uint32_t lanes = lanes_where(load<i32v>(row.rank + i) >= least); lanes != 0; lanes &= lanes - 1) {
        const int64_t j = i + __builtin_ctz(lanes);
        rank[count] = row.rank[j], at[count++] = (int32_t)j;
      }
    }
    for (; i < kept.range[r].end; ++i) {
      rank[count] = row.rank[i], at[count] = (int32_t)i;
      count += row.rank[i] >= least;
    }
  }
  constexpr int64_t kFew = 48;
  if (count <= kFew) {
    place_by_count(rank, at, count, args.topk, ids);
  } else {
    place_in_order(rank, at, count, args.topk, ids);
  }
}

inline float sum_of_exponentials(const aiterlite_routing_args& args, const Row& row, float most) {
  f32v sums = {};
  int64_t i = 0;
  for (; i + kLanes <= args.experts; i += kLanes) sums += exp2((load<f32v>(row.x + i) - most) * kLog2E);
  f32v last = {};
  for (int j = 0; i + j < args.experts; ++j) last[j] = exp2(broadcast((row.x[i + j] - most) * kLog2E))[0];
  return sum(sums + last);
}

template <class Element, class Bias>
void route_token(const aiterlite_routing_args& args, int64_t token, Row& row) {
  const auto* from = static_cast<const typename Element::Bits*>(args.gating) + token * args.stride_gating;
  const auto* bias = static_cast<const typename Bias::Bits*>(args.bias);
  rank_row<Element, Bias>(args, from, bias, row);
  int32_t best[kMostTopk];
  choose_experts(args, bias != nullptr, row, best);

  float* weights = args.weights + token * args.stride_weights;
  int32_t* ids = args.ids + token * args.stride_ids;
  alignas(64) float chosen[kMostTopk + kLanes] = {};
  for (int64_t i = 0; i < args.topk; ++i) chosen[i] = row.x[best[i]];
  const float most = chosen[0];
  for (int64_t i = 0; i < args.topk; i += kLanes) {
    const f32v x = load<f32v>(chosen + i);
    store(chosen + i, args.softmax ? exp2((x - most) * kLog2E) : sigmoid(x));
  }
  float all = 1.0f;
  if (args.renorm) {
    all = 0.0f;
    for (int64_t i = 0; i < args.topk; ++i) all += chosen[i];
  } else if (args.softmax) {
    all = sum_of_exponentials(args, row, most);
  }
  for (int64_t i = 0; i < args.topk; ++i) {
    weights[i] = chosen[i] / all * args.scale;
    ids[i] = best[i];
    if (args.token_expert_indices == nullptr) continue;
    args.token_expert_indices[token * args.stride_indices + i] = (int32_t)(i * args.tokens + token);
  }
  for (int64_t i = 0; i < args.shared; ++i) {
    float& weight = weights[args.topk + i];
    if (args.shared_scored) {
      weight = sigmoid(broadcast(Element::to_float(from[args.experts + i])))[0];
    } else {
      weight = 1.0f;
      ids[args.topk + i] = args.experts + (int32_t)((token + i) % args.shared);
    }
  }
}

template <class Element, class Bias>
void route_tokens(int64_t begin, int64_t end, void* context) {
  const auto& args = *static_cast<const aiterlite_routing_args*>(context);
  Row row;
  for (int64_t token = begin; token < end; ++token) route_token<Element, Bias>(args, token, row);
}

template <class Element>
int32_t run(const aiterlite_routing_args* args, parallel_for_t parallel_for) {
  auto* context = const_cast<aiterlite_routing_args*>(args);
  const int64_t grain = (kSerialExperts + args->experts - 1) / args->experts;
  const auto tokens = args->bias_fp32 ? route_tokens<Element, Fp32> : route_tokens<Element, Element>;
  return parallel_for(0, args->tokens, grain, tokens, context);
}

}  // namespace

#define ROUTE(name, Element)                                                                                           \
  AITERLITE_EXPORT int32_t aiterlite_route_cpu_##name(const aiterlite_routing_args* args, parallel_for_t parallel_for, \
                                                      int32_t) {                                                       \
    return run<Element>(args, parallel_for);                                                                           \
  }
ROUTE(fp32, Fp32)
ROUTE(bf16, InOrderBf16)
ROUTE(fp16, InOrderFp16)
