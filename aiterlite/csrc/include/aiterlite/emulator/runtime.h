// A program ready to run, a launch of it, and what handlers ask of both.
#pragma once
#include <aiterlite/emulator/allocation.h>
#include <aiterlite/emulator/convert.h>
#include <aiterlite/emulator/effects.h>
#include <aiterlite/emulator/elf.h>
#include <aiterlite/emulator/fpenv.h>
#include <aiterlite/emulator/microop.h>
#include <aiterlite/emulator/observe.h>
#include <aiterlite/emulator/timeline.h>
#include <stdint.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace aiterlite::emulator {

struct alignas(64) Spread {
  uint32_t lanes[2 * kWave];
};

// The decoded code of one object, one slot a dword.
struct Program {
  Arch arch = Arch::gfx942;
  uint64_t base = 0;  // address of the first byte, as the code sees it
  uint64_t bytes = 0;
  uint64_t listed = 0;  // address of the first byte in listings: its virtual address in the file
  std::vector<MicroOp> ops;
  std::deque<Inst> insts;
  std::unordered_map<uint64_t, const uint32_t*> constants;
  std::deque<Spread> constant_pool;
  std::unordered_map<const MicroOp*, std::string> refused;  // why a slot cannot be executed
  std::unique_ptr<EffectsCache> effects;                    // for the sanitizers
  std::vector<uint64_t> functions;                          // where the object's functions begin, in order

  Program(Arch arch, uint64_t base, uint64_t bytes);
  // Decodes [begin, end) in a straight line. What cannot be decoded or executed gets a handler that faults.
  void decode_range(uint64_t begin, uint64_t end);
  // The slot of an address, or null outside the code. A slot that is no instruction's start faults when executed.
  const MicroOp* at(uint64_t address) const {
    if (address < base || address - base >= bytes || (address & 3)) return nullptr;
    return &ops[(address - base) >> 2];
  }
  bool decoded(uint64_t address) const;
  // 64 lanes of a constant, low dwords then high ones.
  const uint32_t* spread_constant(uint64_t value);
};

// Where listings of the object have what the program has at `address`.
inline uint64_t listed(const Program& program, uint64_t address) { return address - program.base + program.listed; }

// What code does that decides how it may be run.
struct CodeTraits {
  bool ordered = false;  // workgroups talk to each other, or add in an order that shows: float or returning atomics,
                         // cache control, loads past the cache, sleeping
  bool calls = false;    // leaves its own symbol
};
CodeTraits scan_code(const Program& program, uint64_t begin, uint64_t end);

// Builds the micro-op of a decoded instruction; false (with a reason) if the executor cannot run it.
bool build_microop(Program* program, const Inst& inst, MicroOp* op, std::string* reason);

struct BufferFinding {
  uint64_t pc;
  uint32_t lane;
  uint32_t offset;  // bytes into the resource
  uint32_t num_records;
  uint32_t size;
  bool write;
};

struct LaunchOptions {
  int threads = 0;       // 0: as many as the machine has, unless the order of workgroups shows in the result
  uint32_t quantum = 1;  // instructions a wave runs before the next one's turn
  uint64_t seed = 0;     // 0: waves and workgroups in their natural order
  bool check_memory = true;
  bool buffer_findings = false;
  uint32_t fill = 0;              // what registers, LDS and scratch hold at the start
  uint64_t max_instructions = 0;  // of the whole launch; 0: no limit
  int64_t trace_group = -1;       // linear workgroup whose wave is traced; -1: none
  uint32_t trace_wave = 0;
  uint64_t trace_lines = 100000;
  uint32_t sanitize = 0;  // a set of Check
  bool count = false;     // keep counters
  TimelineOptions timeline;
  uint64_t only = 0;  // workgroups that run, the first ones of the grid; 0: all of them
  // Asked now and then on the thread that launched; what is not 0 ends the launch as interrupted. Null: never asked.
  int (*poll)() = nullptr;
};

struct Launch {
  const Program* program = nullptr;
  const MemoryMap* memory = nullptr;
  LaunchOptions options;
  const MicroOp* entry = nullptr;
  Reach* reach = nullptr;         // the code of the kernel, as far as it is known to keep to its registers
  uint32_t grid[3] = {1, 1, 1};   // workgroups
  uint32_t block[3] = {1, 1, 1};  // work-items of a workgroup
  uint32_t lds_bytes = 0;
  uint32_t scratch_bytes = 0;  // per lane
  uint32_t mode = 0;
  KernelDescriptor descriptor;
  uint64_t kernarg = 0;          // address of the kernel arguments
  uint32_t kernarg_bytes = 0;    // that the kernel declares; what lies behind them nobody has written
  uint64_t dispatch_packet = 0;  // address of an AQL dispatch packet, for kernels that ask for one
  uint32_t xcds = 1;             // dies, to which workgroups are dealt in turn
  uint64_t resident = 1;         // workgroups that fit on the persona at a time
  bool ordered = false;          // see CodeTraits

  std::atomic<uint64_t> executed{0};
  std::atomic<bool> stopped{false};
  std::atomic<bool> interrupted{false};
  std::mutex mutex;  // guards what follows
  bool failed = false;
  bool out_of_memory = false;
  Fault failure;
  uint64_t failure_group = 0;
  uint32_t failure_group_id[3] = {};
  uint32_t failure_wave = 0;
  uint64_t failure_pc = 0;
  std::string failure_text;  // the instruction
  std::vector<BufferFinding> findings;
  std::string trace;
  std::vector<std::string> notes;              // see note()
  std::unique_ptr<Observations> observations;  // when the options ask for any
};

// Keeps, once, what the reader of the report must know of what the run's checks let pass or stopped looking for.
void note(Launch& launch, std::string text);

// Runs every workgroup; false when the launch failed, with the reason in `launch`.
bool run(Launch& launch);

// Runs one wave for at most `budget` instructions, with all that VSKIP, GPR indexing and tracing ask for.
void run_wave(Wave& w, uint64_t budget);

inline const MicroOp* find_code(const Wave& w, uint64_t address) { return w.launch->program->at(address); }

inline Fp8 fp8_format(const Wave& w, bool bf8) {
  const bool fnuz = w.launch->program->arch == Arch::gfx942;
  return fnuz ? (bf8 ? Fp8::bf8_fnuz : Fp8::fp8_fnuz) : (bf8 ? Fp8::bf8_ocp : Fp8::fp8_ocp);
}
inline const SmallFloat& small_format(Fp8 f) {
  switch (f) {
    case Fp8::fp8_fnuz:
      return kFp8Fnuz;
    case Fp8::bf8_fnuz:
      return kBf8Fnuz;
    case Fp8::fp8_ocp:
      return kFp8Ocp;
    default:
      return kBf8Ocp;
  }
}

}  // namespace aiterlite::emulator
