// The model of one compute unit that timeline.h describes, played in issue slots of four cycles.
#include <aiterlite/emulator/effects.h>
#include <aiterlite/emulator/microop.h>
#include <aiterlite/emulator/timeline.h>

#include <algorithm>
#include <cmath>

namespace aiterlite::emulator {
namespace {

constexpr uint64_t kSlot = 4;
constexpr uint64_t kNever = ~0ull;
// Slots of a branch, during which its wave fetches, and of a transcendental instruction. The first is an assumption.
constexpr uint64_t kBranchSlots = 4, kQuarterRateSlots = 4;
// s_sleep counts in 64 cycles.
constexpr uint64_t kSleep = 64;
constexpr size_t kMostVm = 63, kMostLgkm = 15;
// Instructions that the address unit of vector memory takes before it is full: an assumption.
constexpr size_t kVectorQueue = 32;
// Cycles in which 16 lanes each give their addresses.
constexpr double kAddressCycles = 4;

uint64_t next_slot(double time) { return static_cast<uint64_t>(std::ceil(time / kSlot)) * kSlot; }

struct Player {
  const std::vector<Executed>* code = nullptr;
  size_t next = 0;
  uint32_t row = 0, simd = 0, group = 0;
  uint64_t ready = 0;
  bool at_barrier = false, ended = false;
  std::deque<double> vm, lgkm;
  // The wait that goes on, if any.
  bool waits = false;
  Wait why = Wait::unit;
  uint64_t since = 0;
  double last_vm = 0, last_lgkm = 0;
};

class ComputeUnit {
 public:
  ComputeUnit(const std::vector<std::vector<Executed>>& waves, const TimelineOptions& options)
      : o_(options), t_(o_.timings) {
    const uint32_t groups = std::max(options.together, 1u);
    for (uint32_t g = 0; g < groups; ++g) {
      for (const std::vector<Executed>& code : waves) {
        Player p;
        p.code = &code;
        p.row = static_cast<uint32_t>(players_.size());
        p.simd = p.row % Timeline::kSimds;
        p.group = g;
        p.ended = code.empty();
        players_.push_back(p);
        if (!p.ended) ++live_;
      }
    }
    out_.waves.resize(players_.size());
    for (const Player& p : players_) {
      out_.waves[p.row].simd = p.simd;
      of_simd_[p.simd].push_back(p.row);
    }
    out_.events_until = kNever;
  }

  Timeline run() {
    while (live_) {
      bool issued = false;
      for (uint32_t s = 0; s < Timeline::kSimds; ++s) issued |= slot(s);
      now_ = issued ? now_ + kSlot : std::max(now_ + kSlot, earliest());
    }
    if (out_.events_until == kNever) out_.events_until = out_.cycles;
    return std::move(out_);
  }

 private:
  uint64_t earliest() const {
    uint64_t first = kNever;
    for (const Player& p : players_) {
      if (!p.ended && !p.at_barrier) first = std::min(first, p.ready);
    }
    return first == kNever ? now_ : first;
  }

  // One issue slot of a SIMD; whether any wave issued.
  bool slot(uint32_t simd) {
    bool taken[kPorts] = {};
    const std::vector<uint32_t>& own = of_simd_[simd];
    bool any = false;
    for (size_t i = 0; i < own.size(); ++i) {
      Player& p = players_[own[(first_[simd] + i) % own.size()]];
      if (p.ended || p.at_barrier || p.ready > now_) continue;
      any |= issue(p, taken);
    }
    if (!own.empty()) first_[simd] = (first_[simd] + 1) % own.size();
    return any;
  }

  void event(uint32_t row, uint32_t kind, uint64_t at, uint64_t cycles, const MicroOp* op) {
    if (out_.events.size() < o_.most_events) {
      out_.events.push_back({row, kind, at, cycles, op});
    } else if (out_.events_until == kNever) {
      out_.events_until = at;
    }
  }

  bool wait(Player& p, Wait why, uint64_t until) {
    if (p.waits && p.why != why) settle(p);
    if (!p.waits) {
      p.waits = true;
      p.why = why;
      p.since = now_;
    }
    p.ready = std::max(until, now_ + kSlot);
    return false;
  }

  // The wait is over, at what the wave is about to issue.
  void settle(Player& p) {
    if (!p.waits) return;
    p.waits = false;
    const uint64_t cycles = now_ - p.since;
    if (!cycles) return;
    out_.waves[p.row].waits[static_cast<int>(p.why)] += cycles;
    event(p.row, kPorts + static_cast<uint32_t>(p.why), p.since, cycles, (*p.code)[p.next].op);
  }

  bool issue(Player& p, bool* taken) {
    // Of a wave that executes more than a timeline holds, the end is missing.
    if (p.next == p.code->size()) return finish(p);
    const Executed& x = (*p.code)[p.next];
    const Effects* e = x.effects;
    if (!e) return done(p, Port::other, 1);
    switch (e->unit) {
      case Unit::waitcnt: {
        const uint32_t imm = x.op->inst->simm16;
        if (const uint64_t until = drained(p.vm, (imm & 15) | (imm >> 14 & 3) << 4); until > now_)
          return wait(p, Wait::vmcnt, until);
        if (const uint64_t until = drained(p.lgkm, imm >> 8 & 15); until > now_) return wait(p, Wait::lgkmcnt, until);
        return done(p, Port::other, 1);
      }
      case Unit::barrier:
        return meet(p);
      case Unit::nop:
        return done(p, Port::other, e->wait_states);
      case Unit::end:
        done(p, Port::other, 1);
        return finish(p);
      case Unit::valu:
      case Unit::dot:
        return take(p, taken, Port::valu) && done(p, Port::valu, 1);
      case Unit::trans:
        return take(p, taken, Port::valu) && done(p, Port::valu, kQuarterRateSlots);
      case Unit::xdl:
      case Unit::smatrix:
      case Unit::dmatrix:
        return matrix(p, taken, x);
      case Unit::lds:
        return lds(p, taken, x);
      case Unit::smem: {
        if (full(p.lgkm, kMostLgkm)) return wait(p, Wait::queue, next_slot(p.lgkm.front()));
        if (!take(p, taken, Port::scalar)) return false;
        if (e->counts_lgkm) in_order(p.lgkm, &p.last_lgkm, static_cast<double>(now_) + t_.scalar_latency);
        return done(p, Port::scalar, 1);
      }
      case Unit::vmem:
      case Unit::flat:
        return vector(p, taken, x);
      case Unit::branch:
        return take(p, taken, Port::salu) && done(p, Port::salu, kBranchSlots);
      default: {
        const bool sleeps = x.op->inst->op == Op::s_sleep;
        if (sleeps) return done(p, Port::other, std::max<uint64_t>(x.op->inst->simm16 & 127, 1) * kSleep / kSlot);
        return take(p, taken, Port::salu) && done(p, Port::salu, 1);
      }
    }
  }

  bool finish(Player& p) {
    p.ended = true;
    --live_;
    out_.waves[p.row].end = now_ + kSlot;
    out_.cycles = std::max(out_.cycles, now_ + kSlot);
    release(p.group);
    return true;
  }

  bool take(Player& p, bool* taken, Port port) {
    bool& used = taken[static_cast<int>(port)];
    if (used) return wait(p, Wait::unit, now_ + kSlot);
    if (port == Port::valu && valu_free_[p.simd] > now_) return wait(p, Wait::unit, valu_free_[p.simd]);
    used = true;
    return true;
  }

  bool done(Player& p, Port port, uint64_t slots) {
    settle(p);
    const MicroOp* op = (*p.code)[p.next].op;
    event(p.row, static_cast<uint32_t>(port), now_, kSlot, op);
    if (slots > 1) {
      // A transcendental instruction keeps the vector ALU, and a no-op nothing.
      if (port == Port::valu) valu_free_[p.simd] = now_ + slots * kSlot;
      if (port == Port::other) {
        out_.waves[p.row].waits[static_cast<int>(Wait::nops)] += (slots - 1) * kSlot;
        event(p.row, kPorts + static_cast<uint32_t>(Wait::nops), now_ + kSlot, (slots - 1) * kSlot, op);
      }
    }
    ++out_.issued[static_cast<int>(port)];
    ++out_.waves[p.row].instructions;
    p.ready = now_ + slots * kSlot;
    ++p.next;
    return true;
  }

  bool matrix(Player& p, bool* taken, const Executed& x) {
    if (matrix_free_[p.simd] > now_) return wait(p, Wait::matrix, matrix_free_[p.simd]);
    // The port is the vector ALU's.
    if (!take(p, taken, Port::valu)) return false;
    const uint64_t cycles = std::max<uint64_t>(x.effects->passes, 1) * kSlot;
    matrix_free_[p.simd] = now_ + cycles;
    out_.matrix_busy[p.simd] += cycles;
    event(row_of_units() + p.simd, static_cast<uint32_t>(Port::matrix), now_, cycles, x.op);
    return done(p, Port::matrix, 1);
  }

  bool lds(Player& p, bool* taken, const Executed& x) {
    if (full(p.lgkm, kMostLgkm)) return wait(p, Wait::queue, next_slot(p.lgkm.front()));
    if (!take(p, taken, Port::lds)) return false;
    const double begin = std::max(lds_free_, static_cast<double>(now_));
    const double cycles = std::max<double>(x.amount, 1);
    lds_free_ = begin + cycles;
    out_.lds_busy += static_cast<uint64_t>(cycles);
    event(row_of_units() + Timeline::kSimds, static_cast<uint32_t>(Port::lds), static_cast<uint64_t>(begin),
          static_cast<uint64_t>(cycles), x.op);
    if (x.effects->counts_lgkm) in_order(p.lgkm, &p.last_lgkm, lds_free_ + t_.lds_latency);
    return done(p, Port::lds, 1);
  }

  bool vector(Player& p, bool* taken, const Executed& x) {
    if (full(p.vm, kMostVm)) return wait(p, Wait::queue, next_slot(p.vm.front()));
    if (x.effects->counts_lgkm && full(p.lgkm, kMostLgkm)) return wait(p, Wait::queue, next_slot(p.lgkm.front()));
    while (!queue_.empty() && queue_.front() <= static_cast<double>(now_)) queue_.pop_front();
    if (queue_.size() >= kVectorQueue) return wait(p, Wait::queue, next_slot(queue_.front()));
    if (!take(p, taken, Port::vector)) return false;
    const double begin = std::max(vector_free_, static_cast<double>(now_));
    const double cycles = std::max(kAddressCycles, x.amount / t_.cache_bytes);
    vector_free_ = begin + cycles;
    queue_.push_back(vector_free_);
    out_.vector_busy += static_cast<uint64_t>(cycles);
    event(row_of_units() + Timeline::kSimds + 1, static_cast<uint32_t>(Port::vector), static_cast<uint64_t>(begin),
          static_cast<uint64_t>(cycles), x.op);
    double back = vector_free_ + t_.cache_latency;
    if (x.fresh) {
      const double from = std::max(memory_free_, begin), takes = x.fresh / t_.memory_bytes;
      memory_free_ = from + takes;
      out_.memory_busy += static_cast<uint64_t>(takes);
      event(row_of_units() + Timeline::kSimds + 2, static_cast<uint32_t>(Port::vector), static_cast<uint64_t>(from),
            std::max<uint64_t>(static_cast<uint64_t>(takes), 1), x.op);
      back = std::max(back, memory_free_ + t_.memory_latency);
    }
    if (x.effects->counts_vm) in_order(p.vm, &p.last_vm, back);
    if (x.effects->counts_lgkm) in_order(p.lgkm, &p.last_lgkm, back);
    return done(p, Port::vector, 1);
  }

  uint32_t row_of_units() const { return static_cast<uint32_t>(players_.size()); }

  // Drops what has come back; whether the counter is at its most all the same.
  bool full(std::deque<double>& queue, size_t most) const {
    while (!queue.empty() && queue.front() <= static_cast<double>(now_)) queue.pop_front();
    return queue.size() >= most;
  }
  static void in_order(std::deque<double>& queue, double* last, double time) {
    *last = std::max(*last, time);
    queue.push_back(*last);
  }
  // When at most `left` are under way.
  uint64_t drained(std::deque<double>& queue, size_t left) const {
    full(queue, 0);
    return queue.size() > left ? next_slot(queue[queue.size() - 1 - left]) : now_;
  }

  bool meet(Player& p) {
    wait(p, Wait::barrier, now_);
    p.at_barrier = true;
    return release(p.group);
  }

  // Lets the waves of a workgroup go on when all that live are at the barrier. A wave that has waited for itself alone,
  // or that came last, goes on in the next slot.
  bool release(uint32_t group) {
    for (const Player& p : players_) {
      if (p.group == group && !p.ended && !p.at_barrier) return false;
    }
    for (Player& p : players_) {
      if (p.group != group || p.ended) continue;
      p.at_barrier = false;
      done(p, Port::other, 1);
    }
    return true;
  }

  const TimelineOptions& o_;
  const Timings& t_;
  Timeline out_;
  std::vector<Player> players_;
  std::vector<uint32_t> of_simd_[Timeline::kSimds];
  size_t first_[Timeline::kSimds] = {};
  size_t live_ = 0;
  uint64_t now_ = 0;
  uint64_t matrix_free_[Timeline::kSimds] = {}, valu_free_[Timeline::kSimds] = {};
  double lds_free_ = 0, vector_free_ = 0, memory_free_ = 0;
  std::deque<double> queue_;
};

}  // namespace

const char* name(Port port) {
  constexpr const char* kNames[kPorts] = {"valu", "salu", "matrix", "lds", "vector", "scalar", "other"};
  return kNames[static_cast<int>(port)];
}

const char* name(Wait wait) {
  constexpr const char* kNames[kWaits] = {"unit", "matrix", "queue", "vmcnt", "lgkmcnt", "barrier", "nops"};
  return kNames[static_cast<int>(wait)];
}

Timeline play(const std::vector<std::vector<Executed>>& waves, const TimelineOptions& options) {
  return ComputeUnit(waves, options).run();
}

}  // namespace aiterlite::emulator
