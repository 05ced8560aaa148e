// Decoded instructions to micro-ops.
#include <aiterlite/emulator/runtime.h>

namespace aiterlite::emulator {
namespace {

const HandlerTable& handlers() {
  static const HandlerTable table = [] {
    HandlerTable t{};
    register_salu(t);
    register_smem(t);
    register_vop1(t);
    register_vop2(t);
    register_vop3(t);
    register_f64(t);
    register_f16(t);
    register_scale(t);
    register_vopc(t);
    register_vop3p(t);
    register_mfma(t);
    register_smfmac(t);
    register_ds(t);
    register_global(t);
    register_buffer(t);
    register_atomics(t);
    return t;
  }();
  return table;
}

const MicroOp* no_instruction(Wave& w, const MicroOp* op) {
  Fault f;
  f.kind = FaultKind::bad_jump;
  const Program& program = *w.launch->program;
  f.address = program.base + static_cast<uint64_t>(op - program.ops.data()) * 4;
  return fault(w, op, std::move(f));
}

const MicroOp* refuse(Wave& w, const MicroOp* op) {
  const auto why = w.launch->program->refused.find(op);
  Fault f;
  f.kind = FaultKind::unsupported;
  f.detail = why == w.launch->program->refused.end() ? "" : why->second;
  return fault(w, op, std::move(f));
}

bool is_scalar_format(Format f) { return f >= Format::SOP1 && f <= Format::SMEM; }
bool is_valu_format(Format f) { return f >= Format::VOP1 && f <= Format::MAIX; }

bool is_float(DataType t) {
  switch (t) {
    case DataType::f16:
    case DataType::bf16:
    case DataType::f32:
    case DataType::f64:
    case DataType::v2f16:
    case DataType::v2bf16:
    case DataType::v2f32:
      return true;
    default:
      return false;
  }
}
bool is_half(DataType t) {
  return t == DataType::f16 || t == DataType::bf16 || t == DataType::i16 || t == DataType::b16;
}
bool is_packed(DataType t) {
  return t == DataType::v2f16 || t == DataType::v2bf16 || t == DataType::v2i16 || t == DataType::v2f32;
}

// Sources of vector instructions that are one value for the wave: lane numbers, and masks that carry a bit a lane.
bool is_wave_value(const Inst& inst, int slot) {
  switch (inst.op) {
    case Op::v_readlane_b32:
      return slot == 1;
    case Op::v_writelane_b32:
      return true;
    case Op::v_cndmask_b32:
    case Op::v_addc_co_u32:
    case Op::v_subb_co_u32:
    case Op::v_subbrev_co_u32:
      return slot == 2;
    default:
      break;
  }
  switch (inst.format) {
    case Format::FLAT:
    case Format::GLOBAL:
    case Format::SCRATCH:
      return slot == 2;
    case Format::MUBUF:
    case Format::MTBUF:
      return slot >= 2;
    default:
      return false;
  }
}

// 16-bit results that leave the other half of the register as it was; the older instructions clear it.
bool keeps_high(const Inst& inst) {
  switch (inst.op) {
    case Op::v_mad_f16:
    case Op::v_mad_u16:
    case Op::v_mad_i16:
    case Op::v_fma_f16:
    case Op::v_div_fixup_f16:
    case Op::v_min3_f16:
    case Op::v_max3_f16:
    case Op::v_med3_f16:
    case Op::v_min3_i16:
    case Op::v_max3_i16:
    case Op::v_med3_i16:
    case Op::v_min3_u16:
    case Op::v_max3_u16:
    case Op::v_med3_u16:
    case Op::v_add_i16:
    case Op::v_sub_i16:
    case Op::v_bitop3_b16:
    case Op::v_ashr_pk_i8_i32:
    case Op::v_ashr_pk_u8_i32:
      return true;
    default:
      return false;
  }
}

// Handlers that read their operands as they are: a modifier on them would go unnoticed.
bool takes_no_modifiers(Op op) {
  switch (op) {
    case Op::v_swap_b32:
    case Op::v_permlane16_swap_b32:
    case Op::v_permlane32_swap_b32:
    case Op::v_readfirstlane_b32:
    case Op::v_readlane_b32:
    case Op::v_writelane_b32:
    case Op::v_qsad_pk_u16_u8:
    case Op::v_mqsad_pk_u16_u8:
    case Op::v_mqsad_u32_u8:
      return true;
    default:
      return false;
  }
}
bool applies_own_modifiers(const Inst& inst) {
  switch (inst.op) {
    case Op::v_fma_mix_f32:
    case Op::v_fma_mixlo_f16:
    case Op::v_fma_mixhi_f16:
    case Op::v_pk_mov_b32:
    case Op::v_cvt_pk_fp8_f32:
    case Op::v_cvt_pk_bf8_f32:
    case Op::v_cvt_sr_fp8_f32:
    case Op::v_cvt_sr_bf8_f32:
    case Op::v_cvt_sr_f16_f32:
    case Op::v_cvt_sr_bf16_f32:
      return true;
    default:
      break;
  }
  return (inst.op >= Op::v_cvt_scalef32_pk_fp8_f32 && inst.op <= Op::v_cvt_scalef32_pk32_bf16_bf6) ||
         inst.op == Op::v_cvt_scalef32_pk_bf16_fp8 || inst.op == Op::v_cvt_scalef32_pk_bf16_bf8 ||
         inst.format == Format::MAI || inst.format == Format::MAIX;
}

Source make_source(Program* program, const Inst& inst, const Operand& operand, bool wave_value) {
  Source s;
  s.dwords = operand.dwords ? operand.dwords : 1;
  switch (operand.kind) {
    case OperandKind::none:
      break;
    case OperandKind::vgpr:
      s.ref = Ref::reg;
      s.value = static_cast<uint64_t>(operand.index) * kRegisterBytes;
      break;
    case OperandKind::agpr:
      s.ref = Ref::reg;
      s.value = static_cast<uint64_t>(kVgprs + operand.index) * kRegisterBytes;
      break;
    case OperandKind::sgpr:
      s.ref = Ref::scalar;
      s.value = operand.index;
      break;
    case OperandKind::special:
      s.ref = operand.index < 128 ? Ref::scalar : Ref::special;
      s.value = operand.index;
      break;
    default:
      s.ref = Ref::constant;
      s.value = operand.value;
      if (!wave_value && !is_scalar_format(inst.format)) {
        s.value = reinterpret_cast<uint64_t>(program->spread_constant(operand.value));
      }
      break;
  }
  return s;
}

bool in_file(const Operand& operand) {
  if (!operand.present() || operand.is_constant()) return true;
  const uint32_t end = operand.index + (operand.dwords ? operand.dwords : 1u);
  if (operand.kind == OperandKind::vgpr || operand.kind == OperandKind::agpr) return end <= kVgprs;
  return operand.kind == OperandKind::special ? operand.index >= 128 || end <= 128 : end <= 108;
}

// The manuals' section on VGPR indexing (CDNA3 and CDNA4, 6.6) is about vector ALU instructions with one result, and
// lists those that use their operands in other ways. It says nothing of swaps, whose operands are sources and results,
// nor of matrix instructions; AMD's own emulator moves the VGPRs of those and leaves AGPRs. That v_accvgpr_read_b32 is
// moved is seen in production kernels, which walk through their accumulators so.
bool indexing_is_unknown(const Inst& inst) {
  switch (inst.op) {
    case Op::v_swap_b32:
    case Op::v_permlane16_swap_b32:
    case Op::v_permlane32_swap_b32:
      return true;
    case Op::v_accvgpr_read_b32:
    case Op::v_accvgpr_write_b32:
      return false;
    default:
      return inst.format == Format::MAI || inst.format == Format::MAIX;
  }
}

// Modifiers that prepare() has to apply.
bool needs_prepare(const Inst& inst) {
  if (inst.dpp.present) return true;
  for (int i = 0; i < 3; ++i) {
    const Operand& o = inst.src[i];
    if (!o.present()) continue;
    if (inst.sdwa.present && i < 2 && inst.sdwa.src_sel[i] != SdwaSel::dword) return true;
    if ((inst.abs | inst.neg) >> i & 1) return true;
    if (inst.format == Format::VOP3P) {
      if (!is_packed(o.type)) continue;
      const bool usual = !(inst.op_sel >> i & 1) && (inst.op_sel_hi >> i & 1);
      if (!usual || ((inst.neg_lo | inst.neg_hi) >> i & 1)) return true;
    } else if (is_half(o.type) && (inst.op_sel >> i & 1)) {
      return true;
    }
  }
  return false;
}

// A sign modifier of VOP3, SDWA or DPP on two values in one register: which of them it changes is not documented.
bool signs_a_pair(const Inst& inst) {
  if (inst.format == Format::VOP3P) return false;
  for (int i = 0; i < 3; ++i) {
    if (is_packed(inst.src[i].type) && ((inst.abs | inst.neg) >> i & 1)) return true;
  }
  return false;
}

bool has_half_result(const Inst& inst) {
  return is_half(inst.dst[0].type) || inst.op == Op::v_ashr_pk_i8_i32 || inst.op == Op::v_ashr_pk_u8_i32;
}

bool needs_finish(const Inst& inst, bool keep_high) {
  if (is_float(inst.dst[0].type) && (inst.clamp || inst.omod)) return true;
  if (inst.sdwa.present && inst.sdwa.dst_sel != SdwaSel::dword) return true;
  return has_half_result(inst) && ((inst.op_sel >> 3 & 1) || keep_high);
}

}  // namespace

bool build_microop(Program* program, const Inst& inst, MicroOp* op, std::string* reason) {
  const HandlerTable& table = handlers();
  const int index = static_cast<int>(inst.op);
  Handler fn = table.plain[index];
  const bool valu = is_valu_format(inst.format);
  if (!fn) {
    *reason = "the executor has no semantics for this instruction";
    return false;
  }
  if (valu && inst.clamp && !is_float(inst.dst[0].type)) {
    fn = table.clamped[index];
    if (!fn) {
      *reason = "the executor has no clamped form of this instruction";
      return false;
    }
  }
  if (valu && inst.omod && !is_float(inst.dst[0].type)) {
    *reason = "an output multiplier on a result that is no float";
    return false;
  }
  if (valu && signs_a_pair(inst)) {
    *reason = "a sign modifier on a packed operand";
    return false;
  }
  for (const Operand& o : inst.dst) {
    if (!in_file(o)) *reason = "a destination past the end of its register file";
  }
  for (const Operand& o : inst.src) {
    if (!in_file(o)) *reason = "a source past the end of its register file";
  }
  if (!reason->empty()) return false;
  if (inst.format == Format::DS && inst.gds) {
    *reason = "global data share";
    return false;
  }

  op->inst = &inst;
  op->len = inst.num_dwords;
  for (int i = 0; i < 4; ++i) op->src[i] = make_source(program, inst, inst.src[i], is_wave_value(inst, i));
  if (inst.format == Format::MAIX) {
    op->src[3] = make_source(program, inst, inst.scale[0], false);
    op->extra = make_source(program, inst, inst.scale[1], false);
  }
  const Operand& d = inst.dst[0];
  if (d.kind == OperandKind::vgpr || d.kind == OperandKind::agpr) {
    op->dst = static_cast<uint32_t>(d.index + (d.kind == OperandKind::agpr ? kVgprs : 0)) * kRegisterBytes;
    op->dst_dwords = d.dwords ? d.dwords : 1;
    op->has_dst = true;
    op->sdst = inst.dst[1].is_scalar_register() ? inst.dst[1].index : 0;
  } else if (d.is_scalar_register()) {
    op->sdst = d.index;
    op->has_dst = true;
  }
  if (is_vector(inst.format)) op->flags |= kVector;
  if (valu) {
    op->flags |= kIndexable;
    if (indexing_is_unknown(inst)) op->flags |= kNotIndexed;
    if (!applies_own_modifiers(inst)) {
      const bool keep = keeps_high(inst) && !inst.sdwa.present;
      if (needs_prepare(inst)) op->flags |= kPrepare;
      if (needs_finish(inst, keep)) op->flags |= kFinish;
      if (has_half_result(inst)) op->flags |= kHalf;
      if (keep) op->flags |= kKeepHigh;
      if ((op->flags & (kPrepare | kFinish)) && takes_no_modifiers(inst.op)) {
        *reason = "the executor has no form of this instruction with modifiers";
        return false;
      }
    } else if (inst.dpp.present || inst.sdwa.present || (inst.format != Format::VOP3P && (inst.omod || inst.clamp))) {
      *reason = "the executor has no form of this instruction with these modifiers";
      return false;
    }
  }
  op->fn = fn;
  return true;
}

Program::Program(Arch a, uint64_t first, uint64_t size) : arch(a), base(first), bytes(size & ~3ull) {
  // One more slot: code may run off its end.
  ops.resize(bytes / 4 + 1);
  effects = std::make_unique<EffectsCache>(ops.size());
  for (size_t i = 0; i < ops.size(); ++i) {
    ops[i].fn = no_instruction;
    ops[i].address = base + 4 * i;
  }
}

bool Program::decoded(uint64_t address) const {
  const MicroOp* op = at(address);
  return op && op->fn != no_instruction;
}

const uint32_t* Program::spread_constant(uint64_t value) {
  const auto found = constants.find(value);
  if (found != constants.end()) return found->second;
  constant_pool.emplace_back();
  uint32_t* lanes = constant_pool.back().lanes;
  for (int l = 0; l < kWave; ++l) {
    lanes[l] = static_cast<uint32_t>(value);
    lanes[kWave + l] = static_cast<uint32_t>(value >> 32);
  }
  constants.emplace(value, lanes);
  return lanes;
}

void Program::decode_range(uint64_t begin, uint64_t end) {
  if (begin < base) begin = base;
  if (end > base + bytes) end = base + bytes;
  for (uint64_t at_byte = begin & ~3ull; at_byte < end;) {
    MicroOp* op = &ops[(at_byte - base) >> 2];
    if (op->fn != no_instruction) {
      at_byte += 4ull * op->len;
      continue;
    }
    Inst inst;
    const Decoded decoded = decode(arch, reinterpret_cast<const uint8_t*>(at_byte), base + bytes - at_byte, &inst);
    if (!decoded) {
      op->fn = refuse;
      op->len = 1;
      refused.emplace(op, describe(arch, decoded));
      at_byte += 4;
      continue;
    }
    insts.push_back(inst);
    std::string reason;
    if (!build_microop(this, insts.back(), op, &reason)) {
      op->inst = &insts.back();
      op->fn = refuse;
      op->len = inst.num_dwords;
      refused.emplace(op, reason);
    }
    if (inst.format == Format::SOPP || inst.op == Op::s_call_b64) {
      const uint64_t to = branch_target(inst, at_byte);
      op->target = at(to);
    }
    at_byte += inst.size;
  }
}

CodeTraits scan_code(const Program& program, uint64_t begin, uint64_t end) {
  CodeTraits traits;
  for (uint64_t a = begin; a < end; a += 4) {
    const MicroOp* op = program.at(a);
    if (!op || !op->inst) continue;
    const Inst& inst = *op->inst;
    switch (inst.op) {
      case Op::s_swappc_b64:
      case Op::s_setpc_b64:
      case Op::s_call_b64:
        traits.calls = true;
        break;
      case Op::s_sleep:
      case Op::buffer_inv:
      case Op::buffer_wbl2:
        traits.ordered |= inst.op == Op::s_sleep || inst.sc1;
        break;
      default:
        break;
    }
    const OpGroup g = group(inst.op);
    if (g == OpGroup::FLAT || g == OpGroup::GLOBAL || g == OpGroup::MUBUF || g == OpGroup::SMEM) {
      const std::string_view text = name(inst.op);
      const bool atomic = text.find("_atomic_") != std::string_view::npos;
      const bool adds_floats =
          text.ends_with("_f32") || text.ends_with("_f64") || text.ends_with("_f16") || text.ends_with("_bf16");
      if (atomic && (inst.sc0 || adds_floats)) traits.ordered = true;
      const bool past_cache = inst.sc0 && (inst.sc1 || g == OpGroup::SMEM);
      if (!atomic && past_cache && text.find("_load_") != std::string_view::npos) traits.ordered = true;
    }
  }
  return traits;
}

}  // namespace aiterlite::emulator
