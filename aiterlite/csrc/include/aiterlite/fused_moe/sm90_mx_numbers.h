// Hidden states as sm_90's 8-bit matrix unit multiplies them with MXFP4 weights: codes of e4m3fn, and a float for each
// block of 32.
//
// MXFP4's numbers are e4m3fn's, and so are MXFP8's: nothing is rounded but what the call asks for. Within a block codes
// lie as decoded weights do (numeric/mxfp4_e4m3.h): of elements 8 q to 8 q + 7 the even ones at 4 q, the odd ones at 16
// + 4 q.
#pragma once
#include <aiterlite/block/quad.h>
#include <aiterlite/numeric/fp8.h>
#include <aiterlite/numeric/mxfp4_e4m3.h>
#include <aiterlite/numeric/mxfp4_encode.h>
#include <aiterlite/numeric/mxfp8_round.h>

namespace aiterlite::experts::mx {

// What becomes of hidden states; as the host numbers it (tables/fused_moe_mxfp4_e4m3.py).
inline constexpr int kToMxfp4 = 2, kToMxfp8 = 3;

struct BlockCodes {
  uint32_t even, odd;  // of this lane's eight elements
  float scale;         // of the block
};

AITERLITE_DEVICE float block_scale(uint32_t byte) {
  return __builtin_bit_cast(float, byte == 255 ? 0x7fc00000u : byte << 23);
}

// Four codes of MXFP4, decoded times 2^-6, as the numbers themselves.
AITERLITE_DEVICE uint32_t whole_numbers(uint32_t codes) {
  float value[4];
  unpack_fp8<e4m3fn>(codes, value);
  return pack_fp8<e4m3fn, Overflow::kSaturate>(value[0] * 64.0f, value[1] * 64.0f, value[2] * 64.0f, value[3] * 64.0f);
}

// Eight neighbouring bf16 of a block of which the lane's quad has all. Every lane of the warp takes part.
template <int kRounding>
AITERLITE_DEVICE BlockCodes codes_of_block(const Vector16& v) {
  static_assert(kRounding == kToMxfp4 || kRounding == kToMxfp8, "codes_of_block: MXFP4 or MXFP8");
  const uint32_t both = greatest_halves(v), most = greater_u16_pair(both, both >> 16) & 0xffffu;
  const uint32_t maximum = float_bits_of<bf16>(greatest_in_quad(most) & 0xffffu);
  if constexpr (kRounding == kToMxfp4) {
    const uint32_t byte = mx_scale_byte(maximum, {0x3fffffu, 1});
    const uint32_t codes = encode_eight_e2m1<bf16>(v, mx_half_reciprocal(byte));
    return {whole_numbers(decode_even_e2m1(codes)), whole_numbers(decode_odd_e2m1(codes)), block_scale(byte)};
  } else {
    const uint32_t byte = mxfp8_scale_byte(maximum);
    const float by = __builtin_bit_cast(float, byte == 254 ? 0x00400000u : (254u - byte) << 23);
    float even[4], odd[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      even[i] = to_float(bf16{static_cast<uint16_t>(v.word[i])}) * by;
      odd[i] = to_float(bf16{static_cast<uint16_t>(v.word[i] >> 16)}) * by;
    }
    return {pack_fp8<e4m3fn, Overflow::kSaturate>(even[0], even[1], even[2], even[3]),
            pack_fp8<e4m3fn, Overflow::kSaturate>(odd[0], odd[1], odd[2], odd[3]), block_scale(byte)};
  }
}

// Where a lane's codes go; `block` is where the block's are.
AITERLITE_DEVICE void store_block(uint8_t* block, uint32_t quarter, const BlockCodes& codes) {
  store_u32(block + 4 * quarter, codes.even);
  store_u32(block + 16 + 4 * quarter, codes.odd);
}

}  // namespace aiterlite::experts::mx
