// Text of the scalar formats, and of immediates that have a syntax of their own.
#include <aiterlite/emulator/isa.h>
#include <aiterlite/emulator/text.h>

namespace aiterlite::emulator::text {
namespace {

const char* hardware_register_name(uint32_t id) {
  switch (id) {
    case 1:
      return "HW_REG_MODE";
    case 2:
      return "HW_REG_STATUS";
    case 3:
      return "HW_REG_TRAPSTS";
    case 4:
      return "HW_REG_HW_ID";
    case 5:
      return "HW_REG_GPR_ALLOC";
    case 6:
      return "HW_REG_LDS_ALLOC";
    case 7:
      return "HW_REG_IB_STS";
    case 15:
      return "HW_REG_SH_MEM_BASES";
    case 16:
      return "HW_REG_TBA_LO";
    case 17:
      return "HW_REG_TBA_HI";
    case 18:
      return "HW_REG_TMA_LO";
    case 19:
      return "HW_REG_TMA_HI";
    case 20:
      return "HW_REG_XCC_ID";
    case 21:
      return "HW_REG_SQ_PERF_SNAPSHOT_DATA";
    case 22:
      return "HW_REG_SQ_PERF_SNAPSHOT_DATA1";
    case 23:
      return "HW_REG_SQ_PERF_SNAPSHOT_PC_LO";
    case 24:
      return "HW_REG_SQ_PERF_SNAPSHOT_PC_HI";
    default:
      return nullptr;
  }
}

const SopRow* sop_row(const Inst& inst) {
  const uint32_t w = inst.raw[0];
  switch (inst.format) {
    case Format::SOPC:
      return find_sopc(w >> 16 & 0x7f);
    case Format::SOPK:
      return find_sopk(w >> 23 & 0x1f);
    default:
      return find_sopp(w >> 16 & 0x7f);
  }
}

std::string sopp_operand(const Inst& inst, uint8_t flags) {
  if ((flags & kNoImm) || ((flags & kOptionalImm) && inst.simm16 == 0)) return "";
  if (flags & kWaitcnt) return wait_counts(inst.simm16);
  if (flags & kMessage) return message(inst.simm16);
  if (flags & kGprIdx) return gpr_index_modes(inst.simm16);
  return flags & (kBranch | kOptionalImm) ? std::to_string(inst.simm16) : immediate(inst.simm16);
}

std::string smem_offset(const Inst& inst) {
  const bool negative = inst.offset < 0;
  const std::string text = (negative ? "-" : "") + hex(static_cast<uint32_t>(negative ? -inst.offset : inst.offset));
  const bool imm = inst.raw[0] >> 17 & 1;
  if (!inst.src[2].present()) return text;
  return operand(inst, inst.src[2]) + (imm ? " offset:" + text : "");
}

}  // namespace

std::string wait_counts(uint16_t simm) {
  const uint32_t vm = (simm & 0xf) | (simm >> 14 & 3) << 4, exp = simm >> 4 & 7, lgkm = simm >> 8 & 0xf;
  const bool all = vm == 63 && exp == 7 && lgkm == 15;
  std::string s;
  const auto add = [&s](const char* name, uint32_t n) {
    s += (s.empty() ? "" : " ") + std::string(name) + '(' + std::to_string(n) + ')';
  };
  if (vm != 63 || all) add("vmcnt", vm);
  if (exp != 7 || all) add("expcnt", exp);
  if (lgkm != 15 || all) add("lgkmcnt", lgkm);
  return s;
}

std::string hardware_register(uint16_t simm) {
  const uint32_t id = simm & 0x3f, offset = simm >> 6 & 0x1f, size = (simm >> 11) + 1;
  const char* known = hardware_register_name(id);
  std::string s = "hwreg(" + (known ? std::string(known) : std::to_string(id));
  if (offset != 0 || size != 32) s += ", " + std::to_string(offset) + ", " + std::to_string(size);
  return s + ')';
}

std::string message(uint16_t simm) {
  constexpr const char* kNames[] = {nullptr,
                                    "MSG_INTERRUPT",
                                    "MSG_GS",
                                    "MSG_GS_DONE",
                                    "MSG_SAVEWAVE",
                                    "MSG_STALL_WAVE_GEN",
                                    "MSG_HALT_WAVES",
                                    "MSG_ORDERED_PS_DONE",
                                    "MSG_EARLY_PRIM_DEALLOC",
                                    "MSG_GS_ALLOC_REQ",
                                    "MSG_GET_DOORBELL"};
  constexpr const char* kGsOps[] = {"GS_OP_NOP", "GS_OP_CUT", "GS_OP_EMIT", "GS_OP_EMIT_CUT"};
  constexpr const char* kSysOps[] = {nullptr, "SYSMSG_OP_ECC_ERR_INTERRUPT", "SYSMSG_OP_REG_RD", nullptr,
                                     "SYSMSG_OP_TTRACE_PC"};
  constexpr uint32_t kGs = 2, kGsDone = 3, kSystem = 15;
  const uint32_t id = simm & 0xf, op = simm >> 4 & 7, stream = simm >> 8 & 3;
  const std::string s_stream = std::to_string(stream);
  if (id == kGs || id == kGsDone) {
    const bool valid = op < 4 && (op != 0 || (id == kGsDone && stream == 0));
    if (valid) {
      const std::string s = std::string("sendmsg(") + kNames[id] + ", " + kGsOps[op];
      return s + (op ? ", " + s_stream : "") + ')';
    }
  } else if (id == kSystem) {
    if (op < 5 && kSysOps[op] && stream == 0) return std::string("sendmsg(MSG_SYSMSG, ") + kSysOps[op] + ')';
  } else if (id >= 1 && id <= 10 && op == 0 && stream == 0) {
    return std::string("sendmsg(") + kNames[id] + ')';
  }
  if ((id | op << 4 | stream << 8) != simm) return std::to_string(simm);
  return "sendmsg(" + std::to_string(id) + ", " + std::to_string(op) + ", " + s_stream + ')';
}

std::string gpr_index_modes(uint16_t simm) {
  constexpr const char* kModes[] = {"SRC0", "SRC1", "SRC2", "DST"};
  std::string s;
  for (int i = 0; i < 4; ++i) {
    if (simm >> i & 1) s += (s.empty() ? "" : ",") + std::string(kModes[i]);
  }
  return "gpr_idx(" + s + ')';
}

std::string scalar_operands(const Inst& inst) {
  std::string s;
  const auto add = [&s](const std::string& part) {
    if (!part.empty()) s += (s.empty() ? " " : ", ") + part;
  };
  switch (inst.format) {
    case Format::SOPP:
      add(sopp_operand(inst, sop_row(inst)->flags));
      return s;
    case Format::SOPK: {
      const uint8_t flags = sop_row(inst)->flags;
      const std::string imm = flags & kHwreg    ? hardware_register(inst.simm16)
                              : flags & kBranch ? std::to_string(inst.simm16)
                                                : hex(inst.simm16);
      const bool imm_first = (flags & kHwreg) && inst.src[0].present();
      if (imm_first) add(imm);
      if (inst.dst[0].present()) add(operand(inst, inst.dst[0]));
      if (inst.src[0].present() && !(flags & kImm32)) add(operand(inst, inst.src[0]));
      if (flags & kImm32) {
        add(immediate(static_cast<int32_t>(inst.raw[1])));
      }
      if (!imm_first) add(imm);
      return s;
    }
    case Format::SMEM: {
      const SmemRow* row = find_smem(inst.raw[0] >> 18 & 0xff);
      if (inst.src[1].present()) {
        add(operand(inst, inst.src[1]));
      } else if (inst.dst[0].present()) {
        add(operand(inst, inst.dst[0]));
      } else if (row->kind == SmemKind::probe) {
        add(immediate(inst.simm16));
      }
      if (row->kind == SmemKind::none || row->kind == SmemKind::time) return s;
      add(operand(inst, inst.src[0]));
      add(smem_offset(inst));
      return inst.sc0 ? s + " glc" : s;
    }
    default:
      if (inst.dst[0].present()) add(operand(inst, inst.dst[0]));
      if (inst.src[0].present()) add(operand(inst, inst.src[0]));
      if (inst.op == Op::s_set_gpr_idx_on) {
        add(gpr_index_modes(inst.simm16));
      } else if (inst.src[1].present()) {
        add(operand(inst, inst.src[1]));
      }
      return s;
  }
}

}  // namespace aiterlite::emulator::text
