// Sorts the pairs of many tokens by experts: a tile of neighbouring pairs a workgroup. See moe_sorting/sort.h. gfx942,
// gfx950, sm_90.
//
// The first kernel ranks each pair among its tile's of the same expert, and writes the tile's counts; further
// workgroups of it clear the buffer of results. In the second one each workgroup adds up the counts of all tiles, so
// that it knows where experts begin and what earlier tiles have of each, and puts its pairs there. A third kernel for
// that sum would be a launch more for a read less: with at most some 128 tiles the counts are 64 KB (256 experts), in
// the L2. Traffic of a pair: its id twice, its rank (4 bytes) written and read, its weight and entry once.
#include <aiterlite/moe_sorting/sort.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;

constexpr uint32_t kThreads = AITERLITE_THREADS;
using E = moe::Experts<AITERLITE_EXPERTS, kThreads>;
// Pairs of a lane, at most.
constexpr uint32_t kSteps = 8;
// A thread adds up two experts' counts, a word, of every kParts-th tile.
constexpr uint32_t kColumns = E::kMost / 2, kParts = kThreads / kColumns;
static_assert(kThreads % kColumns == 0, "threads add up whole rows of counts");

struct Sums {
  uint32_t earlier[E::kMost];  // pairs of each expert in all tiles before this one
  uint32_t total[kParts][E::kMost];
  uint32_t before[kParts][E::kMost];
};

AITERLITE_DEVICE void add_tiles(const aiterlite_moe_sorting_args& args, Sums& sums, uint32_t tile) {
  const uint32_t column = thread_id() % kColumns, part = thread_id() / kColumns;
  const auto* words = reinterpret_cast<const int32_t*>(args.counts);
  uint32_t total[2] = {}, before[2] = {};
#pragma unroll 8
  for (uint32_t row = part; row < static_cast<uint32_t>(args.tiles); row += kParts) {
    const auto both = static_cast<uint32_t>(moe::load_int(words + int64_t{row} * kColumns + column));
    const uint32_t earlier = row < tile ? both : 0;
    total[0] += both & 0xffffu;
    total[1] += both >> 16;
    before[0] += earlier & 0xffffu;
    before[1] += earlier >> 16;
  }
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    sums.total[part][2 * column + i] = total[i];
    sums.before[part][2 * column + i] = before[i];
  }
}

}  // namespace

AITERLITE_KERNEL(kThreads) aiterlite_moe_sort_count(aiterlite_moe_sorting_args args) {
  AITERLITE_SHARED(E::Shared, memory, 1);
  AITERLITE_SHARED(E::Counts, ranks, 1);
  E::Shared& shared = memory[0];
  E::Counts& counts = ranks[0];
  const uint32_t tile = workgroup_id(), tiles = static_cast<uint32_t>(args.tiles);
  if (tile >= tiles) {
    await_predecessors();
    admit_successors();
    moe::clear_buffer<kThreads>(args, tile - tiles, static_cast<uint32_t>(args.groups) - tiles);
    return;
  }
  clear_ranks<kThreads>(counts);
  await_predecessors();
  const uint32_t live = moe::live_pairs(args);
  moe::Pairs<kSteps> pairs;
  uint32_t total[E::kOwned];
  moe::rank_tile<E, kThreads>(args, shared, counts, tile, live, pairs, total);
  admit_successors();
  if (E::own() < E::kMost) {
#pragma unroll
    for (uint32_t i = 0; i < E::kOwned; ++i) {
      store_u16(args.counts + int64_t{tile} * E::kMost + E::own() + i, static_cast<uint16_t>(total[i]));
    }
  }
  workgroup_barrier();
#pragma unroll
  for (uint32_t step = 0; step < kSteps; ++step) {
    const uint32_t number = pairs.number(step), expert = pairs.expert[step];
    if (step >= static_cast<uint32_t>(args.steps) || number >= live || expert >= E::kMost) continue;
    moe::store_int(args.ranks + number, counts.of_wave[wave_id()][expert] + pairs.rank[step]);
  }
}

AITERLITE_KERNEL(kThreads) aiterlite_moe_sort_place(aiterlite_moe_sorting_args args) {
  AITERLITE_SHARED(E::Shared, memory, 1);
  AITERLITE_SHARED(Sums, parts, 1);
  E::Shared& shared = memory[0];
  Sums& sums = parts[0];
  await_predecessors();
  const uint32_t tile = workgroup_id(), live = moe::live_pairs(args);
  add_tiles(args, sums, tile);
  moe::number_experts<E>(args, shared);
  workgroup_barrier();
  uint32_t total[E::kOwned] = {};
  if (E::own() < E::kMost) {
#pragma unroll
    for (uint32_t i = 0; i < E::kOwned; ++i) {
      const uint32_t expert = E::own() + i;
      uint32_t before = 0;
#pragma unroll
      for (uint32_t part = 0; part < kParts; ++part) {
        total[i] += sums.total[part][expert];
        before += sums.before[part][expert];
      }
      sums.earlier[expert] = before;
    }
  }
  moe::lay_out<E>(args, shared, total, live, tile == 0);
  workgroup_barrier();
  const uint32_t all = static_cast<uint32_t>(args.tokens) * static_cast<uint32_t>(args.topk);
  const uint32_t first = moe::first_pair<kThreads>(args, tile);
#pragma unroll 4
  for (uint32_t step = 0; step < static_cast<uint32_t>(args.steps); ++step) {
    const uint32_t number = first + step * kWaveSize;
    if (number >= all) break;
    const moe::Pair pair = moe::pair_of(args, number);
    uint32_t expert = number < live ? moe::expert_of(args, pair, E::kMost) : E::kMost;
    if (expert < E::kMost && shared.local[expert] == E::kNone) expert = E::kMost;
    moe::write_local<E>(args, shared, number, expert);
    if (expert == E::kMost) continue;
    const uint32_t rank = sums.earlier[expert] + static_cast<uint32_t>(moe::load_int(args.ranks + number));
    const uint32_t at = shared.block[expert] * static_cast<uint32_t>(args.block_size) + rank;
    moe::write_entry(args, at, pair.slot << 24 | pair.token, moe::weight_of(args, pair));
  }
  admit_successors();
  const auto fill = [&](uint32_t, uint32_t begin, uint32_t count, uint32_t entries) {
    for (uint32_t i = count + lane_id(); i < entries; i += kWaveSize) {
      moe::write_entry(args, begin + i, static_cast<uint32_t>(args.padding), 0.0f);
    }
  };
  const uint32_t waves = static_cast<uint32_t>(args.tiles) * E::kWaves;
  moe::write_experts<E>(args, shared, tile * E::kWaves + wave_id(), waves, fill);
}
