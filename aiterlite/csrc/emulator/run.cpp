// Runs a launch: workgroups on host threads, waves of a workgroup in turns.
//
// A workgroup gets a turn of a bounded number of instructions. One that has not finished by then stays resident and
// comes again after the others, while further workgroups are started up to what the chip would hold: so workgroups that
// wait for one another make progress.
//
// A turn is run in slices. Between them a thread looks whether the launch was stopped, and the thread that launched
// asks its caller whether it shall go on, so a kernel without an end can be interrupted.
#include <aiterlite/emulator/runtime.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <new>
#include <numeric>
#include <system_error>
#include <thread>

namespace aiterlite::emulator {
namespace {

constexpr uint64_t kLongTurn = 1u << 20;  // instructions; for workgroups that do not wait for each other
constexpr uint64_t kShortTurn = 1u << 12;
constexpr uint64_t kSlice = 1u << 14;  // of slow instructions, about 20 ms
constexpr std::chrono::milliseconds kPollInterval{50};

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
  const Allocation has = allocation_of(d);
  fill_words(w.regs[0], static_cast<size_t>(std::max<uint32_t>(has.vgprs, 1)) * kRegisterBytes, fill);
  if (has.agprs) fill_words(w.regs[kVgprs], static_cast<size_t>(has.agprs) * kRegisterBytes, fill);
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

// Asks the caller of a launch now and then whether it shall go on. For the thread that launched.
class Poll {
 public:
  explicit Poll(Launch& launch) : launch_(launch), csr_(read_float_csr()), next_(Clock::now() + kPollInterval) {}

  void ask() {
    if (!launch_.options.poll || launch_.stopped.load() || Clock::now() < next_) return;
    // What is asked runs code of the caller's, which rounds as the caller does.
    const uint32_t csr = read_float_csr();
    write_float_csr(csr_);
    const bool stop = launch_.options.poll() != 0;
    write_float_csr(csr);
    next_ = Clock::now() + kPollInterval;
    if (!stop) return;
    launch_.interrupted.store(true);
    launch_.stopped.store(true);
  }

 private:
  using Clock = std::chrono::steady_clock;
  Launch& launch_;
  uint32_t csr_;
  Clock::time_point next_;
};

// Gives the thread its floating-point mode back, however the scope is left.
struct FloatModeScope {
  const uint32_t csr = read_float_csr();
  ~FloatModeScope() { write_float_csr(csr); }
};

class Worker {
 public:
  // `resident` is how many workgroups this thread keeps, which may rise while it runs; `poll` is null on other threads
  // than the one that launched.
  Worker(Launch& launch, Order& order, const std::atomic<uint64_t>& resident, uint64_t turn, Poll* poll)
      : launch_(launch), order_(order), limit_(resident), turn_(turn), poll_(poll) {}

  void work() {
    const FloatModeScope mode;
    size_t at = 0;
    bool more = true;
    while (!stopped()) {
      if (more && residents_.size() < limit_.load(std::memory_order_relaxed) && at == residents_.size()) {
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
  }

 private:
  bool stopped() const { return launch_.stopped.load(std::memory_order_relaxed); }

  // Called after `executed` instructions; true where the launch was stopped.
  bool pause(uint64_t executed) {
    unpolled_ += executed;
    if (unpolled_ >= kSlice) {
      unpolled_ = 0;
      if (poll_) poll_->ask();
    }
    return stopped();
  }

  // Runs a wave for its turn, in slices.
  void run_slices(Wave& w, uint64_t budget) {
    while (budget > kSlice) {
      const uint64_t before = w.executed;
      run_wave(w, kSlice);
      const uint64_t ran = w.executed - before;
      if (w.stop != Stop::running || pause(ran)) return;
      budget -= std::min(ran, budget);
    }
    run_wave(w, budget);
  }

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
    uint64_t next_pause = kSlice;
    while (used < turn && !finished) {
      if (used >= next_pause) {
        if (pause(kSlice)) break;
        next_pause = used + kSlice;
      }
      Wave* w = pick(g);
      if (!w) {
        Fault f;
        f.kind = FaultKind::deadlock;
        return fail(g, *g.waves[0], std::move(f));
      }
      const uint64_t before = w->executed;
      const uint64_t quantum = g.random ? next_random(&g.random) % options.quantum + 1 : options.quantum;
      // The last live wave needs no turns.
      const uint64_t budget = g.live == 1 ? std::max<uint64_t>(turn - used, 1) : quantum;
      if (budget > kSlice) {
        run_slices(*w, budget);
      } else {
        run_wave(*w, budget);
      }
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
    pause(used < kSlice ? used : 0);
    if (options.max_instructions && total > options.max_instructions && !stopped()) {
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
  const std::atomic<uint64_t>& limit_;
  uint64_t turn_;
  Poll* poll_;
  uint64_t unpolled_ = 0;  // instructions since `poll_` was asked
  std::vector<std::unique_ptr<Resident>> residents_;
  std::vector<std::unique_ptr<Resident>> spare_;
};

// Threads beside the one that launched. What one of them throws is thrown by `wait`.
class Team {
 public:
  explicit Team(Launch& launch) : launch_(launch) {}
  // Also when the thread that launched leaves by an exception: a thread that nobody waits for would end the process.
  ~Team() {
    launch_.stopped.store(true);
    join();
  }

  // False where the system gives no further thread.
  template <class F>
  bool start(F work) {
    try {
      threads_.reserve(threads_.size() + 1);
      std::lock_guard<std::mutex> lock(mutex_);
      threads_.emplace_back([this, work] { run(work); });
      ++running_;
      return true;
    } catch (const std::system_error&) {
    } catch (const std::bad_alloc&) {
    }
    return false;
  }

  // Returns when all have ended; asks `poll` meanwhile.
  void wait(Poll& poll) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      while (!idle_.wait_for(lock, kPollInterval, [this] { return running_ == 0; })) {
        lock.unlock();
        poll.ask();
        lock.lock();
      }
    }
    join();
    if (thrown_) std::rethrow_exception(thrown_);
  }

 private:
  template <class F>
  void run(F work) {
    std::exception_ptr thrown;
    try {
      work();
    } catch (const std::exception&) {
      thrown = std::current_exception();
      launch_.stopped.store(true);
    }
    std::lock_guard<std::mutex> lock(mutex_);
    if (thrown && !thrown_) thrown_ = thrown;
    --running_;
    idle_.notify_all();
  }

  void join() {
    for (std::thread& t : threads_) t.join();
    threads_.clear();
  }

  Launch& launch_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable idle_;
  uint64_t running_ = 0;
  std::exception_ptr thrown_;
};

uint64_t thread_count(const Launch& launch, uint64_t groups) {
  const LaunchOptions& options = launch.options;
  const uint64_t threads =
      options.threads > 0 ? static_cast<uint64_t>(options.threads) : std::max(1u, std::thread::hardware_concurrency());
  if (launch.ordered && options.threads <= 0) return 1;
  // A trace is of one thread. A limit within a turn is met at the same place in each run only there, and soon.
  if ((options.max_instructions && options.max_instructions <= kLongTurn) || options.trace_group >= 0) return 1;
  if (needs_one_thread(launch)) return 1;
  return std::min(threads, groups);
}

}  // namespace

bool run(Launch& launch) {
  const uint64_t launched = static_cast<uint64_t>(launch.grid[0]) * launch.grid[1] * launch.grid[2];
  const uint64_t groups = launch.options.only ? std::min(launch.options.only, launched) : launched;
  Order order(groups, launch.options.seed);
  const uint64_t threads = thread_count(launch, groups);
  const uint64_t turn = launch.ordered ? kShortTurn : kLongTurn;
  const auto share = [&](uint64_t among) { return std::max<uint64_t>((launch.resident + among - 1) / among, 1); };
  std::atomic<uint64_t> resident{share(threads)};
  const auto work = [&](Poll* poll) {
    try {
      Worker(launch, order, resident, turn, poll).work();
    } catch (const std::bad_alloc&) {
      std::lock_guard<std::mutex> lock(launch.mutex);
      launch.out_of_memory = true;
      launch.stopped.store(true);
    }
  };
  Poll poll(launch);
  Team team(launch);
  uint64_t running = 1;
  while (running < threads && team.start([&work] { work(nullptr); })) ++running;
  // With fewer threads than were wanted, the workgroups that a chip would hold are shared by those that there are.
  resident.store(share(running), std::memory_order_relaxed);
  work(&poll);
  team.wait(poll);
  return !launch.failed && !launch.out_of_memory && !launch.interrupted;
}

}  // namespace aiterlite::emulator
