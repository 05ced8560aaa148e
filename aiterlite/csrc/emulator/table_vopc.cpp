// VOPC opcodes: vector compares. Their VOP3 twins have the same number.
#include <aiterlite/emulator/isa.h>
#include <aiterlite/emulator/table.h>

namespace aiterlite::emulator {
namespace {

using enum Op;
using namespace slot;

// clang-format off
#define AITERLITE_CMP(number, op, slot, mods, flags) {number, op, kBoth, SDst, {slot, slot}, mods, flags}
#define AITERLITE_CMP_FLOAT(first, prefix, suffix, slot, flags) \
  AITERLITE_CMP(first + 0, prefix##_f_##suffix, slot, kMod01 | kClamp, flags), \
  AITERLITE_CMP(first + 1, prefix##_lt_##suffix, slot, kMod01 | kClamp, flags), \
  AITERLITE_CMP(first + 2, prefix##_eq_##suffix, slot, kMod01 | kClamp, flags), \
  AITERLITE_CMP(first + 3, prefix##_le_##suffix, slot, kMod01 | kClamp, flags), \
  AITERLITE_CMP(first + 4, prefix##_gt_##suffix, slot, kMod01 | kClamp, flags), \
  AITERLITE_CMP(first + 5, prefix##_lg_##suffix, slot, kMod01 | kClamp, flags), \
  AITERLITE_CMP(first + 6, prefix##_ge_##suffix, slot, kMod01 | kClamp, flags), \
  AITERLITE_CMP(first + 7, prefix##_o_##suffix, slot, kMod01 | kClamp, flags), \
  AITERLITE_CMP(first + 8, prefix##_u_##suffix, slot, kMod01 | kClamp, flags), \
  AITERLITE_CMP(first + 9, prefix##_nge_##suffix, slot, kMod01 | kClamp, flags), \
  AITERLITE_CMP(first + 10, prefix##_nlg_##suffix, slot, kMod01 | kClamp, flags), \
  AITERLITE_CMP(first + 11, prefix##_ngt_##suffix, slot, kMod01 | kClamp, flags), \
  AITERLITE_CMP(first + 12, prefix##_nle_##suffix, slot, kMod01 | kClamp, flags), \
  AITERLITE_CMP(first + 13, prefix##_neq_##suffix, slot, kMod01 | kClamp, flags), \
  AITERLITE_CMP(first + 14, prefix##_nlt_##suffix, slot, kMod01 | kClamp, flags), \
  AITERLITE_CMP(first + 15, prefix##_tru_##suffix, slot, kMod01 | kClamp, flags)
#define AITERLITE_CMP_INT(first, prefix, suffix, slot, flags) \
  AITERLITE_CMP(first + 0, prefix##_f_##suffix, slot, 0, flags), \
  AITERLITE_CMP(first + 1, prefix##_lt_##suffix, slot, 0, flags), \
  AITERLITE_CMP(first + 2, prefix##_eq_##suffix, slot, 0, flags), \
  AITERLITE_CMP(first + 3, prefix##_le_##suffix, slot, 0, flags), \
  AITERLITE_CMP(first + 4, prefix##_gt_##suffix, slot, 0, flags), \
  AITERLITE_CMP(first + 5, prefix##_ne_##suffix, slot, 0, flags), \
  AITERLITE_CMP(first + 6, prefix##_ge_##suffix, slot, 0, flags), \
  AITERLITE_CMP(first + 7, prefix##_t_##suffix, slot, 0, flags)

constexpr VopRow kVopc[] = {
    {16, v_cmp_class_f32, kBoth, SDst, {F32, B32}, kMod0, kNoDpp},
    {17, v_cmpx_class_f32, kBoth, SDst, {F32, B32}, kMod0, kNoDpp},
    {18, v_cmp_class_f64, kBoth, SDst, {F64, B32}, kMod0, kNoDpp | kNoSdwa},
    {19, v_cmpx_class_f64, kBoth, SDst, {F64, B32}, kMod0, kNoDpp | kNoSdwa},
    {20, v_cmp_class_f16, kBoth, SDst, {F16, B32}, kMod0, kNoDpp},
    {21, v_cmpx_class_f16, kBoth, SDst, {F16, B32}, kMod0, kNoDpp},
    AITERLITE_CMP_FLOAT(32, v_cmp, f16, F16, kNoDpp),
    AITERLITE_CMP_FLOAT(48, v_cmpx, f16, F16, kNoDpp),
    AITERLITE_CMP_FLOAT(64, v_cmp, f32, F32, kNoDpp),
    AITERLITE_CMP_FLOAT(80, v_cmpx, f32, F32, kNoDpp),
    AITERLITE_CMP_FLOAT(96, v_cmp, f64, F64, kNoDpp | kNoSdwa),
    AITERLITE_CMP_FLOAT(112, v_cmpx, f64, F64, kNoDpp | kNoSdwa),
    AITERLITE_CMP_INT(160, v_cmp, i16, I16, kNoDpp),
    AITERLITE_CMP_INT(168, v_cmp, u16, I16, kNoDpp),
    AITERLITE_CMP_INT(176, v_cmpx, i16, I16, kNoDpp),
    AITERLITE_CMP_INT(184, v_cmpx, u16, I16, kNoDpp),
    AITERLITE_CMP_INT(192, v_cmp, i32, I32, kNoDpp),
    AITERLITE_CMP_INT(200, v_cmp, u32, I32, kNoDpp),
    AITERLITE_CMP_INT(208, v_cmpx, i32, I32, kNoDpp),
    AITERLITE_CMP_INT(216, v_cmpx, u32, I32, kNoDpp),
    AITERLITE_CMP_INT(224, v_cmp, i64, I64, kNoDpp | kNoSdwa),
    AITERLITE_CMP_INT(232, v_cmp, u64, B64, kNoDpp | kNoSdwa),
    AITERLITE_CMP_INT(240, v_cmpx, i64, I64, kNoDpp | kNoSdwa),
    AITERLITE_CMP_INT(248, v_cmpx, u64, B64, kNoDpp | kNoSdwa),
};
#undef AITERLITE_CMP
#undef AITERLITE_CMP_FLOAT
#undef AITERLITE_CMP_INT
// clang-format on

constexpr auto kVopcIndex = index_by_opcode<256>(kVopc);

}  // namespace

const VopRow* find_vopc(uint32_t opcode) { return lookup(kVopc, kVopcIndex, opcode); }

}  // namespace aiterlite::emulator
