// What one wave knows to be done by others: the clocks behind the race detector.
#pragma once
#include <aiterlite/emulator/shadow.h>
#include <stdint.h>

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace aiterlite::emulator {

struct Inst;
struct Launch;
struct MemoryAccess;
struct MicroOp;

inline constexpr uint32_t kMaxWaves = 16;

// Positions up to which waves of any workgroup are done, sorted by wave: (tag << 4 | wave) and a position.
using Known = std::vector<std::pair<uint32_t, uint32_t>>;
using KnownPointer = std::shared_ptr<const Known>;
// All that either knows; one of the two itself where it knows no less.
KnownPointer join(const KnownPointer& a, const KnownPointer& b);
bool knows(const Known* known, uint64_t stamp);

// What may synchronise: atomics, and loads and stores of at most 8 bytes that name a scope. sc0 alone names the
// workgroup, whose first-level cache may then answer; sc1 the chip. Scalar loads with glc do not look into their cache.
bool is_coherent(const Inst& inst);
bool reaches_other_groups(const Inst& inst);

// What an atomic operation left at an address for those that read it.
struct Release {
  KnownPointer known;
  uint32_t tag = 0;  // of the workgroup that `lds` speaks of
  uint32_t lds[kMaxWaves] = {};
};
using Releases = std::unordered_map<uint64_t, Release>;  // by dword

// Memory instructions of a wave that one of its counters still counts: their positions, oldest first.
class Outstanding {
 public:
  // The hardware holds an instruction back while its counter is full.
  explicit Outstanding(uint32_t most) : most_(most) {}
  void push(uint32_t seq, bool to_lds) {
    if (count_ == most_) keep(count_ - 1);
    entries_[(first_ + count_++) % kRoom] = {seq, to_lds};
  }
  void keep(uint32_t newest) {
    if (count_ <= newest) return;
    first_ = (first_ + count_ - newest) % kRoom;
    count_ = newest;
  }
  void clear() { count_ = 0; }
  // The position of the last instruction that is done, given the workgroup's current one.
  uint32_t done(uint32_t now) const { return count_ ? entries_[first_].seq - 1 : now; }
  // Likewise, of those that load to LDS.
  uint32_t done_to_lds(uint32_t now) const {
    for (uint32_t i = 0; i < count_; ++i) {
      const Entry& e = entries_[(first_ + i) % kRoom];
      if (e.to_lds) return e.seq - 1;
    }
    return now;
  }

 private:
  static constexpr uint32_t kRoom = 64;
  struct Entry {
    uint32_t seq;
    bool to_lds;
  };
  Entry entries_[kRoom];
  uint32_t most_;
  uint32_t first_ = 0;
  uint32_t count_ = 0;
};

struct WaveClock {
  Outstanding lgkm{15}, vm{63};
  // Positions up to which each wave of the workgroup is done, as this one knows: plain LDS operations, vector memory
  // operations, and what it may see of global memory.
  uint32_t lds[kMaxWaves] = {}, vm_done[kMaxWaves] = {}, global[kMaxWaves] = {};
  uint32_t scalar_done = 0;  // its own scalar memory operations; they return in any order
  KnownPointer known;        // of other workgroups
  uint64_t stamp = 0;        // of the current instruction
  uint32_t accesses = 0;     // that it has reported so far

  // Takes over what was released at the addresses of an access, as a wave of workgroup `tag`.
  void acquire(const Releases& all, uint32_t tag, const MemoryAccess& a);
  // Leaves there what is known to be done; with `keeps`, beside what lies there already.
  struct Place {
    uint32_t tag, waves, wave, seq;  // of the workgroup, its number of waves, the wave, and its position
  };
  void release(Releases* all, Place from, const MemoryAccess& a, bool keeps);
};

// What the race detector keeps of a launch, for all its workgroups. Such a launch runs on one host thread.
class LaunchClocks {
 public:
  explicit LaunchClocks(const Launch& launch);
  // A tag for a workgroup that starts, or 0 when there are no more.
  uint32_t start_group(uint64_t linear);
  uint64_t linear(uint32_t tag) const { return groups_[tag]; }
  // A small number for an instruction; 0 when there are too many.
  uint32_t site(const MicroOp* op);
  uint64_t address(uint32_t site) const { return sites_[site]; }
  // The text of a finding between two sites that was met before, or null.
  std::string* text(uint64_t key, bool* is_new);

  Shadow shadow;
  Releases releases;
  bool global_acquires = false;  // some instruction can see what an atomic one released
  bool lds_acquires = false;

 private:
  uint64_t code_;
  std::vector<uint64_t> groups_{0};
  std::vector<uint16_t> site_of_;
  std::vector<uint64_t> sites_{0};
  std::unordered_map<uint64_t, std::string> texts_;
};

}  // namespace aiterlite::emulator
