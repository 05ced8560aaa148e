// One wave's run loops: the fast one, the one that VSKIP and GPR indexing need, and the one that writes a trace.
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/text_trace.h>

namespace aiterlite::emulator {
namespace {

// How far GPR_IDX mode moves a register operand, or -1 for what it leaves alone. `bit` is the operand's bit in M0.
int index_step(uint32_t control, int bit, const Operand& o) {
  const bool vector = o.kind == OperandKind::vgpr || o.kind == OperandKind::agpr;
  return vector && (control >> bit & 1) ? static_cast<int>(control & 0xff) : -1;
}

// Executes `op` with the vector register numbers of its operands moved by M0, as GPR_IDX mode asks.
const MicroOp* run_indexed(Wave& w, const MicroOp* op) {
  MicroOp moved = *op;
  const uint32_t control = w.s[m0];
  const char* refused = nullptr;
  Unallocated past;
  const auto move = [&](const Operand& o, int bit) -> uint32_t {
    const int step = index_step(control, bit, o);
    if (step < 0) return 0;
    if (op->flags & kNotIndexed) refused = "what GPR indexing makes of the registers of this instruction is not public";
    const RegisterFile file = o.kind == OperandKind::vgpr ? RegisterFile::vgpr : RegisterFile::agpr;
    const uint32_t last = o.index + static_cast<uint32_t>(step) + (o.dwords ? o.dwords : 1u) - 1;
    if (last >= static_cast<uint32_t>(kVgprs)) refused = "GPR indexing leaves the vector registers";
    if (!past.op) w.launch->reach->allows(op, file, o.index + static_cast<uint32_t>(step), last, &past);
    return static_cast<uint32_t>(step) * kRegisterBytes;
  };
  for (int i = 0; i < 3; ++i) moved.src[i].value += move(op->inst->src[i], 12 + i);
  moved.dst += move(op->inst->dst[0], 15);
  if (refused) return unsupported(w, op, refused);
  if (past.op) return unallocated(w, past, "with the GPR index " + std::to_string(control & 0xff) + ", ");
  const MicroOp* after = moved.fn(w, &moved);
  if (after) return next(op);
  if (w.pc == &moved) w.pc = op;
  return nullptr;
}

uint64_t run_special(Wave& w, const MicroOp* op, uint64_t budget) {
  const bool skips = w.mode & kModeVskip;
  const bool indexes = w.mode & kModeGprIdx;
  uint64_t left = budget;
  while (left) {
    --left;
    const MicroOp* after;
    if (skips && (op->flags & kVector)) {
      after = next(op);
    } else if (indexes && (op->flags & kIndexable)) {
      after = run_indexed(w, op);
    } else {
      after = op->fn(w, op);
    }
    if (!after) return budget - left;
    op = after;
  }
  w.pc = op;
  return budget;
}

uint64_t run_plain(Wave& w, const MicroOp* op, uint64_t budget) {
  uint64_t left = budget;
  do {
    --left;
    const MicroOp* after = op->fn(w, op);
    if (!after) return budget - left;
    op = after;
  } while (left);
  w.pc = op;
  return budget;
}

// One instruction at a time, between the workgroup's watches.
uint64_t run_watched(Wave& w, const MicroOp* op, uint64_t budget) {
  uint64_t left = budget;
  while (left) {
    --left;
    const std::vector<Watch*>& watches = w.group->watches;
    const bool skipped = (w.mode & kModeVskip) && (op->flags & kVector);
    if (op->inst) {
      for (Watch* watch : watches) watch->before(w, op, skipped);
    }
    const MicroOp* after = skipped                                              ? next(op)
                           : (w.mode & kModeGprIdx) && (op->flags & kIndexable) ? run_indexed(w, op)
                                                                                : op->fn(w, op);
    ++w.executed;
    if (!skipped && op->inst && (after || w.stop != Stop::fault)) {
      for (Watch* watch : watches) watch->after(w, op);
    }
    // A change of mode needs no other loop here.
    if (!after && w.stop == Stop::relook) {
      w.stop = Stop::running;
      after = w.pc;
    }
    if (!after) return budget - left;
    op = after;
  }
  w.pc = op;
  return budget;
}

}  // namespace

void run_wave(Wave& w, uint64_t budget) {
  const LaunchOptions& options = w.launch->options;
  const bool traced = options.trace_group >= 0 && static_cast<uint64_t>(options.trace_group) == w.group->linear &&
                      options.trace_wave == w.index;
  write_float_csr(w.float_csr);
  if (w.watched && !traced) {
    w.stop = Stop::running;
    run_watched(w, w.pc, budget);
    return;
  }
  do {
    w.stop = Stop::running;
    uint64_t ran;
    if (traced) {
      const TraceState before = trace_state(w);
      const MicroOp* op = w.pc;
      ran = (w.mode & (kModeVskip | kModeGprIdx)) ? run_special(w, op, 1) : run_plain(w, op, 1);
      trace_instruction(w, op, before);
    } else if (w.mode & (kModeVskip | kModeGprIdx)) {
      ran = run_special(w, w.pc, budget);
    } else {
      ran = run_plain(w, w.pc, budget);
    }
    w.executed += ran;
    budget -= ran;
  } while (budget && (w.stop == Stop::running || w.stop == Stop::relook));
  if (w.stop == Stop::relook) w.stop = Stop::running;
}

}  // namespace aiterlite::emulator
