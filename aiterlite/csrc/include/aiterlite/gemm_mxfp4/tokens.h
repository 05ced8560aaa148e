// Tokens in the order in which decoded codes are multiplied: of each 8 elements the pairs (0, 4), (1, 5), (2, 6) and
// (3, 7), as 16-bit numbers times a power of two.
#pragma once
#include <aiterlite/gemm_mxfp4/args.h>
#include <aiterlite/numeric/mxfp4_decode.h>
#include <aiterlite/numeric/mxfp4_layout.h>

namespace aiterlite::gemm_mxfp4 {

// Both halves times 2^kExponent; exact, but for what is beyond the range of bf16.
template <int kExponent>
AITERLITE_DEVICE uint32_t scaled_pair(uint32_t pair) {
  static_assert(kExponent >= 0 && kExponent < 127, "scaled_pair: one multiplication");
  if constexpr (kExponent == 0) return pair;
  constexpr float kBy = __builtin_bit_cast(float, static_cast<uint32_t>(127 + kExponent) << 23);
  const float low = __builtin_bit_cast(float, pair << 16) * kBy;
  const float high = __builtin_bit_cast(float, pair & 0xffff0000u) * kBy;
  return pick_bytes<2, 3, 6, 7>(__builtin_bit_cast(uint32_t, low), __builtin_bit_cast(uint32_t, high));
}

// Of 8 neighbouring 16-bit elements.
template <int kExponent>
AITERLITE_DEVICE Vector16 paired(const Vector16& x) {
  Vector16 made;
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    made.word[2 * i] = scaled_pair<kExponent>(pick_bytes<0, 1, 4, 5>(x.word[i], x.word[i + 2]));
    made.word[2 * i + 1] = scaled_pair<kExponent>(pick_bytes<2, 3, 6, 7>(x.word[i], x.word[i + 2]));
  }
  return made;
}

// Of 8 neighbouring codes and their scale: bf16, which has all such products but those that float32 has not either.
template <int kExponent>
AITERLITE_DEVICE Vector16 paired(uint32_t codes, float scale) {
  uint32_t pair[4];
  decode_e2m1(bf16{}, codes, pair);
  Vector16 made;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t low = pair[i] << 16, high = pair[i] & 0xffff0000u;
    const float values[2] = {__builtin_bit_cast(float, low) * 0x1p126f * scale,
                             __builtin_bit_cast(float, high) * 0x1p126f * scale};
    made.word[i] = scaled_pair<kExponent>(
        pick_bytes<2, 3, 6, 7>(__builtin_bit_cast(uint32_t, values[0]), __builtin_bit_cast(uint32_t, values[1])));
  }
  return made;
}

// Elements [k, k + 8) of a token, k a multiple of 8.
template <class Number, bool kPacked, bool kScaleShuffled, int kExponent>
struct Tokens {
  const aiterlite_gemm_mxfp4_args& args;
  uint32_t batch;

  AITERLITE_DEVICE Vector16 pieces(uint32_t token, uint32_t k) const {
    const auto* x = static_cast<const char*>(args.x);
    if constexpr (kPacked) {
      const uint32_t codes =
          static_cast<uint32_t>(load_i32(x + batch * args.stride_x_batch + token * args.stride_x + k / 2));
      const auto* scales = static_cast<const uint8_t*>(args.x_scale) + batch * args.stride_x_scale_batch;
      const uint32_t block = k / kMxBlock;
      const uint64_t at = kScaleShuffled ? token / 32 * args.stride_x_scale + shuffled_scale_at(token % 32, block)
                                         : token * args.stride_x_scale + block * args.stride_x_scale_block;
      return paired<kExponent>(codes, to_float(e8m0{load_u8(scales + at)}));
    } else {
      const uint64_t at = batch * args.stride_x_batch + token * args.stride_x + k;
      return paired<kExponent>(load_vector<false>(x + 2 * at));
    }
  }
};

}  // namespace aiterlite::gemm_mxfp4
