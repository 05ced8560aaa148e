// RMSNorm of rows of bf16 or fp16, with a residual added before or not, quantised to 8 bits or not: norm/args.h. One
// source for gfx942, gfx950 and sm_90.
//
// A team of AITERLITE_LANES lanes holds AITERLITE_BATCH rows in registers: each lane 16 elements of each row, in two
// accesses of 16 bytes whose neighbours are those of its neighbours. A team is at most a wave, several in a workgroup;
// or it is the workgroup, and one barrier lies between its sums and their use. Lanes of a team are a matter of the
// width alone, so a row's bits do not depend on how many rows there are. Rows longer than 1,024 lanes hold
// (AITERLITE_PASSES 2) are read once more, and with a scale a row twice more.
//
// Order: squares in four chains a lane, which meet in pairs; then a butterfly over lanes, then waves in order. No
// atomics: same operands, same bits. The sum with the residual is rounded before it is squared, and the result before
// it is quantised: so a fused call gives the bits of its parts, and a held element is 16 bits.
//
// Floor, bytes an element: 2 in and 2 out (codes: 1 out); with a residual 2 in and 2 out more. Beside them a row of
// weights, which comes from the caches, and the scales. At 7,168: 28,672 bytes a row, 57,344 with a residual, 50,400
// with both and scales of groups of 128.
//
// A grid that is on the chip all at once (AITERLITE_EARLY) fetches its rows and weights before its predecessors have
// ended, lets its successors do so at once, and has its weights on their way while it sums. A grid that is not leaves
// the registers of weights to other workgroups.
#include <aiterlite/norm/args.h>
#include <aiterlite/norm/row.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::quant;
using namespace aiterlite::norm;
using In = AITERLITE_ELEMENT;
using Out = AITERLITE_CODE;

constexpr uint32_t kThreads = AITERLITE_THREADS, kLanes = AITERLITE_LANES, kBatch = AITERLITE_BATCH,
                   kTeams = kThreads / kLanes, kWaves = kThreads / kWaveSize;
constexpr uint32_t kGroup = AITERLITE_GROUP;  // 0: not quantised; 1: a scale a row
constexpr bool kAligned = AITERLITE_ALIGNED, kAdd = AITERLITE_ADD, kGemma = AITERLITE_GEMMA,
               kSensitive = AITERLITE_MODEL_SENSITIVE, kTransposed = AITERLITE_TRANSPOSED,
               kTwoPasses = AITERLITE_PASSES == 2, kEarly = AITERLITE_EARLY;
constexpr bool kIsWorkgroup = kLanes > kWaveSize, kCodes = kGroup != 0, kOfGroups = kGroup > 1;
constexpr uint32_t kVector = kVectorElements<In>, kGroupLanes = kOfGroups ? kGroup / kVector : 1;
static_assert(kIsWorkgroup ? kTeams == 1 : (kLanes & (kLanes - 1)) == 0, "a team is a power of two, or the workgroup");
static_assert(kLanes % kGroupLanes == 0, "a group lies in one part of a strip");
static_assert(!kTwoPasses || kBatch == 1, "a long row is alone");

using Piece = Strip<In, Out, kLanes, kAligned>;
constexpr uint32_t kHeld = Piece::kElements, kLineElements = 128 / sizeof(In);

// A float for each row of a batch.
struct Each {
  float of[kBatch];
};
template <class Op>
struct ForEach {
  AITERLITE_DEVICE Each operator()(const Each& a, const Each& b) const {
    Each both;
#pragma unroll
    for (uint32_t i = 0; i < kBatch; ++i) both.of[i] = Op{}(a.of[i], b.of[i]);
    return both;
  }
};
template <class Op>
AITERLITE_DEVICE Each reduce_team(const Each& each, Op, Each* shared) {
  if constexpr (kIsWorkgroup) {
    return reduce_workgroup<kWaves>(each, ForEach<Op>{}, shared);
  } else {
    return reduce_lanes<kLanes>(each, ForEach<Op>{});
  }
}

AITERLITE_DEVICE constexpr uint32_t place_of(uint32_t part, uint32_t lane) { return (part * kLanes + lane) * kVector; }

}  // namespace

AITERLITE_KERNEL_RESIDENT(kThreads, AITERLITE_RESIDENT)
aiterlite_norm_rows(aiterlite_norm_args args) {
  AITERLITE_SHARED(Each, shared_sums, kWaves);
  const uint32_t team = thread_id() / kLanes, lane = thread_id() % kLanes;
  const auto rows = static_cast<uint32_t>(args.rows), width = static_cast<uint32_t>(args.width);
  const auto row_of = [&](uint32_t b) { return (workgroup_id() * kBatch + b) * kTeams + team; };
  const auto left_of = [&](uint32_t b) { return row_of(b) < rows ? width : 0; };
  const auto* weight = static_cast<const In*>(args.weight);
  const auto x = [&](uint32_t b) { return static_cast<const In*>(args.x) + row_of(b) * args.stride_x; };
  const auto residual = [&](uint32_t b) {
    return static_cast<const In*>(args.residual_in) + row_of(b) * args.stride_in;
  };
  const auto sum = [&](uint32_t b) { return static_cast<In*>(args.residual_out) + row_of(b) * args.stride_sum; };

  if constexpr (kEarly) {
    admit_successors();
#pragma unroll
    for (uint32_t at = lane * kLineElements; at < kHeld; at += kLanes * kLineElements) {
      if (at >= width) continue;
      prefetch_operand(weight + at);
#pragma unroll
      for (uint32_t b = 0; b < kBatch; ++b) {
        if (row_of(b) >= rows) continue;
        prefetch_operand(x(b) + at);
        if constexpr (kAdd) prefetch_operand(residual(b) + at);
      }
    }
  }
  await_predecessors();

  // From element `first` of a row on. What is not wanted is read of the weights, which nothing writes: rows of x may be
  // those of out.
  const auto load_h = [&](Piece& piece, uint32_t b, uint32_t first) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      piece.part[i] = load_eight<kAligned, Reuse::kRow>(x(b), first + place_of(i, lane), left_of(b), weight);
    }
  };
  const auto add = [&](Piece& piece, const Piece& other, uint32_t b, uint32_t first) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      piece.part[i] = sum_of<In>(piece.part[i], other.part[i]);
      store_eight<kAligned>(sum(b), first + place_of(i, lane), left_of(b), piece.part[i]);
    }
  };
  const auto load_residual = [&](Piece& piece, uint32_t b, uint32_t first) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      piece.part[i] = load_eight<kAligned, Reuse::kRow>(residual(b), first + place_of(i, lane), left_of(b), weight);
    }
  };
  const auto load_weight = [&](uint32_t i, uint32_t first) {
    return load_eight<kAligned, Reuse::kLikely>(weight, first + place_of(i, lane), width, weight);
  };

  Piece piece[kBatch];
  Each each;
  Vector16 factor[2];
#pragma unroll
  for (uint32_t b = 0; b < kBatch; ++b) load_h(piece[b], b, 0);
  if constexpr (kAdd) {
    Piece other[kBatch];
#pragma unroll
    for (uint32_t b = 0; b < kBatch; ++b) load_residual(other[b], b, 0);
    if constexpr (kEarly && !kTwoPasses) {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) factor[i] = load_weight(i, 0);
    }
#pragma unroll
    for (uint32_t b = 0; b < kBatch; ++b) add(piece[b], other[b], b, 0);
  } else if constexpr (kEarly && !kTwoPasses) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) factor[i] = load_weight(i, 0);
  }
#pragma unroll
  for (uint32_t b = 0; b < kBatch; ++b) each.of[b] = squares<In>(piece[b].part);
  if constexpr (kTwoPasses) {
#pragma unroll 1
    for (uint32_t first = kHeld; first < width; first += kHeld) {
      load_h(piece[0], 0, first);
      if constexpr (kAdd) {
        Piece other;
        load_residual(other, 0, first);
        add(piece[0], other, 0, first);
      }
      each.of[0] += squares<In>(piece[0].part);
    }
  }
  if constexpr (!kEarly) admit_successors();

  each = reduce_team(each, Sum{}, shared_sums);
#pragma unroll
  for (uint32_t b = 0; b < kBatch; ++b) {
    each.of[b] = fast_reciprocal_sqrt(__builtin_fmaf(each.of[b], args.inverse_width, args.epsilon));
  }

  // What a team holds becomes its result; a long row's is read again, from where this lane has left it.
  const auto normalise = [&](uint32_t first, const float (&root)[kBatch]) {
    if constexpr (kTwoPasses) {
      const In* row = kAdd ? sum(0) : x(0);
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        piece[0].part[i] = load_eight<kAligned, Reuse::kLikely>(row, first + place_of(i, lane), left_of(0), weight);
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const Vector16 by = kEarly && !kTwoPasses ? factor[i] : load_weight(i, first);
#pragma unroll
      for (uint32_t b = 0; b < kBatch; ++b)
        piece[b].part[i] = normalised<In, kGemma, kSensitive>(piece[b].part[i], by, root[b]);
    }
  };
  const auto codes = [&](uint32_t b, uint32_t first) {
    return static_cast<uint8_t*>(args.out) + row_of(b) * args.stride_out + first;
  };
  // Of `first`, which lies in every row.
  const auto behind = [&](uint32_t b, uint32_t first) { return left_of(b) != 0 ? width - first : 0; };

  if constexpr (!kCodes) {
#pragma unroll 1
    for (uint32_t first = 0; first < (kTwoPasses ? width : 1); first += kHeld) {
      normalise(first, each.of);
#pragma unroll
      for (uint32_t b = 0; b < kBatch; ++b) {
        In* row = static_cast<In*>(args.out) + row_of(b) * args.stride_out;
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
          store_eight<kAligned>(row, first + place_of(i, lane), left_of(b), piece[b].part[i]);
        }
      }
    }
  } else if constexpr (kOfGroups) {
    const auto groups = static_cast<int64_t>(width / kGroup);
#pragma unroll 1
    for (uint32_t first = 0; first < (kTwoPasses ? width : 1); first += kHeld) {
      normalise(first, each.of);
#pragma unroll
      for (uint32_t b = 0; b < kBatch; ++b) {
        float scale[2];
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
          scale[i] = scale_of<Out>(reduce_lanes<kGroupLanes>(piece[b].maximum_of(i), Max{}));
          const uint32_t at = first + place_of(i, lane);
          if (lane % kGroupLanes == 0 && at < left_of(b)) {
            const int64_t row = row_of(b), group = at / kGroup;
            const int64_t to = kTransposed ? group * rows + row : row * groups + group;
            store_u32(args.scales + to, __builtin_bit_cast(uint32_t, scale[i]));
          }
        }
        piece[b].store(codes(b, first), lane, behind(b, first), Divisor(scale[0]), Divisor(scale[1]));
      }
    }
  } else {
    AITERLITE_SHARED(Each, shared_maxima, kWaves);
    Each most = {};
#pragma unroll 1
    for (uint32_t first = 0; first < (kTwoPasses ? width : 1); first += kHeld) {
      normalise(first, each.of);
#pragma unroll
      for (uint32_t b = 0; b < kBatch; ++b) most.of[b] = piece[b].maximum(most.of[b]);
    }
    most = reduce_team(most, Max{}, shared_maxima);
    Each scale;
#pragma unroll
    for (uint32_t b = 0; b < kBatch; ++b) {
      scale.of[b] = scale_of<Out>(most.of[b]);
      if (lane == 0 && left_of(b) != 0) {
        store_u32(args.scales + int64_t{row_of(b)}, __builtin_bit_cast(uint32_t, scale.of[b]));
      }
    }
#pragma unroll 1
    for (uint32_t first = 0; first < (kTwoPasses ? width : 1); first += kHeld) {
      if constexpr (kTwoPasses) normalise(first, each.of);
#pragma unroll
      for (uint32_t b = 0; b < kBatch; ++b) {
        piece[b].store(codes(b, first), lane, behind(b, first), Divisor(scale.of[b]));
      }
    }
  }
}
