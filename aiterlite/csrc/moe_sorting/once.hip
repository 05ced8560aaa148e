// Sorts the pairs of few tokens by experts in one workgroup, so that nothing passes through memory; the workgroups
// behind it clear the buffer of results meanwhile. See moe_sorting/sort.h. gfx942, gfx950, sm_90.
//
// Traffic: ids, weights and mask once, entries once. What takes the time is latency: one read, the ranks of a wave's
// keys (an instruction a step on sm_90, four a bit of the key on AMD), a column of waves' counts a thread, a scan, the
// writes.
#include <aiterlite/moe_sorting/sort.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;

constexpr uint32_t kThreads = AITERLITE_THREADS;
using E = moe::Experts<AITERLITE_EXPERTS, kThreads>;

}  // namespace

AITERLITE_KERNEL(kThreads) aiterlite_moe_sort_once(aiterlite_moe_sorting_args args) {
  AITERLITE_SHARED(E::Shared, memory, 1);
  AITERLITE_SHARED(E::Counts, ranks, 1);
  E::Shared& shared = memory[0];
  E::Counts& counts = ranks[0];
  if (workgroup_id() != 0) {
    await_predecessors();
    admit_successors();
    moe::clear_buffer<kThreads>(args, workgroup_id() - 1, static_cast<uint32_t>(args.groups) - 1);
    return;
  }
  clear_ranks<kThreads>(counts);
  await_predecessors();
  const uint32_t live = moe::live_pairs(args);
  moe::Pairs pairs;
  uint32_t total[E::kOwned];
  moe::rank_tile<E, kThreads>(args, shared, counts, 0, live, pairs, total);
  admit_successors();
  moe::lay_out<E>(args, shared, total, live, true);
  workgroup_barrier();
  const uint32_t all = static_cast<uint32_t>(args.tokens) * static_cast<uint32_t>(args.topk);
#pragma unroll
  for (uint32_t step = 0; step < moe::kSteps; ++step) {
    const uint32_t number = pairs.number(step), expert = pairs.expert[step];
    if (step >= static_cast<uint32_t>(args.steps) || number >= all) continue;
    const bool sorted = expert < E::kMost;
    const uint32_t rank = sorted ? counts.of_wave[wave_id()][expert] + pairs.rank[step] : 0;
    const float weight = sorted ? moe::weight_of(args, moe::pair_of(args, number)) : 0.0f;
    moe::write_pair<E>(args, shared, number, expert, rank, weight);
  }
  for (uint32_t expert = wave_id(); expert < static_cast<uint32_t>(args.experts); expert += E::kWaves) {
    moe::write_expert<E>(args, shared, expert);
  }
}
