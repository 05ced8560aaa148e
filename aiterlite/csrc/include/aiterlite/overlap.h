// Kernels that start before those ahead of them on their stream have ended (sm_90's programmatic dependent launch).
//
// A kernel that is compiled with AITERLITE_OVERLAP may be launched so, and then every thread of it must call
// await_predecessors before it reads or writes global memory. Work that needs none (addresses, barriers) can come
// before, and so can prefetches, which read nothing yet, and a look at numbers (load_latest) that only says what will
// be wanted: nothing that is written may follow from it. Compiled without, or launched as usual, the calls do nothing.
#pragma once
#include <aiterlite/platform.h>

#if !defined(AITERLITE_OVERLAP)
#define AITERLITE_OVERLAP 0
#endif

namespace aiterlite {

// Returns when all kernels before this one have ended and what they wrote is visible.
AITERLITE_DEVICE void await_predecessors() {
#if AITERLITE_OVERLAP
  wait_for_prerequisites();
#endif
}

// Fetches what is read after await_predecessors from memory already. Of no use where a predecessor has just written it.
AITERLITE_DEVICE void prefetch_operand([[maybe_unused]] const void* p) {
#if AITERLITE_OVERLAP
  prefetch_line(p);
#endif
}

// Lets the kernel behind this one start, once every workgroup has called it or ended. Best called when a workgroup has
// read its operands: a kernel that starts sooner takes registers and shared memory from workgroups that still read.
//
// A short kernel may call it before await_predecessors. So a kernel that has started must not take any before it for
// ended, not even those ahead of its direct predecessor.
AITERLITE_DEVICE void admit_successors() {
#if AITERLITE_OVERLAP
  launch_dependents();
#endif
}

}  // namespace aiterlite
