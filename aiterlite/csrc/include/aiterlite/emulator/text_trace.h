// The trace of one wave: each instruction it executes, with the registers that it wrote.
#pragma once
#include <aiterlite/emulator/runtime.h>

namespace aiterlite::emulator {

// The scalar state that an instruction may change without naming it.
struct TraceState {
  uint64_t exec, vcc;
  uint32_t m0_value, mode;
  bool scc;
};

TraceState trace_state(const Wave& w);
void trace_instruction(Wave& w, const MicroOp* op, const TraceState& before);

}  // namespace aiterlite::emulator
