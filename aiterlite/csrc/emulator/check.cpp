// The sanitizers of registers as one watch of a workgroup.
#include <aiterlite/emulator/check.h>
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/undefined.h>

namespace aiterlite::emulator {

std::string quoted(const Wave& w, const MicroOp* op) {
  return "`" + disassemble(w.launch->program->arch, *op->inst) + "`";
}

void report(const Step& at, Check check, const MicroOp* other, std::string what, std::string mend, int lane) {
  Finding f;
  f.check = check;
  f.pc = at.op->address;
  f.other_pc = other ? other->address : 0;
  f.what = std::move(what);
  f.mend = std::move(mend);
  f.group = at.w.group->linear;
  f.wave = at.w.index;
  f.lane = lane;
  at.w.launch->observations->report(std::move(f));
}

namespace {

// An instruction whose operands GPR indexing has moved: its own decoded form.
struct Moved {
  Inst inst;
  MicroOp op;
  Effects effects;
};

bool is_vector_register(const Operand& o) { return o.kind == OperandKind::vgpr || o.kind == OperandKind::agpr; }

void move_operand(Operand* o, uint32_t step) {
  if (!is_vector_register(*o) || o->index + step + o->dwords > static_cast<uint32_t>(kVgprs)) return;
  o->index = static_cast<uint16_t>(o->index + step);
}

class RegisterWatch final : public Watch {
 public:
  explicit RegisterWatch(Launch& launch) : checks_(launch.options.sanitize), program_(*launch.program) {}

  void begin(Workgroup& group) override {
    const size_t count = group.waves.size();
    if (checks_ & kCheckWaits) waits_.assign(count, WaitsState{});
    if (checks_ & kCheckHazards) hazards_.assign(count, HazardsState{});
    if (checks_ & kCheckBarriers) barriers_.start(count);
    if (!(checks_ & kCheckRegisters)) return;
    while (undefined_.size() < count) undefined_.push_back(std::make_unique<UndefinedState>());
    for (size_t i = 0; i < count; ++i) undefined_[i]->start(*group.waves[i]);
  }

  void before(Wave& w, const MicroOp* op, bool skipped) override {
    if (skipped) return;
    const bool indexed = (w.mode & kModeGprIdx) && (op->flags & kIndexable);
    const Moved* moved = indexed ? &move(w, op) : nullptr;
    if (moved) op = &moved->op;
    const Effects& e = moved ? moved->effects : program_.effects->of(program_, op);
    const Step at{w, op, e};
    if (checks_ & kCheckWaits) waits_[w.index].step(at);
    if (checks_ & kCheckHazards) hazards_[w.index].step(at);
    if (checks_ & kCheckRegisters) undefined_[w.index]->step(at);
    if (checks_ & kCheckBarriers) barriers_.step(at);
  }

  // Behind before(), which has taken what is loaded to be defined.
  void access(Wave& w, const MicroOp* op, const MemoryAccess& a) override {
    if (!(checks_ & kCheckRegisters) || a.write) return;
    const uint64_t begin = w.launch->kernarg, end = begin + w.launch->kernarg_bytes;
    // The range that was just found to hold the access.
    if (w.launch->options.check_memory && w.hit && w.hit->base != begin) return;
    // The range behind the declared bytes is less than two lines long.
    const auto behind = [=](uint64_t at) { return at + a.size > end && at < end + 128; };
    if (a.space == Space::scalar) {
      // Of a load through a buffer resource each dword is an access of its own, and which is not told.
      const bool whole = a.size == 4u * op->inst->dst[0].dwords;
      if (whole && behind(a.at[0])) undefined_[w.index]->load_argument(w, op, a.at[0], a.size, -1);
    } else if (a.space == Space::global) {
      for (uint64_t m = a.mask; m; m &= m - 1) {
        const int l = __builtin_ctzll(m);
        if (behind(a.at[l])) undefined_[w.index]->load_argument(w, op, a.at[l], a.size, l);
      }
    }
  }

  void barrier(Workgroup& group) override {
    if (checks_ & kCheckBarriers) barriers_.met(group);
  }

 private:
  const Moved& move(const Wave& w, const MicroOp* op) {
    // The hazards look back at fewer instructions than this keeps.
    if (moved_.empty()) moved_.resize(64);
    Moved& m = moved_[next_moved_++ % moved_.size()];
    const uint32_t control = w.s[m0];
    const uint32_t step = control & 0xff;
    m.inst = *op->inst;
    m.op = *op;
    m.op.inst = &m.inst;
    for (int i = 0; i < 3; ++i) {
      if (!(control >> (12 + i) & 1)) continue;
      const uint16_t before = m.inst.src[i].index;
      move_operand(&m.inst.src[i], step);
      if (m.op.src[i].ref == Ref::reg) {
        m.op.src[i].value += static_cast<uint64_t>(m.inst.src[i].index - before) * kRegisterBytes;
      }
    }
    if (control >> 15 & 1) {
      const uint16_t before = m.inst.dst[0].index;
      move_operand(&m.inst.dst[0], step);
      if (is_vector_register(m.inst.dst[0])) {
        m.op.dst += static_cast<uint32_t>(m.inst.dst[0].index - before) * kRegisterBytes;
      }
    }
    m.effects = effects_of(program_.arch, m.op);
    return m;
  }

  const uint32_t checks_;
  const Program& program_;
  std::vector<WaitsState> waits_;
  std::vector<HazardsState> hazards_;
  BarrierState barriers_;
  std::vector<std::unique_ptr<UndefinedState>> undefined_;
  std::vector<Moved> moved_;
  size_t next_moved_ = 0;
};

}  // namespace

std::unique_ptr<Watch> make_register_watch(Launch& launch) { return std::make_unique<RegisterWatch>(launch); }

}  // namespace aiterlite::emulator
