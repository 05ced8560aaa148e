// Reports of finished and failed runs.
#include <aiterlite/emulator/json.h>
#include <aiterlite/emulator/report.h>
#include <stdio.h>

namespace aiterlite::emulator {
namespace {

std::string hex(uint64_t v) {
  char text[32];
  snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(v));
  return text;
}

const char* space_name(Space s) {
  switch (s) {
    case Space::global:
      return "global";
    case Space::buffer:
      return "buffer";
    case Space::flat:
      return "flat";
    case Space::scratch:
      return "scratch";
    case Space::lds:
      return "LDS";
    case Space::scalar:
      return "scalar";
  }
  return "";
}

const char* kind_name(FaultKind k) {
  switch (k) {
    case FaultKind::none:
      return "none";
    case FaultKind::out_of_range:
      return "out_of_range";
    case FaultKind::read_only:
      return "read_only";
    case FaultKind::misaligned:
      return "misaligned";
    case FaultKind::unsupported:
      return "unsupported";
    case FaultKind::unallocated:
      return "unallocated";
    case FaultKind::bad_jump:
      return "bad_jump";
    case FaultKind::limit:
      return "limit";
    case FaultKind::deadlock:
      return "deadlock";
    case FaultKind::trap:
      return "trap";
  }
  return "";
}

bool is_memory(FaultKind k) {
  return k == FaultKind::out_of_range || k == FaultKind::read_only || k == FaultKind::misaligned;
}
bool has_own_limit(const Fault& f) { return f.space == Space::lds || f.space == Space::scratch; }

// "0x1924 (pc 0x24)": an address of the code in listings, and from its start.
std::string place_in_code(const Program& program, uint64_t address) {
  return hex(listed(program, address)) + " (pc " + hex(address - program.base) + ")";
}

// Where the address lies: "17 bytes past the end of `weights` (0x... + 4096 bytes)".
std::string place(const Launch& launch, const Fault& f) {
  if (has_own_limit(f)) {
    return "the " + std::string(f.space == Space::lds ? "workgroup's LDS has " : "lane's scratch has ") +
           std::to_string(f.limit) + " bytes";
  }
  int64_t distance = 0;
  const Range* r = launch.memory->nearest(f.address, &distance);
  if (!r) return "no memory is registered";
  const std::string range = "`" + r->name + "` (" + hex(r->base) + ", " + std::to_string(r->end - r->base) + " bytes)";
  if (distance > 0) return std::to_string(distance - 1) + " bytes past the end of " + range;
  if (distance < 0) return std::to_string(-distance) + " bytes before " + range;
  const std::string at = "byte " + std::to_string(f.address - r->base) + " of " + range;
  if (r->covers(f.address, f.size)) return "at " + at;
  // The first byte of the access that may not be touched.
  uint64_t first = f.address;
  while (first < r->end && r->covers(first, 1)) ++first;
  if (first == r->end) return "past the end of " + range;
  return "at " + at + ", " + std::to_string(r->padding_before(first)) +
         " bytes into the padding between its rows; name the whole tensor in extra= if the kernel may touch it";
}

std::string what(const Launch& launch, const Fault& f) {
  const std::string access =
      std::string(f.write ? "write" : "read") + " of " + std::to_string(f.size) + " bytes at " +
      (has_own_limit(f) ? "offset " + std::to_string(static_cast<int64_t>(f.address)) : hex(f.address));
  switch (f.kind) {
    case FaultKind::out_of_range:
      return std::string(space_name(f.space)) + " " + access + " outside what may be touched: " + place(launch, f);
    case FaultKind::read_only:
      return std::string(space_name(f.space)) + " " + access + ", which is read-only: " + place(launch, f);
    case FaultKind::misaligned:
      return std::string(space_name(f.space)) + " atomic " + access +
             " is not aligned to its size: " + place(launch, f);
    case FaultKind::unsupported:
      return "cannot execute: " + f.detail;
    case FaultKind::bad_jump:
      return "control went to " +
             (f.address - launch.program->base < launch.program->bytes ? place_in_code(*launch.program, f.address)
                                                                       : hex(f.address)) +
             ", where no instruction begins";
    case FaultKind::limit:
      return "the launch executed more than its limit of " + std::to_string(f.limit) +
             " instructions: either it has no end, or the limit is to be raised (max_instructions of the launch, "
             "AITERLITE_MAX_INSTRUCTIONS, or `emulate --max-instructions`; 0 is no limit)";
    case FaultKind::deadlock:
      return "no wave of the workgroup can continue";
    case FaultKind::unallocated:
    case FaultKind::trap:
      return f.detail;
    case FaultKind::none:
      break;
  }
  return "";
}

void write_fault(JsonWriter& j, const Launch& l) {
  const Fault& f = l.failure;
  j.key("fault").open('{');
  j.field("kind", kind_name(f.kind)).field("what", what(l, f));
  j.key("workgroup")
      .open('[')
      .value(l.failure_group_id[0])
      .value(l.failure_group_id[1])
      .value(l.failure_group_id[2])
      .close(']');
  j.field("listed", listed(*l.program, l.failure_pc));
  j.field("wave", l.failure_wave).field("pc", l.failure_pc - l.program->base).field("instruction", l.failure_text);
  if (f.kind == FaultKind::unallocated) j.field("register", f.reg);
  if (is_memory(f.kind)) {
    j.field("space", space_name(f.space))
        .field("write", f.write)
        .field("lane", f.lane == 0xff ? -1 : static_cast<int>(f.lane));
    j.field("address", f.address).field("size", f.size);
    if (!has_own_limit(f)) {
      int64_t distance = 0;
      if (const Range* r = l.memory->nearest(f.address, &distance)) {
        j.field("nearest", r->name)
            .field("nearest_base", r->base)
            .field("nearest_bytes", r->end - r->base)
            .field("distance", distance);
      }
    } else {
      j.field("limit", f.limit);
    }
  }
  j.close('}');
}

}  // namespace

std::string failure_text(const Launch& l, const std::string& kernel) {
  if (l.interrupted) return "kernel `" + kernel + "`: interrupted";
  if (l.out_of_memory) return "kernel `" + kernel + "`: out of host memory";
  const Fault& f = l.failure;
  std::string text = "kernel `" + kernel + "`, workgroup (" + std::to_string(l.failure_group_id[0]) + ", " +
                     std::to_string(l.failure_group_id[1]) + ", " + std::to_string(l.failure_group_id[2]) + "), wave " +
                     std::to_string(l.failure_wave);
  if (is_memory(f.kind) && f.lane != 0xff) text += ", lane " + std::to_string(f.lane);
  text += ", at " + place_in_code(*l.program, l.failure_pc);
  if (!l.failure_text.empty()) text += " `" + l.failure_text + "`";
  return text + ": " + what(l, f);
}

std::string run_json(const Launch& l, const std::string& kernel, Status status, const std::string& message) {
  JsonWriter j;
  j.open('{');
  j.field("status", static_cast<int>(status)).field("kernel", kernel).field("message", message);
  j.field("instructions", l.executed.load()).field("ordered", l.ordered);
  if (l.failed) write_fault(j, l);
  j.key("buffer_findings").open('[');
  for (const BufferFinding& f : l.findings) {
    j.open('{');
    j.field("pc", f.pc - l.program->base)
        .field("listed", listed(*l.program, f.pc))
        .field("lane", f.lane)
        .field("offset", f.offset)
        .field("num_records", f.num_records);
    j.field("size", f.size).field("write", f.write);
    const MicroOp* op = l.program->at(f.pc);
    j.field("instruction", op && op->inst ? disassemble(l.program->arch, *op->inst) : std::string());
    j.close('}');
  }
  j.close(']');
  j.key("notes").open('[');
  for (const std::string& text : l.notes) j.value(text);
  j.close(']');
  if (l.observations) write_findings(j, l);
  if (l.options.count) write_counters(j, l);
  if (l.options.timeline.group >= 0) write_timeline(j, l);
  if (l.options.trace_group >= 0) j.field("trace", l.trace);
  j.close('}');
  return j.text();
}

std::string refusal_json(Status status, const std::string& message) {
  JsonWriter j;
  j.open('{');
  j.field("status", static_cast<int>(status)).field("message", message);
  j.close('}');
  return j.text();
}

std::string unallocated_text(const Program& program, const ReadyKernel& ready) {
  const Unallocated& first = ready.unallocated.front();
  std::string text = "kernel `" + ready.kernel->name + "`, at " + place_in_code(program, first.op->address) + " `" +
                     disassemble(program.arch, *first.op->inst) + "`: " + describe(first, ready.reach->allocation());
  const size_t more = ready.unallocated.size() - 1;
  return more ? text + " (and " + std::to_string(more) + " more like it)" : text;
}

std::string unallocated_json(const Program& program, const ReadyKernel& ready, const std::string& message) {
  const Unallocated& first = ready.unallocated.front();
  JsonWriter j;
  j.open('{').field("status", static_cast<int>(Status::unallocated)).field("kernel", ready.kernel->name);
  j.field("message", message).key("fault").open('{');
  j.field("kind", kind_name(FaultKind::unallocated)).field("what", describe(first, ready.reach->allocation()));
  j.field("listed", listed(program, first.op->address)).field("pc", first.op->address - program.base);
  j.field("instruction", disassemble(program.arch, *first.op->inst));
  j.field("register", register_name(first.file, first.number)).close('}').close('}');
  return j.text();
}

std::string list_unallocated(Module& module) {
  const Program& program = module.program();
  JsonWriter j;
  j.open('[');
  for (const Kernel& kernel : module.object().kernels) {
    const ReadyKernel& ready = *module.prepare(kernel.name);
    for (const RegisterFile file : {RegisterFile::vgpr, RegisterFile::agpr, RegisterFile::sgpr}) {
      const Unallocated* first = nullptr;
      Unallocated highest;
      uint64_t count = 0;
      for (const Unallocated& u : ready.unallocated) {
        if (u.file != file) continue;
        if (!first) first = &u;
        if (!count++ || u.number > highest.number) highest = u;
      }
      if (!first) continue;
      const uint64_t at = first->op->address;
      j.open('{').field("kernel", kernel.name).field("count", count).field("pc", at - program.base);
      j.field("listed", listed(program, at)).field("instruction", disassemble(program.arch, *first->op->inst));
      j.field("register", register_name(file, first->number)).field("highest", register_name(file, highest.number));
      j.field("what", describe(highest, ready.reach->allocation())).close('}');
    }
  }
  j.close(']');
  return j.text();
}

}  // namespace aiterlite::emulator
