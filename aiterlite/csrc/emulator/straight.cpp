// Sanitizers without a run: wait states and waits in the straight lines of a kernel.
//
// A line goes on behind a conditional branch, which may fall through, and ends where control cannot. Wait states reach
// over few instructions, so they are looked for along whole lines, and from each direct branch into the line at its
// target. Waits reach far, and whether one is missing may hang on branches that go together; so they are looked for
// between one branch or branch target and the next, with nothing under way at the start. What is found happens whenever
// those instructions run one after the other, whatever the arguments are, unless EXEC is zero. GPR indexing chooses
// registers at run time: what it may move is passed over.
#include <aiterlite/emulator/check.h>
#include <aiterlite/emulator/counters.h>
#include <aiterlite/emulator/module.h>

#include <algorithm>
#include <memory>
#include <unordered_set>

namespace aiterlite::emulator {
namespace {

// Wait states reach over 22 slots, and each instruction takes one at least.
constexpr int kReach = 24;

// Whether what follows is reached otherwise than from here.
bool ends_line(const MicroOp& op, const Effects& e) {
  switch (op.inst->op) {
    case Op::s_branch:
    case Op::s_setpc_b64:
    case Op::s_swappc_b64:
    case Op::s_call_b64:
    case Op::s_rfe_b64:
      return true;
    default:
      return e.unit == Unit::end;
  }
}

// Where a direct branch goes; null for anything else.
const MicroOp* branch_to(const MicroOp& op, const Effects& e) {
  return e.unit == Unit::branch || op.inst->op == Op::s_call_b64 ? op.target : nullptr;
}

class Lines {
 public:
  Lines(const Program& program, Launch& launch) : program_(program), wave_(std::make_unique<Wave>()) {
    group_.launch = &launch;
    wave_->launch = &launch;
    wave_->group = &group_;
  }

  void walk(uint64_t begin, uint64_t end) {
    std::unordered_set<const MicroOp*> targets;
    each(begin, end, [&](const MicroOp* op) { targets.insert(branch_to(*op, program_.effects->of(program_, op))); });
    HazardsState hazards;
    WaitsState waits;
    bool indexed = false;
    uint64_t expected = begin;
    each(begin, end, [&](const MicroOp* op) {
      const Effects& e = program_.effects->of(program_, op);
      if (op->address != expected) hazards.reset();
      if (op->address != expected || targets.contains(op)) waits.reset();
      expected = op->address + 4ull * op->len;
      if (indexed && (op->flags & kIndexable)) {
        hazards.reset();
        waits.reset();
        return;
      }
      if (op->inst->op == Op::s_set_gpr_idx_on) indexed = true;
      if (op->inst->op == Op::s_set_gpr_idx_off) indexed = false;
      const Step at{*wave_, op, e};
      hazards.step(at);
      waits.step(at);
      if (!indexed) follow(hazards, branch_to(*op, e));
      if (e.unit == Unit::branch) waits.reset();
      if (!ends_line(*op, e)) return;
      hazards.reset();
      waits.reset();
      indexed = false;
    });
  }

 private:
  template <class Visit>
  void each(uint64_t begin, uint64_t end, Visit visit) {
    for (uint64_t a = begin; a < end;) {
      const MicroOp* op = program_.at(a);
      if (!op) return;
      if (op->inst) visit(op);
      a += 4ull * std::max<uint32_t>(op->len, 1);
    }
  }

  // A branch that is taken: from what came before it into the line at its target.
  void follow(HazardsState hazards, const MicroOp* op) {
    for (int i = 0; i < kReach && op && op->inst && op->inst->op != Op::s_set_gpr_idx_on; ++i) {
      const Effects& e = program_.effects->of(program_, op);
      hazards.step({*wave_, op, e});
      if (e.unit == Unit::branch || ends_line(*op, e)) return;
      op = program_.at(op->address + 4ull * op->len);
    }
  }

  const Program& program_;
  Workgroup group_;
  std::unique_ptr<Wave> wave_;
};

// Assembly often leaves a symbol's size out: such a kernel reaches to the next one.
uint64_t end_of(const Module& module, const Kernel& kernel) {
  const uint64_t begin = kernel.descriptor.entry;
  if (kernel.code_size) return begin + kernel.code_size;
  uint64_t end = module.program().listed + module.program().bytes;
  for (const Kernel& other : module.object().kernels) {
    if (other.descriptor.entry > begin) end = std::min(end, other.descriptor.entry);
  }
  return end;
}

// The largest workgroup that the metadata allows; a wave's where there is none.
void largest_block(const Kernel& kernel, uint32_t block[3]) {
  block[0] = kernel.has_metadata && kernel.max_flat_workgroup_size ? kernel.max_flat_workgroup_size : kWave;
  block[1] = block[2] = 1;
  if (!kernel.reqd_workgroup_size[0]) return;
  for (int i = 0; i < 3; ++i) block[i] = std::max(kernel.reqd_workgroup_size[i], 1u);
}

}  // namespace

std::string inspect(Module& module) {
  const Program& program = module.program();
  JsonWriter j;
  j.open('{').key("kernels").open('[');
  for (const Kernel& kernel : module.object().kernels) {
    if (!module.prepare(kernel.name)) continue;
    Launch l;
    l.program = &program;
    l.descriptor = kernel.descriptor;
    l.lds_bytes = kernel.descriptor.group_segment_size;
    largest_block(kernel, l.block);
    l.observations = std::make_unique<Observations>();
    const uint64_t entry = kernel.descriptor.entry;
    Lines(program, l).walk(module.base() + entry, module.base() + end_of(module, kernel));
    j.open('{').field("kernel", kernel.name);
    j.key("block").open('[');
    for (const uint32_t n : l.block) j.value(n);
    j.close(']');
    write_occupancy(j, occupancy(l));
    write_findings(j, l);
    j.close('}');
  }
  j.close(']').close('}');
  return j.text();
}

}  // namespace aiterlite::emulator
