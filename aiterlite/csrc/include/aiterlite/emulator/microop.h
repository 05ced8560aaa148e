// A pre-decoded instruction: a handler and operands resolved to register offsets and constants, and the helpers that
// handlers fetch sources and deliver results with.
#pragma once
#include <aiterlite/emulator/allocation.h>
#include <aiterlite/emulator/inst.h>
#include <aiterlite/emulator/wave.h>
#include <stdint.h>

namespace aiterlite::emulator {

enum class Ref : uint8_t {
  none,
  reg,       // value: byte offset of the first register within Wave::regs
  constant,  // value: vector operand: address of one 64-lane array a dword; scalar operand: the bits
  scalar,    // value: index into Wave::s
  special,   // value: Special, computed when read
};

struct Source {
  uint64_t value = 0;
  Ref ref = Ref::none;
  uint8_t dwords = 1;
};

enum OpFlag : uint16_t {
  kPrepare = 1,      // sources carry modifiers, DPP or SDWA
  kFinish = 2,       // the result is clamped, scaled, or merged into a part of the register
  kVector = 4,       // dropped under VSKIP
  kIndexable = 8,    // takes part in GPR indexing
  kHalf = 16,        // the result is 16 bits wide: op_sel may put it into the high half
  kKeepHigh = 32,    // and leaves the other half of its register alone wherever it goes
  kNotIndexed = 64,  // with kIndexable: what GPR indexing makes of its registers is not public
};

struct MicroOp {
  Handler fn = nullptr;
  const Inst* inst = nullptr;
  uint64_t address = 0;  // of the instruction
  Source src[4];         // MFMA with block scales: src[3] and extra are the scales of A and B
  Source extra;
  uint32_t dst = 0;   // byte offset of the destination's first register
  uint16_t sdst = 0;  // scalar destination: dst[0] of scalar instructions and compares, else dst[1]
  uint16_t flags = 0;
  uint8_t len = 1;  // dwords
  uint8_t dst_dwords = 1;
  bool has_dst = false;
  uint8_t pad = 0;
  const MicroOp* target = nullptr;  // of a direct branch
};

inline const MicroOp* next(const MicroOp* op) { return op + op->len; }

// Stops the wave with a fault at this instruction.
const MicroOp* fault(Wave& w, const MicroOp* op, Fault f);
const MicroOp* unsupported(Wave& w, const MicroOp* op, const char* detail);
const MicroOp* unallocated(Wave& w, const Unallocated& found, const std::string& how = "");

// Leaves the run loop; the wave goes on at `resume`.
inline const MicroOp* leave(Wave& w, const MicroOp* resume, Stop why) {
  w.pc = resume;
  w.stop = why;
  return nullptr;
}

// The value of a source that is no general register: SCC, VCCZ, EXECZ, the apertures.
uint64_t special_source(const Wave& w, uint64_t which);

inline uint32_t scalar32(const Wave& w, const Source& s) {
  if (s.ref == Ref::scalar) return w.s[s.value];
  if (s.ref == Ref::constant) return static_cast<uint32_t>(s.value);
  return static_cast<uint32_t>(special_source(w, s.value));
}
inline uint64_t scalar64(const Wave& w, const Source& s) {
  if (s.ref == Ref::scalar) return w.pair(static_cast<uint32_t>(s.value));
  if (s.ref == Ref::constant) return s.value;
  return special_source(w, s.value);
}

inline void spread(uint32_t* to, uint32_t x) {
  const vu32 v = splat(x);
  for (int i = 0; i < kWave; i += kLanes) store(to + i, v);
}

// A scalar source of a vector instruction, spread over 64 lanes.
const uint32_t* spread_source(Wave& w, const Source& s, int slot);

// 64 lanes of source `slot`, dword after dword.
inline const uint32_t* vector_source(Wave& w, const MicroOp* op, int slot) {
  const Source& s = op->src[slot];
  if (__builtin_expect(s.ref == Ref::reg, 1)) return w.at(s.value);
  if (s.ref == Ref::constant) return reinterpret_cast<const uint32_t*>(s.value);
  return spread_source(w, s, slot);
}

// Applies DPP, SDWA, op_sel, abs and neg to the sources that have them, pointing sources[i] at the changed copy.
// Returns the lanes to write.
uint64_t prepare(Wave& w, const MicroOp* op, const uint32_t** sources, int count);

// The lane whose value lane `l` reads under a DPP control, or -1 when there is none.
int dpp_lane(uint16_t ctrl, int l);

// Writes Wave::out to the destination for the lanes of `mask`: output modifiers first, then SDWA's or op_sel's merge.
void finish(Wave& w, const MicroOp* op, uint64_t mask);

// dst[l] = from[l] where bit l of mask is set.
inline void merge(uint32_t* dst, const uint32_t* from, uint64_t mask) {
  for (int i = 0; i < kWave; i += kLanes) {
    const vi32 m = expand_mask(step_mask(mask, i));
    store(dst + i, select(m, load<vu32>(from + i), load<vu32>(dst + i)));
  }
}

// Where a handler finds its entries: one per Op, null for what the executor does not have.
struct HandlerTable {
  Handler plain[kNumOps];
  Handler clamped[kNumOps];  // integer instructions whose clamp bit saturates
  void set(Op op, Handler fn) { plain[static_cast<int>(op)] = fn; }
  void set_clamped(Op op, Handler fn) { clamped[static_cast<int>(op)] = fn; }
};

void register_salu(HandlerTable& table);
void register_smem(HandlerTable& table);
void register_vop1(HandlerTable& table);
void register_vop2(HandlerTable& table);
void register_vop3(HandlerTable& table);
void register_f64(HandlerTable& table);
void register_f16(HandlerTable& table);
void register_scale(HandlerTable& table);
void register_vopc(HandlerTable& table);
void register_vop3p(HandlerTable& table);
void register_mfma(HandlerTable& table);
void register_smfmac(HandlerTable& table);
void register_ds(HandlerTable& table);
void register_global(HandlerTable& table);
void register_buffer(HandlerTable& table);
void register_atomics(HandlerTable& table);

}  // namespace aiterlite::emulator
