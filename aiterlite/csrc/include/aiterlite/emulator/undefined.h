// Which bits of a wave's registers nothing has defined, and how instructions move them about.
//
// A vector register is tracked by byte and lane, a scalar register by bit. Using an undefined bit is no fault in
// itself (compilers copy and combine what they know to be dead); it is one when an address, a branch, EXEC or stored
// data depends on it.
#pragma once
#include <aiterlite/emulator/check.h>
#include <aiterlite/emulator/microop.h>
#include <stdint.h>

namespace aiterlite::emulator {

// The undefined lanes of each byte of a dword.
struct Bytes {
  uint64_t b[4] = {};
  uint64_t any() const { return b[0] | b[1] | b[2] | b[3]; }
  Bytes operator|(const Bytes& o) const { return {{b[0] | o.b[0], b[1] | o.b[1], b[2] | o.b[2], b[3] | o.b[3]}}; }
  static Bytes all(uint64_t lanes) { return {{lanes, lanes, lanes, lanes}}; }
};

class UndefinedState {
 public:
  void start(const Wave& w);
  void step(const Step& at) {
    const Effects& e = at.e;
    if (e.reads.meets(dirty_) || e.writes.meets(dirty_) || e.scalar_reads.meets(scalar_dirty_) ||
        e.scalar_writes.meets(scalar_dirty_) || (scc_ && (e.reads_scc || e.writes_scc))) {
      follow(at);
    }
  }
  // The instruction loads `bytes` bytes at `address` of lane `lane` (-1: to scalar registers): what lies behind the
  // kernel's declared arguments is undefined.
  void load_argument(const Wave& w, const MicroOp* op, uint64_t address, uint32_t bytes, int lane);

 private:
  // Where undefined bits come from: the register that nothing wrote, and the instruction that read it first.
  struct Origin {
    uint16_t number = kNone;  // scalar registers from 512 on
    const MicroOp* op = nullptr;
  };
  static constexpr uint16_t kNone = 0xffff, kArgumentOrigin = 0xfffe, kScalarOrigin = 512, kSccOrigin = 640;

  void follow(const Step& at);
  void scalar_alu(const Step& at);
  void scalar_memory(const Step& at);
  void vector_memory(const Step& at);
  void lds_exchange(const Step& at);
  void vector_alu(const Step& at);
  bool move_lanes(const Step& at);
  bool whole_dwords(const Step& at, uint64_t mask, Bytes* out);
  void packed(const Step& at, Bytes* out) const;
  void compare(const Step& at);
  void matrix(const Step& at);
  void branch(const Step& at);

  static bool is_moot(const Inst& inst);
  uint64_t known_lanes(const Step& at, int slot, uint32_t wanted, uint32_t bits) const;
  uint64_t settled_lanes(const Step& at) const;
  Bytes raw(const Operand& o, int dword) const;
  Bytes source(const Step& at, int slot, int dword, uint64_t* writable) const;
  uint64_t mask_source(const Operand& o) const;
  void put(uint32_t reg, uint64_t mask, const Bytes& bytes);
  void put_scalar(uint32_t reg, uint32_t bits);
  uint64_t scalar_bits(const Operand& o) const;
  void take_origin(const Step& at);
  std::string origin_text(uint32_t number, const std::string& what) const;
  void sink(const Step& at, uint16_t number, const std::string& use, int lane);
  void sink_vector(const Step& at, const Span& span, int from_byte, int bytes, uint64_t lanes, const char* use);
  void sink_scalar(const Step& at, uint32_t first, uint32_t count, const char* use);

  Bytes v_[512];
  uint32_t s_[128] = {};
  bool scc_ = false;
  VectorSet dirty_;
  ScalarSet scalar_dirty_;
  Origin origin_[641];
};

}  // namespace aiterlite::emulator
