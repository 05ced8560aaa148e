// NVIDIA, sm_90: barriers of some of a workgroup's warps, and registers that move between warpgroups.
#pragma once
#include <aiterlite/isa/ptx_core.h>

namespace aiterlite {

// Barriers 1 to 15, each for `threads` of the workgroup, in whole warps; 0 is workgroup_barrier's. Those that only
// arrive do not wait, and what they wrote is visible to those that wait.
AITERLITE_DEVICE void named_barrier_wait(uint32_t barrier, uint32_t threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
AITERLITE_DEVICE void named_barrier_arrive(uint32_t barrier, uint32_t threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
// The same, and whether a thread says so, for all of them.
AITERLITE_DEVICE bool named_barrier_any(uint32_t barrier, uint32_t threads, bool value) {
  uint32_t any;
  asm volatile(
      "{\n"
      ".reg .pred given, all;\n"
      "setp.ne.u32 given, %3, 0;\n"
      "barrier.cta.red.or.pred.aligned all, %1, %2, given;\n"
      "selp.u32 %0, 1, 0, all;\n"
      "}"
      : "=r"(any)
      : "r"(barrier), "r"(threads), "r"(static_cast<uint32_t>(value))
      : "memory");
  return any != 0;
}

// From here on each thread of the warpgroup may use so many registers: those that give some up do so first, and those
// that take more wait for them. All four warps call it; the launch's threads times its registers must have enough.
template <uint32_t kRegisters>
AITERLITE_DEVICE void give_registers() {
  static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0,
                "give_registers: a multiple of 8 from 24 to 256");
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <uint32_t kRegisters>
AITERLITE_DEVICE void take_registers() {
  static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0,
                "take_registers: a multiple of 8 from 24 to 256");
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace aiterlite
