// RMSNorm of the rows of one tensor, or of two in one launch: norm/pair_args.h. The first may be added to a residual,
// and may be written, quantised to 8 bits, or both. One source for gfx942, gfx950 and sm_90.
//
// Workgroups below `first_grid` take rows of the first tensor, the others those of the second: q's and k's latents of a
// token do not depend on each other, and a launch of their own for the few of k would take as long as both. A row has
// the team of lanes that norm/rows.hip gives it, in the same order of sums and roundings, so the bits are those of two
// calls: a lane holds 16 elements of each row of its batch, in two accesses of 16 bytes. Where a row of either tensor
// has a workgroup, workgroups are as large as the larger needs; a team that is smaller than that, and larger than a
// wave, leaves the other waves idle.
//
// Floor, bytes an element: norm/rows.hip's, and 2 more where the norm is written beside its codes. q and k of
// DeepSeek-R1, 1,536 and 512 columns: 8,192 bytes a token.
//
// A grid that is on the chip all at once (AITERLITE_EARLY) fetches its rows and weights before its predecessors have
// ended, and lets its successors do so at once.
#include <aiterlite/norm/pair_args.h>
#include <aiterlite/norm/row.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::quant;
using namespace aiterlite::norm;
using In = AITERLITE_ELEMENT;
using Out = AITERLITE_CODE;

constexpr uint32_t kThreads = AITERLITE_THREADS, kWaves = kThreads / kWaveSize;
constexpr bool kAligned = AITERLITE_ALIGNED, kGemma = AITERLITE_GEMMA, kTransposed = AITERLITE_TRANSPOSED,
               kEarly = AITERLITE_EARLY;
constexpr uint32_t kVector = kVectorElements<In>, kLineElements = 128 / sizeof(In);

// How the rows of a tensor are normalised. kGroup 0: they are not quantised; 1: with a scale a row.
template <uint32_t lanes, uint32_t batch, bool two_passes, bool add, bool plain, uint32_t group>
struct Form {
  static constexpr uint32_t kLanes = lanes, kBatch = batch, kGroup = group;
  static constexpr bool kTwoPasses = two_passes, kAdd = add, kPlain = plain;
  static constexpr bool kIsWorkgroup = lanes > kWaveSize;
  static constexpr uint32_t kTeams = kIsWorkgroup ? 1 : kThreads / lanes;
  static constexpr uint32_t kGroupLanes = group > 1 ? group / kVector : 1;
  static_assert(kIsWorkgroup ? lanes <= kThreads && lanes % kWaveSize == 0 : (lanes & (lanes - 1)) == 0,
                "a team is a power of two, or waves of the workgroup");
  static_assert(lanes % kGroupLanes == 0, "a group lies in one part of a strip");
  static_assert(!two_passes || batch == 1, "a long row is alone");
};

struct Tensors {
  const In* x;
  const In* weight;
  const In* residual_in;
  In* residual_out;
  In* out;
  uint8_t* codes;
  float* scales;
  int64_t stride_x, stride_in, stride_sum, stride_out, stride_codes;
  uint32_t rows, width;
  float epsilon, inverse_width;
};

// A float for each row of a batch.
template <uint32_t batch>
struct Each {
  float of[batch];
};
template <class Op>
struct ForEach {
  template <uint32_t batch>
  AITERLITE_DEVICE Each<batch> operator()(const Each<batch>& a, const Each<batch>& b) const {
    Each<batch> both;
#pragma unroll
    for (uint32_t i = 0; i < batch; ++i) both.of[i] = Op{}(a.of[i], b.of[i]);
    return both;
  }
};
template <class F, class Op>
AITERLITE_DEVICE Each<F::kBatch> reduce_team(const Each<F::kBatch>& each, Op, Each<F::kBatch>* shared) {
  if constexpr (F::kIsWorkgroup) {
    return reduce_workgroup<F::kLanes / kWaveSize>(each, ForEach<Op>{}, shared);
  } else {
    return reduce_lanes<F::kLanes>(each, ForEach<Op>{});
  }
}

// What workgroup `workgroup` of a tensor's does.
template <class F>
AITERLITE_DEVICE void normalise(const Tensors& t, uint32_t workgroup) {
  constexpr uint32_t kLanes = F::kLanes, kBatch = F::kBatch, kTeams = F::kTeams, kGroup = F::kGroup;
  constexpr bool kAdd = F::kAdd, kTwoPasses = F::kTwoPasses;
  using Piece = Strip<In, Out, kLanes, kAligned>;
  constexpr uint32_t kHeld = Piece::kElements;
  AITERLITE_SHARED(Each<kBatch>, shared_sums, kWaves);

  const uint32_t team = F::kIsWorkgroup ? 0 : thread_id() / kLanes;
  const uint32_t lane = F::kIsWorkgroup ? thread_id() : thread_id() % kLanes;
  // Threads behind the last team have no rows.
  const bool takes_part = thread_id() < kTeams * kLanes;
  const uint32_t width = t.width;
  const auto row_of = [&](uint32_t b) { return (workgroup * kBatch + b) * kTeams + team; };
  const auto left_of = [&](uint32_t b) { return takes_part && row_of(b) < t.rows ? width : 0; };
  const auto place_of = [&](uint32_t part) { return (part * kLanes + lane) * kVector; };
  const auto x = [&](uint32_t b) { return t.x + row_of(b) * t.stride_x; };
  const auto residual = [&](uint32_t b) { return t.residual_in + row_of(b) * t.stride_in; };
  const auto sum = [&](uint32_t b) { return t.residual_out + row_of(b) * t.stride_sum; };

  if constexpr (kEarly) {
    admit_successors();
#pragma unroll
    for (uint32_t at = lane * kLineElements; at < kHeld; at += kLanes * kLineElements) {
      if (at >= width) continue;
      prefetch_operand(t.weight + at);
#pragma unroll
      for (uint32_t b = 0; b < kBatch; ++b) {
        if (left_of(b) == 0) continue;
        prefetch_operand(x(b) + at);
        if constexpr (kAdd) prefetch_operand(residual(b) + at);
      }
    }
  }
  await_predecessors();

  Piece piece[kBatch];
  // Elements `first` on of row b, and of its sum with the residual, which is written. What is not wanted is read of the
  // weights, which nothing writes.
  const auto load_h = [&](uint32_t b, uint32_t first) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t at = first + place_of(i), left = left_of(b);
      piece[b].part[i] = load_eight<kAligned, Reuse::kRow>(x(b), at, left, t.weight);
      if constexpr (kAdd) {
        const Vector16 other = load_eight<kAligned, Reuse::kRow>(residual(b), at, left, t.weight);
        piece[b].part[i] = sum_of<In>(piece[b].part[i], other);
        store_eight<kAligned>(sum(b), at, left, piece[b].part[i]);
      }
    }
  };
  Each<kBatch> root;
#pragma unroll
  for (uint32_t b = 0; b < kBatch; ++b) {
    load_h(b, 0);
    root.of[b] = squares<In>(piece[b].part);
  }
  if constexpr (kTwoPasses) {
#pragma unroll 1
    for (uint32_t first = kHeld; first < width; first += kHeld) {
      load_h(0, first);
      root.of[0] += squares<In>(piece[0].part);
    }
  }
  if constexpr (!kEarly) admit_successors();
  root = reduce_team<F>(root, Sum{}, shared_sums);
#pragma unroll
  for (uint32_t b = 0; b < kBatch; ++b) {
    root.of[b] = fast_reciprocal_sqrt(__builtin_fmaf(root.of[b], t.inverse_width, t.epsilon));
  }

  // What a team holds becomes its norm; a long row is read again, from where this lane has left it.
  const auto make = [&](uint32_t first) {
    if constexpr (kTwoPasses) {
      const In* row = kAdd ? sum(0) : x(0);
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        piece[0].part[i] = load_eight<kAligned, Reuse::kLikely>(row, first + place_of(i), left_of(0), t.weight);
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const Vector16 by = load_eight<kAligned, Reuse::kLikely>(t.weight, first + place_of(i), width, t.weight);
#pragma unroll
      for (uint32_t b = 0; b < kBatch; ++b) {
        piece[b].part[i] = normalised<In, kGemma, false>(piece[b].part[i], by, root.of[b]);
      }
    }
  };
  const auto store_plain = [&](uint32_t first) {
#pragma unroll
    for (uint32_t b = 0; b < kBatch; ++b) {
      In* row = t.out + row_of(b) * t.stride_out;
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        store_eight<kAligned>(row, first + place_of(i), left_of(b), piece[b].part[i]);
      }
    }
  };
  [[maybe_unused]] const auto codes = [&](uint32_t b, uint32_t first) {
    return t.codes + row_of(b) * t.stride_codes + first;
  };
  // Of `first`, which lies in every row.
  [[maybe_unused]] const auto behind = [&](uint32_t b, uint32_t first) { return left_of(b) != 0 ? width - first : 0; };

  // With a scale a row the greatest magnitude is found first.
  Each<kBatch> most = {};
#pragma unroll 1
  for (uint32_t first = 0; first < (kTwoPasses ? width : 1); first += kHeld) {
    make(first);
    if constexpr (F::kPlain) store_plain(first);
    if constexpr (kGroup == 1) {
#pragma unroll
      for (uint32_t b = 0; b < kBatch; ++b) most.of[b] = piece[b].maximum(most.of[b]);
    } else if constexpr (kGroup > 1) {
      const auto groups = static_cast<int64_t>(width / kGroup);
#pragma unroll
      for (uint32_t b = 0; b < kBatch; ++b) {
        float scale[2];
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
          scale[i] = scale_of<Out>(reduce_lanes<F::kGroupLanes>(piece[b].maximum_of(i), Max{}));
          const uint32_t at = first + place_of(i);
          if (lane % F::kGroupLanes == 0 && at < left_of(b)) {
            const int64_t row = row_of(b), group = at / kGroup;
            const int64_t to = kTransposed ? group * t.rows + row : row * groups + group;
            store_u32(t.scales + to, __builtin_bit_cast(uint32_t, scale[i]));
          }
        }
        piece[b].store(codes(b, first), lane, behind(b, first), Divisor(scale[0]), Divisor(scale[1]));
      }
    }
  }
  if constexpr (kGroup == 1) {
    AITERLITE_SHARED(Each<kBatch>, shared_maxima, kWaves);
    most = reduce_team<F>(most, Max{}, shared_maxima);
#pragma unroll
    for (uint32_t b = 0; b < kBatch; ++b) {
      most.of[b] = scale_of<Out>(most.of[b]);
      if (lane == 0 && left_of(b) != 0) {
        store_u32(t.scales + int64_t{row_of(b)}, __builtin_bit_cast(uint32_t, most.of[b]));
      }
    }
#pragma unroll 1
    for (uint32_t first = 0; first < (kTwoPasses ? width : 1); first += kHeld) {
      if constexpr (kTwoPasses) make(first);
#pragma unroll
      for (uint32_t b = 0; b < kBatch; ++b) {
        piece[b].store(codes(b, first), lane, behind(b, first), Divisor(most.of[b]));
      }
    }
  }
}

constexpr uint32_t kSecondLanes = AITERLITE_SECOND_LANES;  // 0: there is no second tensor
using FirstRows =
    Form<AITERLITE_LANES, AITERLITE_BATCH, AITERLITE_PASSES == 2, AITERLITE_ADD, AITERLITE_PLAIN, AITERLITE_GROUP>;
using SecondRows = Form<kSecondLanes != 0 ? kSecondLanes : kWaveSize, AITERLITE_SECOND_BATCH,
                        AITERLITE_SECOND_PASSES == 2, false, true, 0>;

}  // namespace

AITERLITE_KERNEL_RESIDENT(kThreads, AITERLITE_RESIDENT)
aiterlite_norm_pair(aiterlite_norm_pair_args args) {
  const auto rows = static_cast<uint32_t>(args.rows), first_grid = static_cast<uint32_t>(args.first_grid);
  if constexpr (kSecondLanes != 0) {
    if (workgroup_id() >= first_grid) {
      Tensors t = {};
      t.x = static_cast<const In*>(args.second_x);
      t.weight = static_cast<const In*>(args.second_weight);
      t.out = static_cast<In*>(args.second_out);
      t.stride_x = args.second_stride_x;
      t.stride_out = args.second_stride_out;
      t.rows = rows;
      t.width = static_cast<uint32_t>(args.second_width);
      t.epsilon = args.second_epsilon;
      t.inverse_width = args.second_inverse_width;
      normalise<SecondRows>(t, workgroup_id() - first_grid);
      return;
    }
  }
  Tensors t = {};
  t.x = static_cast<const In*>(args.x);
  t.weight = static_cast<const In*>(args.weight);
  t.residual_in = static_cast<const In*>(args.residual_in);
  t.residual_out = static_cast<In*>(args.residual_out);
  t.out = static_cast<In*>(args.out);
  t.codes = static_cast<uint8_t*>(args.codes);
  t.scales = args.scales;
  t.stride_x = args.stride_x;
  t.stride_in = args.stride_in;
  t.stride_sum = args.stride_sum;
  t.stride_out = args.stride_out;
  t.stride_codes = args.stride_codes;
  t.rows = rows;
  t.width = static_cast<uint32_t>(args.width);
  t.epsilon = args.epsilon;
  t.inverse_width = args.inverse_width;
  normalise<FirstRows>(t, workgroup_id());
}
