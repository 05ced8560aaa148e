// Runs a launch: workgroups on host threads, waves of a workgroup in turns.
//
// A workgroup gets a turn of a bounded number of instructions. One that has not finished by then stays resident and
// comes again after the others, while further workgroups are started up to what the chip would hold: so workgroups that
// wait for one another make progress.
#include <aiterlite/emulator/runtime.h>

#include <algorithm>
#include <memory>
#include <new>
#include <numeric>
#include <thread>

namespace aiterlite::emulator {
namespace {

constexpr uint64_t kLongTurn = 1u << 20;  // instructions; for workgroups that do not wait for each other
constexpr uint64_t kShortTurn = 1u << 12;

struct WaveDeleter {
  void operator()(Wave* w) const {
    w->~Wave();
    ::operator delete(w, std::align_val_t{64});
  }
};
using WavePointer = std::unique_ptr<Wave, WaveDeleter>;

WavePointer new_wave() { return WavePointer(new (::operator new(sizeof(Wave), std::align_val_t{64})) Wave); }

uint64_t next_random(uint64_t* state) {  // splitmix64
  uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// Workgroup number `index` in the order in which they start.
class Order {
 public:
  Order(uint64_t count, uint64_t seed) : count_(count), next_(0) {
    if (!seed || count > (1u << 24)) return;
    order_.resize(count);
    std::iota(order_.begin(), order_.end(), 0u);
    uint64_t state = seed;
    for (uint64_t i = count; i > 1; --i) std::swap(order_[i - 1], order_[next_random(&state) % i]);
  }
  bool take(uint64_t* linear) {
    const uint64_t i = next_.fetch_add(1, std::memory_order_relaxed);
    if (i >= count_) return false;
    *linear = order_.empty() ? i : order_[i];
    return true;
  }

 private:
  uint64_t count_;
  std::atomic<uint64_t> next_;
  std::vector<uint32_t> order_;
};

struct Resident {
  std::vector<std::unique_ptr<Watch>> watches;
  Workgroup group;
  std::vector<WavePointer> waves;
};

void fill_words(void* to, size_t bytes, uint32_t value) {
  if (value == 0) {
    memset(to, 0, bytes);
    return;
  }
  for (size_t i = 0; i + 4 <= bytes; i += 4) memcpy(static_cast<uint8_t*>(to) + i, &value, 4);
}

// The scalar registers that the command processor and the dispatcher fill in.
void start_scalars(const Launch& launch, const Workgroup& group, Wave& w) {
  const KernelDescriptor& d = launch.descriptor;
  const auto pair = [&](int at, uint64_t v) {
    if (at >= 0) w.set_pair(static_cast<uint32_t>(at), v);
  };
  pair(d.sgpr_private_segment_buffer, 0);
  if (d.sgpr_private_segment_buffer >= 0) pair(d.sgpr_private_segment_buffer + 2, 0);
  pair(d.sgpr_dispatch_ptr, launch.dispatch_packet);
  pair(d.sgpr_queue_ptr, 0);
  pair(d.sgpr_kernarg_ptr, launch.kernarg);
  pair(d.sgpr_dispatch_id, 0);
  pair(d.sgpr_flat_scratch_init, 0);
  if (d.sgpr_private_segment_size >= 0) w.s[d.sgpr_private_segment_size] = launch.scratch_bytes;
  if (d.sgpr_preload >= 0 && d.kernarg_preload_length) {
    memcpy(&w.s[d.sgpr_preload], reinterpret_cast<const void*>(launch.kernarg + 4ull * d.kernarg_preload_offset),
           4ull * d.kernarg_preload_length);
  }
  uint32_t at = d.user_sgprs;
  const bool wanted[3] = {d.workgroup_id_x, d.workgroup_id_y, d.workgroup_id_z};
  for (int i = 0; i < 3; ++i) {
    if (wanted[i]) w.s[at++] = group.id[i];
  }
  if (d.workgroup_info) w.s[at++] = static_cast<uint32_t>(group.waves.size()) & 0x3f;
}

void start_wave(Launch& launch, Workgroup& group, uint32_t index, uint32_t items, Wave& w) {
  const KernelDescriptor& d = launch.descriptor;
  const uint32_t fill = launch.options.fill;
  const uint32_t vgprs = std::min<uint32_t>(d.accum_offset ? d.accum_offset : d.vgprs, kVgprs);
  const uint32_t agprs = d.vgprs > vgprs ? std::min<uint32_t>(d.vgprs - vgprs, kVgprs) : 0;
  fill_words(w.regs[0], static_cast<size_t>(std::max<uint32_t>(vgprs, 1)) * kRegisterBytes, fill);
  if (agprs) fill_words(w.regs[kVgprs], static_cast<size_t>(agprs) * kRegisterBytes, fill);
  fill_words(w.s, sizeof(w.s), fill);
  w.set_pair(vcc_lo, 0);
  w.s[m0] = 0;
  w.scc = false;
  w.mode = static_cast<uint32_t>(d.round_mode_32) | static_cast<uint32_t>(d.round_mode_16_64) << 2 |
           static_cast<uint32_t>(d.denorm_mode_32) << 4 | static_cast<uint32_t>(d.denorm_mode_16_64) << 6 |
           (d.dx10_clamp ? kModeDx10Clamp : 0) | (d.ieee_mode ? kModeIeee : 0) | (d.fp16_overflow ? kModeFp16Ovfl : 0);
  w.stop = Stop::running;
  w.pc = launch.entry;
  w.hit = w.write_hit = nullptr;
  w.group = &group;
  w.launch = &launch;
  w.lds = group.lds.data();
  w.lds_bytes = launch.lds_bytes;
  w.scratch_bytes = launch.scratch_bytes;
  const size_t scratch = static_cast<size_t>((launch.scratch_bytes + 3) / 4) * kRegisterBytes;
  w.scratch = group.scratch.data() + index * scratch;
  w.index = index;
  w.executed = 0;
  w.clock_reads = 0;
  w.watched = !group.watches.empty();
  set_float_mode(w);

  uint64_t exec = 0;
  for (uint32_t l = 0; l < static_cast<uint32_t>(kWave); ++l) {
    const uint32_t item = index * kWave + l;
    if (item >= items) continue;
    exec |= 1ull << l;
    const uint32_t x = item % launch.block[0];
    const uint32_t y = item / launch.block[0] % launch.block[1];
    const uint32_t z = item / (launch.block[0] * launch.block[1]);
    w.regs[0][l] = x | (d.workitem_id >= 1 ? y << 10 : 0) | (d.workitem_id >= 2 ? z << 20 : 0);
  }
  w.set_pair(exec_lo, exec);
}

class Worker {
 public:
  Worker(Launch& launch, Order& order, uint64_t resident, uint64_t turn)
      : launch_(launch), order_(order), limit_(std::max<uint64_t>(resident, 1)), turn_(turn) {}

  void work() {
    const uint32_t csr = read_float_csr();
    size_t at = 0;
    bool more = true;
    while (!launch_.stopped.load(std::memory_order_relaxed)) {
      if (more && residents_.size() < limit_ && at == residents_.size()) {
        more = start();
        if (!more && residents_.empty()) break;
      }
      if (at >= residents_.size()) at = 0;
      if (residents_.empty()) break;
      if (run_turn(*residents_[at])) {
        spare_.push_back(std::move(residents_[at]));
        residents_.erase(residents_.begin() + static_cast<std::ptrdiff_t>(at));
      } else {
        ++at;
      }
    }
    write_float_csr(csr);
  }

 private:
  bool start() {
    uint64_t linear;
    if (!order_.take(&linear)) return false;
    std::unique_ptr<Resident> r;
    if (spare_.empty()) {
      r = std::make_unique<Resident>();
      r->watches = make_watches(launch_);
      for (const std::unique_ptr<Watch>& watch : r->watches) r->group.watches.push_back(watch.get());
    } else {
      r = std::move(spare_.back());
      spare_.pop_back();
    }
    Workgroup& g = r->group;
    g.launch = &launch_;
    g.linear = linear;
    g.id[0] = static_cast<uint32_t>(linear % launch_.grid[0]);
    g.id[1] = static_cast<uint32_t>(linear / launch_.grid[0] % launch_.grid[1]);
    g.id[2] = static_cast<uint32_t>(linear / launch_.grid[0] / launch_.grid[1]);
    const uint32_t items = launch_.block[0] * launch_.block[1] * launch_.block[2];
    const uint32_t count = (items + kWave - 1) / kWave;
    g.lds.resize(std::max<size_t>(launch_.lds_bytes, 1));
    fill_words(g.lds.data(), g.lds.size(), launch_.options.fill);
    const size_t scratch = static_cast<size_t>((launch_.scratch_bytes + 3) / 4) * kRegisterBytes;
    g.scratch.resize(std::max<size_t>(scratch * count, 1));
    fill_words(g.scratch.data(), scratch * count, launch_.options.fill);
    while (r->waves.size() < count) r->waves.push_back(new_wave());
    g.waves.clear();
    for (uint32_t i = 0; i < count; ++i) g.waves.push_back(r->waves[i].get());
    for (uint32_t i = 0; i < count; ++i) {
      start_wave(launch_, g, i, items, *g.waves[i]);
      start_scalars(launch_, g, *g.waves[i]);
    }
    g.live = count;
    g.at_barrier = 0;
    g.random = launch_.options.seed ? launch_.options.seed ^ (linear * 0xd1342543de82ef95ull) : 0;
    g.next = launch_.options.seed ? static_cast<uint32_t>(next_random(&g.random) % count) : 0;
    for (Watch* watch : g.watches) watch->begin(g);
    residents_.push_back(std::move(r));
    return true;
  }

  // A wave that can run, in turn; null if there is none.
  static Wave* pick(Workgroup& g) {
    const uint32_t count = static_cast<uint32_t>(g.waves.size());
    for (uint32_t tried = 0; tried < count; ++tried) {
      Wave* w = g.waves[g.next];
      g.next = g.next + 1 == count ? 0 : g.next + 1;
      if (w->stop != Stop::ended && w->stop != Stop::barrier) return w;
    }
    return nullptr;
  }

  static void release_barrier(Workgroup& g) {
    if (!g.at_barrier || g.at_barrier < g.live) return;
    for (Watch* watch : g.watches) watch->barrier(g);
    for (Wave* w : g.waves) {
      if (w->stop == Stop::barrier) w->stop = Stop::running;
    }
    g.at_barrier = 0;
  }

  // Runs the workgroup for a turn; true when it has finished or failed.
  bool run_turn(Resident& r) {
    Workgroup& g = r.group;
    uint64_t used = 0;
    const LaunchOptions& options = launch_.options;
    const uint64_t turn = options.max_instructions ? std::min(turn_, options.max_instructions + 1) : turn_;
    bool finished = false;
    while (used < turn && !finished) {
      Wave* w = pick(g);
      if (!w) {
        Fault f;
        f.kind = FaultKind::deadlock;
        return fail(g, *g.waves[0], std::move(f));
      }
      const uint64_t before = w->executed;
      const uint64_t quantum = g.random ? next_random(&g.random) % options.quantum + 1 : options.quantum;
      // The last live wave needs no turns.
      run_wave(*w, g.live == 1 ? std::max<uint64_t>(turn - used, 1) : quantum);
      used += w->executed - before;
      switch (w->stop) {
        case Stop::ended:
          --g.live;
          finished = g.live == 0;
          release_barrier(g);
          if (finished) {
            for (Watch* watch : g.watches) watch->end(g);
          }
          break;
        case Stop::barrier:
          ++g.at_barrier;
          release_barrier(g);
          break;
        case Stop::fault:
          return fail(g, *w, std::move(w->fault));
        default:
          break;
      }
    }
    const uint64_t total = launch_.executed.fetch_add(used, std::memory_order_relaxed) + used;
    if (options.max_instructions && total > options.max_instructions && !finished) {
      Fault f;
      f.kind = FaultKind::limit;
      f.limit = options.max_instructions;
      Wave* w = pick(g);
      return fail(g, w ? *w : *g.waves[0], std::move(f));
    }
    return finished;
  }

  bool fail(Workgroup& g, Wave& w, Fault f) {
    std::lock_guard<std::mutex> lock(launch_.mutex);
    // Of failures on several threads, the one of the lowest workgroup is kept.
    if (!launch_.failed || g.linear < launch_.failure_group) {
      launch_.failed = true;
      launch_.failure = std::move(f);
      launch_.failure_group = g.linear;
      std::copy(g.id, g.id + 3, launch_.failure_group_id);
      launch_.failure_wave = w.index;
      launch_.failure_pc = w.pc ? w.pc->address : 0;
      launch_.failure_text = w.pc && w.pc->inst ? disassemble(launch_.program->arch, *w.pc->inst) : "";
    }
    launch_.stopped.store(true, std::memory_order_relaxed);
    return true;
  }

  Launch& launch_;
  Order& order_;
  uint64_t limit_;
  uint64_t turn_;
  std::vector<std::unique_ptr<Resident>> residents_;
  std::vector<std::unique_ptr<Resident>> spare_;
};

}  // namespace

bool run(Launch& launch) {
  const uint64_t groups = static_cast<uint64_t>(launch.grid[0]) * launch.grid[1] * launch.grid[2];
  Order order(groups, launch.options.seed);
  uint64_t threads = launch.options.threads > 0 ? static_cast<uint64_t>(launch.options.threads)
                                                : std::max(1u, std::thread::hardware_concurrency());
  if (launch.ordered && launch.options.threads <= 0) threads = 1;
  // The instruction limit and the trace are exact on one thread only.
  if (launch.options.max_instructions || launch.options.trace_group >= 0) threads = 1;
  if (needs_one_thread(launch)) threads = 1;
  threads = std::min(threads, groups);
  const uint64_t turn = launch.ordered ? kShortTurn : kLongTurn;
  const uint64_t share = (launch.resident + threads - 1) / std::max<uint64_t>(threads, 1);
  const auto work = [&] {
    try {
      Worker(launch, order, share, turn).work();
    } catch (const std::bad_alloc&) {
      std::lock_guard<std::mutex> lock(launch.mutex);
      launch.out_of_memory = true;
      launch.stopped.store(true);
    }
  };
  std::vector<std::thread> others;
  for (uint64_t t = 1; t < threads; ++t) others.emplace_back(work);
  work();
  for (std::thread& t : others) t.join();
  return !launch.failed && !launch.out_of_memory;
}

}  // namespace aiterlite::emulator
