// tile/sm90_barrier.h on the host, and what else a kernel of sm_90 takes that hostsim/isa.h lacks: dynamic shared
// memory, barriers of some warps, messages of quads. Found before the header of that name.
//
// Copies that are counted land when a thread waits, one at a time and in any order, so that what is read too early is
// poison, and what is written too early overwrites what is still read.
#pragma once
#include <aiterlite/platform.h>

#define __grid_constant__
#define AITERLITE_DYNAMIC_SHARED(type, name) type& name = *::hostsim::dynamic_shared<type>()

namespace hostsim {

constexpr size_t kDynamicBytes = 256 << 10;
// Of the workgroups of the cluster that runs, by rank.
struct Dynamic {
  char* bytes = nullptr;
  std::vector<Meeting> named = std::vector<Meeting>(16), groups = std::vector<Meeting>(8);
  bool any = false;  // of named_barrier_any
};
inline std::vector<Dynamic> dynamic(16);
inline std::vector<std::function<void()>> landing;
inline std::mt19937 landing_order;

inline Dynamic& own_dynamic() { return dynamic[scheduler.workgroup().rank]; }
// Before a cluster runs.
inline void begin_cluster() {
  for (Dynamic& one : dynamic) {
    if (one.bytes == nullptr) one.bytes = static_cast<char*>(aligned_alloc(1024, kDynamicBytes));
    memset(one.bytes, 0xff, kDynamicBytes);
    one.named = std::vector<Meeting>(16);
    one.groups = std::vector<Meeting>(8);
  }
}
inline void end_cluster() {
  if (!landing.empty()) fail("copies were under way when their workgroups had ended");
}
template <class T>
T* dynamic_shared() {
#if defined(AITERLITE_SHARED_BYTES)
  static_assert(sizeof(T) <= AITERLITE_SHARED_BYTES && sizeof(T) <= kDynamicBytes);
#endif
  return reinterpret_cast<T*>(own_dynamic().bytes);
}
inline void land() {
  if (landing.empty()) return;
  const size_t at = landing_order() % landing.size();
  auto copy = std::move(landing[at]);
  landing.erase(landing.begin() + static_cast<std::ptrdiff_t>(at));
  copy();
}
// Where shared memory lies in another workgroup of the cluster.
template <class T>
T* in_rank(uint32_t rank, T* local) {
  return reinterpret_cast<T*>(dynamic[rank].bytes + (reinterpret_cast<char*>(local) - own_dynamic().bytes));
}

}  // namespace hostsim

namespace aiterlite {

// Shared memory begins at a multiple of 1024.
inline uint32_t shared_address(const void* p) {
  const auto offset = static_cast<const char*>(p) - hostsim::own_dynamic().bytes;
  if (offset < 0 || offset >= static_cast<std::ptrdiff_t>(hostsim::kDynamicBytes)) hostsim::fail("not shared memory");
  return static_cast<uint32_t>(offset) + 1024;
}
inline const uint8_t* at_shared_address(uint32_t address) {
  return reinterpret_cast<const uint8_t*>(hostsim::own_dynamic().bytes) + address - 1024;
}

class Barrier {
 public:
  void open(uint32_t arrivals) {
    expected_ = pending_ = static_cast<uint16_t>(arrivals);
    bytes_ = 0;
    phase_ = 0;
  }
  void arrive() { count(1, 0); }
  void arrive_expecting(uint32_t bytes) { count(1, static_cast<int32_t>(bytes)); }
  void arrive_having_read_in(uint32_t rank) { hostsim::in_rank(rank, this)->count(1, 0); }
  void land_bytes(uint32_t bytes) { count(0, -static_cast<int32_t>(bytes)); }
  void wait(uint32_t parity) {
    scheduler.wait([&] {
      hostsim::land();
      return phase_ != parity;
    });
  }
  // When the copies that this thread has asked for are complete.
  void arrive_after_copies() {
    auto copies = std::move(scheduler.current().open_copies);
    scheduler.current().open_copies.clear();
    hostsim::landing.push_back([this, copies] {
      for (const hostsim::Copy& copy : copies) {
        if (copy.from != nullptr) {
          memcpy(copy.to, copy.from, copy.bytes);
        } else {
          memset(copy.to, 0, copy.bytes);
        }
      }
      arrive();
    });
  }

 private:
  void count(uint16_t arrivals, int32_t bytes) {
    if (arrivals > pending_) hostsim::fail("more arrivals at a barrier than it expects");
    pending_ = static_cast<uint16_t>(pending_ - arrivals);
    bytes_ += bytes;
    if (pending_ == 0 && bytes_ == 0) {
      pending_ = expected_;
      phase_ ^= 1;
    }
    scheduler.touch();
  }
  uint16_t expected_, pending_;
  int32_t bytes_ : 31;
  uint32_t phase_ : 1;
};
static_assert(sizeof(Barrier) == 8);

inline void publish_barriers() {}
inline void cluster_barrier() {
  cluster_arrive();
  cluster_wait();
}
inline void publish_to_engines() {}
inline uint32_t address_in_rank(const void* local, uint32_t rank) { return rank << 20 | shared_address(local); }
inline float load_from_rank(uint32_t address) {
  const uint32_t rank = address >> 20;
  if (scheduler.member(rank).running == 0) hostsim::fail("sums were read of a workgroup that had ended");
  float value;
  memcpy(&value, hostsim::dynamic[rank].bytes + (address & 0xfffff) - 1024, sizeof value);
  return value;
}

inline void named_barrier_arrive(uint32_t barrier, uint32_t threads) {
  hostsim::Meeting& meeting = hostsim::own_dynamic().named[barrier];
  meeting.size = threads;
  scheduler.arrive(meeting);
}
inline void named_barrier_wait(uint32_t barrier, uint32_t threads) {
  hostsim::Meeting& meeting = hostsim::own_dynamic().named[barrier];
  const uint64_t generation = meeting.generation;
  named_barrier_arrive(barrier, threads);
  scheduler.wait([&] { return meeting.generation != generation; });
}
inline bool named_barrier_any(uint32_t barrier, uint32_t threads, bool value) {
  hostsim::own_dynamic().any |= value;
  named_barrier_wait(barrier, threads);
  const bool any = hostsim::own_dynamic().any;
  named_barrier_wait(barrier, threads);
  hostsim::own_dynamic().any = false;
  named_barrier_wait(barrier, threads);
  return any;
}
inline uint32_t set_bits_shared(uint32_t* p, uint32_t bits) {
  const uint32_t before = *p;
  *p |= bits;
  return before;
}
template <uint32_t kRegisters>
void give_registers() {}
template <uint32_t kRegisters>
void take_registers() {}

inline void copy_word_async(void* to, const void* from, bool wanted = true) {
  scheduler.current().open_copies.push_back({to, wanted ? from : nullptr, 4});
}
inline void mailbox_send(uint64_t*, uint32_t to, Quad* local, const Quad& value) {
  if (scheduler.cluster().generation == 0) hostsim::fail("a message was sent before the cluster had started");
  hostsim::Workgroup& other = scheduler.member(to);
  if (!other.mailbox_open) hostsim::fail("a message was sent to a mailbox that is not open");
  float* place = reinterpret_cast<float*>(hostsim::in_rank(to, local));
  for (uint32_t i = 0; i < 4; ++i) scheduler.post({&other, place + i, value.value[i]});
}

}  // namespace aiterlite
