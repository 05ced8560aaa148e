// VOP3P opcodes: packed arithmetic and dot products; and those of its space that use the matrix cores.
#include <aiterlite/emulator/isa.h>
#include <aiterlite/emulator/table.h>

namespace aiterlite::emulator {
namespace {

using enum Op;
using namespace slot;

// clang-format off
constexpr Vop3pRow kVop3p[] = {
    {0, v_pk_mad_i16, kBoth, V2I16, {V2I16, V2I16, V2I16}},
    {1, v_pk_mul_lo_u16, kBoth, V2I16, {V2I16, V2I16}},
    {2, v_pk_add_i16, kBoth, V2I16, {V2I16, V2I16}},
    {3, v_pk_sub_i16, kBoth, V2I16, {V2I16, V2I16}},
    {4, v_pk_lshlrev_b16, kBoth, V2I16, {V2I16, V2I16}},
    {5, v_pk_lshrrev_b16, kBoth, V2I16, {V2I16, V2I16}},
    {6, v_pk_ashrrev_i16, kBoth, V2I16, {V2I16, V2I16}},
    {7, v_pk_max_i16, kBoth, V2I16, {V2I16, V2I16}},
    {8, v_pk_min_i16, kBoth, V2I16, {V2I16, V2I16}},
    {9, v_pk_mad_u16, kBoth, V2I16, {V2I16, V2I16, V2I16}},
    {10, v_pk_add_u16, kBoth, V2I16, {V2I16, V2I16}},
    {11, v_pk_sub_u16, kBoth, V2I16, {V2I16, V2I16}},
    {12, v_pk_max_u16, kBoth, V2I16, {V2I16, V2I16}},
    {13, v_pk_min_u16, kBoth, V2I16, {V2I16, V2I16}},
    {14, v_pk_fma_f16, kBoth, V2F16, {V2F16, V2F16, V2F16}},
    {15, v_pk_add_f16, kBoth, V2F16, {V2F16, V2F16}},
    {16, v_pk_mul_f16, kBoth, V2F16, {V2F16, V2F16}},
    {17, v_pk_min_f16, kBoth, V2F16, {V2F16, V2F16}},
    {18, v_pk_max_f16, kBoth, V2F16, {V2F16, V2F16}},
    {26, v_dot2_f32_bf16, kGfx950, F32, {V2BF16, V2BF16, F32}, kNoOpSel},
    {27, v_pk_minimum3_f16, kGfx950, V2F16, {V2F16, V2F16, V2F16}},
    {28, v_pk_maximum3_f16, kGfx950, V2F16, {V2F16, V2F16, V2F16}},
    {32, v_fma_mix_f32, kBoth, F32, {F32, F32, F32}, kMix},
    {33, v_fma_mixlo_f16, kBoth, F16, {F32, F32, F32}, kMix},
    {34, v_fma_mixhi_f16, kBoth, F16, {F32, F32, F32}, kMix},
    {35, v_dot2_f32_f16, kBoth, F32, {V2F16, V2F16, F32}, kNoOpSel},
    {38, v_dot2_i32_i16, kBoth, I32, {V2I16, V2I16, I32}, kNoOpSel},
    {39, v_dot2_u32_u16, kBoth, I32, {V2I16, V2I16, I32}, kNoOpSel},
    {40, v_dot4_i32_i8, kBoth, I32, {B32, B32, I32}, kNoOpSel},
    {41, v_dot4_u32_u8, kBoth, I32, {B32, B32, I32}, kNoOpSel},
    {42, v_dot8_i32_i4, kBoth, I32, {B32, B32, I32}, kNoOpSel},
    {43, v_dot8_u32_u4, kBoth, I32, {B32, B32, I32}, kNoOpSel},
    {48, v_pk_fma_f32, kBoth, V2F32, {V2F32, V2F32, V2F32}},
    {49, v_pk_mul_f32, kBoth, V2F32, {V2F32, V2F32}},
    {50, v_pk_add_f32, kBoth, V2F32, {V2F32, V2F32}},
    {51, v_pk_mov_b32, kBoth, B64, {V2F32, V2F32}},
};
// Dwords of D (and C), A, B.
constexpr MaiRow kMai[] = {
    {45, v_mfma_f32_16x16x128_f8f6f4, kGfx950, DataType::f32, 4, 8, 8, kF8f6f4},
    {46, v_mfma_f32_32x32x64_f8f6f4, kGfx950, DataType::f32, 16, 8, 8, kF8f6f4},
    {53, v_mfma_f32_16x16x32_bf16, kGfx950, DataType::f32, 4, 4, 4},
    {54, v_mfma_i32_16x16x64_i8, kGfx950, DataType::i32, 4, 4, 4},
    {55, v_mfma_f32_32x32x16_bf16, kGfx950, DataType::f32, 16, 4, 4},
    {56, v_mfma_i32_32x32x32_i8, kGfx950, DataType::i32, 16, 4, 4},
    {57, v_smfmac_f32_16x16x64_bf16, kGfx950, DataType::f32, 4, 4, 8, kSparse},
    {58, v_smfmac_i32_16x16x128_i8, kGfx950, DataType::i32, 4, 4, 8, kSparse},
    {59, v_smfmac_f32_16x16x128_bf8_bf8, kGfx950, DataType::f32, 4, 4, 8, kSparse},
    {60, v_smfmac_f32_16x16x128_bf8_fp8, kGfx950, DataType::f32, 4, 4, 8, kSparse},
    {61, v_smfmac_f32_16x16x128_fp8_bf8, kGfx950, DataType::f32, 4, 4, 8, kSparse},
    {62, v_mfma_f32_16x16x8_xf32, kGfx942, DataType::f32, 4, 2, 2},
    {63, v_mfma_f32_32x32x4_xf32, kGfx942, DataType::f32, 16, 2, 2},
    {64, v_mfma_f32_32x32x1_2b_f32, kBoth, DataType::f32, 32, 1, 1},
    {65, v_mfma_f32_16x16x1_4b_f32, kBoth, DataType::f32, 16, 1, 1},
    {66, v_mfma_f32_4x4x1_16b_f32, kBoth, DataType::f32, 4, 1, 1},
    {67, v_smfmac_f32_16x16x128_fp8_fp8, kGfx950, DataType::f32, 4, 4, 8, kSparse},
    {68, v_mfma_f32_32x32x2_f32, kBoth, DataType::f32, 16, 1, 1},
    {69, v_mfma_f32_16x16x4_f32, kBoth, DataType::f32, 4, 1, 1},
    {70, v_smfmac_f32_32x32x32_bf16, kGfx950, DataType::f32, 16, 4, 8, kSparse},
    {71, v_smfmac_i32_32x32x64_i8, kGfx950, DataType::i32, 16, 4, 8, kSparse},
    {72, v_mfma_f32_32x32x4_2b_f16, kBoth, DataType::f32, 32, 2, 2},
    {73, v_mfma_f32_16x16x4_4b_f16, kBoth, DataType::f32, 16, 2, 2},
    {74, v_mfma_f32_4x4x4_16b_f16, kBoth, DataType::f32, 4, 2, 2},
    {75, v_smfmac_f32_32x32x64_bf8_bf8, kGfx950, DataType::f32, 16, 4, 8, kSparse},
    {76, v_mfma_f32_32x32x8_f16, kBoth, DataType::f32, 16, 2, 2},
    {77, v_mfma_f32_16x16x16_f16, kBoth, DataType::f32, 4, 2, 2},
    {78, v_smfmac_f32_32x32x64_bf8_fp8, kGfx950, DataType::f32, 16, 4, 8, kSparse},
    {79, v_smfmac_f32_32x32x64_fp8_bf8, kGfx950, DataType::f32, 16, 4, 8, kSparse},
    {80, v_mfma_i32_32x32x4_2b_i8, kBoth, DataType::i32, 32, 1, 1},
    {81, v_mfma_i32_16x16x4_4b_i8, kBoth, DataType::i32, 16, 1, 1},
    {82, v_mfma_i32_4x4x4_16b_i8, kBoth, DataType::i32, 4, 1, 1},
    {83, v_smfmac_f32_32x32x64_fp8_fp8, kGfx950, DataType::f32, 16, 4, 8, kSparse},
    {84, v_mfma_f32_16x16x32_f16, kGfx950, DataType::f32, 4, 4, 4},
    {85, v_mfma_f32_32x32x16_f16, kGfx950, DataType::f32, 16, 4, 4},
    {86, v_mfma_i32_32x32x16_i8, kBoth, DataType::i32, 16, 2, 2},
    {87, v_mfma_i32_16x16x32_i8, kBoth, DataType::i32, 4, 2, 2},
    {88, v_accvgpr_read_b32, kBoth, DataType::b32, 1, 1, 0, kAccRead},
    {89, v_accvgpr_write_b32, kBoth, DataType::b32, 1, 1, 0, kAccWrite},
    {90, v_smfmac_f32_16x16x64_f16, kGfx950, DataType::f32, 4, 4, 8, kSparse},
    {91, v_smfmac_f32_32x32x32_f16, kGfx950, DataType::f32, 16, 4, 8, kSparse},
    {93, v_mfma_f32_32x32x4_2b_bf16, kBoth, DataType::f32, 32, 2, 2},
    {94, v_mfma_f32_16x16x4_4b_bf16, kBoth, DataType::f32, 16, 2, 2},
    {95, v_mfma_f32_4x4x4_16b_bf16, kBoth, DataType::f32, 4, 2, 2},
    {96, v_mfma_f32_32x32x8_bf16, kBoth, DataType::f32, 16, 2, 2},
    {97, v_mfma_f32_16x16x16_bf16, kBoth, DataType::f32, 4, 2, 2},
    {98, v_smfmac_f32_16x16x32_f16, kBoth, DataType::f32, 4, 2, 4, kSparse},
    {100, v_smfmac_f32_32x32x16_f16, kBoth, DataType::f32, 16, 2, 4, kSparse},
    {102, v_smfmac_f32_16x16x32_bf16, kBoth, DataType::f32, 4, 2, 4, kSparse},
    {104, v_smfmac_f32_32x32x16_bf16, kBoth, DataType::f32, 16, 2, 4, kSparse},
    {106, v_smfmac_i32_16x16x64_i8, kBoth, DataType::i32, 4, 2, 4, kSparse},
    {108, v_smfmac_i32_32x32x32_i8, kBoth, DataType::i32, 16, 2, 4, kSparse},
    {110, v_mfma_f64_16x16x4_f64, kBoth, DataType::f64, 8, 2, 2, kF64},
    {111, v_mfma_f64_4x4x4_4b_f64, kBoth, DataType::f64, 2, 2, 2, kF64},
    {112, v_mfma_f32_16x16x32_bf8_bf8, kBoth, DataType::f32, 4, 2, 2},
    {113, v_mfma_f32_16x16x32_bf8_fp8, kBoth, DataType::f32, 4, 2, 2},
    {114, v_mfma_f32_16x16x32_fp8_bf8, kBoth, DataType::f32, 4, 2, 2},
    {115, v_mfma_f32_16x16x32_fp8_fp8, kBoth, DataType::f32, 4, 2, 2},
    {116, v_mfma_f32_32x32x16_bf8_bf8, kBoth, DataType::f32, 16, 2, 2},
    {117, v_mfma_f32_32x32x16_bf8_fp8, kBoth, DataType::f32, 16, 2, 2},
    {118, v_mfma_f32_32x32x16_fp8_bf8, kBoth, DataType::f32, 16, 2, 2},
    {119, v_mfma_f32_32x32x16_fp8_fp8, kBoth, DataType::f32, 16, 2, 2},
    {120, v_smfmac_f32_16x16x64_bf8_bf8, kBoth, DataType::f32, 4, 2, 4, kSparse},
    {121, v_smfmac_f32_16x16x64_bf8_fp8, kBoth, DataType::f32, 4, 2, 4, kSparse},
    {122, v_smfmac_f32_16x16x64_fp8_bf8, kBoth, DataType::f32, 4, 2, 4, kSparse},
    {123, v_smfmac_f32_16x16x64_fp8_fp8, kBoth, DataType::f32, 4, 2, 4, kSparse},
    {124, v_smfmac_f32_32x32x32_bf8_bf8, kBoth, DataType::f32, 16, 2, 4, kSparse},
    {125, v_smfmac_f32_32x32x32_bf8_fp8, kBoth, DataType::f32, 16, 2, 4, kSparse},
    {126, v_smfmac_f32_32x32x32_fp8_bf8, kBoth, DataType::f32, 16, 2, 4, kSparse},
    {127, v_smfmac_f32_32x32x32_fp8_fp8, kBoth, DataType::f32, 16, 2, 4, kSparse},
};
// clang-format on

constexpr auto kVop3pIndex = index_by_opcode<128>(kVop3p);
constexpr auto kMaiIndex = index_by_opcode<128>(kMai);

}  // namespace

const Vop3pRow* find_vop3p(uint32_t opcode) { return lookup(kVop3p, kVop3pIndex, opcode); }
const MaiRow* find_mai(uint32_t opcode) { return lookup(kMai, kMaiIndex, opcode); }

}  // namespace aiterlite::emulator
