// VOP2 opcodes: two sources. Their VOP3 twins are at 256 + opcode.
#include <aiterlite/emulator/isa.h>
#include <aiterlite/emulator/table.h>

namespace aiterlite::emulator {
namespace {

using enum Op;
using namespace slot;

// clang-format off
constexpr VopRow kVop2[] = {
    {0, v_cndmask_b32, kBoth, B32, {B32, B32}, kMod01, kCarryIn},
    {1, v_add_f32, kBoth, F32, {F32, F32}, kFloat2},
    {2, v_sub_f32, kBoth, F32, {F32, F32}, kFloat2},
    {3, v_subrev_f32, kBoth, F32, {F32, F32}, kFloat2},
    {4, v_fmac_f64, kBoth, F64, {F64, F64}, kFloat2, kNoSdwa | kDpDpp},
    {5, v_mul_f32, kBoth, F32, {F32, F32}, kFloat2},
    {6, v_mul_i32_i24, kBoth, I32, {I32, I32}, kClamp},
    {7, v_mul_hi_i32_i24, kBoth, I32, {I32, I32}},
    {8, v_mul_u32_u24, kBoth, I32, {I32, I32}, kClamp},
    {9, v_mul_hi_u32_u24, kBoth, I32, {I32, I32}},
    {10, v_min_f32, kBoth, F32, {F32, F32}, kFloat2},
    {11, v_max_f32, kBoth, F32, {F32, F32}, kFloat2},
    {12, v_min_i32, kBoth, I32, {I32, I32}},
    {13, v_max_i32, kBoth, I32, {I32, I32}},
    {14, v_min_u32, kBoth, I32, {I32, I32}},
    {15, v_max_u32, kBoth, I32, {I32, I32}},
    {16, v_lshrrev_b32, kBoth, B32, {B32, B32}},
    {17, v_ashrrev_i32, kBoth, I32, {I32, I32}},
    {18, v_lshlrev_b32, kBoth, B32, {B32, B32}},
    {19, v_and_b32, kBoth, B32, {B32, B32}},
    {20, v_or_b32, kBoth, B32, {B32, B32}},
    {21, v_xor_b32, kBoth, B32, {B32, B32}},
    {22, v_dot2c_f32_bf16, kGfx950, F32, {V2BF16, V2BF16}, kFloat2, kNoSdwa},
    {23, v_fmamk_f32, kBoth, F32, {F32, F32}, 0, kE32Only | kMadMk},
    {24, v_fmaak_f32, kBoth, F32, {F32, F32}, 0, kE32Only | kMadAk},
    {25, v_add_co_u32, kBoth, I32, {I32, I32}, kClamp, kCarryOut},
    {26, v_sub_co_u32, kBoth, I32, {I32, I32}, kClamp, kCarryOut},
    {27, v_subrev_co_u32, kBoth, I32, {I32, I32}, kClamp, kCarryOut},
    {28, v_addc_co_u32, kBoth, I32, {I32, I32}, kClamp, kCarryOut | kCarryIn},
    {29, v_subb_co_u32, kBoth, I32, {I32, I32}, kClamp, kCarryOut | kCarryIn},
    {30, v_subbrev_co_u32, kBoth, I32, {I32, I32}, kClamp, kCarryOut | kCarryIn},
    {31, v_add_f16, kBoth, F16, {F16, F16}, kFloat2},
    {32, v_sub_f16, kBoth, F16, {F16, F16}, kFloat2},
    {33, v_subrev_f16, kBoth, F16, {F16, F16}, kFloat2},
    {34, v_mul_f16, kBoth, F16, {F16, F16}, kFloat2},
    {35, v_mac_f16, kBoth, F16, {F16, F16}, kFloat2, kNoSdwa},
    {36, v_madmk_f16, kBoth, F16, {F16, F16}, 0, kE32Only | kMadMk},
    {37, v_madak_f16, kBoth, F16, {F16, F16}, 0, kE32Only | kMadAk},
    {38, v_add_u16, kBoth, I16, {I16, I16}, kClamp},
    {39, v_sub_u16, kBoth, I16, {I16, I16}, kClamp},
    {40, v_subrev_u16, kBoth, I16, {I16, I16}, kClamp},
    {41, v_mul_lo_u16, kBoth, I16, {I16, I16}},
    {42, v_lshlrev_b16, kBoth, B16, {B16, B16}},
    {43, v_lshrrev_b16, kBoth, B16, {B16, B16}},
    {44, v_ashrrev_i16, kBoth, I16, {I16, I16}},
    {45, v_max_f16, kBoth, F16, {F16, F16}, kFloat2},
    {46, v_min_f16, kBoth, F16, {F16, F16}, kFloat2},
    {47, v_max_u16, kBoth, I16, {I16, I16}},
    {48, v_max_i16, kBoth, I16, {I16, I16}},
    {49, v_min_u16, kBoth, I16, {I16, I16}},
    {50, v_min_i16, kBoth, I16, {I16, I16}},
    {51, v_ldexp_f16, kBoth, F16, {F16, F16}, kFloat1},
    {52, v_add_u32, kBoth, I32, {I32, I32}, kClamp},
    {53, v_sub_u32, kBoth, I32, {I32, I32}, kClamp},
    {54, v_subrev_u32, kBoth, I32, {I32, I32}, kClamp},
    {55, v_dot2c_f32_f16, kBoth, F32, {V2F16, V2F16}, kFloat2, kNoSdwa},
    {56, v_dot2c_i32_i16, kBoth, I32, {V2I16, V2I16}, kClamp, kNoSdwa},
    {57, v_dot4c_i32_i8, kBoth, I32, {B32, B32}, kClamp, kNoSdwa},
    {58, v_dot8c_i32_i4, kBoth, I32, {B32, B32}, kClamp, kNoSdwa},
    {59, v_fmac_f32, kBoth, F32, {F32, F32}, kFloat2, kNoSdwa},
    {60, v_pk_fmac_f16, kBoth, V2F16, {V2F16, V2F16}, kFloat2, kSdwaNoMods},
    {61, v_xnor_b32, kBoth, B32, {B32, B32}},
};
// clang-format on

constexpr auto kIndex = index_by_opcode<64>(kVop2);

}  // namespace

const VopRow* find_vop2(uint32_t opcode) { return lookup(kVop2, kIndex, opcode); }

}  // namespace aiterlite::emulator
