// What the watches need to know of an instruction besides its operands.
#pragma once
#include <aiterlite/emulator/inst.h>

namespace aiterlite::emulator {

enum class Kind : uint8_t {
  salu,
  smem,
  valu,
  transcendental,
  mfma,
  lds,
  vmem_load,
  vmem_store,
  vmem_atomic,
  flat,
  scratch,
  branch,
  sync,  // waits, barriers, sleeps, no-ops, the end, and cache control
};
inline constexpr int kKinds = 13;
const char* name(Kind kind);

struct OpTraits {
  Kind kind = Kind::salu;
  bool lgkm = false;    // an LDS or flat operation that lgkmcnt counts (scalar memory is not tracked)
  bool vm = false;      // vmcnt counts it
  bool atomic = false;  // reads, changes and writes memory in one step
  bool pair = false;    // two addresses a lane
};
const OpTraits& traits(Op op);

// Passes of four cycles that a matrix instruction keeps its SIMD's matrix unit busy; 0 for any other instruction.
uint32_t matrix_passes(Arch arch, const Inst& inst);

}  // namespace aiterlite::emulator
