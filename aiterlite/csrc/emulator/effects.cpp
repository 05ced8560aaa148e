// Effects of instructions on registers. Sources: the CDNA3 and CDNA4 instruction set manuals; hazards as in LLVM's
// hazard recognizer for gfx942 and gfx950.
#include <aiterlite/emulator/effects.h>
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/traits.h>

namespace aiterlite::emulator {
namespace {

bool has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

bool is_memory(Format f) { return f >= Format::DS || f == Format::SMEM; }
bool is_valu_format(Format f) { return f >= Format::VOP1 && f <= Format::MAIX; }

bool accumulates(const Inst& inst, std::string_view n) {
  return n.starts_with("v_fmac_") || n.starts_with("v_mac_") || n.starts_with("v_pk_fmac_") ||
         n.starts_with("v_smfmac_") || n.starts_with("v_dot2c_") || n.starts_with("v_dot4c_") ||
         n.starts_with("v_dot8c_") || inst.op == Op::v_swap_b32 || inst.op == Op::v_permlane16_swap_b32 ||
         inst.op == Op::v_permlane32_swap_b32;
}

bool scalar_reads_scc(Op op) {
  switch (op) {
    case Op::s_cselect_b32:
    case Op::s_cselect_b64:
    case Op::s_addc_u32:
    case Op::s_subb_u32:
    case Op::s_cmov_b32:
    case Op::s_cmov_b64:
    case Op::s_cmovk_i32:
    case Op::s_cbranch_scc0:
    case Op::s_cbranch_scc1:
      return true;
    default:
      return false;
  }
}

bool scalar_writes_scc(const Inst& inst, std::string_view n) {
  if (inst.format == Format::SOPC) return n.starts_with("s_cmp_") || n.starts_with("s_bitcmp");
  if (inst.format == Format::SOPK) return n.starts_with("s_cmpk_") || inst.op == Op::s_addk_i32;
  if (inst.format != Format::SOP1 && inst.format != Format::SOP2) return false;
  for (const std::string_view p :
       {"s_mov", "s_cmov", "s_cselect", "s_brev", "s_ff", "s_flbit", "s_sext", "s_bitset", "s_getpc", "s_setpc",
        "s_swappc", "s_rfe", "s_mul", "s_bfm", "s_pack", "s_bitreplicate", "s_cbranch", "s_set_gpr", "s_call"}) {
    if (n.starts_with(p)) return false;
  }
  return true;
}

Span span_of(const Operand& o) {
  const uint16_t count = o.dwords ? o.dwords : 1;
  if (o.kind == OperandKind::vgpr) return {o.index, count};
  if (o.kind == OperandKind::agpr) return {static_cast<uint16_t>(kVgprs + o.index), count};
  return {};
}

// Results of which a part of the register stays as it was.
bool keeps_a_part(const MicroOp& op, const Inst& inst, std::string_view n) {
  if (op.flags & kKeepHigh) return true;
  if ((op.flags & kHalf) && (inst.op_sel & 8) && !inst.sdwa.present) return true;
  if (inst.sdwa.present && inst.format != Format::VOPC && inst.sdwa.dst_sel != SdwaSel::dword &&
      inst.sdwa.dst_unused == SdwaUnused::preserve)
    return true;
  if (n.starts_with("v_cvt_sr_") || n.starts_with("v_cvt_pk_fp8_f32") || n.starts_with("v_cvt_pk_bf8_f32") ||
      n == "v_fma_mixlo_f16" || n == "v_fma_mixhi_f16")
    return true;
  if (n.starts_with("v_cvt_scalef32_")) {
    return has(n, "32_sr_fp8") || has(n, "32_sr_bf8") || has(n, "32_pk_fp8") || has(n, "32_pk_bf8") ||
           has(n, "pk_fp4_") || has(n, "32_f16_fp8") || has(n, "32_f16_bf8");
  }
  return is_memory(inst.format) && (has(n, "_d16") && !has(n, "_d16_xyz") && inst.dst[0].dwords <= 1);
}

bool is_fp4(std::string_view n) { return n.starts_with("v_cvt_scalef32_") && has(n, "pk_fp4_"); }

// Results that the hardware shifts into place after the arithmetic.
bool shifts_result(const Inst& inst, std::string_view n) {
  if (inst.sdwa.present && inst.format != Format::VOPC) return inst.sdwa.dst_sel != SdwaSel::dword;
  if (is_fp4(n)) return true;
  if (inst.format != Format::VOP3) return false;
  const bool eight = n.starts_with("v_cvt_sr_fp8") || n.starts_with("v_cvt_sr_bf8") ||
                     n.starts_with("v_cvt_scalef32_sr_fp8") || n.starts_with("v_cvt_scalef32_sr_bf8");
  return (inst.op_sel & 8) || (eight && (inst.op_sel & 4));
}

uint32_t hwreg(const Inst& inst) { return inst.simm16 & 63; }
bool is_setreg(Op op) { return op == Op::s_setreg_b32 || op == Op::s_setreg_imm32_b32; }

void classify(Arch arch, const MicroOp& op, std::string_view n, Effects& e) {
  const Inst& inst = *op.inst;
  switch (inst.format) {
    case Format::SOPP:
      e.unit = inst.op == Op::s_waitcnt                                    ? Unit::waitcnt
               : inst.op == Op::s_nop                                      ? Unit::nop
               : inst.op == Op::s_barrier                                  ? Unit::barrier
               : n.starts_with("s_endpgm")                                 ? Unit::end
               : n.starts_with("s_sendmsg") || inst.op == Op::s_ttracedata ? Unit::message
               : n.starts_with("s_cbranch") || inst.op == Op::s_branch     ? Unit::branch
                                                                           : Unit::salu;
      if (inst.op == Op::s_nop) e.wait_states = static_cast<uint8_t>((inst.simm16 & 15) + 1);
      break;
    case Format::SMEM:
      e.unit = Unit::smem;
      break;
    case Format::DS:
      e.unit = Unit::lds;
      break;
    case Format::FLAT:
      e.unit = Unit::flat;
      break;
    case Format::GLOBAL:
    case Format::SCRATCH:
    case Format::MUBUF:
    case Format::MTBUF:
      e.unit = Unit::vmem;
      break;
    default:
      if (!is_valu_format(inst.format)) {
        e.unit = Unit::salu;
      } else if (n.starts_with("v_mfma_") || n.starts_with("v_smfmac_")) {
        e.passes = static_cast<uint8_t>(matrix_passes(arch, inst));
        const bool f32 = n.ends_with("_f32") && !n.ends_with("_xf32");
        e.unit = n.ends_with("_f64") ? Unit::dmatrix : f32 ? Unit::smatrix : Unit::xdl;
      } else {
        e.unit = traits(inst.op).kind == Kind::transcendental ? Unit::trans
                 : n.starts_with("v_dot")                     ? Unit::dot
                                                              : Unit::valu;
      }
  }
  const bool cache = inst.op == Op::buffer_inv || inst.op == Op::buffer_wbl2;
  e.to_lds = inst.lds || has(n, "_load_lds_");
  switch (e.unit) {
    case Unit::vmem:
      e.counts_vm = inst.op != Op::buffer_inv;
      break;
    case Unit::flat:
      e.counts_vm = e.counts_lgkm = true;
      break;
    case Unit::lds:
    case Unit::smem:
    case Unit::message:
      e.counts_lgkm = inst.op != Op::ds_nop;
      break;
    default:
      break;
  }
  e.loads = is_memory(inst.format) && inst.dst[0].present();
  e.is_store = is_vector_memory(e.unit) && !cache && (has(n, "_store_") || has(n, "_atomic_"));
}

void find_hazards(Arch arch, const MicroOp& op, std::string_view n, Effects& e) {
  const Inst& inst = *op.inst;
  const bool valu = is_valu(e.unit);
  const bool writes_exec = e.scalar_writes.has(exec_lo) || e.scalar_writes.has(exec_hi);
  const bool writes_scalar = !e.scalar_writes.empty();
  if (valu) {
    if (e.unit == Unit::trans) e.causes |= kHazardTrans;
    if (e.unit != Unit::trans) e.suffers |= kHazardTrans;
    if (shifts_result(inst, n)) e.causes |= kHazardPartial;
    e.suffers |= kHazardPartial | kHazardStoreData | kHazardVskip;
    if (writes_scalar) e.causes |= kHazardScalarRead | kHazardScalarVmem | kHazardLaneSelect;
    e.suffers |= kHazardScalarRead;
    if (!e.writes.empty()) e.causes |= kHazardReadLane | kHazardDpp;
    if (writes_exec) e.causes |= kHazardExecLane | kHazardExecDpp | kHazardExecMatrix;
    if (e.scalar_writes.has(vcc_lo) || e.scalar_writes.has(vcc_hi)) e.causes |= kHazardDivFmas;
    if (inst.op == Op::v_div_fmas_f32 || inst.op == Op::v_div_fmas_f64) e.suffers |= kHazardDivFmas;
    const bool read_lane = inst.op == Op::v_readlane_b32 || inst.op == Op::v_readfirstlane_b32;
    if (read_lane) e.suffers |= kHazardReadLane;
    if (read_lane || inst.op == Op::v_writelane_b32) e.suffers |= kHazardExecLane;
    if ((inst.op == Op::v_readlane_b32 || inst.op == Op::v_writelane_b32) && inst.src[1].is_scalar_register())
      e.suffers |= kHazardLaneSelect;
    if (inst.dpp.present) e.suffers |= kHazardDpp | kHazardExecDpp;
    if (is_matrix(e.unit)) {
      e.suffers |= kHazardExecMatrix | kHazardMatrixSource;
    } else {
      if (e.unit != Unit::dot && !e.writes.empty()) e.causes |= kHazardMatrixSource;
      if (e.unit == Unit::dot) e.causes |= kHazardDot;
      e.suffers |= kHazardDot;
    }
    if (arch == Arch::gfx950) {
      if (!e.writes.empty()) e.causes |= kHazardPermlane;
      if (n.starts_with("v_cmpx_")) e.causes |= kHazardCmpxPermlane;
      if (inst.op == Op::v_permlane16_swap_b32 || inst.op == Op::v_permlane32_swap_b32)
        e.suffers |= kHazardPermlane | kHazardCmpxPermlane;
    }
  }
  if (is_vector_memory(e.unit)) {
    e.suffers |= kHazardScalarVmem | kHazardDot | kHazardVskip;
    const bool buffer = inst.format == Format::MUBUF || inst.format == Format::MTBUF;
    const bool soffset = buffer && inst.src[3].is_scalar_register();
    if (e.is_store && e.source[1].count > 2 && !soffset) e.causes |= kHazardStoreData;
  }
  if (e.unit == Unit::lds) e.suffers |= kHazardDot | kHazardVskip;
  if (e.unit == Unit::salu && e.scalar_writes.has(m0)) e.causes |= kHazardM0;
  const bool moves_relative = n.starts_with("s_movrel");
  if (moves_relative || e.to_lds || has(n, "addtid") || e.unit == Unit::message || inst.gds) e.suffers |= kHazardM0;
  if (is_setreg(inst.op)) {
    e.causes |= kHazardSetreg;
    e.suffers |= kHazardSetreg;
    const uint32_t offset = inst.simm16 >> 6 & 31;
    const uint32_t size = (inst.simm16 >> 11 & 31) + 1;
    if (hwreg(inst) == 1 && offset <= 28 && offset + size > 28) e.causes |= kHazardVskip;
  }
  if (inst.op == Op::s_setvskip) e.causes |= kHazardVskip;
  if (inst.op == Op::s_getreg_b32) e.suffers |= kHazardSetreg;
}

}  // namespace

Effects effects_of(Arch arch, const MicroOp& op) {
  const Inst& inst = *op.inst;
  const std::string_view n = name(inst.op);
  Effects e;
  const auto read = [&](const Operand& o) {
    if (o.is_scalar_register()) e.scalar_reads.add(o.index, o.dwords ? o.dwords : 1);
    if (o.is(vccz)) e.scalar_reads.add(vcc_lo, 2);
    if (o.is(execz)) e.scalar_reads.add(exec_lo, 2);
    if (o.is(scc)) e.reads_scc = true;
    const Span s = span_of(o);
    e.reads.add(s.first, s.count);
    return s;
  };
  const auto write = [&](const Operand& o) {
    if (o.is_scalar_register()) e.scalar_writes.add(o.index, o.dwords ? o.dwords : 1);
    const Span s = span_of(o);
    e.writes.add(s.first, s.count);
    return s;
  };
  for (int i = 0; i < 4; ++i) e.source[i] = read(inst.src[i]);
  for (int i = 0; i < 2; ++i) e.scale[i] = read(inst.scale[i]);
  const bool compare = inst.format == Format::SOPC;
  if (!compare) {
    e.result = write(inst.dst[0]);
    write(inst.dst[1]);
  }
  classify(arch, op, n, e);
  e.partial = keeps_a_part(op, inst, n);
  e.reads_result = accumulates(inst, n);
  if (e.reads_result) e.reads.add(e.result.first, e.result.count);
  if (inst.op == Op::v_swap_b32 || n.ends_with("_swap_b32")) {
    if (inst.format == Format::VOP1 || inst.format == Format::VOP3) e.writes.add(e.source[0].first, e.source[0].count);
  }
  if (is_matrix(e.unit)) e.accumulator = n.starts_with("v_smfmac_") ? e.result : e.source[2];

  const auto scalar_dst_is_read = [&] {
    e.scalar_reads.add(inst.dst[0].index, inst.dst[0].dwords ? inst.dst[0].dwords : 1);
  };
  if (is_valu_format(inst.format)) {
    e.scalar_reads.add(exec_lo, 2);
    if (inst.op == Op::v_div_fmas_f32 || inst.op == Op::v_div_fmas_f64) e.scalar_reads.add(vcc_lo, 2);
    if (n.starts_with("v_cmpx_")) e.scalar_writes.add(exec_lo, 2);
  } else if (is_memory(inst.format) && inst.format != Format::SMEM) {
    e.scalar_reads.add(exec_lo, 2);
    if (e.to_lds || has(n, "addtid") || inst.gds || inst.op == Op::ds_append || inst.op == Op::ds_consume)
      e.scalar_reads.add(m0, 1);
    if (inst.format == Format::SCRATCH) e.scalar_reads.add(flat_scratch_lo, 2);
  } else {
    e.reads_scc |= scalar_reads_scc(inst.op);
    e.writes_scc = scalar_writes_scc(inst, n);
    if (has(n, "saveexec") || has(n, "wrexec")) {
      e.scalar_reads.add(exec_lo, 2);
      e.scalar_writes.add(exec_lo, 2);
    }
    if (n.starts_with("s_cmov") || n.starts_with("s_bitset") || inst.op == Op::s_addk_i32 || inst.op == Op::s_mulk_i32)
      scalar_dst_is_read();
    if (inst.op == Op::s_cbranch_vccz || inst.op == Op::s_cbranch_vccnz) e.scalar_reads.add(vcc_lo, 2);
    if (inst.op == Op::s_cbranch_execz || inst.op == Op::s_cbranch_execnz) e.scalar_reads.add(exec_lo, 2);
    if (n.starts_with("s_movrel") || e.unit == Unit::message) e.scalar_reads.add(m0, 1);
    if (n.starts_with("s_set_gpr_idx_") && inst.op != Op::s_set_gpr_idx_off) e.scalar_writes.add(m0, 1);
  }
  find_hazards(arch, op, n, e);
  return e;
}

const Effects& EffectsCache::of(const Program& program, const MicroOp* op) {
  std::atomic<const Effects*>& slot = known_[static_cast<size_t>(op - program.ops.data())];
  if (const Effects* e = slot.load(std::memory_order_acquire)) return *e;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (const Effects* e = slot.load(std::memory_order_relaxed)) return *e;
  all_.push_back(effects_of(program.arch, *op));
  slot.store(&all_.back(), std::memory_order_release);
  return all_.back();
}

std::string vector_name(uint32_t number) {
  return number < kVgprs ? "v" + std::to_string(number) : "a" + std::to_string(number - kVgprs);
}

std::string scalar_name(uint32_t number) {
  switch (number) {
    case vcc_lo:
      return "vcc_lo";
    case vcc_hi:
      return "vcc_hi";
    case flat_scratch_lo:
      return "flat_scratch_lo";
    case flat_scratch_hi:
      return "flat_scratch_hi";
    case xnack_mask_lo:
      return "xnack_mask_lo";
    case xnack_mask_hi:
      return "xnack_mask_hi";
    case m0:
      return "m0";
    case exec_lo:
      return "exec_lo";
    case exec_hi:
      return "exec_hi";
    default:
      break;
  }
  return number >= ttmp0 && number <= ttmp15 ? "ttmp" + std::to_string(number - ttmp0) : "s" + std::to_string(number);
}

}  // namespace aiterlite::emulator
