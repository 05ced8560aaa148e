// Instruction text: operands, and the vector ALU formats with their modifiers.
#include <aiterlite/emulator/isa.h>
#include <aiterlite/emulator/text.h>

#include <cstdio>
#include <iterator>

namespace aiterlite::emulator {
namespace text {
namespace {

std::string number(int64_t value) { return std::to_string(value); }

std::string tuple(const char* prefix, uint32_t first, uint32_t count) {
  std::string s = prefix;
  if (count <= 1) return s + number(first);
  return s + '[' + number(first) + ':' + number(first + count - 1) + ']';
}

std::string special(uint32_t index, uint32_t dwords) {
  const bool pair = dwords == 2;
  switch (index) {
    case flat_scratch_lo:
      return pair ? "flat_scratch" : "flat_scratch_lo";
    case flat_scratch_hi:
      return "flat_scratch_hi";
    case xnack_mask_lo:
      return pair ? "xnack_mask" : "xnack_mask_lo";
    case xnack_mask_hi:
      return "xnack_mask_hi";
    case vcc_lo:
      return pair ? "vcc" : "vcc_lo";
    case vcc_hi:
      return "vcc_hi";
    case m0:
      return "m0";
    case exec_lo:
      return pair ? "exec" : "exec_lo";
    case exec_hi:
      return "exec_hi";
    case shared_base:
      return "src_shared_base";
    case shared_limit:
      return "src_shared_limit";
    case private_base:
      return "src_private_base";
    case private_limit:
      return "src_private_limit";
    case pops_exiting_wave_id:
      return "src_pops_exiting_wave_id";
    case vccz:
      return "src_vccz";
    case execz:
      return "src_execz";
    case scc:
      return "src_scc";
    default:
      return tuple("ttmp", index - ttmp0, dwords);
  }
}

bool is_wide(DataType type) { return type == DataType::b64 || type == DataType::i64 || type == DataType::f64; }
bool is_int16(DataType type) { return type == DataType::b16 || type == DataType::i16; }

constexpr const char* kInlineFloats[] = {"0.5", "-0.5", "1.0", "-1.0", "2.0", "-2.0", "4.0", "-4.0", "0.15915494"};

std::string inline_float(const Operand& op) {
  if (is_int16(op.type)) return hex(static_cast<uint32_t>(op.value));
  if (op.index == 248 && is_wide(op.type)) return "0.15915494309189532";
  return kInlineFloats[op.index - 240];
}

bool small_int(int64_t v) { return v >= -16 && v <= 64; }

// The inline constant with these bits, or null.
const char* inline_f32_name(uint32_t v) {
  constexpr uint32_t kBits[] = {0x3f000000, 0xbf000000, 0x3f800000, 0xbf800000, 0x40000000,
                                0xc0000000, 0x40800000, 0xc0800000, 0x3e22f983};
  for (size_t i = 0; i < std::size(kBits); ++i) {
    if (v == kBits[i]) return kInlineFloats[i];
  }
  return nullptr;
}

bool inline_f16_bits(uint32_t v) {
  switch (v & 0x7fff) {
    case 0x3800:
    case 0x3c00:
    case 0x4000:
    case 0x4400:
      return true;
    default:
      return v == 0x3118;
  }
}

bool inline_bf16_bits(uint32_t v) {
  switch (v & 0x7fff) {
    case 0x3f00:
    case 0x3f80:
    case 0x4000:
    case 0x4080:
      return true;
    default:
      return v == 0x3e22;
  }
}

const char* inline_f64_name(uint64_t v) {
  constexpr uint32_t kHighHalves[] = {0x3fe00000, 0xbfe00000, 0x3ff00000, 0xbff00000,
                                      0x40000000, 0xc0000000, 0x40100000, 0xc0100000};
  if (v == 0) return "0";
  for (size_t i = 0; i < std::size(kHighHalves); ++i) {
    if (v == static_cast<uint64_t>(kHighHalves[i]) << 32) return kInlineFloats[i];
  }
  return nullptr;
}

// A literal whose value an inline constant could have given is marked, so that reassembling keeps the encoding.
bool has_inline_form(uint32_t v, DataType type) {
  const auto low = static_cast<uint16_t>(v);
  switch (type) {
    case DataType::b64:
    case DataType::i64:
      return v <= 64;
    case DataType::f16:
      return small_int(static_cast<int16_t>(low)) || inline_f16_bits(low);
    case DataType::bf16:
      return small_int(static_cast<int16_t>(low)) || inline_bf16_bits(low);
    case DataType::v2f16:
      return small_int(static_cast<int32_t>(v)) || (v <= 0xffff && inline_f16_bits(v));
    case DataType::v2bf16:
      return small_int(static_cast<int32_t>(v)) || (v <= 0xffff && inline_bf16_bits(v));
    default:
      return small_int(static_cast<int32_t>(v)) || inline_f32_name(v);
  }
}

std::string literal(const Inst& inst, const Operand& op) {
  const uint32_t v = inst.raw[1];
  if (op.type == DataType::f64) {
    // The literal is the high half; the whole may be a constant with a name.
    const char* known = inline_f64_name(op.value);
    return known ? known : hex(v);
  }
  if (has_inline_form(v, op.type)) return "lit(" + hex(v) + ")";
  return hex(is_int16(op.type) || op.type == DataType::f16 ? v & 0xffff : v);
}

}  // namespace

std::string hex(uint32_t value) {
  char buffer[16];
  snprintf(buffer, sizeof buffer, "0x%x", value);
  return buffer;
}

std::string immediate(int32_t value) {
  if (small_int(value)) return number(value);
  const char* known = inline_f32_name(static_cast<uint32_t>(value));
  return known ? known : hex(static_cast<uint32_t>(value));
}

std::string operand(const Inst& inst, const Operand& op) {
  switch (op.kind) {
    case OperandKind::none:
      return "off";
    case OperandKind::sgpr:
      return tuple("s", op.index, op.dwords);
    case OperandKind::vgpr:
      return tuple("v", op.index, op.dwords);
    case OperandKind::agpr:
      return tuple("a", op.index, op.dwords);
    case OperandKind::special:
      return special(op.index, op.dwords);
    case OperandKind::inline_int:
      return number(op.index <= 192 ? op.index - 128 : 192 - op.index);
    case OperandKind::inline_float:
      return inline_float(op);
    case OperandKind::literal:
      return literal(inst, op);
  }
  return "";
}

std::string list(const char* name, uint32_t bits, int count) {
  std::string s = std::string(" ") + name + ":[";
  for (int i = 0; i < count; ++i) s += std::string(i ? "," : "") + (bits >> i & 1 ? '1' : '0');
  return s + ']';
}

namespace {

int num_sources(const Inst& inst) {
  int n = 0;
  for (int i = 0; i < 3; ++i) {
    if (inst.src[i].present()) n = i + 1;
  }
  return n;
}

// A source with its abs, neg and sext.
std::string modified(const Inst& inst, int i) {
  std::string s = operand(inst, inst.src[i]);
  if (inst.sdwa.present && (inst.sdwa.sext >> i & 1)) return "sext(" + s + ")";
  if (inst.abs >> i & 1) s = '|' + s + '|';
  if (!(inst.neg >> i & 1)) return s;
  // A minus in front of a number would read as another number.
  const bool constant = inst.src[i].is_constant() && !(inst.abs >> i & 1);
  return constant ? "neg(" + s + ")" : '-' + s;
}

std::string clamp_and_omod(const Inst& inst) {
  std::string s;
  if (inst.clamp) s += " clamp";
  constexpr const char* kOmod[] = {"", " mul:2", " mul:4", " div:2"};
  return s + kOmod[inst.omod];
}

std::string sdwa_modifiers(const Inst& inst) {
  constexpr const char* kSel[] = {"BYTE_0", "BYTE_1", "BYTE_2", "BYTE_3", "WORD_0", "WORD_1", "DWORD"};
  constexpr const char* kUnused[] = {"UNUSED_PAD", "UNUSED_SEXT", "UNUSED_PRESERVE"};
  const Sdwa& sdwa = inst.sdwa;
  std::string s = clamp_and_omod(inst);
  const VopRow* row = inst.format == Format::VOP1 ? find_vop1(inst.raw[0] >> 9 & 0xff) : nullptr;
  const bool whole_dst = inst.format == Format::VOPC || (row && (row->flags & kSdwaSrcOnly));
  if (!whole_dst) {
    s += std::string(" dst_sel:") + kSel[static_cast<int>(sdwa.dst_sel)];
    s += std::string(" dst_unused:") + kUnused[static_cast<int>(sdwa.dst_unused)];
  }
  s += std::string(" src0_sel:") + kSel[static_cast<int>(sdwa.src_sel[0])];
  if (inst.format != Format::VOP1) s += std::string(" src1_sel:") + kSel[static_cast<int>(sdwa.src_sel[1])];
  return s;
}

std::string dpp_modifiers(const Inst& inst) {
  const Dpp& dpp = inst.dpp;
  std::string s = ' ' + dpp_ctrl(dpp.ctrl) + " row_mask:" + hex(dpp.row_mask) + " bank_mask:" + hex(dpp.bank_mask);
  if (dpp.bound_ctrl) s += " bound_ctrl:1";
  return s;
}

std::string vop3_modifiers(const Inst& inst) {
  const VopRow* row = find_vop3(inst.raw[0] >> 16 & 0x3ff);
  std::string s;
  if (row->flags & kSelIsDpp) {
    if (inst.op_sel & 2) s += " bound_ctrl:1";
    if (inst.op_sel & 1) s += " fi:1";
    return s;
  }
  if ((row->flags & kBitop) && inst.bitop) s += " bitop3:" + (inst.bitop <= 10 ? number(inst.bitop) : hex(inst.bitop));
  if (inst.op_sel) {
    // Sources first, then the destination; an opcode that selects bytes uses a source position it has no source for.
    const int sources = row->mods & kSel2 ? 3 : num_sources(inst);
    const uint32_t bits = (inst.op_sel & ((1u << sources) - 1)) | static_cast<uint32_t>(inst.op_sel >> 3) << sources;
    s += list("op_sel", bits, sources + 1);
  }
  return s + clamp_and_omod(inst);
}

// v_fma_mix*: neg and abs of the whole source instead of neg_lo and neg_hi.
bool is_mix(const Inst& inst) {
  return inst.format == Format::VOP3P && inst.op != Op::v_mfma_ld_scale_b32 &&
         (find_vop3p(inst.raw[0] >> 16 & 0x7f)->flags & kMix);
}

std::string vop3p_modifiers(const Inst& inst) {
  const int n = num_sources(inst);
  const uint32_t all = (1u << n) - 1;
  const bool mix = is_mix(inst);
  std::string s;
  if (inst.op_sel & all) s += list("op_sel", inst.op_sel, n);
  if (mix ? inst.op_sel_hi != 0 : (inst.op_sel_hi & all) != all) s += list("op_sel_hi", inst.op_sel_hi, n);
  if (!mix && inst.neg_lo) s += list("neg_lo", inst.neg_lo, n);
  if (!mix && inst.neg_hi) s += list("neg_hi", inst.neg_hi, n);
  if (inst.clamp) s += " clamp";
  return s;
}

std::string mai_modifiers(const Inst& inst) {
  std::string s;
  if (inst.format == Format::MAIX) {
    if (inst.op_sel) s += list("op_sel", inst.op_sel, 3);
    if (inst.op_sel_hi != 7) s += list("op_sel_hi", inst.op_sel_hi, 3);
  }
  if (inst.cbsz) s += " cbsz:" + number(inst.cbsz);
  if (inst.abid) s += " abid:" + number(inst.abid);
  const bool f64 = find_mai(inst.raw[inst.num_dwords - 2] >> 16 & 0x7f)->flags & kF64;
  if (inst.blgp) s += f64 ? list("neg", inst.blgp, 3) : " blgp:" + number(inst.blgp);
  return s;
}

}  // namespace

std::string vector_operands(const Inst& inst) {
  std::string s;
  const auto add = [&s](const std::string& part) { s += (s.empty() ? " " : ", ") + part; };
  if (inst.dst[0].present()) add(operand(inst, inst.dst[0]));
  if (inst.dst[1].present()) add(operand(inst, inst.dst[1]));
  Inst view = inst;
  if (is_mix(inst)) {
    view.neg = inst.neg_lo;
    view.abs = inst.neg_hi;
  }
  // The K of v_fmamk and the like is written plainly.
  const VopRow* vop2 = inst.format == Format::VOP2 ? find_vop2(inst.raw[0] >> 25 & 0x3f) : nullptr;
  const int k = !vop2 ? -1 : vop2->flags & kMadMk ? 1 : vop2->flags & kMadAk ? 2 : -1;
  for (int i = 0; i < 3; ++i) {
    if (i == k) {
      add(hex(inst.raw[1]));
    } else if (inst.src[i].present()) {
      add(modified(view, i));
    }
  }
  for (const Operand& scale : inst.scale) {
    if (scale.present()) add(operand(inst, scale));
  }
  if (inst.sdwa.present) return s + sdwa_modifiers(inst);
  if (inst.dpp.present) return s + dpp_modifiers(inst);
  if (inst.format == Format::VOP3) return s + vop3_modifiers(inst);
  if (inst.format == Format::VOP3P) return s + vop3p_modifiers(inst);
  if (inst.format == Format::MAI || inst.format == Format::MAIX) return s + mai_modifiers(inst);
  return s;
}

}  // namespace text

std::string disassemble(Arch, const Inst& inst) {
  const std::string text = mnemonic(inst);
  if (inst.format <= Format::SMEM) return text + text::scalar_operands(inst);
  if (inst.format <= Format::MAIX) return text + text::vector_operands(inst);
  return text + text::memory_operands(inst);
}

}  // namespace aiterlite::emulator
