// Runs a kernel's threads on the host: each is a fiber that runs until it needs another thread, then gives way.
//
// Lanes of a wave, threads of a workgroup and workgroups of a cluster interleave in an order drawn from a seed, so that
// a missing barrier shows as poison or as bits that depend on the seed. What a GPU leaves undefined ends the program:
// lanes that disagree about a collective, a barrier that not all reach, a write into a workgroup that has not started.
#pragma once
#include <sanitizer/common_interface_defs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace hostsim {

[[noreturn]] inline void fail(const std::string& what) {
  fprintf(stderr, "hostsim: %s\n", what.c_str());
  fflush(stderr);
  _exit(3);
}

// Threads that wait for each other at the same place.
struct Meeting {
  uint32_t size = 0;
  uint32_t arrived = 0;
  uint64_t generation = 0;
  const char* kind = nullptr;
  std::vector<void*> operands;  // one a member, by member number
};

struct Workgroup;

// A copy to shared memory that is on its way; zeros where `from` is null.
struct Copy {
  void* to;
  const void* from;
  uint32_t bytes;
};

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  void* fake_stack = nullptr;
  Workgroup* workgroup = nullptr;
  uint32_t id = 0;
  uint32_t next_shared = 0;
  uint64_t cluster_generation = 0;  // when it last arrived at the cluster's barrier
  bool done = false;
  bool incomplete = false;  // it published what may not have arrived yet
  bool accepted = false;    // it may read what other workgroups published
  std::vector<Copy> open_copies;
  std::deque<std::vector<Copy>> copies;  // by the group that is waited for
};

struct SharedArray {
  std::unique_ptr<char[]> bytes;
  size_t size;
};

struct Message {
  Workgroup* to;
  float* address;
  float value;
};

struct Workgroup {
  uint32_t id = 0;
  uint32_t rank = 0;
  uint32_t running = 0;
  Meeting barrier;
  std::vector<Meeting> waves;
  std::vector<SharedArray> shared;
  bool mailbox_open = false;
  uint32_t mailbox_missing = 0;
};

constexpr size_t kStackBytes = 128 * 1024;

// A wave of each workgroup whose threads run only while no other can: what must not depend on how fast a wave is.
inline uint32_t lagging_wave = ~0u;

class Scheduler {
 public:
  // Runs one cluster of workgroups to its end.
  void run(uint32_t first_workgroup, uint32_t workgroups, uint32_t threads, uint32_t wave_size, uint32_t seed,
           const std::function<void()>& kernel) {
    kernel_ = &kernel;
    random_.seed(seed);
    messages_.clear();
    cluster_ = Meeting{};
    cluster_.size = workgroups * threads;
    group_.clear();
    group_.resize(workgroups);
    while (thread_.size() < size_t{workgroups} * threads) {
      thread_.push_back(std::make_unique<Thread>());
      thread_.back()->stack = std::make_unique<char[]>(kStackBytes);
    }
    std::vector<Thread*> order;
    for (uint32_t rank = 0; rank < workgroups; ++rank) {
      Workgroup& group = group_[rank];
      group.id = first_workgroup + rank;
      group.rank = rank;
      group.running = threads;
      group.barrier.size = threads;
      group.waves.resize(threads / wave_size);
      for (Meeting& wave : group.waves) {
        wave.size = wave_size;
        wave.operands.resize(wave_size);
      }
      for (uint32_t id = 0; id < threads; ++id) order.push_back(start(rank * threads + id, &group, id));
    }
    std::shuffle(order.begin(), order.end(), random_);
    while (!order.empty()) {
      const uint64_t before = progress_;
      for (Thread* thread : order) {
        if (!lags(*thread, wave_size)) resume(thread);
      }
      deliver();
      if (progress_ == before) {
        for (Thread* thread : order) {
          if (lags(*thread, wave_size)) resume(thread);
        }
        deliver();
      }
      order.erase(std::remove_if(order.begin(), order.end(), [](Thread* t) { return t->done; }), order.end());
      if (progress_ == before && !order.empty())
        fail("deadlock: some threads wait for others that ended or wait elsewhere");
    }
    if (!messages_.empty()) fail("a message was sent to a workgroup that had ended");
  }

  Thread& current() { return *current_; }
  Workgroup& workgroup() { return *current_->workgroup; }
  Meeting& cluster() { return cluster_; }
  Workgroup& member(uint32_t rank) {
    if (rank >= group_.size()) fail("no workgroup of that rank in the cluster");
    return group_[rank];
  }

  // Waits for all members; the last to come runs `act` on what all brought.
  void meet(Meeting& meeting, uint32_t member, const char* kind, void* operand, const std::function<void()>& act) {
    if (meeting.arrived == 0) meeting.kind = kind;
    if (strcmp(meeting.kind, kind) != 0) {
      fail(std::string("lanes disagree: some are at ") + meeting.kind + ", some at " + kind);
    }
    if (!meeting.operands.empty()) meeting.operands[member] = operand;
    const uint64_t generation = meeting.generation;
    if (++meeting.arrived == meeting.size) {
      act();
      complete(meeting);
    } else {
      wait([&] { return meeting.generation != generation; });
    }
  }

  // Whether a thread of the calling workgroup has published what may not have arrived yet.
  bool incomplete() {
    return std::any_of(thread_.begin(), thread_.end(), [this](const std::unique_ptr<Thread>& thread) {
      return thread->workgroup == current_->workgroup && thread->incomplete;
    });
  }

  void arrive(Meeting& meeting) {
    if (++meeting.arrived == meeting.size) complete(meeting);
  }

  template <class Condition>
  void wait(const Condition& condition) {
    while (!condition()) yield();
  }

  // Something happened that a thread may wait for.
  void touch() { ++progress_; }

  void post(const Message& message) {
    messages_.push_back(message);
    ++progress_;
  }

 private:
  void complete(Meeting& meeting) {
    meeting.arrived = 0;
    ++meeting.generation;
    ++progress_;
  }

  Thread* start(size_t slot, Workgroup* group, uint32_t id) {
    Thread* thread = thread_[slot].get();
    thread->workgroup = group;
    thread->id = id;
    thread->next_shared = 0;
    thread->cluster_generation = 0;
    thread->done = false;
    thread->incomplete = thread->accepted = false;
    thread->open_copies.clear();
    thread->copies.clear();
    getcontext(&thread->context);
    thread->context.uc_stack.ss_sp = thread->stack.get();
    thread->context.uc_stack.ss_size = kStackBytes;
    thread->context.uc_link = nullptr;
    makecontext(&thread->context, reinterpret_cast<void (*)()>(&Scheduler::enter), 0);
    return thread;
  }

  static bool lags(const Thread& thread, uint32_t wave_size) { return thread.id / wave_size == lagging_wave; }

  void resume(Thread* thread) {
    if (thread->done) return;
    current_ = thread;
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, thread->stack.get(), kStackBytes);
    swapcontext(&home_, &thread->context);
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
  }

  void yield() {
    Thread* thread = current_;
    __sanitizer_start_switch_fiber(&thread->fake_stack, home_stack_, home_stack_size_);
    swapcontext(&thread->context, &home_);
    __sanitizer_finish_switch_fiber(thread->fake_stack, nullptr, nullptr);
  }

  static void enter();

  void body() {
    __sanitizer_finish_switch_fiber(nullptr, &home_stack_, &home_stack_size_);
    (*kernel_)();
    current_->done = true;
    --current_->workgroup->running;
    ++progress_;
    __sanitizer_start_switch_fiber(nullptr, home_stack_, home_stack_size_);
    setcontext(&home_);
  }

  // Messages land between turns, in any order.
  void deliver() {
    std::shuffle(messages_.begin(), messages_.end(), random_);
    for (const Message& message : messages_) {
      if (message.to->running == 0) fail("a message was sent to a workgroup that had ended");
      if (message.to->mailbox_missing < sizeof(float)) fail("more messages than the mailbox expects");
      *message.address = message.value;
      message.to->mailbox_missing -= sizeof(float);
      ++progress_;
    }
    messages_.clear();
  }

  const std::function<void()>* kernel_ = nullptr;
  std::vector<std::unique_ptr<Thread>> thread_;
  std::vector<Workgroup> group_;
  std::vector<Message> messages_;
  Meeting cluster_;
  Thread* current_ = nullptr;
  ucontext_t home_;
  const void* home_stack_ = nullptr;
  size_t home_stack_size_ = 0;
  uint64_t progress_ = 0;
  std::mt19937 random_;
};

inline Scheduler scheduler;

inline void Scheduler::enter() { scheduler.body(); }

// The n-th array that a thread declares is the n-th of its workgroup. Each is an allocation of its own, so that an
// access beside it is found, and is filled with NaN.
template <class T>
T* shared_array(size_t count) {
  Thread& thread = scheduler.current();
  auto& arrays = thread.workgroup->shared;
  if (thread.next_shared == arrays.size()) {
    arrays.push_back({std::make_unique<char[]>(count * sizeof(T)), count * sizeof(T)});
    memset(arrays.back().bytes.get(), 0xff, count * sizeof(T));
  }
  return reinterpret_cast<T*>(arrays[thread.next_shared++].bytes.get());
}

// Where an address of the calling workgroup's shared memory lies in another's.
inline float* in_workgroup(Workgroup& other, const float* local) {
  auto& arrays = scheduler.workgroup().shared;
  for (size_t i = 0; i < arrays.size(); ++i) {
    const char* begin = arrays[i].bytes.get();
    const char* address = reinterpret_cast<const char*>(local);
    if (address < begin || address + sizeof(float) > begin + arrays[i].size) continue;
    if (i >= other.shared.size()) fail("a workgroup wrote into another that had not started");
    return reinterpret_cast<float*>(other.shared[i].bytes.get() + (address - begin));
  }
  fail("a cluster store outside shared memory");
}

}  // namespace hostsim
