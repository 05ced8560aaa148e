// Memory of a CPU kernel: aligned for vectors, and no exception where there is none.
#pragma once
#include <stdint.h>
#include <stdlib.h>

namespace aiterlite::cpu {

// Memory that goes with its scope, or none.
template <class T>
struct Memory {
  T* at = nullptr;
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { free(at); }
  bool make(int64_t count) {
    void* made = nullptr;
    if (posix_memalign(&made, 64, (count > 0 ? count : 1) * sizeof(T)) != 0) return false;
    at = static_cast<T*>(made);
    return true;
  }
};

}  // namespace aiterlite::cpu
