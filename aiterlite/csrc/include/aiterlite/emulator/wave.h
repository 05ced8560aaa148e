// The state of a wave and of its workgroup while a launch runs.
#pragma once
#include <aiterlite/emulator/inst.h>
#include <aiterlite/emulator/level.h>
#include <aiterlite/emulator/memory.h>
#include <stdint.h>
#include <string.h>

#include <memory>
#include <vector>

namespace aiterlite::emulator {

struct Wave;
struct Workgroup;
struct MicroOp;
struct Launch;
class Watch;

// Executes one instruction and returns the next one, or null when the wave must leave the run loop; Wave::stop then
// says why and Wave::pc where it goes on.
using Handler = const MicroOp* (*)(Wave&, const MicroOp*);

enum class Stop : uint8_t {
  running,
  yield,    // s_sleep: another wave's turn
  barrier,  // waiting at s_barrier
  ended,
  fault,
  relook,  // VSKIP or GPR_IDX_EN changed: another run loop is needed
};

// MODE register bits.
inline constexpr uint32_t kModeDx10Clamp = 1u << 8;
inline constexpr uint32_t kModeIeee = 1u << 9;
inline constexpr uint32_t kModeFp16Ovfl = 1u << 23;
inline constexpr uint32_t kModeGprIdx = 1u << 27;
inline constexpr uint32_t kModeVskip = 1u << 28;
inline constexpr uint32_t mode_denorm_f32(uint32_t mode) { return (mode >> 4) & 3; }
inline constexpr uint32_t mode_denorm_f16_f64(uint32_t mode) { return (mode >> 6) & 3; }
inline constexpr uint32_t mode_round_f32(uint32_t mode) { return mode & 3; }
inline constexpr uint32_t mode_round_f16_f64(uint32_t mode) { return (mode >> 2) & 3; }

// The apertures through which flat instructions reach LDS and scratch: bits 63..32 of the address.
inline constexpr uint32_t kSharedAperture = 0x00010000;
inline constexpr uint32_t kPrivateAperture = 0x00020000;

inline constexpr int kVgprs = 256;
inline constexpr int kRegisters = 512;  // VGPRs, then AGPRs
inline constexpr int kRegisterBytes = kWave * 4;

struct alignas(64) Wave {
  uint32_t regs[kRegisters][kWave];
  // Scratch space of the current instruction: sources that had to be spread or modified, and a result that has yet to
  // be clamped or merged under EXEC.
  uint32_t tmp[4][4][kWave];
  uint32_t out[4][kWave];

  alignas(64) uint32_t s[128];  // scalar registers by their source encoding: VCC at 106, M0 at 124, EXEC at 126
  uint64_t write_mask = 0;      // lanes written by the current instruction, when modifiers changed them
  uint32_t mode = 0;
  bool scc = false;
  Stop stop = Stop::running;
  uint32_t float_csr = 0;   // host floating-point control word for f32 arithmetic
  uint32_t double_csr = 0;  // and for f64 arithmetic
  const MicroOp* pc = nullptr;
  const Range* hit = nullptr;        // the last range that a read went to
  const Range* write_hit = nullptr;  // and a write
  Workgroup* group = nullptr;
  Launch* launch = nullptr;
  uint8_t* lds = nullptr;
  uint32_t lds_bytes = 0;
  uint32_t scratch_bytes = 0;  // per lane
  uint8_t* scratch = nullptr;  // dword d of lane l at (d * 64 + l) * 4
  uint32_t index = 0;          // within the workgroup
  uint64_t executed = 0;       // instructions, counted when the wave leaves its run loop
  uint64_t clock_reads = 0;
  bool watched = false;  // the workgroup has watches
  Fault fault;

  uint64_t exec() const { return pair(126); }
  uint64_t vcc() const { return pair(106); }
  uint64_t pair(uint32_t i) const {
    uint64_t v;
    memcpy(&v, &s[i], 8);
    return v;
  }
  void set_pair(uint32_t i, uint64_t v) { memcpy(&s[i], &v, 8); }
  uint32_t* at(uint64_t byte_offset) {
    return reinterpret_cast<uint32_t*>(reinterpret_cast<char*>(regs) + byte_offset);
  }
  bool flushes_f32() const { return mode_denorm_f32(mode) != 3; }
};

struct Workgroup {
  Launch* launch = nullptr;
  uint32_t id[3] = {};
  uint64_t linear = 0;
  std::vector<Wave*> waves;
  std::vector<Watch*> watches;
  std::vector<uint8_t> lds;
  std::vector<uint8_t> scratch;
  uint32_t live = 0;
  uint32_t at_barrier = 0;
  uint32_t next = 0;  // whose turn it is
  uint64_t random = 0;
};

}  // namespace aiterlite::emulator
