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
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/touches.h>
#include <aiterlite/emulator/traits.h>
#include <aiterlite/emulator/watches.h>

#include <algorithm>

namespace aiterlite::emulator {
namespace {

uint32_t decode_vmcnt(uint16_t simm) { return (simm & 0xfu) | (simm >> 10 & 0x30u); }
uint32_t decode_lgkmcnt(uint16_t simm) { return simm >> 8 & 0xfu; }

template <class F>
inline void for_each_bit(uint64_t bits, F&& f) {
  for (; bits; bits &= bits - 1) f(__builtin_ctzll(bits));
}

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
    Current c{&w, op, &a, &waves_[w.index], 0, 0, 0, a.space == Space::lds, scalar};
    const bool coherent = !c.lds && is_coherent(*op->inst);
    const bool atomic = c.lds ? t.atomic : coherent && reaches_other_groups(*op->inst);
    const bool to_lds = c.lds && t.vm && t.kind != Kind::flat;
    c.stamp = c.clock->stamp | (atomic ? stamp::kAtomic : 0) | (to_lds || scalar ? stamp::kLoose : 0);
    c.loose = scalar ? stamp::kLoose : 0;
    const uint32_t floor = std::min(c.lds ? lds_floor_ : scalar ? vm_floor_ : global_floor_, stamp::kMaxSeq);
    c.first = c.lds ? 0 : base_;
    c.span = (c.lds ? base_ : 0) + (static_cast<uint64_t>(floor) << stamp::kSeqShift);
    const bool synchronises = c.lds ? t.atomic && clocks_->lds_acquires : coherent && clocks_->global_acquires;
    Releases& releases = c.lds ? lds_releases_ : clocks_->releases;
    if (synchronises && (!a.write || (t.atomic && returns(*op->inst)))) c.clock->acquire(releases, tag_, a);
    const bool through_cache = scalar && !a.write && !coherent;
    Shadow& shadow = c.lds ? lds_shadow_ : clocks_->shadow;
    if (through_cache || !look_by_line(c, shadow, t.atomic)) look_by_lane(c, shadow, t.atomic, through_cache);
    if (synchronises && a.write) {
      const uint32_t waves = static_cast<uint32_t>(group_->waves.size());
      c.clock->release(&releases, {tag_, waves, w.index, seq_}, a, t.atomic);
    }
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

  // What no one may write needs no record.
  static bool read_only(const Current& c, uint64_t begin, uint64_t end) {
    const Range* hit = c.wave->hit;
    return !c.lds && !c.access->write && hit && !hit->writable && begin >= hit->base && end <= hit->end;
  }

  // The usual case, in which there is nothing to say; false where there is, perhaps with some lines of a load marked.
  bool look_by_line(Current& c, Shadow& shadow, bool atomic) {
    const Touches& touches = *c.access->touches;
    if (!c.access->write) {
      for (const Touch& t : touches) {
        const uint64_t at = t.line * Shadow::kLine;
        if (read_only(c, at + static_cast<uint64_t>(__builtin_ctzll(t.bytes)),
                      at + Shadow::kLine - static_cast<uint64_t>(__builtin_clzll(t.bytes))))
          continue;
        const Shadow::View v(shadow, t.line, t.bytes);
        if (__builtin_expect(!is_free_to_read(c, v), 0)) return false;
        mark_read(c, v);
      }
      return true;
    }
    if (touches.overlap() && !atomic) return false;
    for (const Touch& t : touches) {
      if (__builtin_expect(!is_free_to_write(c, Shadow::View(shadow, t.line, t.bytes)), 0)) return false;
    }
    for (const Touch& t : touches) mark_written(c, Shadow::View(shadow, t.line, t.bytes));
    return true;
  }

  // In the order of the lanes, which decides what is named.
  void look_by_lane(Current& c, Shadow& shadow, bool atomic, bool through_cache) {
    Run runs[kWave];
    const int count = make_runs(*c.access, !c.access->write || atomic, runs);
    for (int i = 0; i < count; ++i) {
      if (read_only(c, runs[i].begin, runs[i].end)) continue;
      for (uint64_t at = runs[i].begin, next; at < runs[i].end; at = next) {
        const uint64_t line = at & ~(Shadow::kLine - 1);
        next = std::min(line + Shadow::kLine, runs[i].end);
        const Shadow::View v(shadow, line / Shadow::kLine, (~0ull >> (64 - (next - at))) << (at - line));
        if (through_cache) look_for_stale(c, line, v);
        if (c.access->write) {
          judge_write(c, line, v);
          mark_written(c, v);
        } else {
          judge_read(c, line, v);
          mark_read(c, v);
        }
      }
    }
  }

  // True when a stamp is ordered before all that the workgroup does now.
  static bool is_old(const Current& c, uint64_t s) { return (s - c.first < c.span) | !s; }
  // True when a stamp cannot matter: old, of this wave, or atomic like the access.
  static bool clean(const Current& c, uint64_t s) {
    return is_old(c, s) | ((s & c.stamp & stamp::kAtomic) != 0) |
           (((s ^ c.stamp) & stamp::kWho) == 0 && !((s | c.loose) & stamp::kLoose));
  }
  bool harmless(const Current& c, uint64_t s) const { return clean(c, s) || ordered(c, s); }
  // True when a reader that makes room for the current one must be remembered elsewhere.
  bool is_lost(const Current& c, uint64_t last, uint64_t earlier) const {
    return ((last ^ c.stamp) & stamp::kWho) && ((earlier ^ c.stamp) & stamp::kWho) && !is_old(c, earlier) &&
           !ordered(c, earlier);
  }

  bool is_free_to_read(const Current& c, const Shadow::View& v) const {
    FourMasks young{};
    v.each_group([&](const Stamps& s, uint32_t which) { add_outside(&young, s.written, which, c.first, c.span); });
    if (__builtin_expect(!any(young), 1)) return true;
    uint64_t last = 0;
    bool free = true;
    for_each_bit(v.elements(), [&](int i) {
      const uint64_t s = v.group(i).written[i % 4];
      free &= s == last || harmless(c, s);
      last = s;
    });
    return free;
  }

  bool is_free_to_write(const Current& c, const Shadow::View& v) const {
    FourMasks young{};
    v.each_group([&](const Stamps& s, uint32_t which) {
      add_outside(&young, s.written, which, c.first, c.span);
      add_outside(&young, s.read, which, c.first, c.span);
      add_outside(&young, s.earlier, which, c.first, c.span);
    });
    bool free = true;
    if (__builtin_expect(any(young), 0)) {
      Stamps last;
      for_each_bit(v.elements(), [&](int i) {
        const Stamps& s = v.group(i);
        const uint64_t w = s.written[i % 4], r = s.read[i % 4], e = s.earlier[i % 4];
        free &= (w == last.written[0] || harmless(c, w)) && (r == last.read[0] || harmless(c, r)) &&
                (e == last.earlier[0] || harmless(c, e));
        last.written[0] = w, last.read[0] = r, last.earlier[0] = e;
      });
    }
    const Readers* readers = v.readers().get();
    if (!readers || readers->empty()) return free;
    for (const Readers::Reader& r : readers->all()) free &= !(r.bytes & v.bytes()) || harmless(c, r.stamp);
    return free && !readers->has_lost(v.bytes());
  }

  void mark_read(const Current& c, const Shadow::View& v) {
    FourMasks young{};
    v.each_group([&](const Stamps& s, uint32_t which) { add_outside(&young, s.earlier, which, c.first, c.span); });
    if (any(young)) keep_readers(c, v);
    v.each_group([&](Stamps& s, uint32_t which) { s.mark_read(which, c.stamp); });
    v.keep();
  }

  static void mark_written(const Current& c, const Shadow::View& v) {
    v.each_group([&](Stamps& s, uint32_t which) { s.mark_written(which, c.stamp); });
    v.keep();
    Readers* readers = v.readers().get();
    if (readers && !readers->empty()) readers->forget([](const Readers::Reader&) { return true; }, v.bytes());
  }

  // What is judged, and named, at a time: whole lines, dwords where one was split, or bytes.
  template <class F>
  static void each_stretch(const Current& c, uint64_t line, const Shadow::View& v, F&& f) {
    const uint32_t step = v.step(), by = step == 16 ? 4 : step;
    for (uint64_t left = v.elements(); left; left &= left - 1) {
      const int i = __builtin_ctzll(left);
      const uint64_t at = line + static_cast<uint64_t>(i) * step;
      for (uint32_t part = 0; part < step && !c.reported; part += by) f(v.group(i), i % 4, at + part, by);
    }
  }

  void judge_read(Current& c, uint64_t line, const Shadow::View& v) {
    if (is_free_to_read(c, v)) return;
    each_stretch(c, line, v, [&](const Stamps& s, int i, uint64_t at, uint32_t bytes) {
      judge(c, s.written[i], at, bytes, Conflict::read_write);
    });
  }

  void judge_write(Current& c, uint64_t line, const Shadow::View& v) {
    each_stretch(c, line, v, [&](const Stamps& s, int i, uint64_t at, uint32_t bytes) {
      if (s.written[i] == c.stamp) lanes_overlap(c, at, bytes);
      judge(c, s.written[i], at, bytes, Conflict::write_write);
      judge(c, s.read[i], at, bytes, Conflict::write_read);
      judge(c, s.earlier[i], at, bytes, Conflict::write_read);
    });
    Readers* readers = v.readers().get();
    if (!readers || readers->empty()) return;
    for (const Readers::Reader& r : readers->all()) {
      if (!(r.bytes & v.bytes())) continue;
      judge(c, r.stamp, line + static_cast<uint64_t>(__builtin_ctzll(r.bytes & v.bytes())), 1, Conflict::write_read);
    }
    if (readers->take_lost(v.bytes()) && !c.reported) {
      note(launch_,
           "races: bytes that more than " + std::to_string(Readers::kRoom) +
               " waves read were then written; whether the write is ordered behind all of them was not looked at");
    }
  }

  // Remembers the readers that the current one is about to displace.
  void keep_readers(const Current& c, const Shadow::View& v) {
    for (uint64_t left = v.elements(); left;) {
      int i = __builtin_ctzll(left);
      const uint64_t last = v.group(i).read[i % 4], earlier = v.group(i).earlier[i % 4];
      uint64_t bytes = 0;
      do {
        bytes |= v.bytes_of(i);
        left &= left - 1;
        if (!left) break;
        i = __builtin_ctzll(left);
      } while (v.group(i).read[i % 4] == last && v.group(i).earlier[i % 4] == earlier);
      if (is_lost(c, last, earlier)) keep_reader(c, v.readers(), last, earlier, bytes);
    }
  }

  void keep_reader(const Current& c, std::unique_ptr<Readers>& readers, uint64_t last, uint64_t earlier,
                   uint64_t bytes) {
    const bool foreign = !c.lds && stamp::group(earlier) != tag_;
    if (foreign && !clocks_->global_acquires) {
      if (stamp::group(last) != tag_) return;
      uint64_t others = 0;
      if (readers) {
        for (const Readers::Reader& r : readers->all()) others |= stamp::group(r.stamp) != tag_ ? r.bytes : 0;
      }
      if ((bytes & ~others) == 0) return;
    }
    if (!readers) readers = std::make_unique<Readers>();
    if (readers->full()) {
      readers->forget([&](const Readers::Reader& r) { return is_old(c, r.stamp) || ordered(c, r.stamp); }, ~0ull);
    }
    readers->add(earlier, bytes);
  }

  // A scalar load of a line that an earlier one has brought to the scalar cache, and that was stored to since.
  void look_for_stale(Current& c, uint64_t line, const Shadow::View& v) {
    const auto [first, fresh] = scalar_lines_.try_emplace(line / Shadow::kLine, seq_);
    if (fresh) return;
    each_stretch(c, line, v, [&](const Stamps& s, int i, uint64_t at, uint32_t) {
      const uint64_t w = s.written[i];
      if (w >= base_ && stamp::group(w) == tag_ && stamp::seq(w) > first->second) report(c, w, at, Conflict::stale);
    });
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
