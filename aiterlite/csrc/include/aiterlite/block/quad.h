// What four neighbouring lanes, a quad, do together.
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite {

// The greater 16-bit numbers, without a sign, of four lanes, in each half of a word.
AITERLITE_DEVICE uint32_t greatest_in_quad(uint32_t pair) {
  pair = greater_u16_pair(pair, word_in_quad<1>(pair));
  return greater_u16_pair(pair, word_in_quad<2>(pair));
}

// Lane p of a quad brings four words; it gets word p of each of the four lanes, in their order.
AITERLITE_DEVICE Vector16 transpose_in_quad(const Vector16& v, uint32_t lane) {
  const bool odd = (lane & 1) != 0, upper = (lane & 2) != 0;
  // Pairs of lanes exchange inside pairs of words, then halves of the quad pairs of words.
  const uint32_t got[2] = {word_in_quad<1>(odd ? v.word[0] : v.word[1]), word_in_quad<1>(odd ? v.word[2] : v.word[3])};
  uint32_t kept[2][2], part[2];
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    kept[i][0] = odd ? got[i] : v.word[2 * i];
    kept[i][1] = odd ? v.word[2 * i + 1] : got[i];
  }
#pragma unroll
  for (uint32_t j = 0; j < 2; ++j) part[j] = word_in_quad<2>(upper ? kept[0][j] : kept[1][j]);
  return {{upper ? part[0] : kept[0][0], upper ? part[1] : kept[0][1], upper ? kept[1][0] : part[0],
           upper ? kept[1][1] : part[1]}};
}

}  // namespace aiterlite
