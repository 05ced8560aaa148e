// Sorts the pairs of few tokens by experts in one workgroup, so that nothing passes through memory; the workgroups
// behind it clear the buffer of results meanwhile. See moe_sorting/sort.h. gfx942, gfx950, sm_90.
//
// Traffic: ids, weights and mask once, entries once, an expert's together: they are sorted in shared memory first, as
// a wave that writes 32 of them apart takes as long as for 32 lines. What takes the time is latency: one read, the
// ranks of a wave's keys (an instruction a step on sm_90, four a bit of the key on AMD), a column of waves' counts a
// thread, two scans, the writes.
#include <aiterlite/moe_sorting/sort.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;

constexpr uint32_t kThreads = AITERLITE_THREADS;
using E = moe::Experts<AITERLITE_EXPERTS, kThreads>;

// Pairs of a lane, at most: of 256 pairs where there are 256 threads, else of 2,048.
constexpr uint32_t kSteps = kThreads == 256 ? 1 : 2048 / kThreads;

struct Entry {
  uint32_t entry;
  float weight;
};
// Counts are of no use once all ranks are known.
union Work {
  E::Counts counts;
  Entry sorted[kThreads * kSteps];
};

struct WriteSorted {
  const moe::Args& args;
  const Entry* sorted;
  const uint32_t* firsts;

  AITERLITE_DEVICE void operator()(uint32_t expert, uint32_t begin, uint32_t count, uint32_t entries) const {
    for (uint32_t i = lane_id(); i < entries; i += kWaveSize) {
      Entry entry = {static_cast<uint32_t>(args.padding), 0.0f};
      if (i < count) entry = sorted[firsts[expert] + i];
      moe::write_entry(args, begin + i, entry.entry, entry.weight);
    }
  }
};

}  // namespace

AITERLITE_KERNEL(kThreads) aiterlite_moe_sort_once(aiterlite_moe_sorting_args args) {
  AITERLITE_SHARED(E::Shared, memory, 1);
  AITERLITE_SHARED(uint32_t, firsts, E::kMost);
  AITERLITE_SHARED(Work, works, 1);
  E::Shared& shared = memory[0];
  Work& work = works[0];
  if (workgroup_id() != 0) {
    await_predecessors();
    admit_successors();
    moe::clear_buffer<kThreads>(args, workgroup_id() - 1, static_cast<uint32_t>(args.groups) - 1);
    return;
  }
  clear_ranks<kThreads>(work.counts);
  await_predecessors();
  const uint32_t live = moe::live_pairs(args);
  moe::Pairs<kSteps> pairs;
  uint32_t total[E::kOwned];
  moe::rank_tile<E, kThreads>(args, shared, work.counts, 0, live, pairs, total);
  admit_successors();
  moe::lay_out<E>(args, shared, total, live, true);
  uint32_t sum = 0;
#pragma unroll
  for (uint32_t i = 0; i < E::kOwned; ++i) sum += total[i];
  workgroup_barrier();
  uint32_t first = scan_workgroup<E::kWaves>(sum, Sum{}, 0u, shared.scan).before;
#pragma unroll
  for (uint32_t i = 0; i < E::kOwned; ++i) {
    if (E::own() < E::kMost) firsts[E::own() + i] = first;
    first += total[i];
  }
  workgroup_barrier();
  const uint32_t all = static_cast<uint32_t>(args.tokens) * static_cast<uint32_t>(args.topk);
  uint32_t place[kSteps];
  Entry made[kSteps];
#pragma unroll
  for (uint32_t step = 0; step < kSteps; ++step) {
    const uint32_t number = pairs.number(step), expert = pairs.expert[step];
    place[step] = ~0u;
    made[step] = {};
    if (step >= static_cast<uint32_t>(args.steps) || number >= all) continue;
    moe::write_local<E>(args, shared, number, expert);
    if (expert == E::kMost) continue;
    const moe::Pair pair = moe::pair_of(args, number);
    place[step] = firsts[expert] + work.counts.of_wave[wave_id()][expert] + pairs.rank[step];
    made[step] = {pair.slot << 24 | pair.token, moe::weight_of(args, pair)};
  }
  workgroup_barrier();
#pragma unroll
  for (uint32_t step = 0; step < kSteps; ++step) {
    if (place[step] != ~0u) work.sorted[place[step]] = made[step];
  }
  workgroup_barrier();
  moe::write_experts<E>(args, shared, wave_id(), E::kWaves, WriteSorted{args, work.sorted, firsts});
}
