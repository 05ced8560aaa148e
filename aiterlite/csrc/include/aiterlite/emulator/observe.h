// What watches a launch instruction by instruction: the sanitizers and the counters.
//
// A workgroup runs on one host thread from begin() to end(), and has watches of its own; several workgroups may run at
// the same time. What the watches of a launch share is its Observations, which are safe from any thread.
#pragma once
#include <aiterlite/emulator/json.h>
#include <aiterlite/emulator/memory.h>
#include <stdint.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

namespace aiterlite::emulator {

class Touches;
struct Launch;
struct MicroOp;
struct Wave;
struct Workgroup;

// The sanitizers; LaunchOptions::sanitize holds a set of them.
enum Check : uint32_t {
  kCheckWaits = 1,      // a register is used while a load into it, or a store from it, is under way
  kCheckHazards = 2,    // wait states that the hardware does not insert are missing
  kCheckRegisters = 4,  // a register is read that nothing wrote
  kCheckBarriers = 8,   // waves of a workgroup meet at different barriers, or some never come
  kCheckRaces = 16,     // two waves touch the same byte of LDS or global memory with nothing between them
  kCheckLds = 32,       // LDS is read that nothing wrote
};
inline constexpr uint32_t kAllChecks = 63;
const char* name(Check check);

// One memory instruction of a wave, its addresses known and checked, before its data moves. One with two addresses a
// lane (ds_read2*) is two of these.
struct MemoryAccess {
  Space space;         // global stands for buffer and flat accesses too
  bool write;          // of an atomic: true
  uint32_t size;       // bytes a lane
  uint64_t mask;       // lanes that touch memory
  const uint64_t* at;  // one a lane: host addresses; LDS and scratch: offsets. Scalar: at[0] alone, mask 1
  // Of LDS, and of global memory while races are looked for; set for the watches.
  const Touches* touches = nullptr;
};

class Watch {
 public:
  virtual ~Watch() = default;
  // The workgroup's waves are about to start. Watches are used again for other workgroups.
  virtual void begin(Workgroup&) {}
  // `skipped`: VSKIP drops the instruction. Not called for a slot that holds no instruction.
  virtual void before(Wave&, const MicroOp*, bool skipped) = 0;
  virtual void access(Wave&, const MicroOp*, const MemoryAccess&) {}
  // The instruction has run and its results are in the registers; not called for one that faulted or was skipped.
  virtual void after(Wave&, const MicroOp*) {}
  // Every live wave is at a barrier, and they are about to go on.
  virtual void barrier(Workgroup&) {}
  virtual void end(Workgroup&) {}
};

struct Finding {
  Check check;
  uint64_t pc = 0;        // address of the instruction
  uint64_t other_pc = 0;  // of the one that it conflicts with, or 0
  std::string what;       // `v5 is read while global_load_dword v5 ... is under way`
  std::string mend;       // `s_waitcnt vmcnt(0) before it`
  uint64_t group = 0;     // linear workgroup
  uint32_t wave = 0;
  int lane = -1;       // -1: not of one lane
  uint64_t count = 1;  // how often it was met
};

class Counters;
class LaunchClocks;
struct Timeline;

class Observations {
 public:
  Observations();
  ~Observations();
  // Keeps the first of those with the same check, instructions and text; the others are counted.
  void report(Finding finding);
  std::vector<Finding> findings() const;
  // Of the launch; made when first asked for, which a launch that runs on several threads must not do.
  Counters* counters(const Launch& launch);
  LaunchClocks* clocks(const Launch& launch);
  // Of the workgroup that was asked for; empty until it has ended.
  Timeline& timeline();

 private:
  using Key = std::tuple<uint32_t, uint64_t, uint64_t, std::string>;
  mutable std::mutex mutex_;
  std::map<Key, Finding> found_;
  std::unique_ptr<Counters> counters_;
  std::unique_ptr<LaunchClocks> clocks_;
  std::unique_ptr<Timeline> timeline_;
};

// The watches that the launch's options ask for.
std::vector<std::unique_ptr<Watch>> make_watches(Launch& launch);

// Tells the workgroup's watches of an access.
void observe_access(Wave& w, const MicroOp* op, const MemoryAccess& access);

// True when the launch's watches share what only one thread may touch.
bool needs_one_thread(const Launch& launch);

void write_findings(JsonWriter& json, const Launch& launch);
void write_counters(JsonWriter& json, const Launch& launch);

}  // namespace aiterlite::emulator
