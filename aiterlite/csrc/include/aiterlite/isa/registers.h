// Values of several registers, which every instruction set moves as a whole, and how a function says that a target
// cannot have it.
#pragma once
#include <stdint.h>

namespace aiterlite {

struct alignas(8) Vector8 {
  uint32_t word[2];
};
struct alignas(16) Vector16 {
  uint32_t word[4];
};
struct alignas(16) Quad {
  float value[4];
};

}  // namespace aiterlite

// Stands in for a function that the target has no instruction for: naming it is no error, calling it is one, with the
// reason and what to do. For templates over constants write AITERLITE_ABSENT_FOR(template parameters, ...).
#define AITERLITE_ABSENT(name, why)                                      \
  template <class... Arguments>                                          \
  AITERLITE_DEVICE void name(const Arguments&...) {                      \
    static_assert(sizeof...(Arguments) == ~uint64_t{0}, #name ": " why); \
  }
#define AITERLITE_ABSENT_FOR(parameters, name, why)                      \
  template <parameters, class... Arguments>                              \
  AITERLITE_DEVICE void name(const Arguments&...) {                      \
    static_assert(sizeof...(Arguments) == ~uint64_t{0}, #name ": " why); \
  }
