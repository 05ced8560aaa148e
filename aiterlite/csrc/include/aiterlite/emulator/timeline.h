// When the waves of a workgroup issue what, and what they wait for: a model of one compute unit.
//
// The emulator executes a workgroup as it always does, and a watch notes each wave's instructions. Then the model plays
// them: what a wave executes does not depend on time, as far as waves do not poll. The model is no measurement.
//
//   issue     A SIMD has an issue slot of four cycles. In it each of its waves issues at most one instruction, and each
//             kind of unit (vector ALU and matrix together, scalar ALU, LDS, vector memory, scalar memory) takes at
//             most one. Waves go first in turn. Waits, barriers, no-ops take a slot of their wave and no unit's.
//   matrix    A matrix instruction keeps its SIMD's matrix unit for its passes, and the next one waits.
//   LDS       One unit for four SIMDs: an access takes the cycles of its banks, and its data comes a latency later.
//   vector    One address unit: an instruction takes four cycles (16 lanes each) or its bytes at the rate of the
//   caches, memory    whichever is more, in order. Lines that the workgroup has not touched come from memory, at a CU's
//   share
//             of its bandwidth and after its latency, others after that of the caches. Results return in order.
//   counters  s_waitcnt waits until so few are left; a full counter or a full queue stalls the issue.
//
// Dependencies between registers cost nothing: where hardware does not wait itself, code has waits and wait states. Not
// modelled: fetching of instructions, clocks that fall under load, other CUs but for their share of the bandwidth.
#pragma once
#include <aiterlite/emulator/json.h>
#include <stdint.h>

#include <deque>
#include <map>
#include <memory>
#include <vector>

namespace aiterlite::emulator {

struct Effects;
struct Launch;
struct MicroOp;
class Watch;

// Cycles, and bytes a cycle. The Python front (emulator/timeline.py) says where each is from.
struct Timings {
  double scalar_latency = 0, lds_latency = 0, cache_latency = 0, memory_latency = 0;
  double cache_bytes = 0;   // that a compute unit is given
  double memory_bytes = 0;  // of the whole chip, and of one compute unit once the launch is known
};

// Who is shown, and how much of it.
struct TimelineOptions {
  int64_t group = -1;       // linear workgroup; -1: no timeline
  uint32_t together = 1;    // workgroups like it that share the compute unit; 0: as many as the launch would put there
  uint64_t most_noted = 0;  // instructions of the workgroup
  uint64_t most_events = 0;
  Timings timings;
};

// An instruction of a wave as it was executed.
struct Executed {
  const MicroOp* op = nullptr;
  const Effects* effects = nullptr;
  uint32_t amount = 0;  // LDS: cycles; vector memory: bytes
  uint32_t fresh = 0;   // of these bytes, those of lines that the workgroup had not touched
};

enum class Port : uint8_t { valu, salu, matrix, lds, vector, scalar, other };
inline constexpr int kPorts = 7;
// Why a wave does not issue.
enum class Wait : uint8_t { unit, matrix, queue, vmcnt, lgkmcnt, barrier, nops };
inline constexpr int kWaits = 7;
const char* name(Port port);
const char* name(Wait wait);

struct Event {
  uint32_t row = 0;   // waves, then units: a SIMD's matrix unit each, LDS, vector memory, memory
  uint32_t kind = 0;  // a Port; kPorts and more: a Wait
  uint64_t at = 0, cycles = 0;
  const MicroOp* op = nullptr;
};

struct WaveTimes {
  uint32_t simd = 0;
  uint64_t end = 0, instructions = 0;
  uint64_t waits[kWaits] = {};
};

struct Timeline {
  static constexpr uint32_t kSimds = 4;
  bool complete = true;  // every instruction of the workgroup was noted
  uint64_t cycles = 0;
  uint64_t matrix_busy[kSimds] = {};
  uint64_t lds_busy = 0, vector_busy = 0, memory_busy = 0;
  uint64_t issued[kPorts] = {};
  std::vector<WaveTimes> waves;
  std::vector<Event> events;
  uint64_t events_until = 0;  // of later ones there was no room
};

// Plays what the waves of one workgroup executed, as many workgroups of it as the options say at once.
Timeline play(const std::vector<std::vector<Executed>>& waves, const TimelineOptions& options);

std::unique_ptr<Watch> make_timeline_watch(Launch& launch);
void write_timeline(JsonWriter& json, const Launch& launch);

}  // namespace aiterlite::emulator
