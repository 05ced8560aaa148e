// Barriers in sm_90's shared memory that count arrivals and bytes: what the copy engine, asynchronous stores of other
// workgroups and producer warps report to, and what consumers wait for.
//
// A wait cannot tell a phase from the one two before it, so no waiter may fall two phases behind: with several
// consumers a ring needs at least as many stages as they take turns. AMD has no such barriers: tile/copy.h,
// workgroup_barrier.
#pragma once
#include <aiterlite/platform.h>

#if !AITERLITE_NVIDIA
#error "aiterlite/tile/sm90_barrier.h: only sm_90 and later count bytes; on AMD use await_loads and workgroup_barrier"
#endif

namespace aiterlite {

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
  // The same, where arrivals and bytes came from other workgroups of the cluster.
  AITERLITE_DEVICE void wait_for_cluster(uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred complete;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 complete, [%0], %1;\n"
        "@!complete bra again;\n"
        "}" ::"r"(address()),
        "r"(parity)
        : "memory");
  }
  // Arrives at this barrier of the workgroup of a rank; what this thread wrote before is visible to who waits there.
  AITERLITE_DEVICE void arrive_in(uint32_t rank) {
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(address_in(rank)) : "memory");
  }
  // The same of a thread that has read and not written: the order of writes costs 0.4 us.
  AITERLITE_DEVICE void arrive_having_read_in(uint32_t rank) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(address_in(rank)) : "memory");
  }
  // Arrives, as one of those that `open` counted, when the copy_async that this thread has asked for are complete.
  AITERLITE_DEVICE void arrive_after_copies() {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(address()) : "memory");
  }
  AITERLITE_DEVICE uint32_t address() { return shared_address(&state_); }
  AITERLITE_DEVICE uint32_t address_in(uint32_t rank) { return address_in_rank(&state_, rank); }

 private:
  uint64_t state_;
};

// After one thread has opened barriers, and before others, or the copy engine, use them.
AITERLITE_DEVICE void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// After ordinary writes to shared memory, before the copy engine or a matrix instruction of a warpgroup reads them.
AITERLITE_DEVICE void publish_to_engines() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

}  // namespace aiterlite
