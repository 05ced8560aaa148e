// The VOP3P opcode space: packed arithmetic, accumulation-register moves, MFMA and SMFMAC.
#include <aiterlite/emulator/decoder.h>

namespace aiterlite::emulator {
namespace {

constexpr uint32_t kLoadScaleOpcode = 0x2c;
constexpr uint32_t kVop3pPrefix = 0x1a7;
constexpr uint32_t kAbidScaled = 1;

// Results of up to this many dwords may overlap the accumulator they come from.
constexpr uint8_t kOverlapAllowed = 4;

// Dwords of an f8f6f4 operand by its format code; 0 where the code is reserved.
constexpr uint8_t kF8f6f4Dwords[8] = {8, 8, 6, 6, 4, 0, 0, 0};

}  // namespace

bool Decoder::vop3p() {
  if (!begin(Format::VOP3P, 2)) return false;
  const uint32_t w = d_[0], v = d_[1];
  const uint32_t opcode = field(w, 22, 16);
  if (opcode == kLoadScaleOpcode) return scaled_mai();
  if (const MaiRow* row = find_mai(opcode)) return mai(*row);
  const Vop3pRow* row = find_vop3p(opcode);
  if (!known(row)) return false;
  inst_.op = row->op;
  if (!on_arch(row->arch)) return false;
  if (!vgpr(field(w, 7, 0), row->dst, false, &inst_.dst[0])) return false;

  inst_.clamp = field(w, 15, 15);
  inst_.neg_lo = static_cast<uint8_t>(field(v, 31, 29));
  inst_.neg_hi = static_cast<uint8_t>(field(w, 10, 8));
  inst_.op_sel = static_cast<uint8_t>(field(w, 13, 11));
  inst_.op_sel_hi = static_cast<uint8_t>(field(v, 28, 27) | field(w, 14, 14) << 2);

  const int sources = row->src[2].dwords ? 3 : 2;
  if (sources == 2) {
    if (!zero((inst_.neg_lo | inst_.neg_hi | inst_.op_sel) & 4, "a modifier of the source that is not there"))
      return false;
    if (!(inst_.op_sel_hi & 4)) return fail(DecodeStatus::reserved_bits, "op_sel_hi of the source that is not there");
    if (!zero(field(v, 26, 18), "src2")) return false;
  }
  if (row->flags & kNoOpSel) {
    if (!zero(inst_.op_sel, "op_sel")) return false;
    if (inst_.op_sel_hi != 7) return fail(DecodeStatus::reserved_bits, "op_sel_hi");
  }
  const uint32_t codes[3] = {field(v, 8, 0), field(v, 17, 9), field(v, 26, 18)};
  for (int i = 0; i < sources; ++i) {
    if (!source(codes[i], row->src[i], false, &inst_.src[i])) return false;
  }
  return one_scalar_read();
}

bool Decoder::mai(const MaiRow& row) {
  if (!begin(Format::MAI, fetched_)) return false;
  // The last two dwords: a scale prefix may precede them.
  const uint32_t w = d_[fetched_ - 2], v = d_[fetched_ - 1];
  inst_.op = row.op;
  if (!on_arch(row.arch)) return false;
  const uint32_t vdst = field(w, 7, 0), a = field(v, 8, 0), b = field(v, 17, 9), c = field(v, 26, 18);

  if (row.flags & (kAccRead | kAccWrite)) {
    // The assembler leaves op_sel_hi at its default of ones here.
    if ((w & 0xff00) != 0x4000 || (v >> 27) != 3)
      return fail(DecodeStatus::reserved_bits, "a modifier of an accvgpr move");
    if (!zero(b | c, "src1 or src2")) return false;
    const bool read = row.flags & kAccRead;
    Slot from = slot::B32;
    if (read) from.kinds = kAgpr;
    return vgpr(vdst, slot::B32, !read, &inst_.dst[0]) && source(a, from, false, &inst_.src[0]);
  }

  const bool acc_cd = field(w, 15, 15), acc_a = field(v, 27, 27), acc_b = field(v, 28, 28);
  inst_.cbsz = static_cast<uint8_t>(field(w, 10, 8));
  inst_.abid = static_cast<uint8_t>(field(w, 14, 11));
  inst_.blgp = static_cast<uint8_t>(field(v, 31, 29));
  Slot sa{DataType::wide, row.a, kVgpr}, sb{DataType::wide, row.b, kVgpr};
  const Slot sd{row.type, row.d, kVgpr};
  if (row.flags & kF8f6f4) {
    sa.dwords = kF8f6f4Dwords[inst_.cbsz];
    sb.dwords = kF8f6f4Dwords[inst_.blgp];
    if (!sa.dwords || !sb.dwords) return fail(DecodeStatus::bad_operand, "cbsz or blgp names no format");
    if (fetched_ == 2 && !zero(inst_.abid, "abid without a scale prefix")) return false;
  }
  if (row.flags & kSparse && !zero(inst_.blgp, "blgp")) return false;

  if (!vgpr(vdst, sd, acc_cd, &inst_.dst[0])) return false;
  if (a < 256 || b < 256) return fail(DecodeStatus::bad_operand, "A or B is not a vector register");
  if (!vgpr(a - 256, sa, acc_a, &inst_.src[0]) || !vgpr(b - 256, sb, acc_b, &inst_.src[1])) return false;
  if (row.flags & kSparse) return source(c, slot::VOnly, false, &inst_.src[2]);
  if (c >= 256) {
    const uint32_t distance = c - 256 > vdst ? c - 256 - vdst : vdst - (c - 256);
    if (row.d > kOverlapAllowed && !(row.flags & kF8f6f4) && distance > 0 && distance < row.d) {
      return fail(DecodeStatus::bad_operand, "C overlaps D without being the same");
    }
    return vgpr(c - 256, sd, acc_cd, &inst_.src[2]);
  }
  return source(c, {row.type, row.d, kConstant}, false, &inst_.src[2]);
}

// v_mfma_ld_scale_b32, which takes effect on the f8f6f4 MFMA after it; the assembler writes the pair as one.
bool Decoder::scaled_mai() {
  inst_.op = Op::v_mfma_ld_scale_b32;
  if (!on_arch(kGfx950)) return false;
  const uint32_t w = d_[0], v = d_[1];
  inst_.op_sel = static_cast<uint8_t>(field(w, 12, 11));
  inst_.op_sel_hi = static_cast<uint8_t>(field(v, 28, 27));
  Operand scale[2];
  if (!source(field(v, 8, 0), slot::B32, false, &scale[0]) || !source(field(v, 17, 9), slot::B32, false, &scale[1])) {
    return false;
  }
  if (!zero(field(w, 10, 0) | field(w, 15, 15), "vdst or a modifier of the scale prefix")) return false;
  if (!zero(field(v, 26, 18) | field(v, 31, 29), "src2 or neg of the scale prefix")) return false;

  // The pair is one instruction when the MFMA says so in abid. Bits 13 and 14 of the prefix, which belong to a third
  // source, are then set in some vendor objects and clear in others.
  const MaiRow* row = nullptr;
  if (available_ >= 16) {
    const uint32_t next = read_dword(p_ + 8);
    if (field(next, 31, 23) == kVop3pPrefix && field(next, 14, 11) == kAbidScaled) row = find_mai(field(next, 22, 16));
  }
  if (!row || !(row->flags & kF8f6f4)) {
    // Alone, LLVM takes bit 14 either way, and bit 13 only clear.
    if (!zero(field(w, 13, 13), "op_sel of the source that is not there")) return false;
    inst_.src[0] = scale[0];
    inst_.src[1] = scale[1];
    return true;
  }
  if (scale[0].kind != OperandKind::vgpr || scale[1].kind != OperandKind::vgpr) {
    return fail(DecodeStatus::bad_operand, "a scale that is not a vector register");
  }
  if (!fetch(4) || !mai(*row)) return false;
  begin(Format::MAIX, 4);
  inst_.abid = 0;
  inst_.op = inst_.op == Op::v_mfma_f32_16x16x128_f8f6f4 ? Op::v_mfma_scale_f32_16x16x128_f8f6f4
                                                         : Op::v_mfma_scale_f32_32x32x64_f8f6f4;
  inst_.scale[0] = scale[0];
  inst_.scale[1] = scale[1];
  return true;
}

}  // namespace aiterlite::emulator
