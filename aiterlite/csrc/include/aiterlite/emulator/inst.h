// A decoded gfx942 or gfx950 instruction, and the calls that make one from bytes and text from one.
//
// Operand slots mean the same thing in every instruction of a family, so that an executor needs no table of layouts:
//
//   ALU        dst[0] result, dst[1] carry or condition out (v_add_co, v_div_scale, v_mad_u64_u32), src[0..2] the
//              sources in the assembler's order. What an instruction always reads or writes in addition is an operand
//              where the assembler prints it (vcc of v_addc_co_u32_e32 is src[2], vcc of v_cmp_*_e32 is dst[0])
//              and implicit where it does not (scc, exec, m0, vcc of v_div_fmas, the accumulator of v_fmac, v_dot2c,
//              v_smfmac, which is dst[0]). v_fmamk and v_madmk have the literal in src[1], v_fmaak and v_madak in
//              src[2]. v_swap_b32 and v_permlane*_swap_b32 write dst[0] and src[0].
//   MFMA       dst[0] D, src[0] A, src[1] B, src[2] C (the index register for SMFMAC); scale[0], scale[1] the block
//              scales of A and B for v_mfma_scale_*, whose byte is chosen by op_sel (low bit) and op_sel_hi (high bit).
//   SOP        dst[0], src[0..1]; the immediate of SOPK and SOPP is simm16. s_set_gpr_idx_on has its mode in src[1].
//              s_cmpk_*, s_setreg_*, s_cbranch_*_fork: the register is src[0]. s_addk, s_mulk, s_cmovk: dst[0] is
//              updated. s_setreg_imm32_b32 has its literal in src[0].
//   SMEM       dst[0] loaded or returned data, src[0] base (2 dwords, or 4 for s_buffer_*), src[1] stored data,
//              src[2] register offset (kind none if there is none); the immediate offset is `offset`.
//   DS         dst[0] returned data, src[0] address, src[1] data0, src[2] data1; offset, or offset0/offset1 for the
//              two-address forms (ds_read2*, ds_write2*, ds_wrxchg2*).
//   FLAT...    FLAT, GLOBAL, SCRATCH: dst[0], src[0] vector address (kind none for scratch without one), src[1] data,
//              src[2] saddr (kind none for "off").
//   MUBUF...   MUBUF, MTBUF: dst[0], src[0] vaddr (kind none for "off"; with idxen and offen the index, then the
//              offset), src[1] data, src[2] resource (4 dwords), src[3] soffset.
#pragma once
#include <aiterlite/emulator/ops.h>
#include <stddef.h>
#include <stdint.h>

#include <string>
#include <string_view>

namespace aiterlite::emulator {

enum class Arch : uint8_t { gfx942, gfx950 };

enum class Format : uint8_t {
  unknown,
  SOP1,
  SOP2,
  SOPC,
  SOPK,
  SOPP,
  SMEM,
  VOP1,
  VOP2,
  VOPC,
  VOP3,
  VOP3P,
  MAI,   // VOP3P opcode space: MFMA, SMFMAC and the accumulation-register moves
  MAIX,  // 16 bytes: a scale prefix and an MFMA
  DS,
  FLAT,
  GLOBAL,
  SCRATCH,
  MUBUF,
  MTBUF,
};

enum class Op : uint16_t {
#define AITERLITE_OP(name) name,
  AITERLITE_ALL_OPS(AITERLITE_OP)
#undef AITERLITE_OP
};

#define AITERLITE_OP(name) +1
inline constexpr int kNumOps = 0 AITERLITE_ALL_OPS(AITERLITE_OP);
#undef AITERLITE_OP

enum class OpGroup : uint8_t { SALU, SMEM, VALU, VOPC, VOP3P, MFMA, DS, FLAT, GLOBAL, SCRATCH, MUBUF, MTBUF };

// How an operand's bits are read. It decides how a constant is widened (see Operand::value).
enum class DataType : uint8_t {
  none,
  b8,
  b16,
  i16,
  f16,
  bf16,
  b32,
  i32,
  f32,
  v2i16,
  v2f16,
  v2bf16,
  b64,
  i64,
  f64,
  v2f32,
  wide
};

enum class OperandKind : uint8_t {
  none,
  sgpr,          // s0..s101; index is the register
  vgpr,          // index is the register
  agpr,          // index is the register
  special,       // index is a Special; those below 128 are scalar registers too, and share sgpr's numbering
  inline_int,    // value is the constant
  inline_float,  // value is the constant
  literal,       // value is the constant
};

// The source encodings of scalar registers past s101 and of the read-only sources.
enum Special : uint16_t {
  flat_scratch_lo = 102,
  flat_scratch_hi = 103,
  xnack_mask_lo = 104,
  xnack_mask_hi = 105,
  vcc_lo = 106,
  vcc_hi = 107,
  ttmp0 = 108,
  ttmp15 = 123,
  m0 = 124,
  exec_lo = 126,
  exec_hi = 127,
  shared_base = 235,
  shared_limit = 236,
  private_base = 237,
  private_limit = 238,
  pops_exiting_wave_id = 239,
  vccz = 251,
  execz = 252,
  scc = 253,
  lds_direct = 254,
};

struct Operand {
  OperandKind kind = OperandKind::none;
  DataType type = DataType::none;
  uint8_t dwords = 0;  // registers spanned; 1 for 16-bit operands and scalar constants of up to 32 bits
  uint16_t index = 0;  // first register, or Special; of a constant, its source encoding (128..248, 255 for a literal)
  // Constants only: the bits that the operand reads as. 16-bit floats are the f16 pattern (packed ones in the low half
  // with a zero high half), integers are sign-extended to the operand's width. A literal for a 64-bit operand is
  // zero-extended (b64), sign-extended (i64) or placed in the high half (f64). v2f32: the low half only.
  uint64_t value = 0;

  constexpr bool present() const { return kind != OperandKind::none; }
  constexpr bool is_constant() const { return kind >= OperandKind::inline_int; }
  constexpr bool is_scalar_register() const {
    return kind == OperandKind::sgpr || (kind == OperandKind::special && index < 128);
  }
  constexpr bool is(Special s) const { return kind == OperandKind::special && index == s; }
};

struct Dpp {
  bool present = false;
  bool bound_ctrl = false;  // lanes that read outside get 0 instead of staying unwritten (printed bound_ctrl:1)
  uint8_t row_mask = 0xf;
  uint8_t bank_mask = 0xf;
  uint16_t ctrl = 0;  // 9 bits: 0x000 quad_perm, 0x101 row_shl:1 ... 0x142 row_bcast:15, 0x150 row_newbcast:0 ...
};

enum class SdwaSel : uint8_t { byte_0, byte_1, byte_2, byte_3, word_0, word_1, dword };
enum class SdwaUnused : uint8_t { pad, sext, preserve };

struct Sdwa {
  bool present = false;
  SdwaSel dst_sel = SdwaSel::dword;
  SdwaUnused dst_unused = SdwaUnused::pad;
  SdwaSel src_sel[2] = {SdwaSel::dword, SdwaSel::dword};
  uint8_t sext = 0;  // bit i: source i is sign-extended after its selection
};

struct Inst {
  Op op{};
  Format format = Format::unknown;
  uint8_t size = 0;        // bytes: 4, 8 or 16
  uint8_t num_dwords = 0;  // size / 4
  uint32_t raw[4] = {};    // the encoding, size / 4 dwords of it

  Operand dst[2];
  Operand src[4];
  Operand scale[2];

  // Bit i belongs to source i; bit 3 of op_sel is the destination's.
  uint8_t abs = 0;
  uint8_t neg = 0;
  uint8_t op_sel = 0;
  uint8_t op_sel_hi = 0;  // VOP3P; as encoded (all ones is the assembler's default)
  uint8_t neg_lo = 0;     // VOP3P
  uint8_t neg_hi = 0;     // VOP3P; v_mad_mix/v_fma_mix: |source|
  bool clamp = false;
  uint8_t omod = 0;  // 0 none, 1 *2, 2 *4, 3 /2

  Dpp dpp;
  Sdwa sdwa;

  // MFMA. For *_f8f6f4, cbsz and blgp are the formats of A and B (0 fp8, 1 bf8, 2 fp6, 3 bf6, 4 fp4).
  uint8_t cbsz = 0;
  uint8_t abid = 0;
  uint8_t blgp = 0;
  uint8_t bitop = 0;  // v_bitop3_*: the truth table

  // Memory.
  int32_t offset = 0;  // FLAT, GLOBAL, SCRATCH, SMEM: signed; DS and MUBUF: unsigned
  uint8_t offset0 = 0;
  uint8_t offset1 = 0;
  bool gds = false;
  bool sc0 = false;  // SMEM: glc. On an atomic: return the value before the operation
  bool sc1 = false;
  bool nt = false;
  bool lds = false;  // MUBUF: data goes to LDS at m0
  bool offen = false;
  bool idxen = false;
  uint8_t dfmt = 0;  // MTBUF
  uint8_t nfmt = 0;

  uint16_t simm16 = 0;  // SOPK, SOPP: as encoded
};

enum class DecodeStatus : uint8_t {
  ok,
  truncated,         // the bytes end inside the instruction
  unknown_encoding,  // no format has these leading bits
  unknown_opcode,    // the format is known, the opcode is not one of this target
  other_arch,        // the opcode exists on the other target only
  bad_operand,       // an operand is of a kind that this instruction cannot take
  reserved_bits,     // a field that this instruction does not use is not zero
};

struct Decoded {
  DecodeStatus status = DecodeStatus::ok;
  Format format = Format::unknown;  // as far as it was recognised
  uint8_t size = 0;                 // bytes; 0 on error
  uint8_t num_dwords = 0;           // how many of raw are valid
  uint32_t raw[4] = {};
  const char* reason = "";  // a static text that names the field at fault

  explicit constexpr operator bool() const { return status == DecodeStatus::ok; }
};

// Decodes the instruction at `p`, of which `available` bytes may be read. *inst is written only on success.
Decoded decode(Arch arch, const uint8_t* p, size_t available, Inst* inst);

// One line naming the encoding: its dwords, the format recognised, and what is wrong.
std::string describe(Arch arch, const Decoded& decoded);

// The text llvm-objdump 22 prints for the instruction, without its address comment.
std::string disassemble(Arch arch, const Inst& inst);

// The target of a direct branch at `pc` (s_branch, s_cbranch_*, s_call_b64).
constexpr uint64_t branch_target(const Inst& inst, uint64_t pc) {
  return pc + 4 + static_cast<uint64_t>(static_cast<int64_t>(static_cast<int16_t>(inst.simm16)) * 4);
}

// Whether `branch_target` is where the instruction may go.
bool is_direct_branch(Op op);

const char* name(Op op);
const char* name(Format format);
const char* name(Arch arch);
OpGroup group(Op op);

// The mnemonic as printed, with its encoding suffix: "v_add_f32_dpp".
std::string mnemonic(const Inst& inst);

// The encoding as a coverage key: "VOP2", "VOP2_DPP", "VOP3", "MUBUF_LDS".
std::string form(const Inst& inst);

// Looks a mnemonic without suffix up; false if there is none.
bool find_op(std::string_view name, Op* op);

// True for what s_setvskip drops: vector ALU, vector memory, LDS.
constexpr bool is_vector(Format format) { return format >= Format::VOP1; }

}  // namespace aiterlite::emulator
