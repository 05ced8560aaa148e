// Buffer opcodes: MUBUF and MTBUF, with the dwords of their data.
#include <aiterlite/emulator/isa.h>
#include <aiterlite/emulator/table.h>

namespace aiterlite::emulator {
namespace {

using enum Op;

// clang-format off
constexpr MubufRow kMubuf[] = {
    {0, buffer_load_format_x, kBoth, 1, kMubufLds},
    {1, buffer_load_format_xy, kBoth, 2},
    {2, buffer_load_format_xyz, kBoth, 3},
    {3, buffer_load_format_xyzw, kBoth, 4},
    {4, buffer_store_format_x, kBoth, 1, kMubufStore},
    {5, buffer_store_format_xy, kBoth, 2, kMubufStore},
    {6, buffer_store_format_xyz, kBoth, 3, kMubufStore},
    {7, buffer_store_format_xyzw, kBoth, 4, kMubufStore},
    {8, buffer_load_format_d16_x, kBoth, 1},
    {9, buffer_load_format_d16_xy, kBoth, 1},
    {10, buffer_load_format_d16_xyz, kBoth, 2},
    {11, buffer_load_format_d16_xyzw, kBoth, 2},
    {12, buffer_store_format_d16_x, kBoth, 1, kMubufStore},
    {13, buffer_store_format_d16_xy, kBoth, 1, kMubufStore},
    {14, buffer_store_format_d16_xyz, kBoth, 2, kMubufStore},
    {15, buffer_store_format_d16_xyzw, kBoth, 2, kMubufStore},
    {16, buffer_load_ubyte, kBoth, 1, kMubufLds},
    {17, buffer_load_sbyte, kBoth, 1, kMubufLds},
    {18, buffer_load_ushort, kBoth, 1, kMubufLds},
    {19, buffer_load_sshort, kBoth, 1, kMubufLds},
    {20, buffer_load_dword, kBoth, 1, kMubufLds},
    {21, buffer_load_dwordx2, kBoth, 2},
    {22, buffer_load_dwordx3, kBoth, 3, kMubufLds950},
    {23, buffer_load_dwordx4, kBoth, 4, kMubufLds950},
    {24, buffer_store_byte, kBoth, 1, kMubufStore},
    {25, buffer_store_byte_d16_hi, kBoth, 1, kMubufStore},
    {26, buffer_store_short, kBoth, 1, kMubufStore},
    {27, buffer_store_short_d16_hi, kBoth, 1, kMubufStore},
    {28, buffer_store_dword, kBoth, 1, kMubufStore},
    {29, buffer_store_dwordx2, kBoth, 2, kMubufStore},
    {30, buffer_store_dwordx3, kBoth, 3, kMubufStore},
    {31, buffer_store_dwordx4, kBoth, 4, kMubufStore},
    {32, buffer_load_ubyte_d16, kBoth, 1},
    {33, buffer_load_ubyte_d16_hi, kBoth, 1},
    {34, buffer_load_sbyte_d16, kBoth, 1},
    {35, buffer_load_sbyte_d16_hi, kBoth, 1},
    {36, buffer_load_short_d16, kBoth, 1},
    {37, buffer_load_short_d16_hi, kBoth, 1},
    {38, buffer_load_format_d16_hi_x, kBoth, 1},
    {39, buffer_store_format_d16_hi_x, kBoth, 1, kMubufStore},
    {40, buffer_wbl2, kBoth, 0, kMubufNoOperands},
    {41, buffer_inv, kBoth, 0, kMubufNoOperands},
    {64, buffer_atomic_swap, kBoth, 1, kMubufAtomic},
    {65, buffer_atomic_cmpswap, kBoth, 2, kMubufAtomic | kMubufCmpswap},
    {66, buffer_atomic_add, kBoth, 1, kMubufAtomic},
    {67, buffer_atomic_sub, kBoth, 1, kMubufAtomic},
    {68, buffer_atomic_smin, kBoth, 1, kMubufAtomic},
    {69, buffer_atomic_umin, kBoth, 1, kMubufAtomic},
    {70, buffer_atomic_smax, kBoth, 1, kMubufAtomic},
    {71, buffer_atomic_umax, kBoth, 1, kMubufAtomic},
    {72, buffer_atomic_and, kBoth, 1, kMubufAtomic},
    {73, buffer_atomic_or, kBoth, 1, kMubufAtomic},
    {74, buffer_atomic_xor, kBoth, 1, kMubufAtomic},
    {75, buffer_atomic_inc, kBoth, 1, kMubufAtomic},
    {76, buffer_atomic_dec, kBoth, 1, kMubufAtomic},
    {77, buffer_atomic_add_f32, kBoth, 1, kMubufAtomic},
    {78, buffer_atomic_pk_add_f16, kBoth, 1, kMubufAtomic},
    {79, buffer_atomic_add_f64, kBoth, 2, kMubufAtomic},
    {80, buffer_atomic_min_f64, kBoth, 2, kMubufAtomic},
    {81, buffer_atomic_max_f64, kBoth, 2, kMubufAtomic},
    {82, buffer_atomic_pk_add_bf16, kGfx950, 1, kMubufAtomic},
    {96, buffer_atomic_swap_x2, kBoth, 2, kMubufAtomic},
    {97, buffer_atomic_cmpswap_x2, kBoth, 4, kMubufAtomic | kMubufCmpswap},
    {98, buffer_atomic_add_x2, kBoth, 2, kMubufAtomic},
    {99, buffer_atomic_sub_x2, kBoth, 2, kMubufAtomic},
    {100, buffer_atomic_smin_x2, kBoth, 2, kMubufAtomic},
    {101, buffer_atomic_umin_x2, kBoth, 2, kMubufAtomic},
    {102, buffer_atomic_smax_x2, kBoth, 2, kMubufAtomic},
    {103, buffer_atomic_umax_x2, kBoth, 2, kMubufAtomic},
    {104, buffer_atomic_and_x2, kBoth, 2, kMubufAtomic},
    {105, buffer_atomic_or_x2, kBoth, 2, kMubufAtomic},
    {106, buffer_atomic_xor_x2, kBoth, 2, kMubufAtomic},
    {107, buffer_atomic_inc_x2, kBoth, 2, kMubufAtomic},
    {108, buffer_atomic_dec_x2, kBoth, 2, kMubufAtomic},
};

constexpr MubufRow kMtbuf[] = {
    {0, tbuffer_load_format_x, kBoth, 1},
    {1, tbuffer_load_format_xy, kBoth, 2},
    {2, tbuffer_load_format_xyz, kBoth, 3},
    {3, tbuffer_load_format_xyzw, kBoth, 4},
    {4, tbuffer_store_format_x, kBoth, 1, kMubufStore},
    {5, tbuffer_store_format_xy, kBoth, 2, kMubufStore},
    {6, tbuffer_store_format_xyz, kBoth, 3, kMubufStore},
    {7, tbuffer_store_format_xyzw, kBoth, 4, kMubufStore},
    {8, tbuffer_load_format_d16_x, kBoth, 1},
    {9, tbuffer_load_format_d16_xy, kBoth, 1},
    {10, tbuffer_load_format_d16_xyz, kBoth, 2},
    {11, tbuffer_load_format_d16_xyzw, kBoth, 2},
    {12, tbuffer_store_format_d16_x, kBoth, 1, kMubufStore},
    {13, tbuffer_store_format_d16_xy, kBoth, 1, kMubufStore},
    {14, tbuffer_store_format_d16_xyz, kBoth, 2, kMubufStore},
    {15, tbuffer_store_format_d16_xyzw, kBoth, 2, kMubufStore},
};
// clang-format on

constexpr auto kMubufIndex = index_by_opcode<128>(kMubuf);
constexpr auto kMtbufIndex = index_by_opcode<16>(kMtbuf);

}  // namespace

const MubufRow* find_mubuf(uint32_t opcode) { return lookup(kMubuf, kMubufIndex, opcode); }
const MubufRow* find_mtbuf(uint32_t opcode) { return lookup(kMtbuf, kMtbufIndex, opcode); }

}  // namespace aiterlite::emulator
