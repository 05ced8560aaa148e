// What a launch did, counted. One host thread at a time.
#pragma once
#include <aiterlite/emulator/inst.h>
#include <aiterlite/emulator/json.h>
#include <aiterlite/emulator/memory.h>
#include <stdint.h>

#include <memory>
#include <unordered_map>
#include <vector>

namespace aiterlite::emulator {

struct Launch;

// The bytes that were touched at least once, of those that are read and of those that are written.
class Touched {
 public:
  // Marks [begin, end); returns how many of them were not marked before.
  uint64_t mark(uint64_t begin, uint64_t end, bool write);

 private:
  static constexpr uint64_t kPageBits = 12;
  struct Page {
    uint64_t bits[2][(1 << kPageBits) / 64] = {};
  };
  std::unordered_map<uint64_t, std::unique_ptr<Page>> pages_;
  uint64_t recent_ = ~0ull;
  Page* page_ = nullptr;
};

// Bytes that cross between registers (or LDS, for loads to LDS) and a memory. Atomics read and write.
struct Traffic {
  uint64_t read = 0, written = 0;
  uint64_t unique_read = 0, unique_written = 0;  // bytes of memory, each once
};

// How the lanes of vector memory instructions fall into segments, and into how few their bytes would have fitted.
struct Coalescing {
  uint64_t accesses = 0;
  uint64_t segments64 = 0, minimum64 = 0;
  uint64_t segments128 = 0, minimum128 = 0;
};

struct LdsTime {
  uint64_t accesses = 0;
  uint64_t cycles = 0, minimum_cycles = 0;
};

struct Counters {
  explicit Counters(const Launch& launch);

  std::vector<uint64_t> executed;  // by slot of the program
  std::vector<uint64_t> skipped;   // VSKIP
  std::vector<Traffic> ranges;     // global memory, by number in the launch's memory map
  Traffic scalar, lds, scratch;
  Coalescing loads, stores, atomics;
  LdsTime lds_time;
  uint64_t workgroups = 0, waves = 0;
  uint64_t largest_workgroup = 0;  // wave-instructions of the workgroup that executed most
  Touched touched;
};

// Resources of a launch's workgroups and how many fit on a compute unit.
struct Occupancy {
  uint32_t vgprs, agprs, sgprs;  // allocated a wave
  uint32_t lds_bytes;            // a workgroup
  uint32_t waves_per_workgroup;
  uint32_t waves_per_simd;
  uint32_t workgroups_per_cu;
  const char* limit;  // what allows no more
};
Occupancy occupancy(const Launch& launch);
void write_occupancy(JsonWriter& json, const Occupancy& o);

// The lanes that LDS serves together: `count` groups of lanes 0 to 31, and the same of lanes 32 to 63. A group without
// conflicts takes a cycle, and the lanes of every group together have each lane once.
struct LdsGroups {
  uint32_t banks;
  uint32_t count;
  const uint32_t* of_half;
};
LdsGroups lds_groups(Arch arch, Op op, uint32_t size);

// LDS cycles of one access: what it takes, and what it would take without bank conflicts.
LdsTime lds_time(const LdsGroups& groups, const uint64_t* at, uint64_t mask, uint32_t size, bool atomic);

}  // namespace aiterlite::emulator
