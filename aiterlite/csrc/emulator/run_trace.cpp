// Text of the trace.
#include <aiterlite/emulator/text_trace.h>
#include <stdio.h>

#include <algorithm>

namespace aiterlite::emulator {
namespace {

void append(std::string* to, const char* format, unsigned long long value) {
  char text[64];
  snprintf(text, sizeof(text), format, value);
  *to += text;
}

// A register's 64 lanes, or one value when they are all the same.
void append_lanes(std::string* to, const uint32_t* lanes) {
  if (std::all_of(lanes, lanes + kWave, [&](uint32_t v) { return v == lanes[0]; })) {
    append(to, "all %08llx", lanes[0]);
    return;
  }
  for (int l = 0; l < kWave; ++l) append(to, l ? " %08llx" : "%08llx", lanes[l]);
}

void append_operand(std::string* to, Wave& w, const Operand& d) {
  const int dwords = d.dwords ? d.dwords : 1;
  for (int i = 0; i < dwords; ++i) {
    const unsigned long long index = static_cast<unsigned long long>(d.index) + static_cast<unsigned long long>(i);
    if (d.kind == OperandKind::vgpr || d.kind == OperandKind::agpr) {
      const bool agpr = d.kind == OperandKind::agpr;
      append(to, agpr ? "\n    a%llu = " : "\n    v%llu = ", index);
      append_lanes(to, w.regs[index + (agpr ? kVgprs : 0)]);
    } else if (d.is_scalar_register() && index < 106) {
      append(to, "\n    s%llu = ", index);
      append(to, "%08llx", w.s[index]);
    }
  }
}

// The result as GPR indexing has moved it. What it would have moved past the end was not executed.
Operand moved(const MicroOp* op, const TraceState& before, Operand d) {
  const bool vector = d.kind == OperandKind::vgpr || d.kind == OperandKind::agpr;
  const bool indexed = (before.mode & kModeGprIdx) && (op->flags & kIndexable) && (before.m0_value >> 15 & 1);
  const uint32_t index = d.index + (before.m0_value & 0xff);
  if (vector && indexed && index + d.dwords <= static_cast<uint32_t>(kVgprs)) d.index = static_cast<uint16_t>(index);
  return d;
}

}  // namespace

TraceState trace_state(const Wave& w) { return {w.exec(), w.vcc(), w.s[m0], w.mode, w.scc}; }

void trace_instruction(Wave& w, const MicroOp* op, const TraceState& before) {
  Launch& launch = *w.launch;
  if (launch.options.trace_lines == 0) return;
  --launch.options.trace_lines;
  std::string& text = launch.trace;
  append(&text, "%6llu ", w.executed);
  append(&text, "%06llx ", listed(*launch.program, op->address));
  append(&text, "%06llx  ", op->address - launch.program->base);
  if (!op->inst) {
    text += "(no instruction)\n";
    return;
  }
  text += disassemble(launch.program->arch, *op->inst);
  if ((before.mode & kModeVskip) && (op->flags & kVector)) {
    text += "  (skipped)\n";
    return;
  }
  for (const Operand& d : op->inst->dst) append_operand(&text, w, moved(op, before, d));
  if (w.exec() != before.exec) append(&text, "\n    exec = %016llx", w.exec());
  if (w.vcc() != before.vcc) append(&text, "\n    vcc = %016llx", w.vcc());
  if (w.s[m0] != before.m0_value) append(&text, "\n    m0 = %08llx", w.s[m0]);
  if (w.mode != before.mode) append(&text, "\n    mode = %08llx", w.mode);
  if (w.scc != before.scc) append(&text, "\n    scc = %llu", w.scc);
  text += '\n';
}

}  // namespace aiterlite::emulator
