// Names of instructions, formats and targets.
#include <aiterlite/emulator/isa.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <numeric>

namespace aiterlite::emulator {
namespace {

constexpr const char* kOpNames[] = {
#define AITERLITE_OP(name) #name,
    AITERLITE_ALL_OPS(AITERLITE_OP)
#undef AITERLITE_OP
};

constexpr OpGroup kOpGroups[] = {
#define AITERLITE_OP(name) OpGroup::SALU,
    AITERLITE_SALU_OPS(AITERLITE_OP)
#undef AITERLITE_OP
#define AITERLITE_OP(name) OpGroup::SMEM,
        AITERLITE_SMEM_OPS(AITERLITE_OP)
#undef AITERLITE_OP
#define AITERLITE_OP(name) OpGroup::VALU,
            AITERLITE_VALU_OPS(AITERLITE_OP)
#undef AITERLITE_OP
#define AITERLITE_OP(name) OpGroup::VOPC,
                AITERLITE_VOPC_OPS(AITERLITE_OP)
#undef AITERLITE_OP
#define AITERLITE_OP(name) OpGroup::VOP3P,
                    AITERLITE_VOP3P_OPS(AITERLITE_OP)
#undef AITERLITE_OP
#define AITERLITE_OP(name) OpGroup::MFMA,
                        AITERLITE_MFMA_OPS(AITERLITE_OP)
#undef AITERLITE_OP
#define AITERLITE_OP(name) OpGroup::DS,
                            AITERLITE_DS_OPS(AITERLITE_OP)
#undef AITERLITE_OP
#define AITERLITE_OP(name) OpGroup::FLAT,
                                AITERLITE_FLAT_OPS(AITERLITE_OP)
#undef AITERLITE_OP
#define AITERLITE_OP(name) OpGroup::GLOBAL,
                                    AITERLITE_GLOBAL_OPS(AITERLITE_OP)
#undef AITERLITE_OP
#define AITERLITE_OP(name) OpGroup::SCRATCH,
                                        AITERLITE_SCRATCH_OPS(AITERLITE_OP)
#undef AITERLITE_OP
#define AITERLITE_OP(name) OpGroup::MUBUF,
                                            AITERLITE_MUBUF_OPS(AITERLITE_OP)
#undef AITERLITE_OP
#define AITERLITE_OP(name) OpGroup::MTBUF,
                                                AITERLITE_MTBUF_OPS(AITERLITE_OP)
#undef AITERLITE_OP
};
static_assert(std::size(kOpGroups) == kNumOps);

constexpr const char* kFormatNames[] = {"unknown", "SOP1", "SOP2",   "SOPC",    "SOPK",  "SOPP", "SMEM",
                                        "VOP1",    "VOP2", "VOPC",   "VOP3",    "VOP3P", "MAI",  "MAIX",
                                        "DS",      "FLAT", "GLOBAL", "SCRATCH", "MUBUF", "MTBUF"};

// Every instruction with a 32-bit vector encoding has a VOP3 twin, so that its name carries a suffix, but these.
bool one_encoding(Op op) {
  switch (op) {
    case Op::v_fmamk_f32:
    case Op::v_fmaak_f32:
    case Op::v_madmk_f16:
    case Op::v_madak_f16:
    case Op::v_readfirstlane_b32:
    case Op::v_swap_b32:
    case Op::v_accvgpr_mov_b32:
    case Op::v_nop:
    case Op::v_clrexcp:
      return true;
    default:
      return false;
  }
}

// No lambda: one is a constant expression where it can be, and the compiler would sort, for seconds.
std::array<uint16_t, kNumOps> sorted_ops() {
  std::array<uint16_t, kNumOps> order;
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [](uint16_t a, uint16_t b) { return std::string_view(kOpNames[a]) < kOpNames[b]; });
  return order;
}

}  // namespace

const char* name(Op op) { return kOpNames[static_cast<size_t>(op)]; }
const char* name(Format format) { return kFormatNames[static_cast<size_t>(format)]; }
const char* name(Arch arch) { return arch == Arch::gfx942 ? "gfx942" : "gfx950"; }
OpGroup group(Op op) { return kOpGroups[static_cast<size_t>(op)]; }

std::string mnemonic(const Inst& inst) {
  std::string text = name(inst.op);
  if (inst.sdwa.present) return text + "_sdwa";
  if (inst.dpp.present) return text + "_dpp";
  if (one_encoding(inst.op)) return text;
  switch (inst.format) {
    case Format::VOP1:
    case Format::VOP2:
    case Format::VOPC:
      return text + "_e32";
    case Format::VOP3:
      return (inst.raw[0] >> 16 & 0x3ff) < kVop3Only ? text + "_e64" : text;
    default:
      return text;
  }
}

std::string form(const Inst& inst) {
  std::string text = name(inst.format);
  if (inst.sdwa.present) text += "_SDWA";
  if (inst.dpp.present) text += "_DPP";
  if (inst.lds) text += "_LDS";
  return text;
}

bool find_op(std::string_view wanted, Op* op) {
  static const auto sorted = sorted_ops();
  const auto at = std::lower_bound(sorted.begin(), sorted.end(), wanted,
                                   [](uint16_t a, std::string_view b) { return std::string_view(kOpNames[a]) < b; });
  if (at == sorted.end() || kOpNames[*at] != wanted) return false;
  *op = static_cast<Op>(*at);
  return true;
}

}  // namespace aiterlite::emulator
