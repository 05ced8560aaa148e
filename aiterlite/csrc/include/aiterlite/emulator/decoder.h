// One decode: the dwords read so far, the instruction being filled in, and the first error. Private to decode*.cpp.
#pragma once
#include <aiterlite/emulator/inst.h>
#include <aiterlite/emulator/isa.h>
#include <stddef.h>
#include <stdint.h>

namespace aiterlite::emulator {

// Bits hi..lo of a dword.
constexpr uint32_t field(uint32_t dword, int hi, int lo) { return (dword >> lo) & ((2u << (hi - lo)) - 1); }

constexpr uint32_t read_dword(const uint8_t* p) {
  return static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8 | static_cast<uint32_t>(p[2]) << 16 |
         static_cast<uint32_t>(p[3]) << 24;
}

class Decoder {
 public:
  Decoder(Arch arch, const uint8_t* p, size_t available) : arch_(arch), p_(p), available_(available) {}
  Decoded run(Inst* out);

 private:
  // Every step returns false once the decode has failed; the first failure is the one reported.
  bool fail(DecodeStatus status, const char* reason);
  bool fetch(int dwords);
  bool begin(Format format, int dwords);
  bool known(const void* row);
  bool on_arch(uint8_t mask);
  bool zero(uint32_t bits, const char* what);

  bool dispatch();
  bool sop2();
  bool sop1();
  bool sopc();
  bool sopk();
  bool sopp();
  bool smem();
  bool vop1();
  bool vop2();
  bool vopc();
  bool vop3();
  bool vop3p();
  bool mai(const MaiRow& row);
  bool scaled_mai();
  bool ds();
  bool flat();
  bool mubuf();
  bool mtbuf();

  bool vop_short(const VopRow& row, bool compare, bool two_sources);
  bool vop3_row(const VopRow& row, int sources, bool compare);
  bool dpp(const VopRow& row);
  bool sdwa(const VopRow& row, bool compare, bool two_sources);
  bool buffer(const MubufRow& row);
  bool one_scalar_read();

  // A 9-bit (or 8-bit scalar) source field. A literal is fetched when `literal` allows one.
  bool source(uint32_t code, Slot slot, bool literal, Operand* out);
  bool scalar(uint32_t code, Slot slot, Operand* out);
  bool scalar_dst(uint32_t code, Slot slot, Operand* out);
  bool vgpr(uint32_t index, Slot slot, bool agpr, Operand* out);
  bool constant(uint32_t code, DataType type, Operand* out);
  bool literal(Slot slot, Operand* out);

  Arch arch_;
  const uint8_t* p_;
  size_t available_;
  uint32_t d_[4] = {};
  int fetched_ = 0;
  Inst inst_;
  Decoded result_;
};

}  // namespace aiterlite::emulator
