// sm_90's copy engine: tiles of a row-major matrix, described once by the host, arrive in shared memory and are counted
// there by a barrier. What lies outside the matrix arrives as zeros, and is not read.
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite {

// A CUtensorMap of the driver: the matrix, and the box that one copy takes of it. A kernel parameter.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

// Counts arrivals and bytes; a phase ends when all of both have come, and its parity is 0 for the first, then 1, 0, ...
class Barrier {
 public:
  AITERLITE_DEVICE void open(uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address()), "r"(arrivals) : "memory");
  }
  AITERLITE_DEVICE void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address()) : "memory");
  }
  AITERLITE_DEVICE void arrive_expecting(uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address()), "r"(bytes) : "memory");
  }
  AITERLITE_DEVICE void wait(uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred complete;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 complete, [%0], %1;\n"
        "@!complete bra again;\n"
        "}" ::"r"(address()),
        "r"(parity)
        : "memory");
  }
  AITERLITE_DEVICE uint32_t address() { return shared_address(&state_); }

 private:
  uint64_t state_;
};

// After one thread has opened barriers, and before others, or the copy engine, use them.
AITERLITE_DEVICE void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// How long the L2 should keep what a copy reads.
AITERLITE_DEVICE uint64_t keep_briefly() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
AITERLITE_DEVICE uint64_t keep_long() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// The box at (column, row), to `to`, counted by `barrier`.
AITERLITE_DEVICE void copy_box(void* to, const TensorMap& map, uint32_t column, uint32_t row, Barrier& barrier,
                               uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(barrier.address()), "l"(policy)
      : "memory");
}

AITERLITE_DEVICE void fetch_map_early(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

}  // namespace aiterlite
