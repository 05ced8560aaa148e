// Reductions over the lanes of a wave and over a workgroup: sums, maxima, the place of the maximum. Every thread gets
// the result, in the same bits in all lanes and every launch: partners combine as a butterfly over lanes, then waves in
// order.
//
// T is one or several words, and an Op combines two of them in either order. A wave's steps are DPP on AMD (across rows
// of 16 gfx950 swaps registers, gfx942 goes through the LDS unit), shuffles on NVIDIA.
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite {

struct Sum {
  template <class T>
  AITERLITE_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};
// A float's NaN gives way to any number.
struct Max {
  AITERLITE_DEVICE float operator()(float a, float b) const { return __builtin_fmaxf(a, b); }
  AITERLITE_DEVICE uint32_t operator()(uint32_t a, uint32_t b) const { return a > b ? a : b; }
  AITERLITE_DEVICE int32_t operator()(int32_t a, int32_t b) const { return a > b ? a : b; }
};

template <class T>
struct Halves {
  T first;
  T second;
};
template <uint32_t kStep, class T>
AITERLITE_DEVICE Halves<T> both_halves(const T& value) {
  constexpr uint32_t kWords = sizeof(T) / 4;
  static_assert(sizeof(T) % 4 == 0, "both_halves: values are whole words; widen smaller ones");
  struct Words {
    uint32_t word[kWords];
  };
  const auto words = __builtin_bit_cast(Words, value);
  Words first, second;
#pragma unroll
  for (uint32_t i = 0; i < kWords; ++i) {
    const WordHalves halves = both_halves_word<kStep>(words.word[i]);
    first.word[i] = halves.first;
    second.word[i] = halves.second;
  }
  return {__builtin_bit_cast(T, first), __builtin_bit_cast(T, second)};
}

// The value of a lane; each lane may name another one.
template <class T>
AITERLITE_DEVICE T shuffle_value(const T& value, uint32_t lane) {
  constexpr uint32_t kWords = sizeof(T) / 4;
  struct Words {
    uint32_t word[kWords];
  };
  auto words = __builtin_bit_cast(Words, value);
#pragma unroll
  for (uint32_t i = 0; i < kWords; ++i) words.word[i] = shuffle(words.word[i], lane);
  return __builtin_bit_cast(T, words);
}

// Two values, one of which came from other lanes.
template <class T, class Op>
AITERLITE_DEVICE T combine_lanes(const T& a, const T& b, Op op) {
  return op(a, b);
}
AITERLITE_DEVICE float combine_lanes(float a, float b, Max) { return max_from_lanes(a, b); }

// Over each kLanes neighbouring lanes, a power of two.
template <uint32_t kLanes, class T, class Op>
AITERLITE_DEVICE T reduce_lanes(T value, Op op) {
  static_assert(kLanes >= 1 && kLanes <= kWaveSize && (kLanes & (kLanes - 1)) == 0,
                "reduce_lanes: a power of two of lanes, at most a wave");
  if constexpr (kLanes > 1) {
    value = reduce_lanes<kLanes / 2>(value, op);
    const Halves<T> halves = both_halves<kLanes / 2>(value);
    return combine_lanes(halves.first, halves.second, op);
  } else {
    return value;
  }
}
// Over the lanes whose numbers differ only in the bits from kStride (a power of two) on: for kStride 16 those at the
// same place of their rows of 16, which hold one column of a matrix instruction's sums on AMD.
template <uint32_t kStride, class T, class Op>
AITERLITE_DEVICE T reduce_strided(T value, Op op) {
#pragma unroll
  for (uint32_t step = kStride; step < kWaveSize; step *= 2) {
    value = combine_lanes(value, shuffle_value(value, lane_id() ^ step), op);
  }
  return value;
}
template <class T, class Op>
AITERLITE_DEVICE T reduce_wave(T value, Op op) {
  return reduce_lanes<kWaveSize>(value, op);
}

// `shared` are kWaves values that nothing else uses from here to the next barrier after this returns.
template <uint32_t kWaves, class T, class Op>
AITERLITE_DEVICE T reduce_workgroup(T value, Op op, T* shared) {
  value = reduce_wave(value, op);
  if constexpr (kWaves > 1) {
    if (lane_id() == 0) shared[wave_id()] = value;
    workgroup_barrier();
    value = shared[0];
#pragma unroll
    for (uint32_t wave = 1; wave < kWaves; ++wave) value = op(value, shared[wave]);
  }
  return value;
}

// A float and where it was found. Reduce with First to get the greatest, and of equals the one of the lowest index. -0
// equals 0. NaN counts as greater than all numbers, as torch's argmax and topk have it.
struct Ranked {
  uint32_t rank;  // in the order of the floats
  uint32_t index;

  AITERLITE_DEVICE static Ranked of(float value, uint32_t index) {
    const auto bits = __builtin_bit_cast(uint32_t, value + 0.0f);
    const uint32_t rank = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return {value == value ? rank : ~0u, index};
  }
  AITERLITE_DEVICE float value() const {
    return __builtin_bit_cast(float, rank & 0x80000000u ? rank & 0x7fffffffu : ~rank);
  }
};
struct First {
  AITERLITE_DEVICE Ranked operator()(const Ranked& a, const Ranked& b) const {
    const bool take_a = a.rank > b.rank || (a.rank == b.rank && a.index < b.index);
    // This chooses words, since a choice between two structs goes through memory on AMD.
    return {take_a ? a.rank : b.rank, take_a ? a.index : b.index};
  }
};

}  // namespace aiterlite
