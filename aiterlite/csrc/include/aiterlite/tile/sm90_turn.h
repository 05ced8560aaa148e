// Where in a ring of barriers a role is.
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite {

// The stage, and the parity of the phase in which it is used: of a ring's first time round 0, then 1, 0, ...
template <uint32_t kStages>
struct RingTurn {
  uint32_t stage = 0, parity = 0;

  AITERLITE_DEVICE void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  // By a ring's stages at most.
  AITERLITE_DEVICE void advance(uint32_t by) {
    stage += by;
    if (stage >= kStages) {
      stage -= kStages;
      parity ^= 1;
    }
  }
  // By any number.
  AITERLITE_DEVICE void skip(uint32_t by) {
    for (stage += by; stage >= kStages; stage -= kStages) parity ^= 1;
  }
};

}  // namespace aiterlite
