// What neighbouring lanes hold of a row that is quantised: sixteen elements each, in registers, read and written 16
// bytes at a time; and the conversion of one element, the same bits on every target.
//
// A strip is 16 elements for each of kLanes lanes. Lane i reads the vectors i and kLanes + i of it, so that a load
// takes consecutive bytes of memory. Its codes are two pieces of 8 bytes; neighbours exchange one, and each writes 16
// bytes.
#pragma once
#include <aiterlite/block/reduce.h>
#include <aiterlite/numeric/fp8.h>
#include <aiterlite/vector.h>

namespace aiterlite::quant {

// Whole numbers from -127 to 127: to nearest, ties to even, beyond them the nearest; a NaN becomes 0.
struct int8 {
  uint8_t bits;
};

// A group's greatest magnitude counts as at least this, so that no scale is zero, subnormal, or has a reciprocal that
// is one.
inline constexpr float kLeastMaximum = 1e-10f;

template <class Out>
inline constexpr float kLargest = kLargestFp8<Out>;
template <>
inline constexpr float kLargest<int8> = 127.0f;

AITERLITE_DEVICE uint32_t encode_int8(float value) {
  // In a float whose last place is 1 an addition rounds; the code is the low byte.
  const float inside = value == value ? clamp(value, -127.0f, 127.0f) : 0.0f;
  return __builtin_bit_cast(uint32_t, inside + 0x1.8p23f);
}

template <class Out>
AITERLITE_DEVICE uint32_t encode_four(float a, float b, float c, float d) {
  return pack_fp8<Out, Overflow::kSaturate>(a, b, c, d);
}
template <>
AITERLITE_DEVICE uint32_t encode_four<int8>(float a, float b, float c, float d) {
  const uint32_t low = pick_bytes<0, 4, 0, 4>(encode_int8(a), encode_int8(b));
  const uint32_t high = pick_bytes<0, 4, 0, 4>(encode_int8(c), encode_int8(d));
  return pick_bytes<0, 1, 4, 5>(low, high);
}

// x / scale, rounded once, as the division of IEEE 754 has it: the residue of the quotient by the reciprocal, which is
// correctly rounded, corrects it. That holds for every x of bf16 and fp16 and every scale of scale_of below. By an
// infinite scale, numbers become zero and infinities NaN. The signs are chosen so that -0 stays -0.
class Divisor {
 public:
  AITERLITE_DEVICE explicit Divisor(float scale)
      : scale_(scale == __builtin_inff() ? 0.0f : scale),
        reciprocal_(scale == __builtin_inff() ? 0.0f : normal_reciprocal(scale)) {}
  AITERLITE_DEVICE float operator()(float x) const {
    const float quotient = x * reciprocal_;
    const float residue = __builtin_fmaf(quotient, scale_, -x);
    return __builtin_fmaf(-residue, reciprocal_, quotient);
  }

 private:
  float scale_;
  float reciprocal_;
};

// A scale that a caller brings may be anything: x is multiplied by its reciprocal.
class Multiplier {
 public:
  AITERLITE_DEVICE explicit Multiplier(float scale) : reciprocal_(1.0f / scale) {}
  AITERLITE_DEVICE float operator()(float x) const { return x * reciprocal_; }

 private:
  float reciprocal_;
};

// maximum / kLargest, rounded once; the same correction, by a constant.
template <class Out>
AITERLITE_DEVICE float scale_of(float maximum) {
  constexpr float kReciprocal = 1.0f / kLargest<Out>;
  const float most = __builtin_fmaxf(maximum, kLeastMaximum);
  const float quotient = most * kReciprocal;
  const float residue = __builtin_fmaf(quotient, kLargest<Out>, -most);
  return most == __builtin_inff() ? most : __builtin_fmaf(-residue, kReciprocal, quotient);
}

AITERLITE_DEVICE void widen(bf16, const Vector16& v, float (&value)[8]) {
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    value[2 * i] = __builtin_bit_cast(float, v.word[i] << 16);
    value[2 * i + 1] = __builtin_bit_cast(float, v.word[i] & 0xffff0000u);
  }
}
AITERLITE_DEVICE void widen(fp16, const Vector16& v, float (&value)[8]) {
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    value[2 * i] = half_bits_to_float(static_cast<uint16_t>(v.word[i]));
    value[2 * i + 1] = half_bits_to_float(static_cast<uint16_t>(v.word[i] >> 16));
  }
}

// Templates, since a target without these may not name them.
template <class Word>
AITERLITE_DEVICE Word greater_pair(bf16, Word a, Word b) {
  return greater_bf16_pair(a, b);
}
template <class Word>
AITERLITE_DEVICE Word greater_pair(fp16, Word a, Word b) {
  return greater_fp16_pair(a, b);
}

// The other lane of a pair's word.
AITERLITE_DEVICE uint32_t of_partner(uint32_t word) {
  // Which of the halves is the own one is not said.
  const WordHalves halves = both_halves_word<1>(word);
  return halves.first ^ halves.second ^ word;
}

// Eight elements of a row of `left`, from its element `at` on; zeros behind the row, of which nothing is read.
// `kAligned`: the row begins at a multiple of 16 bytes, and `at` and `left` are multiples of 8. `safe` is any address
// that may be read.
template <bool kAligned, Reuse reuse, class In>
AITERLITE_DEVICE Vector16 load_eight(const In* row, uint32_t at, uint32_t left, const void* safe) {
  if constexpr (kAligned) {
    return load_row_vector_if<reuse>(row + at, at < left, safe);
  } else {
    const void* from = left != 0 ? static_cast<const void*>(row) : safe;
    return gather_row_vector<true>(static_cast<const uint16_t*>(from), at, left);
  }
}
template <bool kAligned, class In>
AITERLITE_DEVICE void store_eight(In* row, uint32_t at, uint32_t left, const Vector16& part) {
  if constexpr (kAligned) {
    if (at < left) store_quad(reinterpret_cast<float*>(row + at), __builtin_bit_cast(Quad, part));
  } else {
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j) {
      if (at + j < left) store_u16(row + at + j, static_cast<uint16_t>(part.word[j / 2] >> (j % 2 * 16)));
    }
  }
}

// `kAligned`: strips begin at multiples of 16 bytes, in x and in out, and `left`, the elements of the row from the
// strip's first one on, is a multiple of 16.
template <class In, class Out, uint32_t kLanes, bool kAligned>
struct Strip {
  static_assert(kLanes % 2 == 0, "Strip: lanes exchange in pairs");
  static constexpr uint32_t kElements = 16 * kLanes;
  Vector16 part[2];

  // Nothing is read behind `left`; `safe` is any address that may be read.
  AITERLITE_DEVICE void load(const In* from, uint32_t lane, uint32_t left, const void* safe) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      part[i] = load_eight<kAligned, Reuse::kRow>(from, (i * kLanes + lane) * 8, left, safe);
    }
  }

  // The greatest of its magnitudes and `most`; no NaN. By a tree, or by four chains, since each step waits for the one
  // before.
  AITERLITE_DEVICE float maximum(float most) const {
    if constexpr (kPairMaxima) {
      uint32_t pair[8];
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) pair[i] = part[i / 4].word[i % 4] & 0x7fff7fffu;
#pragma unroll
      for (uint32_t step = 4; step > 0; step /= 2) {
#pragma unroll
        for (uint32_t i = 0; i < step; ++i) pair[i] = greater_pair(In{}, pair[i], pair[i + step]);
      }
      const float low = to_float(In{static_cast<uint16_t>(pair[0])});
      const float high = to_float(In{static_cast<uint16_t>(pair[0] >> 16)});
      return __builtin_fmaxf(most, __builtin_fmaxf(low, high));
    } else {
      float chain[4] = {most, most, most, most};
#pragma unroll
      for (const Vector16& v : part) {
        float value[8];
        widen(In{}, v, value);
#pragma unroll
        for (uint32_t i = 0; i < 8; ++i) chain[i % 4] = __builtin_fmaxf(chain[i % 4], __builtin_fabsf(value[i]));
      }
      return __builtin_fmaxf(__builtin_fmaxf(chain[0], chain[1]), __builtin_fmaxf(chain[2], chain[3]));
    }
  }

  // That of one part.
  AITERLITE_DEVICE float maximum_of(uint32_t i) const {
    if constexpr (kPairMaxima) {
      uint32_t pair[4];
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) pair[j] = part[i].word[j] & 0x7fff7fffu;
      const uint32_t most =
          greater_pair(In{}, greater_pair(In{}, pair[0], pair[1]), greater_pair(In{}, pair[2], pair[3]));
      const float low = to_float(In{static_cast<uint16_t>(most)});
      const float high = to_float(In{static_cast<uint16_t>(most >> 16)});
      return __builtin_fmaxf(0.0f, __builtin_fmaxf(low, high));
    } else {
      float value[8];
      widen(In{}, part[i], value);
#pragma unroll
      for (float& one : value) one = __builtin_fabsf(one);
      const float low = __builtin_fmaxf(__builtin_fmaxf(value[0], value[1]), __builtin_fmaxf(value[2], value[3]));
      const float high = __builtin_fmaxf(__builtin_fmaxf(value[4], value[5]), __builtin_fmaxf(value[6], value[7]));
      return __builtin_fmaxf(0.0f, __builtin_fmaxf(low, high));
    }
  }

  // Every lane of the strip takes part. Its parts may have scales of their own.
  template <class Scaling>
  AITERLITE_DEVICE void store(uint8_t* to, uint32_t lane, uint32_t left, const Scaling& scaled) const {
    store(to, lane, left, scaled, scaled);
  }
  template <class Scaling>
  AITERLITE_DEVICE void store(uint8_t* to, uint32_t lane, uint32_t left, const Scaling& first,
                              const Scaling& second) const {
    uint32_t code[2][2];
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      float value[8];
      widen(In{}, part[i], value);
#pragma unroll
      for (float& one : value) one = i == 0 ? first(one) : second(one);
      code[i][0] = encode_four<Out>(value[0], value[1], value[2], value[3]);
      code[i][1] = encode_four<Out>(value[4], value[5], value[6], value[7]);
    }
    if constexpr (kAligned) {
      const bool odd = lane % 2 != 0;
      const uint32_t got[2] = {of_partner(odd ? code[0][0] : code[1][0]), of_partner(odd ? code[0][1] : code[1][1])};
      const Vector16 whole = {
          {odd ? got[0] : code[0][0], odd ? got[1] : code[0][1], odd ? code[1][0] : got[0], odd ? code[1][1] : got[1]}};
      const uint32_t at = (odd ? kLanes + lane - 1 : lane) * 8;
      if (at < left) store_quad(reinterpret_cast<float*>(to + at), __builtin_bit_cast(Quad, whole));
    } else {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
        for (uint32_t j = 0; j < 8; ++j) {
          const uint32_t at = (i * kLanes + lane) * 8 + j;
          if (at < left) store_u8(to + at, static_cast<uint8_t>(code[i][j / 4] >> (8 * (j % 4))));
        }
      }
    }
  }
};

}  // namespace aiterlite::quant
