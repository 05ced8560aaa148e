// Finds races: between waves of a workgroup, between workgroups, between lanes of a store.
//
// Two accesses to a byte race when at least one writes, not both are atomic, and nothing orders them. What orders:
//
//   * Program order within a wave. Not for a load to LDS: its write lands when vmcnt says so, also for its own wave.
//   Not
//     between scalar and vector memory, which have caches of their own: a store must have been waited for before a
//     scalar load of what it wrote, and a scalar load before a store over what it reads.
//   * s_barrier, for what the wave had waited for. LDS operations are done when lgkmcnt has been waited for, loads to
//     LDS when vmcnt has. Stores to global memory need no wait for waves of the same workgroup, which share a CU and
//     its first-level cache in order, unless the kernel runs in tgsplit mode (LLVM's memory model for gfx942), or the
//     other wave's load is scalar.
//   * An atomic operation, or a coherent store, releases what its wave knows to be done (waited for with vmcnt, its own
//     and what barriers told it of) at its address. A returning atomic, or a coherent load, acquires what lies there.
//     So do atomics on LDS, for waves of one workgroup. Cache maintenance is not modelled: a missing buffer_wbl2 or
//     buffer_inv goes unseen.
//   * The end of the kernel.
//
// Coherent are loads and stores of at most 8 bytes with sc0 or sc1, which is what compilers make of atomic ones, and
// scalar loads of at most 8 bytes with glc, which look past the scalar cache: so flags may be polled. They do not race
// with each other. sc0 alone reaches the workgroup's own first-level cache and no further: it makes no poll legal of a
// flag that another workgroup sets. LDS has no such loads, and a flag in LDS that is polled with ds_read is reported.
//
// A scalar load without glc may also find in the scalar cache what an earlier one brought there: a finding when a store
// of the workgroup came between them, and no s_dcache_inv.
//
// A compare-and-swap does not race with a plain read: a stale value makes it fail, and loops of them begin with one.
//
// Two stores that leave the same value do no harm as long as they do: all waves may write one. But data that happen to
// be constant hide a race so, and the report notes it. Lanes of one store that write different values to a byte race
// with each other.
//
// Of each byte's readers since its last write all are remembered that no write could be ordered behind by chance: the
// two last, and others by line (Readers). Where no instruction can acquire, workgroups are never ordered, and one
// reader of another workgroup stands for all.
#include <aiterlite/emulator/race_report.h>
#include <aiterlite/emulator/runs.h>
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/traits.h>
#include <aiterlite/emulator/watches.h>

#include <algorithm>

namespace aiterlite::emulator {
namespace {

uint32_t decode_vmcnt(uint16_t simm) { return (simm & 0xfu) | (simm >> 10 & 0x30u); }
uint32_t decode_lgkmcnt(uint16_t simm) { return simm >> 8 & 0xfu; }

class RaceWatch final : public Watch, private RaceReport {
 public:
  RaceWatch(Launch& launch, LaunchClocks* clocks) : RaceReport(launch, clocks) {}

  void begin(Workgroup& g) override {
    group_ = &g;
    tag_ = g.waves.size() <= kMaxWaves ? clocks_->start_group(g.linear) : 0;
    if (__builtin_expect(!tag_, 0)) {
      note(launch_, "races: looked for in the first " + std::to_string(stamp::kMaxGroup) +
                        " workgroups that started, and in none of the others");
    }
    base_ = static_cast<uint64_t>(tag_) << stamp::kGroupShift;
    restart();
  }

  void before(Wave& w, const MicroOp* op, bool skipped) override {
    if (skipped || !tag_) return;
    WaveClock& c = waves_[w.index];
    const Op code = op->inst->op;
    if (code == Op::s_waitcnt) {
      c.vm.keep(decode_vmcnt(op->inst->simm16));
      c.lgkm.keep(decode_lgkmcnt(op->inst->simm16));
      if (!decode_lgkmcnt(op->inst->simm16)) c.scalar_done = seq_;
      return;
    }
    if (code == Op::s_dcache_inv || code == Op::s_dcache_inv_vol) {
      scalar_lines_.clear();
      return;
    }
    if (code == Op::s_endpgm) {  // waits for everything
      c.vm.clear();
      c.lgkm.clear();
      return;
    }
    const OpTraits& t = traits(code);
    if (!t.lgkm && !t.vm && t.kind != Kind::smem) return;
    if (seq_ == stamp::kMaxSeq) restart_all();
    ++seq_;
    const uint32_t site = clocks_->site(op);
    if (__builtin_expect(!site, 0)) note_sites();
    const bool to_lds = t.kind == Kind::vmem_load && (op->inst->lds || !op->has_dst);
    if (t.lgkm) c.lgkm.push(seq_, false);
    if (t.vm) c.vm.push(seq_, to_lds);
    c.stamp = base_ | static_cast<uint64_t>(seq_) << stamp::kSeqShift |
              static_cast<uint64_t>(w.index) << stamp::kWaveShift | static_cast<uint64_t>(site) << stamp::kSiteShift;
    c.accesses = 0;
  }

  void access(Wave& w, const MicroOp* op, const MemoryAccess& a) override {
    if (a.space == Space::scratch || !tag_) return;
    const OpTraits& t = traits(op->inst->op);
    const bool scalar = a.space == Space::scalar;
    Current c{&w, op, &a, &waves_[w.index], 0, 0, base_, 0, a.space == Space::lds, scalar};
    const bool coherent = !c.lds && is_coherent(*op->inst);
    const bool atomic = c.lds ? t.atomic : coherent && reaches_other_groups(*op->inst);
    const bool to_lds = c.lds && t.vm && t.kind != Kind::flat;
    c.stamp = c.clock->stamp | (atomic ? stamp::kAtomic : 0) | (to_lds || scalar ? stamp::kLoose : 0);
    c.loose = scalar ? stamp::kLoose : 0;
    // Older workgroups are long gone from LDS; in global memory only zero, no stamp at all, says nothing.
    c.low = c.lds ? base_ : 1;
    c.floor = static_cast<uint64_t>(c.lds ? lds_floor_ : scalar ? vm_floor_ : global_floor_) << stamp::kSeqShift;
    const bool synchronises = c.lds ? t.atomic && clocks_->lds_acquires : coherent && clocks_->global_acquires;
    if (synchronises && (!a.write || (t.atomic && returns(*op->inst)))) acquire(c);
    const bool through_cache = scalar && !a.write && !coherent;
    Shadow& shadow = c.lds ? lds_shadow_ : clocks_->shadow;
    Run runs[kWave];
    const int count = make_runs(a, !a.write || t.atomic, runs);
    for (int i = 0; i < count; ++i) {
      const Run& r = runs[i];
      // What no one may write needs no record.
      if (!c.lds && !a.write && w.hit && !w.hit->writable && r.begin >= w.hit->base && r.end <= w.hit->end) continue;
      shadow.visit(r.begin, r.end, [&](uint64_t at, const Stamps& s) {
        if (__builtin_expect(through_cache, 0)) look_for_stale(c, at, s);
        a.write ? store(c, at, s) : load(c, at, s);
      });
    }
    if (synchronises && a.write) release(c, t.atomic);
    ++c.clock->accesses;
  }

  // All waves now know what the others had waited for.
  void barrier(Workgroup& g) override {
    if (!tag_) return;
    const size_t count = g.waves.size();
    uint32_t lds[kMaxWaves], vm[kMaxWaves], global[kMaxWaves];
    lds_floor_ = global_floor_ = vm_floor_ = seq_ + 1;
    KnownPointer known = waves_[0].known;
    for (size_t i = 0; i < count; ++i) {
      const WaveClock& c = waves_[i];
      lds[i] = c.lgkm.done(seq_);
      vm[i] = c.vm.done(seq_);
      global[i] = launch_.descriptor.tg_split ? vm[i] : seq_;
      lds_floor_ = std::min({lds_floor_, lds[i] + 1, c.vm.done_to_lds(seq_) + 1});
      global_floor_ = std::min(global_floor_, global[i] + 1);
      vm_floor_ = std::min(vm_floor_, vm[i] + 1);
      known = join(known, c.known);
    }
    for (size_t i = 0; i < count; ++i) {
      WaveClock& c = waves_[i];
      std::copy(lds, lds + count, c.lds);
      std::copy(vm, vm + count, c.vm_done);
      std::copy(global, global + count, c.global);
      c.known = known;
    }
    barrier_seq_ = seq_;
  }

 private:
  void restart() {
    seq_ = 0;
    lds_floor_ = global_floor_ = vm_floor_ = 1;
    barrier_seq_ = 0;
    lds_releases_.clear();
    scalar_lines_.clear();
    for (size_t i = 0; i < group_->waves.size() && i < kMaxWaves; ++i) waves_[i] = WaveClock{};
  }
  // A workgroup that outgrows its positions starts over, and what all did before is forgotten.
  void restart_all() {
    note(launch_, "races: workgroup " + std::to_string(group_->linear) + " executed more than " +
                      std::to_string(stamp::kMaxSeq) +
                      " memory instructions; races with what had happened before are not looked for");
    restart();
    clocks_->shadow.clear();
    clocks_->releases.clear();
    lds_shadow_.clear();
  }

  static bool returns(const Inst& inst) { return inst.format == Format::DS ? inst.dst[0].present() : inst.sc0; }

  // True when a stamp cannot matter: of this wave, atomic like the access, or ordered before all that the workgroup
  // does now.
  static bool clean(const Current& c, uint64_t s) {
    return (s < c.low) | (s - c.base < c.floor) | ((s & c.stamp & stamp::kAtomic) != 0) |
           (((s ^ c.stamp) & stamp::kWho) == 0 && !((s | c.loose) & stamp::kLoose));
  }
  // True when a reader that makes room for the current one must be remembered elsewhere.
  static bool is_lost(const Current& c, uint64_t last, uint64_t earlier) {
    return (((last ^ c.stamp) & stamp::kWho) != 0) & (((earlier ^ c.stamp) & stamp::kWho) != 0) & (earlier >= c.low) &
           (earlier - c.base >= c.floor);
  }

  void load(Current& c, uint64_t at, const Stamps& s) {
    bool suspect = false, lost = false;
    for (int i = 0; i < s.n; ++i) {
      suspect |= !clean(c, s.written[i]);
      lost |= is_lost(c, s.read[i], s.earlier[i]);
    }
    if (__builtin_expect(suspect, 0)) {
      for (int i = 0; i < s.n && !c.reported; ++i)
        judge(c, s.written[i], at + static_cast<uint64_t>(i) * s.step, s.step, Conflict::read_write);
    }
    if (__builtin_expect(lost, 0)) keep_readers(c, at, s);
    for (int i = 0; i < s.n; ++i) {
      const uint64_t last = s.read[i];
      s.earlier[i] = (last ^ c.stamp) & stamp::kWho ? last : s.earlier[i];
      s.read[i] = c.stamp;
    }
  }

  void store(Current& c, uint64_t at, const Stamps& s) {
    bool suspect = false;
    for (int i = 0; i < s.n; ++i) {
      suspect |= !clean(c, s.written[i]) | !clean(c, s.read[i]) | !clean(c, s.earlier[i]) | (s.written[i] == c.stamp);
    }
    if (__builtin_expect(suspect, 0)) {
      for (int i = 0; i < s.n && !c.reported; ++i) {
        const uint64_t address = at + static_cast<uint64_t>(i) * s.step;
        if (s.written[i] == c.stamp) lanes_overlap(c, address, s.step);
        judge(c, s.written[i], address, s.step, Conflict::write_write);
        judge(c, s.read[i], address, s.step, Conflict::write_read);
        judge(c, s.earlier[i], address, s.step, Conflict::write_read);
      }
    }
    if (__builtin_expect(*s.readers && !(*s.readers)->empty(), 0)) other_readers(c, at, s);
    for (int i = 0; i < s.n; ++i) {
      s.written[i] = c.stamp;
      s.read[i] = s.earlier[i] = 0;
    }
  }

  // Remembers the readers that the current one is about to displace.
  void keep_readers(const Current& c, uint64_t at, const Stamps& s) {
    for (int i = 0, next; i < s.n; i = next) {
      const uint64_t last = s.read[i], earlier = s.earlier[i];
      for (next = i + 1; next < s.n && s.read[next] == last && s.earlier[next] == earlier;) ++next;
      if (!is_lost(c, last, earlier) || ordered(c, earlier)) continue;
      const uint64_t bytes = s.bytes(at, i, next - i);
      const bool foreign = !c.lds && stamp::group(earlier) != tag_;
      if (foreign && !clocks_->global_acquires) {
        uint64_t others = 0;
        if (*s.readers) {
          for (const Readers::Reader& r : (*s.readers)->all()) others |= stamp::group(r.stamp) != tag_ ? r.bytes : 0;
        }
        if (stamp::group(last) != tag_ || (bytes & ~others) == 0) continue;
      }
      if (!*s.readers) *s.readers = std::make_unique<Readers>();
      if ((*s.readers)->full()) {
        (*s.readers)
            ->forget(
                [&](const Readers::Reader& r) {
                  return r.stamp < c.low || r.stamp - c.base < c.floor || ordered(c, r.stamp);
                },
                ~0ull);
      }
      (*s.readers)->add(earlier, bytes);
    }
  }

  void other_readers(Current& c, uint64_t at, const Stamps& s) {
    const uint64_t line = at & ~(Shadow::kLine - 1), bytes = s.bytes(at, 0, s.n);
    for (const Readers::Reader& r : (*s.readers)->all()) {
      if (!(r.bytes & bytes)) continue;
      judge(c, r.stamp, line + static_cast<uint64_t>(__builtin_ctzll(r.bytes & bytes)), 1, Conflict::write_read);
    }
    if ((*s.readers)->take_lost(bytes) && !c.reported) {
      note(launch_,
           "races: bytes that more than " + std::to_string(Readers::kRoom) +
               " waves read were then written; whether the write is ordered behind all of them was not looked at");
    }
    (*s.readers)->forget([](const Readers::Reader&) { return true; }, bytes);
  }

  // A scalar load of a line that an earlier one has brought to the scalar cache, and that was stored to since.
  void look_for_stale(Current& c, uint64_t at, const Stamps& s) {
    const auto [first, fresh] = scalar_lines_.try_emplace(at / Shadow::kLine, seq_);
    if (fresh) return;
    for (int i = 0; i < s.n && !c.reported; ++i) {
      const uint64_t w = s.written[i];
      if (w >= c.base && stamp::group(w) == tag_ && stamp::seq(w) > first->second)
        report(c, w, at + static_cast<uint64_t>(i) * s.step, Conflict::stale);
    }
  }

  bool ordered(const Current& c, uint64_t s) const {
    const uint32_t wave = stamp::wave(s), seq = stamp::seq(s);
    if (stamp::group(s) != tag_) return knows(c.clock->known.get(), s);
    if (wave == c.wave->index) {
      // Loads to LDS land in the order in which they were issued.
      if (c.lds) return !(s & stamp::kLoose) || c.stamp & stamp::kLoose || seq <= c.clock->vm.done(seq_);
      const bool was_scalar = s & stamp::kLoose;
      return was_scalar == c.scalar || seq <= (was_scalar ? c.clock->scalar_done : c.clock->vm.done(seq_));
    }
    if (!c.lds) return seq <= (c.scalar ? c.clock->vm_done : c.clock->global)[wave];
    return seq <= (s & stamp::kLoose ? c.clock->vm_done : c.clock->lds)[wave];
  }

  static bool compares(Op op) {
    const std::string_view n = name(op);
    return n.find("cmpst") != std::string_view::npos || n.find("cmpswap") != std::string_view::npos;
  }

  void judge(Current& c, uint64_t s, uint64_t at, uint32_t step, Conflict kind) {
    if (c.reported || clean(c, s) || ordered(c, s)) return;
    const Inst* before = instruction(s);
    if (!c.lds && stamp::group(s) == tag_ && before && is_coherent(*before) && is_coherent(*c.op->inst)) return;
    if (kind == Conflict::write_write && writes_the_same(c, at, step)) return note_same_value(c, s, at);
    if (kind == Conflict::write_read && compares(c.op->inst->op)) return;
    if (kind == Conflict::read_write && s & stamp::kAtomic && before && compares(before->op)) return;
    report(c, s, at, kind);
  }

  void acquire(Current& c) {
    Releases& all = c.lds ? lds_releases_ : clocks_->releases;
    if (all.empty()) return;
    for (uint64_t m = c.access->mask; m; m &= m - 1) {
      const auto found = all.find(c.access->at[__builtin_ctzll(m)] / 4);
      if (found == all.end()) continue;
      const Release& r = found->second;
      WaveClock& w = *c.clock;
      if (r.tag == tag_) {
        for (uint32_t i = 0; i < kMaxWaves; ++i) w.lds[i] = std::max(w.lds[i], r.lds[i]);
      }
      const KnownPointer known = join(w.known, r.known);
      if (known == w.known) continue;
      w.known = known;
      const auto own = std::lower_bound(known->begin(), known->end(), std::make_pair(tag_ << 4, 0u));
      for (auto i = own; i != known->end() && i->first >> 4 == tag_; ++i) {
        const uint32_t wave = i->first & 15;
        w.vm_done[wave] = std::max(w.vm_done[wave], i->second);
        w.global[wave] = std::max(w.global[wave], i->second);
      }
    }
  }

  void release(Current& c, bool keeps) {
    WaveClock& w = *c.clock;
    w.lds[c.wave->index] = w.lgkm.done(seq_ - 1);
    w.vm_done[c.wave->index] = w.vm.done(seq_ - 1);
    // The instruction itself, which is the last one outstanding, is what the others will have seen.
    Release mine;
    auto own = std::make_shared<Known>();
    for (uint32_t i = 0; i < group_->waves.size(); ++i) own->push_back({tag_ << 4 | i, w.vm_done[i]});
    mine.known = join(w.known, KnownPointer(std::move(own)));
    mine.tag = tag_;
    std::copy(std::begin(w.lds), std::end(w.lds), mine.lds);
    Releases& all = c.lds ? lds_releases_ : clocks_->releases;
    uint64_t last = ~0ull;
    for (uint64_t m = c.access->mask; m; m &= m - 1) {
      const uint64_t at = c.access->at[__builtin_ctzll(m)] / 4;
      if (at == last) continue;
      last = at;
      Release& r = all[at];
      if (!keeps || !r.known) {
        r = mine;
        continue;
      }
      r.known = join(r.known, mine.known);
      for (uint32_t i = 0; i < kMaxWaves; ++i) {
        r.lds[i] = r.tag == tag_ ? std::max(r.lds[i], mine.lds[i]) : mine.lds[i];
      }
      r.tag = tag_;
    }
  }

  uint64_t base_ = 0;
  uint32_t seq_ = 0;
  uint32_t lds_floor_ = 1, global_floor_ = 1, vm_floor_ = 1;
  Shadow lds_shadow_;
  Releases lds_releases_;
  std::unordered_map<uint64_t, uint32_t> scalar_lines_;  // of the scalar cache, and where they were first read
  WaveClock waves_[kMaxWaves];
};

}  // namespace

std::unique_ptr<Watch> make_race_watch(Launch& launch) {
  return std::make_unique<RaceWatch>(launch, launch.observations->clocks(launch));
}

}  // namespace aiterlite::emulator
