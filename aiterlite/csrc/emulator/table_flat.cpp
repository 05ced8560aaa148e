// FLAT, GLOBAL and SCRATCH opcodes: dwords returned, dwords of data.
#include <aiterlite/emulator/isa.h>
#include <aiterlite/emulator/table.h>

namespace aiterlite::emulator {
namespace {

using enum Op;

// clang-format off
constexpr FlatRow kFlat[] = {
    {16, kBoth, 1, 0, 0, flat_load_ubyte, global_load_ubyte, scratch_load_ubyte},
    {17, kBoth, 1, 0, 0, flat_load_sbyte, global_load_sbyte, scratch_load_sbyte},
    {18, kBoth, 1, 0, 0, flat_load_ushort, global_load_ushort, scratch_load_ushort},
    {19, kBoth, 1, 0, 0, flat_load_sshort, global_load_sshort, scratch_load_sshort},
    {20, kBoth, 1, 0, 0, flat_load_dword, global_load_dword, scratch_load_dword},
    {21, kBoth, 2, 0, 0, flat_load_dwordx2, global_load_dwordx2, scratch_load_dwordx2},
    {22, kBoth, 3, 0, 0, flat_load_dwordx3, global_load_dwordx3, scratch_load_dwordx3},
    {23, kBoth, 4, 0, 0, flat_load_dwordx4, global_load_dwordx4, scratch_load_dwordx4},
    {24, kBoth, 0, 1, 0, flat_store_byte, global_store_byte, scratch_store_byte},
    {25, kBoth, 0, 1, 0, flat_store_byte_d16_hi, global_store_byte_d16_hi, scratch_store_byte_d16_hi},
    {26, kBoth, 0, 1, 0, flat_store_short, global_store_short, scratch_store_short},
    {27, kBoth, 0, 1, 0, flat_store_short_d16_hi, global_store_short_d16_hi, scratch_store_short_d16_hi},
    {28, kBoth, 0, 1, 0, flat_store_dword, global_store_dword, scratch_store_dword},
    {29, kBoth, 0, 2, 0, flat_store_dwordx2, global_store_dwordx2, scratch_store_dwordx2},
    {30, kBoth, 0, 3, 0, flat_store_dwordx3, global_store_dwordx3, scratch_store_dwordx3},
    {31, kBoth, 0, 4, 0, flat_store_dwordx4, global_store_dwordx4, scratch_store_dwordx4},
    {32, kBoth, 1, 0, 0, flat_load_ubyte_d16, global_load_ubyte_d16, scratch_load_ubyte_d16},
    {33, kBoth, 1, 0, 0, flat_load_ubyte_d16_hi, global_load_ubyte_d16_hi, scratch_load_ubyte_d16_hi},
    {34, kBoth, 1, 0, 0, flat_load_sbyte_d16, global_load_sbyte_d16, scratch_load_sbyte_d16},
    {35, kBoth, 1, 0, 0, flat_load_sbyte_d16_hi, global_load_sbyte_d16_hi, scratch_load_sbyte_d16_hi},
    {36, kBoth, 1, 0, 0, flat_load_short_d16, global_load_short_d16, scratch_load_short_d16},
    {37, kBoth, 1, 0, 0, flat_load_short_d16_hi, global_load_short_d16_hi, scratch_load_short_d16_hi},
    {38, kBoth, 0, 0, kToLds, kNoOp, global_load_lds_ubyte, scratch_load_lds_ubyte},
    {39, kBoth, 0, 0, kToLds, kNoOp, global_load_lds_sbyte, scratch_load_lds_sbyte},
    {40, kBoth, 0, 0, kToLds, kNoOp, global_load_lds_ushort, scratch_load_lds_ushort},
    {41, kBoth, 0, 0, kToLds, kNoOp, global_load_lds_sshort, scratch_load_lds_sshort},
    {42, kBoth, 0, 0, kToLds, kNoOp, global_load_lds_dword, scratch_load_lds_dword},
    {64, kBoth, 1, 1, kAtomic, flat_atomic_swap, global_atomic_swap, kNoOp},
    {65, kBoth, 1, 2, kAtomic, flat_atomic_cmpswap, global_atomic_cmpswap, kNoOp},
    {66, kBoth, 1, 1, kAtomic, flat_atomic_add, global_atomic_add, kNoOp},
    {67, kBoth, 1, 1, kAtomic, flat_atomic_sub, global_atomic_sub, kNoOp},
    {68, kBoth, 1, 1, kAtomic, flat_atomic_smin, global_atomic_smin, kNoOp},
    {69, kBoth, 1, 1, kAtomic, flat_atomic_umin, global_atomic_umin, kNoOp},
    {70, kBoth, 1, 1, kAtomic, flat_atomic_smax, global_atomic_smax, kNoOp},
    {71, kBoth, 1, 1, kAtomic, flat_atomic_umax, global_atomic_umax, kNoOp},
    {72, kBoth, 1, 1, kAtomic, flat_atomic_and, global_atomic_and, kNoOp},
    {73, kBoth, 1, 1, kAtomic, flat_atomic_or, global_atomic_or, kNoOp},
    {74, kBoth, 1, 1, kAtomic, flat_atomic_xor, global_atomic_xor, kNoOp},
    {75, kBoth, 1, 1, kAtomic, flat_atomic_inc, global_atomic_inc, kNoOp},
    {76, kBoth, 1, 1, kAtomic, flat_atomic_dec, global_atomic_dec, kNoOp},
    {77, kBoth, 1, 1, kAtomic, flat_atomic_add_f32, global_atomic_add_f32, kNoOp},
    {78, kBoth, 1, 1, kAtomic, flat_atomic_pk_add_f16, global_atomic_pk_add_f16, kNoOp},
    {79, kBoth, 2, 2, kAtomic, flat_atomic_add_f64, global_atomic_add_f64, kNoOp},
    {80, kBoth, 2, 2, kAtomic, flat_atomic_min_f64, global_atomic_min_f64, kNoOp},
    {81, kBoth, 2, 2, kAtomic, flat_atomic_max_f64, global_atomic_max_f64, kNoOp},
    {82, kBoth, 1, 1, kAtomic, flat_atomic_pk_add_bf16, global_atomic_pk_add_bf16, kNoOp},
    {96, kBoth, 2, 2, kAtomic, flat_atomic_swap_x2, global_atomic_swap_x2, kNoOp},
    {97, kBoth, 2, 4, kAtomic, flat_atomic_cmpswap_x2, global_atomic_cmpswap_x2, kNoOp},
    {98, kBoth, 2, 2, kAtomic, flat_atomic_add_x2, global_atomic_add_x2, kNoOp},
    {99, kBoth, 2, 2, kAtomic, flat_atomic_sub_x2, global_atomic_sub_x2, kNoOp},
    {100, kBoth, 2, 2, kAtomic, flat_atomic_smin_x2, global_atomic_smin_x2, kNoOp},
    {101, kBoth, 2, 2, kAtomic, flat_atomic_umin_x2, global_atomic_umin_x2, kNoOp},
    {102, kBoth, 2, 2, kAtomic, flat_atomic_smax_x2, global_atomic_smax_x2, kNoOp},
    {103, kBoth, 2, 2, kAtomic, flat_atomic_umax_x2, global_atomic_umax_x2, kNoOp},
    {104, kBoth, 2, 2, kAtomic, flat_atomic_and_x2, global_atomic_and_x2, kNoOp},
    {105, kBoth, 2, 2, kAtomic, flat_atomic_or_x2, global_atomic_or_x2, kNoOp},
    {106, kBoth, 2, 2, kAtomic, flat_atomic_xor_x2, global_atomic_xor_x2, kNoOp},
    {107, kBoth, 2, 2, kAtomic, flat_atomic_inc_x2, global_atomic_inc_x2, kNoOp},
    {108, kBoth, 2, 2, kAtomic, flat_atomic_dec_x2, global_atomic_dec_x2, kNoOp},
    {125, kGfx950, 0, 0, kToLds, kNoOp, global_load_lds_dwordx4, kNoOp},
    {126, kGfx950, 0, 0, kToLds, kNoOp, global_load_lds_dwordx3, kNoOp},
};
// clang-format on

constexpr auto kFlatIndex = index_by_opcode<128>(kFlat);

}  // namespace

const FlatRow* find_flat(uint32_t opcode) { return lookup(kFlat, kFlatIndex, opcode); }

}  // namespace aiterlite::emulator
