// The planners of MLA decode on a GPU: mla/plan.h by one workgroup, so that no workspace, no counter and no second
// launch is needed, and a plan can be captured into a graph. gfx942, gfx950, sm_90.
//
// Traffic: 8 bytes a request, some times over and from the first cache after the first; 32 bytes a piece written in two
// vectors by its own thread. What takes the time is latency: two reads of the indices, the sum, a walk over the tiles
// of a chunk by one thread (fast), four or five scans, the search of each piece's tile, the writes.
#include <aiterlite/block/scan.h>
#include <aiterlite/mla/plan.h>
#include <aiterlite/mla/plan_cost.h>
#include <aiterlite/mla/plan_update.h>
#include <aiterlite/overlap.h>
#include <aiterlite/vector.h>

namespace {

using namespace aiterlite;

constexpr int32_t kThreads = 512;
constexpr uint32_t kWaves = kThreads / kWaveSize;

struct Least {
  AITERLITE_DEVICE mla::Candidate operator()(const mla::Candidate& a, const mla::Candidate& b) const {
    const bool take_a = a.key < b.key || (a.key == b.key && a.id < b.id);
    return {take_a ? a.key : b.key, take_a ? a.id : b.id};
  }
};

struct Shared {
  int32_t rest[kThreads], moves[kThreads], at[kThreads], ends[kThreads], first[kThreads], unit[kThreads],
      entry[kThreads], partial[kThreads], next;
  int32_t scans[2][kWaves];
  int64_t sums[kWaves];
};

struct Workgroup {
  static constexpr int32_t kThreads = ::kThreads, kLanes = kWaveSize;
  Shared& memory;
  uint32_t scans = 0;

  AITERLITE_DEVICE explicit Workgroup(Shared& given) : memory(given) {}
  AITERLITE_DEVICE Shared& shared() { return memory; }
  AITERLITE_DEVICE int32_t thread() const { return static_cast<int32_t>(thread_id()); }
  AITERLITE_DEVICE void barrier() const { workgroup_barrier(); }
  // Two places in turn: a wave that is through the barrier of a scan has read the place of the one before.
  AITERLITE_DEVICE Scanned<int32_t> scan(int32_t value) {
    return scan_workgroup<kWaves>(value, Sum{}, 0, memory.scans[scans++ % 2]);
  }
  AITERLITE_DEVICE Scanned<int32_t> scan_lanes(int32_t value) const {
    return scan_workgroup<1, int32_t>(value, Sum{}, 0, nullptr);
  }
  AITERLITE_DEVICE int64_t sum(int64_t value) { return reduce_workgroup<kWaves>(value, Sum{}, memory.sums); }
  AITERLITE_DEVICE int32_t lane() const { return static_cast<int32_t>(lane_id()); }
  AITERLITE_DEVICE mla::Candidate least_of_lanes(const mla::Candidate& own) const { return reduce_wave(own, Least{}); }
  AITERLITE_DEVICE int32_t load(const int32_t* p) const { return __builtin_bit_cast(int32_t, load_f32(p)); }
  AITERLITE_DEVICE void store(int32_t* p, int32_t value) const { store_u32(p, static_cast<uint32_t>(value)); }
  AITERLITE_DEVICE void store_address(uint64_t* p, const void* address) const {
    const auto bits = reinterpret_cast<uint64_t>(address);
    auto* words = reinterpret_cast<uint32_t*>(p);
    store_u32(words, static_cast<uint32_t>(bits));
    store_u32(words + 1, static_cast<uint32_t>(bits >> 32));
  }
  AITERLITE_DEVICE void load_row(const int32_t* p, int32_t (&words)[mla::kRowWords]) const {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const Vector16 quad = load_vector<false>(p + half * 4);
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) words[half * 4 + i] = static_cast<int32_t>(quad.word[i]);
    }
  }
  AITERLITE_DEVICE void store_row(int32_t* p, const int32_t (&words)[mla::kRowWords]) const {
    // Not a cast of the whole array: nvcc 13.0 dies of it.
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      Quad quad;
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) quad.value[i] = __builtin_bit_cast(float, words[half * 4 + i]);
      store_quad(reinterpret_cast<float*>(p) + half * 4, quad);
    }
  }
};

}  // namespace

AITERLITE_KERNEL(kThreads) aiterlite_mla_plan_fast(aiterlite_mla_plan_args args) {
  AITERLITE_SHARED(Shared, memory, 1);
  await_predecessors();
  Workgroup team(memory[0]);
  mla::plan_in_order<true>(team, args);
}

AITERLITE_KERNEL(kThreads) aiterlite_mla_plan_intra(aiterlite_mla_plan_args args) {
  AITERLITE_SHARED(Shared, memory, 1);
  await_predecessors();
  Workgroup team(memory[0]);
  mla::plan_in_order<false>(team, args);
}

AITERLITE_KERNEL(kThreads) aiterlite_mla_plan_cost(aiterlite_mla_plan_args args) {
  AITERLITE_SHARED(Shared, memory, 1);
  await_predecessors();
  Workgroup team(memory[0]);
  mla::plan_by_cost(team, args);
}

AITERLITE_KERNEL(kThreads) aiterlite_mla_plan_update(aiterlite_mla_plan_update_args args) {
  AITERLITE_SHARED(Shared, memory, 1);
  await_predecessors();
  Workgroup team(memory[0]);
  mla::update(team, args);
}
