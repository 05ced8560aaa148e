// VOP1 opcodes: one source. Their VOP3 twins are at 320 + opcode.
#include <aiterlite/emulator/isa.h>
#include <aiterlite/emulator/table.h>

namespace aiterlite::emulator {
namespace {

using enum Op;
using namespace slot;

// clang-format off
constexpr VopRow kVop1[] = {
    {0, v_nop, kBoth, None, {}, 0, kNoDpp | kNoSdwa},
    {1, v_mov_b32, kBoth, B32, {B32}},
    {2, v_readfirstlane_b32, kBoth, SDst, {VOnly}, 0, kE32Only},
    {3, v_cvt_i32_f64, kBoth, I32, {F64}, kFloat1, kNoSdwa | kDpDpp},
    {4, v_cvt_f64_i32, kBoth, F64, {I32}, kClamp | kOmod, kNoSdwa | kDpDpp},
    {5, v_cvt_f32_i32, kBoth, F32, {I32}, kClamp | kOmod},
    {6, v_cvt_f32_u32, kBoth, F32, {I32}, kClamp | kOmod},
    {7, v_cvt_u32_f32, kBoth, I32, {F32}, kFloat1, kSdwaNoOmod},
    {8, v_cvt_i32_f32, kBoth, I32, {F32}, kFloat1, kSdwaNoOmod},
    {10, v_cvt_f16_f32, kBoth, F16, {F32}, kFloat1},
    {11, v_cvt_f32_f16, kBoth, F32, {F16}, kFloat1},
    {12, v_cvt_rpi_i32_f32, kBoth, I32, {F32}, kMod0 | kClamp},
    {13, v_cvt_flr_i32_f32, kBoth, I32, {F32}, kMod0 | kClamp},
    {14, v_cvt_off_f32_i4, kBoth, F32, {B32}, kClamp | kOmod},
    {15, v_cvt_f32_f64, kBoth, F32, {F64}, kFloat1, kNoSdwa | kDpDpp},
    {16, v_cvt_f64_f32, kBoth, F64, {F32}, kFloat1, kNoSdwa | kDpDpp},
    {17, v_cvt_f32_ubyte0, kBoth, F32, {B32}, kClamp | kOmod},
    {18, v_cvt_f32_ubyte1, kBoth, F32, {B32}, kClamp | kOmod},
    {19, v_cvt_f32_ubyte2, kBoth, F32, {B32}, kClamp | kOmod},
    {20, v_cvt_f32_ubyte3, kBoth, F32, {B32}, kClamp | kOmod},
    {21, v_cvt_u32_f64, kBoth, I32, {F64}, kFloat1, kNoSdwa | kDpDpp},
    {22, v_cvt_f64_u32, kBoth, F64, {I32}, kClamp | kOmod, kNoSdwa | kDpDpp},
    {23, v_trunc_f64, kBoth, F64, {F64}, kFloat1, kNoSdwa | kDpDpp},
    {24, v_ceil_f64, kBoth, F64, {F64}, kFloat1, kNoSdwa | kDpDpp},
    {25, v_rndne_f64, kBoth, F64, {F64}, kFloat1, kNoSdwa | kDpDpp},
    {26, v_floor_f64, kBoth, F64, {F64}, kFloat1, kNoSdwa | kDpDpp},
    {27, v_fract_f32, kBoth, F32, {F32}, kFloat1},
    {28, v_trunc_f32, kBoth, F32, {F32}, kFloat1},
    {29, v_ceil_f32, kBoth, F32, {F32}, kFloat1},
    {30, v_rndne_f32, kBoth, F32, {F32}, kFloat1},
    {31, v_floor_f32, kBoth, F32, {F32}, kFloat1},
    {32, v_exp_f32, kBoth, F32, {F32}, kFloat1},
    {33, v_log_f32, kBoth, F32, {F32}, kFloat1},
    {34, v_rcp_f32, kBoth, F32, {F32}, kFloat1},
    {35, v_rcp_iflag_f32, kBoth, F32, {F32}, kFloat1},
    {36, v_rsq_f32, kBoth, F32, {F32}, kFloat1},
    {37, v_rcp_f64, kBoth, F64, {F64}, kFloat1, kNoSdwa | kDpDpp},
    {38, v_rsq_f64, kBoth, F64, {F64}, kFloat1, kNoSdwa | kDpDpp},
    {39, v_sqrt_f32, kBoth, F32, {F32}, kFloat1},
    {40, v_sqrt_f64, kBoth, F64, {F64}, kFloat1, kNoSdwa | kDpDpp},
    {41, v_sin_f32, kBoth, F32, {F32}, kFloat1},
    {42, v_cos_f32, kBoth, F32, {F32}, kFloat1},
    {43, v_not_b32, kBoth, B32, {B32}},
    {44, v_bfrev_b32, kBoth, B32, {B32}},
    {45, v_ffbh_u32, kBoth, I32, {I32}},
    {46, v_ffbl_b32, kBoth, B32, {B32}},
    {47, v_ffbh_i32, kBoth, I32, {I32}},
    {48, v_frexp_exp_i32_f64, kBoth, I32, {F64}, kFloat1, kNoSdwa | kDpDpp},
    {49, v_frexp_mant_f64, kBoth, F64, {F64}, kFloat1, kNoSdwa | kDpDpp},
    {50, v_fract_f64, kBoth, F64, {F64}, kFloat1, kNoSdwa | kDpDpp},
    {51, v_frexp_exp_i32_f32, kBoth, I32, {F32}, kMod0 | kClamp},
    {52, v_frexp_mant_f32, kBoth, F32, {F32}, kFloat1},
    {53, v_clrexcp, kBoth, None, {}, 0, kNoDpp | kNoSdwa},
    {55, v_screen_partition_4se_b32, kBoth, B32, {B32}},
    {56, v_mov_b64, kBoth, B64, {B64}, 0, kNoSdwa | kDpDpp},
    {57, v_cvt_f16_u16, kBoth, F16, {I16}, kClamp | kOmod},
    {58, v_cvt_f16_i16, kBoth, F16, {I16}, kClamp | kOmod},
    {59, v_cvt_u16_f16, kBoth, I16, {F16}, kFloat1, kSdwaNoOmod},
    {60, v_cvt_i16_f16, kBoth, I16, {F16}, kFloat1, kSdwaNoOmod},
    {61, v_rcp_f16, kBoth, F16, {F16}, kFloat1},
    {62, v_sqrt_f16, kBoth, F16, {F16}, kFloat1},
    {63, v_rsq_f16, kBoth, F16, {F16}, kFloat1},
    {64, v_log_f16, kBoth, F16, {F16}, kFloat1},
    {65, v_exp_f16, kBoth, F16, {F16}, kFloat1},
    {66, v_frexp_mant_f16, kBoth, F16, {F16}, kFloat1},
    {67, v_frexp_exp_i16_f16, kBoth, I16, {F16}, kFloat1, kSdwaNoOmod},
    {68, v_floor_f16, kBoth, F16, {F16}, kFloat1},
    {69, v_ceil_f16, kBoth, F16, {F16}, kFloat1},
    {70, v_trunc_f16, kBoth, F16, {F16}, kFloat1},
    {71, v_rndne_f16, kBoth, F16, {F16}, kFloat1},
    {72, v_fract_f16, kBoth, F16, {F16}, kFloat1},
    {73, v_sin_f16, kBoth, F16, {F16}, kFloat1},
    {74, v_cos_f16, kBoth, F16, {F16}, kFloat1},
    {75, v_exp_legacy_f32, kBoth, F32, {F32}, kFloat1},
    {76, v_log_legacy_f32, kBoth, F32, {F32}, kFloat1},
    {77, v_cvt_norm_i16_f16, kBoth, I16, {F16}, kFloat1, kSdwaNoOmod},
    {78, v_cvt_norm_u16_f16, kBoth, I16, {F16}, kFloat1, kSdwaNoOmod},
    {79, v_sat_pk_u8_i16, kBoth, B32, {B32}},
    {81, v_swap_b32, kBoth, B32, {VOnly}, 0, kE32Only},
    {82, v_accvgpr_mov_b32, kBoth, B32, {AOnly}, 0, kE32Only},
    {84, v_cvt_f32_fp8, kBoth, F32, {B32}, kClamp | kOmod, kSdwaSrcOnly},
    {85, v_cvt_f32_bf8, kBoth, F32, {B32}, kClamp | kOmod, kSdwaSrcOnly},
    {86, v_cvt_pk_f32_fp8, kBoth, V2F32, {B32}, kClamp | kOmod, kDpDpp | kSdwaSrcOnly},
    {87, v_cvt_pk_f32_bf8, kBoth, V2F32, {B32}, kClamp | kOmod, kDpDpp | kSdwaSrcOnly},
    {88, v_prng_b32, kGfx950, B32, {B32}},
    {89, v_permlane16_swap_b32, kGfx950, B32, {VOnly}, kSel01, kNoDpp | kNoSdwa | kSelIsDpp},
    {90, v_permlane32_swap_b32, kGfx950, B32, {VOnly}, kSel01, kNoDpp | kNoSdwa | kSelIsDpp},
    {91, v_cvt_f32_bf16, kGfx950, F32, {BF16}, kFloat1},
};
// clang-format on

constexpr auto kIndex = index_by_opcode<256>(kVop1);

}  // namespace

const VopRow* find_vop1(uint32_t opcode) { return lookup(kVop1, kIndex, opcode); }

}  // namespace aiterlite::emulator
