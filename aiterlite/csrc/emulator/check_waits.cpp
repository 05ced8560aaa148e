// Registers that are used while a load into them is under way.
//
// vmcnt counts loads, stores and atomics of buffer, global and scratch memory, which complete in the order of issue.
// lgkmcnt counts LDS, in order among themselves, and scalar memory and messages, which come back in any order: with one
// of these under way only lgkmcnt(0) proves anything. A flat instruction counts on both, and while one is under way
// neither counter is in order. No other use of a register needs a wait on these targets: a store has read its data when
// the next instruction issues. The rules are those by which LLVM inserts waits (SIInsertWaitcnts) for gfx940.
#include <aiterlite/emulator/check.h>
#include <aiterlite/emulator/runtime.h>

#include <algorithm>

namespace aiterlite::emulator {
namespace {

// The hardware stalls at these, so that older operations are known to be complete.
constexpr uint32_t kMostVm = 63, kMostLgkm = 15;

}  // namespace

void WaitsState::Queue::drop(uint32_t n) {
  std::copy(at + n, at + count, at);
  count -= n;
}

void WaitsState::Queue::add(const MicroOp* op, const Effects& e, uint32_t most) {
  if (count == most) drop(1);
  at[count++] = {op, &e, false};
}

bool WaitsState::Queue::any(Unit unit) const {
  return std::any_of(at, at + count, [=](const Pending& p) { return p.e->unit == unit; });
}
bool WaitsState::Queue::only(Unit unit) const {
  return std::all_of(at, at + count, [=](const Pending& p) { return p.e->unit == unit; });
}
int WaitsState::Queue::find(const MicroOp* op) const {
  for (int i = static_cast<int>(count) - 1; i >= 0; --i) {
    if (at[i].op == op) return i;
  }
  return -1;
}

void WaitsState::wait(uint32_t vm, uint32_t lgkm) {
  if (vm < vm_.count && (vm == 0 || !vm_.any(Unit::flat))) vm_.drop(vm_.count - vm);
  if (lgkm < lgkm_.count && (lgkm == 0 || lgkm_.only(Unit::lds))) lgkm_.drop(lgkm_.count - lgkm);
  refresh();
}

void WaitsState::refresh() {
  vectors_ = {};
  scalars_ = {};
  for (const Queue* queue : {&vm_, &lgkm_}) {
    for (uint32_t i = 0; i < queue->count; ++i) {
      const Pending& p = queue->at[i];
      if (!p.e->loads || p.settled) continue;
      for (int word = 0; word < 8; ++word) vectors_.word[word] |= p.e->writes.word[word];
      for (int word = 0; word < 2; ++word) scalars_.word[word] |= p.e->scalar_writes.word[word];
    }
  }
  pending_ = !vectors_.empty() || !scalars_.empty();
}

// The newest operation that will write a register.
WaitsState::Pending* WaitsState::holder(bool vector, uint32_t number) {
  for (Queue* queue : {&vm_, &lgkm_}) {
    for (uint32_t i = queue->count; i-- > 0;) {
      Pending& p = queue->at[i];
      if (!p.e->loads || p.settled) continue;
      if (vector ? p.e->writes.has(number) : p.e->scalar_writes.has(number)) return &p;
    }
  }
  return nullptr;
}

void WaitsState::check(const Step& at, bool vector, int number, bool read) {
  const uint32_t n = static_cast<uint32_t>(number);
  Pending* p = holder(vector, n);
  if (!p) return;
  // Results that return in order may be overwritten by those behind them.
  const bool ordered = (p->e->unit == Unit::vmem || p->e->unit == Unit::lds) && at.e.unit == p->e->unit && at.e.loads;
  if (!read && ordered) return;
  const MicroOp* load = p->op;
  std::string wait;
  if (const int i = vm_.find(load); i >= 0) {
    const uint32_t behind = vm_.any(Unit::flat) ? 0 : vm_.count - 1 - static_cast<uint32_t>(i);
    wait = "vmcnt(" + std::to_string(behind) + ")";
  }
  if (const int i = lgkm_.find(load); i >= 0) {
    const uint32_t behind = lgkm_.only(Unit::lds) ? lgkm_.count - 1 - static_cast<uint32_t>(i) : 0;
    wait += (wait.empty() ? "" : " ") + std::string("lgkmcnt(") + std::to_string(behind) + ")";
  }
  report(at, kCheckWaits, load,
         (vector ? vector_name(n) : scalar_name(n)) + (read ? " is read while " : " is overwritten while ") +
             quoted(at.w, load) + " is under way",
         "`s_waitcnt " + wait + "` before it");
  for (Queue* queue : {&vm_, &lgkm_}) {
    for (uint32_t i = 0; i < queue->count; ++i) queue->at[i].settled |= queue->at[i].op == load;
  }
  refresh();
}

void WaitsState::step(const Step& at) {
  const Effects& e = at.e;
  if (e.unit == Unit::waitcnt) {
    const uint32_t imm = at.op->inst->simm16;
    wait((imm & 15) | (imm >> 14 & 3) << 4, imm >> 8 & 15);
    return;
  }
  if (pending_) {
    if (const int r = vectors_.first_common(e.reads); r >= 0) check(at, true, r, true);
    if (const int r = vectors_.first_common(e.writes); r >= 0) check(at, true, r, false);
    if (const int r = scalars_.first_common(e.scalar_reads); r >= 0) check(at, false, r, true);
    if (const int r = scalars_.first_common(e.scalar_writes); r >= 0) check(at, false, r, false);
  }
  if (!e.counts_vm && !e.counts_lgkm) return;
  if (e.counts_vm) vm_.add(at.op, e, kMostVm);
  if (e.counts_lgkm) lgkm_.add(at.op, e, kMostLgkm);
  if (!e.loads) return;
  for (int word = 0; word < 8; ++word) vectors_.word[word] |= e.writes.word[word];
  for (int word = 0; word < 2; ++word) scalars_.word[word] |= e.scalar_writes.word[word];
  pending_ = true;
}

}  // namespace aiterlite::emulator
