// How LDS serves an access: in groups of lanes, each of which takes as many cycles as its busiest bank has different
// dwords. Lanes that want the same dword share it, except in atomics.
//
// Which lanes form a group and how many banks they meet depends on the chip and the instruction. What was measured and
// published is in the table:
//
//   gfx942  ds_read_b128   the lanes named in AMD's documentation of Composable Kernel (CK Tile, "Understanding AMD GPU
//                          LDS and Bank Conflicts"); writes of that width go by neighbouring lanes
//   gfx950  ds_read_b64, ds_read_b96, ds_read_b128, ds_write_b64: measured on an MI355X by pairs of lanes that collide,
//                          HipKittens, analysis/paper_experiments/phases (phase_results.txt, bank_results.txt)
//
// Everything else (dwords and less, two addresses, transposing reads, atomics, flat, the widths that are missing) was
// not measured in public. It is counted as by 32 banks and groups of neighbouring lanes whose data is 128 bytes: 32
// lanes of up to a dword, 16 of two dwords, 8 of three or four.
#include <aiterlite/emulator/counters.h>
#include <aiterlite/emulator/level.h>

#include <algorithm>

namespace aiterlite::emulator {
namespace {

// Bits first to last.
constexpr uint32_t lanes(int first, int last) { return (2u << last) - (1u << first); }

// The groups of lanes 0 to 31; lanes 32 to 63 form the same.
constexpr uint32_t kEights[] = {lanes(0, 3) | lanes(20, 23), lanes(4, 7) | lanes(16, 19), lanes(8, 11) | lanes(28, 31),
                                lanes(12, 15) | lanes(24, 27)};
constexpr uint32_t kSixteens[] = {lanes(0, 3) | lanes(12, 15) | lanes(20, 27),
                                  lanes(4, 11) | lanes(16, 19) | lanes(28, 31)};
constexpr uint32_t kAll[] = {~0u};
constexpr uint32_t kHalves[] = {0xffff, 0xffff0000};
constexpr uint32_t kNeighbours8[] = {0xff, 0xff00, 0xff0000, 0xff000000};

struct Measured {
  Arch arch;
  Op op;
  LdsGroups groups;
};
constexpr Measured kMeasured[] = {
    {Arch::gfx942, Op::ds_read_b128, {32, 4, kEights}},   {Arch::gfx942, Op::ds_write_b128, {32, 4, kNeighbours8}},
    {Arch::gfx950, Op::ds_read_b128, {64, 2, kSixteens}}, {Arch::gfx950, Op::ds_read_b96, {32, 4, kEights}},
    {Arch::gfx950, Op::ds_read_b64, {64, 1, kAll}},       {Arch::gfx950, Op::ds_write_b64, {32, 2, kHalves}},
};

}  // namespace

LdsGroups lds_groups(Arch arch, Op op, uint32_t size) {
  for (const Measured& m : kMeasured) {
    if (m.arch == arch && m.op == op) return m.groups;
  }
  if (size <= 4) return {32, 1, kAll};
  return size == 8 ? LdsGroups{32, 2, kHalves} : LdsGroups{32, 4, kNeighbours8};
}

LdsTime lds_time(const LdsGroups& groups, const uint64_t* at, uint64_t mask, uint32_t size, bool atomic) {
  constexpr uint32_t kMostBanks = 64;
  // Naturally aligned data of a power of two: a lane takes `unit` bytes, and that many banks, as a whole.
  const bool whole = size >= 4 && (size & (size - 1)) == 0;
  uint64_t low_bits = 0;
  for (uint64_t m = mask; m; m &= m - 1) low_bits |= at[__builtin_ctzll(m)];
  const uint32_t unit = whole && !(low_bits & (size - 1)) ? size : 4;
  const uint32_t slots = groups.banks * 4 / unit;
  LdsTime t;
  t.accesses = 1;
  for (uint32_t i = 0; i < 2 * groups.count; ++i) {
    const bool high = i >= groups.count;
    const uint64_t group =
        mask & (static_cast<uint64_t>(groups.of_half[high ? i - groups.count : i]) << (high ? 32 : 0));
    if (!group) continue;
    uint64_t held[kMostBanks][kWave];
    uint8_t count[kMostBanks] = {};
    uint32_t most = 1;
    for (uint64_t m = group; m; m &= m - 1) {
      const uint64_t begin = at[__builtin_ctzll(m)];
      for (uint64_t u = begin / unit; u <= (begin + size - 1) / unit; ++u) {
        const uint32_t slot = static_cast<uint32_t>(u % slots);
        bool shared = false;
        for (uint32_t k = 0; k < count[slot] && !atomic; ++k) shared |= held[slot][k] == u;
        if (shared) continue;
        held[slot][count[slot]++] = u;
        most = std::max<uint32_t>(most, count[slot]);
      }
    }
    t.cycles += most;
    ++t.minimum_cycles;
  }
  return t;
}

}  // namespace aiterlite::emulator
