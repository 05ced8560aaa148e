// Reductions and scans. x, and results of every thread, by workgroup.
#include <aiterlite/block/reduce.h>
#include <aiterlite/block/scan.h>
#include <aiterlite/routing/select.h>

namespace {

constexpr uint32_t kWaves = 4;
constexpr uint32_t kThreads = kWaves * aiterlite::kWaveSize;

// An operation that does not commute: a word is an interval [low 16 bits, high 16 bits), two that touch become one.
struct Join {
  AITERLITE_DEVICE uint32_t operator()(uint32_t a, uint32_t b) const {
    if (a == 0) return b;
    if (b == 0) return a;
    return a >> 16 == (b & 0xffffu) ? (a & 0xffffu) | (b & 0xffff0000u) : 0xdeadu;
  }
};

}  // namespace

AITERLITE_KERNEL(kThreads) reduce_floats(const float* x, float* sums, float* maxima, float* of_eight, float* strided) {
  AITERLITE_SHARED(float, partial, kWaves);
  const uint32_t i = aiterlite::workgroup_id() * kThreads + aiterlite::thread_id();
  const float value = x[i];
  sums[2 * i] = aiterlite::reduce_wave(value, aiterlite::Sum{});
  sums[2 * i + 1] = aiterlite::reduce_workgroup<kWaves>(value, aiterlite::Sum{}, partial);
  aiterlite::workgroup_barrier();
  maxima[2 * i] = aiterlite::reduce_wave(value, aiterlite::Max{});
  maxima[2 * i + 1] = aiterlite::reduce_workgroup<kWaves>(value, aiterlite::Max{}, partial);
  of_eight[i] = aiterlite::reduce_lanes<8>(value, aiterlite::Sum{});
  strided[i] = aiterlite::reduce_strided<16>(value, aiterlite::Max{});
}

// Of each value, how many of its wave equal it, how many of those come before, and the first one's lane, by shared
// memory; and the lane of the wave's first odd value.
AITERLITE_KERNEL(kThreads)
match_words(const uint32_t* x, uint32_t* all, uint32_t* before, uint32_t* first, uint32_t* odd) {
  AITERLITE_SHARED(uint32_t, places, kWaves * 32);
  const uint32_t i = aiterlite::workgroup_id() * kThreads + aiterlite::thread_id();
  const auto same = aiterlite::matching_lanes<5>(x[i]);
  all[i] = aiterlite::count_lanes(same);
  before[i] = aiterlite::count_lanes_before(same);
  uint32_t& place = places[aiterlite::wave_id() * 32 + x[i]];
  if (before[i] == 0) place = aiterlite::lane_id();
  aiterlite::wave_barrier();
  first[i] = place;
  const auto odds = aiterlite::lanes_where(x[i] % 2 != 0);
  odd[i] = odds != 0 ? aiterlite::first_lane(odds) : 99;
}

AITERLITE_KERNEL(kThreads) find_first(const float* x, uint32_t* of_wave, uint32_t* of_group, float* greatest) {
  AITERLITE_SHARED(aiterlite::Ranked, partial, kWaves);
  const uint32_t i = aiterlite::workgroup_id() * kThreads + aiterlite::thread_id();
  const auto mine = aiterlite::Ranked::of(x[i], aiterlite::thread_id());
  of_wave[i] = aiterlite::reduce_wave(mine, aiterlite::First{}).index;
  const auto first = aiterlite::reduce_workgroup<kWaves>(mine, aiterlite::First{}, partial);
  of_group[i] = first.index;
  greatest[i] = first.value();
}

AITERLITE_KERNEL(kThreads)
scan_words(const uint32_t* x, uint32_t* wave, uint32_t* before, uint32_t* all, uint32_t* joined, uint32_t* any) {
  AITERLITE_SHARED(uint32_t, partial, kWaves);
  const uint32_t thread = aiterlite::thread_id(), i = aiterlite::workgroup_id() * kThreads + thread;
  wave[i] = aiterlite::scan_wave(x[i], aiterlite::Sum{}, 0u);
  const auto scanned = aiterlite::scan_workgroup<kWaves>(x[i], aiterlite::Sum{}, 0u, partial);
  before[i] = scanned.before;
  all[i] = scanned.all;
  aiterlite::workgroup_barrier();
  const uint32_t interval = thread | (thread + 1) << 16;
  joined[i] = aiterlite::scan_workgroup<kWaves>(interval, Join{}, 0u, partial).before;
  any[i] = aiterlite::any_lane(x[i] == 77);
}

// Of each wave: in which lanes words are odd, the first of these (0 where there is none), and the greatest word; of
// each eight lanes, which is the first odd one and whether it is this lane.
AITERLITE_KERNEL(kThreads)
vote(const uint32_t* x, uint32_t* low, uint32_t* high, uint32_t* first, uint32_t* greatest, uint32_t* of_eight) {
  const uint32_t i = aiterlite::workgroup_id() * kThreads + aiterlite::thread_id();
  const bool odd = x[i] % 2 != 0;
  const aiterlite::LaneMask lanes = aiterlite::lanes_where(odd);
  low[i] = static_cast<uint32_t>(lanes);
  high[i] = static_cast<uint32_t>(uint64_t{lanes} >> 32);
  first[i] = lanes != 0 ? aiterlite::first_lane(lanes) : 0;
  greatest[i] = aiterlite::routing::greatest_of_lanes<aiterlite::kWaveSize>(x[i]);
  // The last lane of each eight counts as odd, as one must be.
  const auto found = aiterlite::routing::first_of_lanes<8>(odd || aiterlite::lane_id() % 8 == 7);
  of_eight[i] = found.first | (found.own ? 256u : 0u);
}
