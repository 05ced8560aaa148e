// Joining and asking the race detector's clocks.
#include <aiterlite/emulator/clocks.h>
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/traits.h>

#include <algorithm>

namespace aiterlite::emulator {

bool is_coherent(const Inst& inst) {
  const OpTraits& t = traits(inst.op);
  const bool load = t.kind == Kind::vmem_load || (t.kind == Kind::flat && inst.dst[0].present());
  const bool store = t.kind == Kind::vmem_store || t.kind == Kind::flat;
  if (t.kind == Kind::smem) return t.atomic || (inst.dst[0].present() && inst.dst[0].dwords <= 2 && inst.sc0);
  if (t.atomic) return true;
  const Operand& data = load ? inst.dst[0] : inst.src[1];
  return (load || store) && data.dwords <= 2 && (inst.sc0 || inst.sc1);
}

bool reaches_other_groups(const Inst& inst) {
  const OpTraits& t = traits(inst.op);
  return is_coherent(inst) && (t.atomic || t.kind == Kind::smem || inst.sc1);
}

KnownPointer join(const KnownPointer& a, const KnownPointer& b) {
  if (a == b || !b || b->empty()) return a;
  if (!a || a->empty()) return b;
  auto all = std::make_shared<Known>();
  all->reserve(a->size() + b->size());
  bool more_than_a = false, more_than_b = false;
  auto i = a->begin(), j = b->begin();
  while (i != a->end() || j != b->end()) {
    if (j == b->end() || (i != a->end() && i->first < j->first)) {
      all->push_back(*i++);
      more_than_b = true;
    } else if (i == a->end() || j->first < i->first) {
      all->push_back(*j++);
      more_than_a = true;
    } else {
      more_than_a |= j->second > i->second;
      more_than_b |= i->second > j->second;
      all->push_back({i->first, std::max(i->second, j->second)});
      ++i, ++j;
    }
  }
  return !more_than_a ? a : !more_than_b ? b : std::move(all);
}

bool knows(const Known* known, uint64_t s) {
  if (!known) return false;
  const uint32_t who = stamp::group(s) << 4 | stamp::wave(s);
  const auto at = std::lower_bound(known->begin(), known->end(), std::make_pair(who, 0u));
  return at != known->end() && at->first == who && at->second >= stamp::seq(s);
}

LaunchClocks::LaunchClocks(const Launch& launch) : code_(launch.program->base) {
  site_of_.resize(launch.program->ops.size());
  for (const Inst& inst : launch.program->insts) {
    const OpTraits& t = traits(inst.op);
    const bool reads = t.kind == Kind::vmem_load || t.kind == Kind::flat;
    if (t.kind == Kind::lds ? t.atomic && inst.dst[0].present() : false) lds_acquires = true;
    if (t.kind == Kind::smem && !t.atomic && is_coherent(inst)) global_acquires = true;
    if (t.kind != Kind::lds && ((t.atomic && inst.sc0) || (reads && !t.atomic && (inst.sc0 || inst.sc1)))) {
      global_acquires = true;
      lds_acquires |= t.kind == Kind::flat;
    }
  }
}

uint32_t LaunchClocks::start_group(uint64_t linear) {
  if (groups_.size() > stamp::kMaxGroup) return 0;
  groups_.push_back(linear);
  return static_cast<uint32_t>(groups_.size() - 1);
}

uint32_t LaunchClocks::site(const MicroOp* op) {
  uint16_t& number = site_of_[(op->address - code_) / 4];
  if (!number && sites_.size() <= stamp::kMaxSite) {
    number = static_cast<uint16_t>(sites_.size());
    sites_.push_back(op->address);
  }
  return number;
}

std::string* LaunchClocks::text(uint64_t key, bool* is_new) {
  const auto [at, inserted] = texts_.try_emplace(key);
  *is_new = inserted;
  return &at->second;
}

}  // namespace aiterlite::emulator
