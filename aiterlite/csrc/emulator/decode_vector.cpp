// VOP1, VOP2, VOPC and VOP3, with DPP and SDWA.
#include <aiterlite/emulator/decoder.h>

namespace aiterlite::emulator {
namespace {

constexpr uint32_t kSdwaCode = 249;
constexpr uint32_t kDppCode = 250;

constexpr Operand kVcc{OperandKind::special, DataType::b64, 2, vcc_lo, 0};

bool valid_dpp_ctrl(uint32_t ctrl, bool newbcast_only) {
  const bool newbcast = ctrl >= 0x150 && ctrl <= 0x15f;
  if (newbcast || newbcast_only) return newbcast;
  if (ctrl <= 0xff) return true;            // quad_perm
  if (ctrl <= 0x12f) return ctrl & 0xf;     // row_shl, row_shr, row_ror by 1..15
  if (ctrl <= 0x13c) return ctrl % 4 == 0;  // wave_shl, wave_rol, wave_shr, wave_ror
  return ctrl >= 0x140 && ctrl <= 0x143;    // row_mirror, row_half_mirror, row_bcast
}

}  // namespace

// A vector ALU instruction reads one scalar register or literal, any number of times.
bool Decoder::one_scalar_read() {
  const Operand* read = nullptr;
  const auto same = [&](const Operand& op) {
    if (!read) read = &op;
    return read->index == op.index && read->dwords == op.dwords;
  };
  bool ok = inst_.op != Op::v_div_fmas_f32 && inst_.op != Op::v_div_fmas_f64;
  if (!ok) ok = same(kVcc);
  for (int i = 0; i < 3; ++i) {
    const Operand& op = inst_.src[i];
    const bool scalar = op.kind == OperandKind::sgpr || op.kind == OperandKind::special;
    if (!scalar && op.kind != OperandKind::literal) continue;
    if (inst_.op == Op::v_writelane_b32 && i == 1 && op.is(m0)) continue;
    ok = ok && same(op);
  }
  return ok || fail(DecodeStatus::bad_operand, "more than one scalar register or literal is read");
}

bool Decoder::vop1() {
  if (!begin(Format::VOP1, 1)) return false;
  const VopRow* row = find_vop1(field(d_[0], 16, 9));
  return known(row) && vop_short(*row, false, false) && one_scalar_read();
}

bool Decoder::vop2() {
  if (!begin(Format::VOP2, 1)) return false;
  const VopRow* row = find_vop2(field(d_[0], 30, 25));
  return known(row) && vop_short(*row, false, true) && one_scalar_read();
}

bool Decoder::vopc() {
  if (!begin(Format::VOPC, 1)) return false;
  const VopRow* row = find_vopc(field(d_[0], 24, 17));
  return known(row) && vop_short(*row, true, true) && one_scalar_read();
}

bool Decoder::vop_short(const VopRow& row, bool compare, bool two_sources) {
  const uint32_t w = d_[0];
  const uint32_t src0 = field(w, 8, 0), vdst = field(w, 24, 17);
  inst_.op = row.op;
  if (!on_arch(row.arch)) return false;

  if (compare) {
    inst_.dst[0] = kVcc;
  } else if (row.dst.kinds == kScalar) {
    if (!scalar_dst(vdst, row.dst, &inst_.dst[0])) return false;
  } else if (row.dst.dwords) {
    if (!vgpr(vdst, row.dst, row.src[0].kinds == kAgpr, &inst_.dst[0])) return false;
  } else if (!zero(vdst, "vdst of an instruction without destination")) {
    return false;
  }
  if (row.flags & kCarryOut) inst_.dst[1] = kVcc;
  if (row.flags & kCarryIn) inst_.src[2] = kVcc;

  const uint32_t vsrc1 = field(w, 16, 9);
  if (row.flags & (kMadMk | kMadAk)) {
    const int k = row.flags & kMadMk ? 1 : 2;
    return literal(row.src[0], &inst_.src[k]) && source(src0, row.src[0], true, &inst_.src[0]) &&
           vgpr(vsrc1, row.src[1], false, &inst_.src[3 - k]);
  }
  if (two_sources && !vgpr(vsrc1, row.src[1], false, &inst_.src[1])) return false;
  if (src0 == kSdwaCode) return sdwa(row, compare, two_sources);
  if (src0 == kDppCode) return dpp(row);
  if (!row.src[0].dwords) return zero(src0, "src0 of an instruction without source");
  return source(src0, row.src[0], true, &inst_.src[0]);
}

bool Decoder::dpp(const VopRow& row) {
  if (row.flags & kNoDpp) return fail(DecodeStatus::bad_operand, "the instruction has no DPP form");
  if (!fetch(2)) return false;
  const uint32_t w = d_[1];
  Dpp& dpp = inst_.dpp;
  dpp.present = true;
  dpp.ctrl = static_cast<uint16_t>(field(w, 16, 8));
  dpp.bound_ctrl = field(w, 19, 19);
  dpp.bank_mask = static_cast<uint8_t>(field(w, 27, 24));
  dpp.row_mask = static_cast<uint8_t>(field(w, 31, 28));
  inst_.neg = static_cast<uint8_t>(field(w, 20, 20) | field(w, 22, 22) << 1);
  inst_.abs = static_cast<uint8_t>(field(w, 21, 21) | field(w, 23, 23) << 1);
  if (!zero((inst_.neg | inst_.abs) & ~row.mods & kMod012, "abs or neg on a source without them")) return false;
  if (!zero(field(w, 18, 17), "bits 17 and 18 of the DPP dword")) return false;
  if (!valid_dpp_ctrl(dpp.ctrl, row.flags & kDpDpp)) return fail(DecodeStatus::bad_operand, "dpp_ctrl");
  return vgpr(field(w, 7, 0), row.src[0], false, &inst_.src[0]);
}

bool Decoder::sdwa(const VopRow& row, bool compare, bool two_sources) {
  if (row.flags & kNoSdwa) return fail(DecodeStatus::bad_operand, "the instruction has no SDWA form");
  if (!fetch(2)) return false;
  const uint32_t w = d_[1];
  Sdwa& sdwa = inst_.sdwa;
  sdwa.present = true;

  const uint32_t sel0 = field(w, 18, 16), sel1 = field(w, 26, 24);
  if (sel0 == 7 || sel1 == 7) return fail(DecodeStatus::bad_operand, "src0_sel or src1_sel");
  sdwa.src_sel[0] = static_cast<SdwaSel>(sel0);
  inst_.neg = static_cast<uint8_t>(field(w, 20, 20) | field(w, 28, 28) << 1);
  inst_.abs = static_cast<uint8_t>(field(w, 21, 21) | field(w, 29, 29) << 1);
  sdwa.sext = static_cast<uint8_t>(field(w, 19, 19) | field(w, 27, 27) << 1);
  if (!zero((inst_.neg | inst_.abs) & ~row.mods & kMod012, "abs or neg on a source without them")) return false;
  if (!zero(sdwa.sext & row.mods & kMod012, "sext on a float source")) return false;
  if (!zero(field(w, 22, 22) | field(w, 30, 30), "bits 22 and 30 of the SDWA dword")) return false;
  if ((row.flags & kSdwaNoMods) && !zero(inst_.neg | inst_.abs, "abs or neg on a source without them")) return false;

  if (compare) {
    // sdst replaces vcc when sd is set.
    if (field(w, 15, 15)) {
      if (!scalar_dst(field(w, 14, 8), slot::B64, &inst_.dst[0])) return false;
    } else if (!zero(field(w, 14, 8), "sdst of a compare that writes vcc")) {
      return false;
    }
  } else {
    const uint32_t dst_sel = field(w, 10, 8), dst_unused = field(w, 12, 11);
    inst_.clamp = field(w, 13, 13);
    inst_.omod = static_cast<uint8_t>(field(w, 15, 14));
    if (dst_sel == 7 || dst_unused == 3) return fail(DecodeStatus::bad_operand, "dst_sel or dst_unused");
    sdwa.dst_sel = static_cast<SdwaSel>(dst_sel);
    sdwa.dst_unused = static_cast<SdwaUnused>(dst_unused);
    if ((!(row.mods & kOmod) || (row.flags & kSdwaNoOmod)) && !zero(inst_.omod, "omod")) return false;
    if (row.flags & kSdwaSrcOnly) {
      if (sdwa.dst_sel != SdwaSel::dword) return fail(DecodeStatus::reserved_bits, "dst_sel");
      if (!zero(dst_unused, "dst_unused") || !zero(sdwa.sext, "sext")) return false;
    }
  }

  const auto operand = [&](uint32_t index, bool is_scalar, Slot slot, Operand* out) {
    return is_scalar ? source(index, slot, false, out) : vgpr(index, slot, false, out);
  };
  if (!operand(field(w, 7, 0), field(w, 23, 23), row.src[0], &inst_.src[0])) return false;
  if (!two_sources) return zero(field(w, 31, 24), "src1 modifiers of an instruction with one source");
  sdwa.src_sel[1] = static_cast<SdwaSel>(sel1);
  return operand(field(d_[0], 16, 9), field(w, 31, 31), row.src[1], &inst_.src[1]);
}

bool Decoder::vop3() {
  if (!begin(Format::VOP3, 2)) return false;
  const uint32_t opcode = field(d_[0], 25, 16);
  const VopRow* row = find_vop3(opcode);
  if (!known(row)) return false;
  int sources = 3;
  while (sources > 0 && !row->src[sources - 1].dwords) --sources;
  return vop3_row(*row, sources, opcode < kVop3OfVop2) && one_scalar_read();
}

bool Decoder::vop3_row(const VopRow& row, int sources, bool compare) {
  const uint32_t w = d_[0], v = d_[1];
  inst_.op = row.op;
  if (!on_arch(row.arch)) return false;

  const uint32_t vdst = field(w, 7, 0);
  if (compare) {
    if (!scalar_dst(vdst, slot::B64, &inst_.dst[0])) return false;
  } else if (row.dst.kinds == kScalar) {
    if (!scalar_dst(vdst, row.dst, &inst_.dst[0])) return false;
  } else if (row.dst.dwords) {
    if (!vgpr(vdst, row.dst, false, &inst_.dst[0])) return false;
  } else if (!zero(vdst, "vdst of an instruction without destination")) {
    return false;
  }

  inst_.clamp = field(w, 15, 15);
  inst_.neg = static_cast<uint8_t>(field(v, 31, 29));
  inst_.omod = static_cast<uint8_t>(field(v, 28, 27));
  if (row.flags & kBitop) {
    inst_.bitop = static_cast<uint8_t>(inst_.omod << 6 | field(w, 10, 8) << 3 | inst_.neg);
    inst_.omod = inst_.neg = 0;
  } else if (row.flags & kCarryOut) {
    if (!scalar_dst(field(w, 14, 8), slot::B64, &inst_.dst[1])) return false;
  } else {
    inst_.abs = static_cast<uint8_t>(field(w, 10, 8));
  }
  if (!(row.flags & kCarryOut)) inst_.op_sel = static_cast<uint8_t>(field(w, 14, 11));
  if (!zero((inst_.neg | inst_.abs) & ~row.mods & kMod012, "abs or neg on a source without them")) return false;
  if (!zero(inst_.op_sel & ~(row.mods >> 5), "op_sel on an operand without it")) return false;
  if (!(row.mods & kClamp) && !zero(inst_.clamp, "clamp")) return false;
  if (!(row.mods & kOmod) && !zero(inst_.omod, "omod")) return false;

  const uint32_t codes[3] = {field(v, 8, 0), field(v, 17, 9), field(v, 26, 18)};
  for (int i = 0; i < 3; ++i) {
    if (i < sources && row.src[i].dwords) {
      if (!source(codes[i], row.src[i], false, &inst_.src[i])) return false;
    } else if (i == 2 && (row.flags & kCarryIn)) {
      if (codes[i] > 127) return fail(DecodeStatus::bad_operand, "a mask operand is not a scalar register");
      if (!scalar(codes[i], slot::B64, &inst_.src[i])) return false;
    } else if (!zero(codes[i], "a source field that the instruction does not use")) {
      return false;
    }
  }
  return true;
}

}  // namespace aiterlite::emulator
