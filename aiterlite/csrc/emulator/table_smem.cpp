// Scalar memory opcodes: kind, data dwords, base dwords.
#include <aiterlite/emulator/isa.h>
#include <aiterlite/emulator/table.h>

namespace aiterlite::emulator {
namespace {

using enum Op;
using namespace slot;

// clang-format off
constexpr SmemRow kSmem[] = {
    {0, s_load_dword, SmemKind::load, 1, 2},
    {1, s_load_dwordx2, SmemKind::load, 2, 2},
    {2, s_load_dwordx4, SmemKind::load, 4, 2},
    {3, s_load_dwordx8, SmemKind::load, 8, 2},
    {4, s_load_dwordx16, SmemKind::load, 16, 2},
    {5, s_scratch_load_dword, SmemKind::load, 1, 2},
    {6, s_scratch_load_dwordx2, SmemKind::load, 2, 2},
    {7, s_scratch_load_dwordx4, SmemKind::load, 4, 2},
    {8, s_buffer_load_dword, SmemKind::load, 1, 4},
    {9, s_buffer_load_dwordx2, SmemKind::load, 2, 4},
    {10, s_buffer_load_dwordx4, SmemKind::load, 4, 4},
    {11, s_buffer_load_dwordx8, SmemKind::load, 8, 4},
    {12, s_buffer_load_dwordx16, SmemKind::load, 16, 4},
    {16, s_store_dword, SmemKind::store, 1, 2},
    {17, s_store_dwordx2, SmemKind::store, 2, 2},
    {18, s_store_dwordx4, SmemKind::store, 4, 2},
    {21, s_scratch_store_dword, SmemKind::store, 1, 2},
    {22, s_scratch_store_dwordx2, SmemKind::store, 2, 2},
    {23, s_scratch_store_dwordx4, SmemKind::store, 4, 2},
    {24, s_buffer_store_dword, SmemKind::store, 1, 4},
    {25, s_buffer_store_dwordx2, SmemKind::store, 2, 4},
    {26, s_buffer_store_dwordx4, SmemKind::store, 4, 4},
    {32, s_dcache_inv, SmemKind::none, 0, 0},
    {33, s_dcache_wb, SmemKind::none, 0, 0},
    {34, s_dcache_inv_vol, SmemKind::none, 0, 0},
    {35, s_dcache_wb_vol, SmemKind::none, 0, 0},
    {36, s_memtime, SmemKind::time, 2, 0},
    {37, s_memrealtime, SmemKind::time, 2, 0},
    {38, s_atc_probe, SmemKind::probe, 0, 2},
    {39, s_atc_probe_buffer, SmemKind::probe, 0, 4},
    {40, s_dcache_discard, SmemKind::discard, 0, 2},
    {41, s_dcache_discard_x2, SmemKind::discard, 0, 2},
    {64, s_buffer_atomic_swap, SmemKind::atomic, 1, 4},
    {65, s_buffer_atomic_cmpswap, SmemKind::cmpswap, 2, 4},
    {66, s_buffer_atomic_add, SmemKind::atomic, 1, 4},
    {67, s_buffer_atomic_sub, SmemKind::atomic, 1, 4},
    {68, s_buffer_atomic_smin, SmemKind::atomic, 1, 4},
    {69, s_buffer_atomic_umin, SmemKind::atomic, 1, 4},
    {70, s_buffer_atomic_smax, SmemKind::atomic, 1, 4},
    {71, s_buffer_atomic_umax, SmemKind::atomic, 1, 4},
    {72, s_buffer_atomic_and, SmemKind::atomic, 1, 4},
    {73, s_buffer_atomic_or, SmemKind::atomic, 1, 4},
    {74, s_buffer_atomic_xor, SmemKind::atomic, 1, 4},
    {75, s_buffer_atomic_inc, SmemKind::atomic, 1, 4},
    {76, s_buffer_atomic_dec, SmemKind::atomic, 1, 4},
    {96, s_buffer_atomic_swap_x2, SmemKind::atomic, 2, 4},
    {97, s_buffer_atomic_cmpswap_x2, SmemKind::cmpswap, 4, 4},
    {98, s_buffer_atomic_add_x2, SmemKind::atomic, 2, 4},
    {99, s_buffer_atomic_sub_x2, SmemKind::atomic, 2, 4},
    {100, s_buffer_atomic_smin_x2, SmemKind::atomic, 2, 4},
    {101, s_buffer_atomic_umin_x2, SmemKind::atomic, 2, 4},
    {102, s_buffer_atomic_smax_x2, SmemKind::atomic, 2, 4},
    {103, s_buffer_atomic_umax_x2, SmemKind::atomic, 2, 4},
    {104, s_buffer_atomic_and_x2, SmemKind::atomic, 2, 4},
    {105, s_buffer_atomic_or_x2, SmemKind::atomic, 2, 4},
    {106, s_buffer_atomic_xor_x2, SmemKind::atomic, 2, 4},
    {107, s_buffer_atomic_inc_x2, SmemKind::atomic, 2, 4},
    {108, s_buffer_atomic_dec_x2, SmemKind::atomic, 2, 4},
    {128, s_atomic_swap, SmemKind::atomic, 1, 2},
    {129, s_atomic_cmpswap, SmemKind::cmpswap, 2, 2},
    {130, s_atomic_add, SmemKind::atomic, 1, 2},
    {131, s_atomic_sub, SmemKind::atomic, 1, 2},
    {132, s_atomic_smin, SmemKind::atomic, 1, 2},
    {133, s_atomic_umin, SmemKind::atomic, 1, 2},
    {134, s_atomic_smax, SmemKind::atomic, 1, 2},
    {135, s_atomic_umax, SmemKind::atomic, 1, 2},
    {136, s_atomic_and, SmemKind::atomic, 1, 2},
    {137, s_atomic_or, SmemKind::atomic, 1, 2},
    {138, s_atomic_xor, SmemKind::atomic, 1, 2},
    {139, s_atomic_inc, SmemKind::atomic, 1, 2},
    {140, s_atomic_dec, SmemKind::atomic, 1, 2},
    {160, s_atomic_swap_x2, SmemKind::atomic, 2, 2},
    {161, s_atomic_cmpswap_x2, SmemKind::cmpswap, 4, 2},
    {162, s_atomic_add_x2, SmemKind::atomic, 2, 2},
    {163, s_atomic_sub_x2, SmemKind::atomic, 2, 2},
    {164, s_atomic_smin_x2, SmemKind::atomic, 2, 2},
    {165, s_atomic_umin_x2, SmemKind::atomic, 2, 2},
    {166, s_atomic_smax_x2, SmemKind::atomic, 2, 2},
    {167, s_atomic_umax_x2, SmemKind::atomic, 2, 2},
    {168, s_atomic_and_x2, SmemKind::atomic, 2, 2},
    {169, s_atomic_or_x2, SmemKind::atomic, 2, 2},
    {170, s_atomic_xor_x2, SmemKind::atomic, 2, 2},
    {171, s_atomic_inc_x2, SmemKind::atomic, 2, 2},
    {172, s_atomic_dec_x2, SmemKind::atomic, 2, 2},
};
// clang-format on

constexpr auto kSmemIndex = index_by_opcode<256>(kSmem);

}  // namespace

const SmemRow* find_smem(uint32_t opcode) { return lookup(kSmem, kSmemIndex, opcode); }

}  // namespace aiterlite::emulator
