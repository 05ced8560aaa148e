// Joining and asking the race detector's clocks, and what passes from one to another through memory.
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

void WaveClock::acquire(const Releases& all, uint32_t tag, const MemoryAccess& a) {
  if (all.empty()) return;
  for (uint64_t m = a.mask; m; m &= m - 1) {
    const auto found = all.find(a.at[__builtin_ctzll(m)] / 4);
    if (found == all.end()) continue;
    const Release& r = found->second;
    if (r.tag == tag) {
      for (uint32_t i = 0; i < kMaxWaves; ++i) lds[i] = std::max(lds[i], r.lds[i]);
    }
    const KnownPointer joined = join(known, r.known);
    if (joined == known) continue;
    known = joined;
    const auto own = std::lower_bound(known->begin(), known->end(), std::make_pair(tag << 4, 0u));
    for (auto i = own; i != known->end() && i->first >> 4 == tag; ++i) {
      const uint32_t wave = i->first & 15;
      vm_done[wave] = std::max(vm_done[wave], i->second);
      global[wave] = std::max(global[wave], i->second);
    }
  }
}

void WaveClock::release(Releases* all, Place from, const MemoryAccess& a, bool keeps) {
  // The instruction itself, which is the last one outstanding, is what the others will have seen.
  lds[from.wave] = lgkm.done(from.seq - 1);
  vm_done[from.wave] = vm.done(from.seq - 1);
  Release mine;
  auto own = std::make_shared<Known>();
  for (uint32_t i = 0; i < from.waves; ++i) own->push_back({from.tag << 4 | i, vm_done[i]});
  mine.known = join(known, KnownPointer(std::move(own)));
  mine.tag = from.tag;
  std::copy(std::begin(lds), std::end(lds), mine.lds);
  uint64_t last = ~0ull;
  for (uint64_t m = a.mask; m; m &= m - 1) {
    const uint64_t at = a.at[__builtin_ctzll(m)] / 4;
    if (at == last) continue;
    last = at;
    Release& r = (*all)[at];
    if (!keeps || !r.known) {
      r = mine;
      continue;
    }
    r.known = join(r.known, mine.known);
    for (uint32_t i = 0; i < kMaxWaves; ++i) {
      r.lds[i] = r.tag == from.tag ? std::max(r.lds[i], mine.lds[i]) : mine.lds[i];
    }
    r.tag = from.tag;
  }
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
