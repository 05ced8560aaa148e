// MXFP4 codes (e2m1) as 8-bit floats (e4m3fn), which hold each of them exactly, for sm_90's 8-bit matrix products.
//
// A code's exponent and fraction, in the place of an e4m3fn's lowest exponent bits and its first fraction bit, are that
// number times 2^-6, the subnormal 0.5 and zero included. So a word of eight codes becomes two words of four by seven
// instructions, where bf16 takes twelve (numeric/mxfp4_decode.h).
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite {

// What numbers are to be multiplied by: 2^6.
inline constexpr int kE2m1OfE4m3Exponent = 6;

// Codes 0, 2, 4 and 6 of a word, times 2^-6; and codes 1, 3, 5 and 7.
AITERLITE_DEVICE uint32_t decode_even_e2m1(uint32_t word) {
  return (word << 4 & 0x80808080u) | (word << 2 & 0x1c1c1c1cu);
}
AITERLITE_DEVICE uint32_t decode_odd_e2m1(uint32_t word) { return (word & 0x80808080u) | (word >> 2 & 0x1c1c1c1cu); }

}  // namespace aiterlite
