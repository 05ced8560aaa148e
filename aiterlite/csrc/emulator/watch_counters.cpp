// Counts instructions, bytes, segments and bank conflicts as they happen.
//
// Coalescing. A vector memory access touches segments of 64 and of 128 bytes; the least that it could touch is its
// distinct bytes, packed.
//
// LDS cycles are those of lds_banks.cpp. Loads to LDS are not counted.
#include <aiterlite/emulator/counters.h>
#include <aiterlite/emulator/runs.h>
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/traits.h>
#include <aiterlite/emulator/watches.h>

#include <algorithm>

namespace aiterlite::emulator {

uint64_t Touched::mark(uint64_t begin, uint64_t end, bool write) {
  uint64_t fresh = 0;
  while (begin < end) {
    const uint64_t number = begin >> kPageBits;
    if (number != recent_) {
      std::unique_ptr<Page>& page = pages_[number];
      if (!page) page = std::make_unique<Page>();
      recent_ = number;
      page_ = page.get();
    }
    const uint64_t bit = begin % 64, n = std::min(64 - bit, end - begin);
    const uint64_t bits = (n == 64 ? ~0ull : (1ull << n) - 1) << bit;
    uint64_t& word = page_->bits[write][begin / 64 % (sizeof(Page::bits) / 16)];
    fresh += static_cast<uint64_t>(__builtin_popcountll(bits & ~word));
    word |= bits;
    begin += n;
  }
  return fresh;
}

Counters::Counters(const Launch& launch)
    : executed(launch.program->ops.size()),
      skipped(launch.program->ops.size()),
      ranges(launch.memory->ranges().size()) {}

namespace {

class CounterWatch final : public Watch {
 public:
  CounterWatch(const Launch& launch, Counters* counters)
      : launch_(launch), first_(launch.program->ops.data()), c_(*counters) {}

  void begin(Workgroup& g) override {
    ++c_.workgroups;
    c_.waves += g.waves.size();
    own_ = 0;
  }

  void end(Workgroup&) override { c_.largest_workgroup = std::max(c_.largest_workgroup, own_); }

  void before(Wave&, const MicroOp* op, bool skipped) override {
    ++(skipped ? c_.skipped : c_.executed)[static_cast<size_t>(op - first_)];
    own_ += !skipped;
  }

  void access(Wave& w, const MicroOp* op, const MemoryAccess& a) override {
    const OpTraits& t = traits(op->inst->op);
    const uint64_t bytes = static_cast<uint64_t>(__builtin_popcountll(a.mask)) * a.size;
    switch (a.space) {
      case Space::scalar:
        add(c_.scalar, bytes, a.write, t.atomic);
        return;
      case Space::scratch:
        add(c_.scratch, bytes, a.write, t.atomic);
        return;
      case Space::lds:
        add(c_.lds, bytes, a.write, t.atomic);
        if (t.lgkm) count_lds(op->inst->op, a, t.atomic);
        return;
      default:
        break;
    }
    count_global(w, a, t);
  }

 private:
  static void add(Traffic& to, uint64_t bytes, bool write, bool atomic) {
    if (write) to.written += bytes;
    if (!write || atomic) to.read += bytes;
  }

  void count_lds(Op op, const MemoryAccess& a, bool atomic) {
    const LdsGroups groups = lds_groups(launch_.program->arch, op, a.size);
    LdsTime t;
    const uint32_t natural = a.size & (a.size - 1) ? 1 : a.size;
    if (a.size >= 4 && natural > 1 && is_consecutive(a) && a.at[0] % natural == 0) {
      // No group of the table has two lanes whose consecutive data meet in a bank.
      t = {1, 2 * groups.count, 2 * groups.count};
    } else {
      t = lds_time(groups, a.at, a.mask, a.size, atomic);
    }
    c_.lds_time.accesses += t.accesses;
    c_.lds_time.cycles += t.cycles;
    c_.lds_time.minimum_cycles += t.minimum_cycles;
  }

  void count_global(const Wave& w, const MemoryAccess& a, const OpTraits& t) {
    Coalescing& to = t.atomic ? c_.atomics : a.write ? c_.stores : c_.loads;
    ++to.accesses;
    int runs = 0;
    if (is_consecutive(a)) {
      runs_[runs++] = {a.at[0], a.at[0] + static_cast<uint64_t>(kWave) * a.size};
    } else {
      runs = merged_runs(a);
    }
    // The lanes' bytes go to the range of their run; bytes that several lanes share count once for each lane.
    uint64_t distinct = 0, last64 = ~0ull, last128 = ~0ull;
    for (int i = 0; i < runs; ++i) {
      const uint64_t begin = runs_[i].begin, end = runs_[i].end;
      distinct += end - begin;
      to.segments64 += segments(begin, end, 6, &last64);
      to.segments128 += segments(begin, end, 7, &last128);
      Traffic* r = traffic_of(w, begin, a.write);
      if (!r) continue;
      if (a.write) r->unique_written += c_.touched.mark(begin, end, true);
      if (!a.write || t.atomic) r->unique_read += c_.touched.mark(begin, end, false);
    }
    to.minimum64 += (distinct + 63) / 64;
    to.minimum128 += (distinct + 127) / 128;
    if (runs == 1) {
      const uint64_t bytes = static_cast<uint64_t>(__builtin_popcountll(a.mask)) * a.size;
      if (Traffic* r = traffic_of(w, runs_[0].begin, a.write)) add(*r, bytes, a.write, t.atomic);
      return;
    }
    for (uint64_t m = a.mask; m; m &= m - 1) {
      if (Traffic* r = traffic_of(w, a.at[__builtin_ctzll(m)], a.write)) add(*r, a.size, a.write, t.atomic);
    }
  }

  // New segments of [begin, end), given the last one counted.
  static uint64_t segments(uint64_t begin, uint64_t end, int bits, uint64_t* last) {
    const uint64_t first = begin >> bits, final = (end - 1) >> bits;
    const uint64_t n = final - first + (first == *last ? 0 : 1);
    *last = final;
    return n;
  }

  // Sorted stretches that do not overlap.
  int merged_runs(const MemoryAccess& a) {
    int n = 0;
    bool sorted = true;
    for (uint64_t m = a.mask; m; m &= m - 1) {
      const uint64_t at = a.at[__builtin_ctzll(m)];
      if (n && at >= runs_[n - 1].begin && at <= runs_[n - 1].end) {
        runs_[n - 1].end = std::max(runs_[n - 1].end, at + a.size);
        continue;
      }
      sorted &= !n || at > runs_[n - 1].end;
      runs_[n++] = {at, at + a.size};
    }
    if (sorted) return n;
    std::sort(runs_, runs_ + n, [](const Run& x, const Run& y) { return x.begin < y.begin; });
    int kept = 1;
    for (int i = 1; i < n; ++i) {
      if (runs_[i].begin <= runs_[kept - 1].end) {
        runs_[kept - 1].end = std::max(runs_[kept - 1].end, runs_[i].end);
      } else {
        runs_[kept++] = runs_[i];
      }
    }
    return kept;
  }

  Traffic* traffic_of(const Wave& w, uint64_t at, bool write) {
    const Range* r = write ? w.write_hit : w.hit;
    if (!r || at < r->base || at >= r->end) r = launch_.memory->find(at);
    return r ? &c_.ranges[static_cast<size_t>(r - launch_.memory->ranges().data())] : nullptr;
  }

  const Launch& launch_;
  uint64_t own_ = 0;  // wave-instructions of this workgroup
  const MicroOp* first_;
  Counters& c_;
  Run runs_[kWave];
};

}  // namespace

std::unique_ptr<Watch> make_counter_watch(Launch& launch) {
  return std::make_unique<CounterWatch>(launch, launch.observations->counters(launch));
}

}  // namespace aiterlite::emulator
