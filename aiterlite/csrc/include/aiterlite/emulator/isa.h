// The opcode tables behind decode(): one row per opcode and format, and the lookups over them.
//
// A row says which operands an opcode has and which modifier fields it uses. A field that is not used must hold what
// the assembler puts there, so that an encoding the tables do not describe is reported instead of being half read.
#pragma once
#include <aiterlite/emulator/inst.h>
#include <stdint.h>

namespace aiterlite::emulator {

enum ArchMask : uint8_t { kGfx942 = 1, kGfx950 = 2, kBoth = 3 };

constexpr bool has_arch(uint8_t mask, Arch arch) { return mask & (1u << static_cast<int>(arch)); }

// What a 9-bit source field may name in a given place.
enum KindMask : uint8_t {
  kVgpr = 1,
  kScalar = 2,    // sgpr and special
  kConstant = 4,  // inline constants; literals too where the format has room for one
  kAgpr = 8,
  kAnySource = kVgpr | kScalar | kConstant,
};

struct Slot {
  DataType type = DataType::none;
  uint8_t dwords = 0;
  uint8_t kinds = kAnySource;
};

namespace slot {
inline constexpr Slot None{};
inline constexpr Slot B16{DataType::b16, 1};
inline constexpr Slot I16{DataType::i16, 1};
inline constexpr Slot F16{DataType::f16, 1};
inline constexpr Slot BF16{DataType::bf16, 1};
inline constexpr Slot B32{DataType::b32, 1};
inline constexpr Slot I32{DataType::i32, 1};
inline constexpr Slot F32{DataType::f32, 1};
inline constexpr Slot V2I16{DataType::v2i16, 1};
inline constexpr Slot V2F16{DataType::v2f16, 1};
inline constexpr Slot V2BF16{DataType::v2bf16, 1};
inline constexpr Slot B64{DataType::b64, 2};
inline constexpr Slot I64{DataType::i64, 2};
inline constexpr Slot F64{DataType::f64, 2};
inline constexpr Slot V2F32{DataType::v2f32, 2};
// Register-only slots.
inline constexpr Slot SDst{DataType::b32, 1, kScalar};
inline constexpr Slot SDst64{DataType::b64, 2, kScalar};
inline constexpr Slot SLane{DataType::b32, 1, kScalar | kConstant};
inline constexpr Slot VOnly{DataType::b32, 1, kVgpr};
inline constexpr Slot AOnly{DataType::b32, 1, kAgpr};
inline constexpr Slot V2F32Reg{DataType::v2f32, 2, kVgpr};
inline constexpr Slot W4{DataType::wide, 4, kVgpr};
inline constexpr Slot W6{DataType::wide, 6, kVgpr};
inline constexpr Slot W16{DataType::wide, 16, kVgpr};
inline constexpr Slot W32{DataType::wide, 32, kVgpr};
}  // namespace slot

// Which VOP3 modifier fields an opcode uses. DPP and SDWA follow: a source that takes abs/neg takes them there too, and
// in SDWA the others take sext.
enum Mods : uint16_t {
  kMod0 = 1,  // abs and neg on source 0
  kMod1 = 2,
  kMod2 = 4,
  kMod01 = kMod0 | kMod1,
  kMod02 = kMod0 | kMod2,
  kMod012 = kMod0 | kMod1 | kMod2,
  kClamp = 8,
  kOmod = 16,
  kSel0 = 32,  // op_sel on source 0
  kSel1 = 64,
  kSel2 = 128,
  kSelD = 256,  // op_sel on the destination
  kSel01 = kSel0 | kSel1,
  kSel01D = kSel01 | kSelD,
  kSel012D = kSel01D | kSel2,
  kFloat1 = kMod0 | kClamp | kOmod,
  kFloat2 = kMod01 | kClamp | kOmod,
  kFloat3 = kMod012 | kClamp | kOmod,
};

enum VopFlags : uint16_t {
  kNoE64 = 1,          // no VOP3 twin
  kNoDpp = 2,          // no DPP form
  kNoSdwa = 4,         // no SDWA form
  kE32Only = 7,        // none of the three
  kDpDpp = 8,          // 64-bit DPP: row_newbcast only
  kCarryOut = 16,      // dst[1] is vcc, or VOP3's sdst
  kCarryIn = 32,       // src[2] is vcc, or VOP3's src2
  kMadMk = 64,         // dst = src0 * K + src1
  kMadAk = 128,        // dst = src0 * src1 + K
  kSdwaSrcOnly = 256,  // SDWA selects a source; the destination is always whole
  kBitop = 512,        // abs, neg and omod hold a truth table
  kSelIsDpp = 1024,    // op_sel[0] is fetch-inactive, op_sel[1] bound_ctrl
  kSdwaNoOmod = 2048,  // omod in VOP3 only
  kSdwaNoMods = 4096,  // abs, neg and omod in VOP3 and DPP only
};

struct VopRow {
  uint16_t opcode;
  Op op;
  uint8_t arch;
  Slot dst;
  Slot src[3];
  uint16_t mods = 0;
  uint16_t flags = 0;
};

enum Vop3pFlags : uint8_t {
  kNoOpSel = 1,  // dot products: op_sel does not apply
  kMix = 2,      // v_fma_mix*: neg_hi is abs, op_sel_hi picks f16 over f32
};

struct Vop3pRow {
  uint8_t opcode;
  Op op;
  uint8_t arch;
  Slot dst;
  Slot src[3];
  uint8_t flags = 0;
};

enum MaiFlags : uint8_t {
  kSparse = 1,   // SMFMAC: src2 is the index register, D is the accumulator
  kF8f6f4 = 2,   // widths of A and B follow cbsz and blgp
  kF64 = 4,      // blgp negates
  kAccRead = 8,  // v_accvgpr_read
  kAccWrite = 16,
};

struct MaiRow {
  uint8_t opcode;
  Op op;
  uint8_t arch;
  DataType type;    // of C and D
  uint8_t d, a, b;  // dwords; C has D's
  uint8_t flags = 0;
};

enum SopFlags : uint8_t {
  kNoImm = 1,        // SOPP without operand: simm16 must be 0
  kOptionalImm = 2,  // SOPP: 0 is not printed
  kBranch = 4,       // simm16 is a signed distance in dwords
  kHwreg = 8,        // simm16 names a hardware register field
  kImm32 = 16,       // a literal follows
  kGprIdx = 32,      // the immediate is a set of gpr_idx modes
  kMessage = 64,
  kWaitcnt = 128,
};

struct SopRow {
  uint8_t opcode;
  Op op;
  Slot dst;
  Slot src[2];
  uint8_t flags = 0;
};

enum class SmemKind : uint8_t { load, store, atomic, cmpswap, probe, discard, none, time };

struct SmemRow {
  uint8_t opcode;
  Op op;
  SmemKind kind;
  uint8_t data;  // dwords
  uint8_t base;  // dwords
};

enum DsFlags : uint8_t {
  kTwoOffsets = 1,
  kNoAddress = 2,
  kGdsOnly = 4,
  kNoGds = 8,
  kSwizzle = 16,   // offset is a lane pattern
  kBareDs = 32,    // ds_nop: no field at all
  kAnyStart = 64,  // the result may start at an odd register
};

struct DsRow {
  uint8_t opcode;
  Op op;
  uint8_t arch;
  uint8_t dst, data0, data1;  // dwords
  uint8_t flags = 0;
};

enum FlatFlags : uint8_t {
  kAtomic = 1,  // dst only with sc0
  kToLds = 2,   // *_load_lds_*: no destination register
};

inline constexpr Op kNoOp = static_cast<Op>(0xffff);

// FLAT, GLOBAL and SCRATCH share opcode numbers and shapes; kNoOp where a segment lacks the opcode.
struct FlatRow {
  uint8_t opcode;
  uint8_t arch;
  uint8_t dst, data;  // dwords
  uint8_t flags;
  Op flat, global, scratch;
};

enum MubufFlags : uint8_t {
  kMubufAtomic = 1,  // data is read, and written when sc0
  kMubufStore = 2,
  kMubufNoOperands = 4,
  kMubufLds = 8,       // has an `lds` form on both targets
  kMubufLds950 = 16,   // has one on gfx950
  kMubufCmpswap = 32,  // takes data and comparand, returns half as much
};

struct MubufRow {
  uint8_t opcode;
  Op op;
  uint8_t arch;
  uint8_t data;  // dwords
  uint8_t flags = 0;
};

const SopRow* find_sop1(uint32_t opcode);
const SopRow* find_sop2(uint32_t opcode);
const SopRow* find_sopc(uint32_t opcode);
const SopRow* find_sopk(uint32_t opcode);
const SopRow* find_sopp(uint32_t opcode);
const SmemRow* find_smem(uint32_t opcode);
const VopRow* find_vop1(uint32_t opcode);
const VopRow* find_vop2(uint32_t opcode);
const VopRow* find_vopc(uint32_t opcode);
const VopRow* find_vop3(uint32_t opcode);  // any opcode below 896, twins of VOP1, VOP2 and VOPC included
const Vop3pRow* find_vop3p(uint32_t opcode);
const MaiRow* find_mai(uint32_t opcode);
const DsRow* find_ds(uint32_t opcode);
const FlatRow* find_flat(uint32_t opcode);
const MubufRow* find_mubuf(uint32_t opcode);
const MubufRow* find_mtbuf(uint32_t opcode);

// VOP3 opcodes of VOP2 and VOP1 instructions start here; VOPC's start at 0, those of VOP3 alone at the last.
inline constexpr uint32_t kVop3OfVop2 = 256, kVop3OfVop1 = 320, kVop3Only = 448;

}  // namespace aiterlite::emulator
