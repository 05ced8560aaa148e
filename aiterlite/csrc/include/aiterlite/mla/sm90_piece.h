// What the sm_90 kernels of MLA decode share: which packed rows of q a workgroup has of a piece, how many of its tokens
// they see, and where their results go; its groups of warps; how weights are rounded. A workgroup has kRows packed rows
// (row by row, head by head) of all its pieces; `column_groups` workgroups share a piece.
#pragma once
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/mla/work.h>
#include <aiterlite/numeric/pack.h>

namespace aiterlite::mla {

inline constexpr uint32_t kTileTokens = 64;
// Weights are relative to a maximum that is renewed when it has grown by 2^kSlack, which fp16 weights can hold. It
// begins with a number below all scores that is finite, so that differences are numbers.
inline constexpr float kSlack = 8.0f, kLowest = -1e30f;

// Two groups of warps multiply.
inline constexpr uint32_t kGroups = 2, kGroupThreads = kGroupWaves * kWaveSize, kMultipliers = kGroups * kGroupThreads;
// Named barriers: of all that multiply, and of each group.
inline constexpr uint32_t kAllBarrier = 1, kGroupBarrier = 2;

// A weight is a sum of so many numbers.
template <class Element>
inline constexpr uint32_t kWeightParts = __is_same(Element, bf16) ? 2 : 1;
// A pair of weights as a word; leaves of them what rounding lost, which is the next part.
template <class Element>
AITERLITE_DEVICE uint32_t take_part(float (&weight)[2]) {
  const uint32_t word = pack_pair(Element{}, weight[0], weight[1]);
#pragma unroll
  for (uint32_t e = 0; e < 2; ++e) weight[e] -= to_float(Element{static_cast<uint16_t>(word >> (16 * e))});
  return word;
}

template <class Element>
AITERLITE_DEVICE bool any_not_finite(const Vector16& elements) {
  constexpr uint32_t kExponent = __is_same(Element, bf16) ? 0x7f80u : 0x7c00u;
  bool any = false;
#pragma unroll
  for (const uint32_t word : elements.word) {
    any |= (word & kExponent) == kExponent || (word >> 16 & kExponent) == kExponent;
  }
  return any;
}

// Of a packed row: a row of partial or of o, in heads; -1: nowhere.
struct Destination {
  int64_t twice;  // and 1 for partial

  AITERLITE_DEVICE static Destination of(const Work& work, int32_t heads, int32_t row, int32_t head) {
    if (work.partial >= 0) return {((work.partial + row * work.partial_step) * work.heads + head) * 2 + 1};
    return {((work.first_row + row) * heads + work.head + head) * 2};
  }
  AITERLITE_DEVICE bool exists() const { return twice >= 0; }
  AITERLITE_DEVICE bool partial() const { return (twice & 1) != 0; }
  AITERLITE_DEVICE int64_t row() const { return twice >> 1; }
};

AITERLITE_DEVICE int32_t seen_by(const Work& work, int32_t row) {
  const int32_t seen = visible(work, row) - work.begin;
  return seen > 0 ? seen : 0;
}

// A packed row of a piece.
struct PackedRow {
  int64_t q;     // the row of q, in heads
  int32_t seen;  // tokens of the piece
  Destination destination;
};

// The packed rows of a workgroup: `count` from `first` on, of which the first sees the fewest of the piece's tokens and
// the last the most.
struct Extent {
  int32_t first, count;
  int32_t least_seen, most_seen;

  AITERLITE_DEVICE uint32_t tiles() const { return (static_cast<uint32_t>(most_seen) + kTileTokens - 1) / kTileTokens; }
  // Row i; one that there is not is the first one, and goes nowhere.
  AITERLITE_DEVICE PackedRow row(const aiterlite_mla_decode_args& args, const Work& work, int32_t i) const {
    const int32_t packed = first + (i < count ? i : 0), row = packed / work.heads, head = packed % work.heads;
    return {(work.first_row + row) * args.heads + work.head + head, seen_by(work, row),
            i < count ? Destination::of(work, args.heads, row, head) : Destination{-1}};
  }
};

template <uint32_t kRows>
AITERLITE_DEVICE Extent extent_of(const Work& work, uint32_t number) {
  const int32_t first = static_cast<int32_t>(number * kRows), all = work.rows * work.heads;
  int32_t count = all - first;
  if (work.request < 0 || count <= 0) return {first, 0, 0, 0};
  count = count < static_cast<int32_t>(kRows) ? count : static_cast<int32_t>(kRows);
  return {first, count, seen_by(work, first / work.heads), seen_by(work, (first + count - 1) / work.heads)};
}

// take(work, extent) for each of this workgroup's pieces that has rows for it.
template <bool kPlanned, uint32_t kRows, class Take>
AITERLITE_DEVICE void for_each_piece(const aiterlite_mla_decode_args& args, const Take& take) {
  const auto groups = static_cast<uint32_t>(args.column_groups);
  const uint32_t number = workgroup_id() / groups;
  if constexpr (kPlanned) {
    const int32_t last = load_int(args.work_indptr, int64_t{number} + 1);
#pragma unroll 1
    for (int32_t item = load_int(args.work_indptr, number); item < last; ++item) {
      const Work work = planned_work(args, item);
      const Extent extent = extent_of<kRows>(work, workgroup_id() % groups);
      if (extent.count > 0) take(work, extent);
    }
  } else {
    const auto splits = static_cast<uint32_t>(args.splits);
    const Work work = split_work(args, static_cast<int32_t>(number / splits), static_cast<int32_t>(number % splits));
    const Extent extent = extent_of<kRows>(work, workgroup_id() % groups);
    if (extent.count > 0) take(work, extent);
  }
}

AITERLITE_DEVICE Vector8 as_words(float a, float b) {
  return {{__builtin_bit_cast(uint32_t, a), __builtin_bit_cast(uint32_t, b)}};
}

// f(0), f(1), ... of numbers that are constants.
template <uint32_t kValue>
struct Number {
  static constexpr uint32_t value = kValue;
};
template <uint32_t kCount, uint32_t kFirst = 0, class F>
AITERLITE_DEVICE void static_for(const F& f) {
  if constexpr (kFirst < kCount) {
    f(Number<kFirst>{});
    static_for<kCount, kFirst + 1>(f);
  }
}

}  // namespace aiterlite::mla
