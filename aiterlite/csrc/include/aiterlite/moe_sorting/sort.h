// What the kernels of the sorting share: which pairs of token and slot count, where each expert's entries lie, and what
// is written there. Integers alone; no atomic, so that a call gives the same bits in every launch.
//
// A pair counts where its token is live and its id is that of an expert whose mask is not 0, of which the first
// `local_experts` count. Nothing else is made of an id, so that none leads outside a buffer. Buffers hold what any ids
// of so many pairs need (ops/moe_sorting.py).
#pragma once
#include <aiterlite/block/rank.h>
#include <aiterlite/block/scan.h>
#include <aiterlite/moe_sorting/args.h>

namespace aiterlite::moe {

using Args = aiterlite_moe_sorting_args;

AITERLITE_DEVICE int32_t load_int(const int32_t* p) { return __builtin_bit_cast(int32_t, load_f32(p)); }
AITERLITE_DEVICE void store_int(int32_t* p, uint32_t value) { store_u32(p, value); }
AITERLITE_DEVICE uint32_t up(uint32_t value, uint32_t by) { return (value + by - 1) / by; }

// Of the experts up to kExperts, which a thread owns kOwned neighbouring ones of.
template <uint32_t kExperts, uint32_t kThreads>
struct Experts {
  static constexpr uint32_t kMost = kExperts, kWaves = kThreads / kWaveSize;
  static constexpr uint32_t kOwned = kExperts > kThreads ? kExperts / kThreads : 1;
  static_assert(kExperts % 4 == 0 && (kExperts % kThreads == 0 || kThreads % kExperts == 0),
                "Experts: their number and that of threads divide each other");

  using Counts = RankCounts<kExperts, kWaves>;
  struct Shared {
    uint16_t local[kExperts];      // its number among those that count; kNone: not one of them
    uint32_t total[kExperts];      // its pairs
    uint32_t block[kExperts + 1];  // its first block; behind the last expert, where blocks end
    uint32_t scan[kWaves];
  };
  static constexpr uint16_t kNone = 0xffff;

  // The first expert of this thread; kExperts or more where it has none.
  AITERLITE_DEVICE static uint32_t own() { return thread_id() * kOwned; }
};

AITERLITE_DEVICE uint32_t live_pairs(const Args& args) {
  int32_t tokens = args.tokens;
  if (args.num_local_tokens != nullptr) {
    const int32_t asked = load_int(args.num_local_tokens);
    tokens = asked < 0 ? 0 : asked < tokens ? asked : tokens;
  }
  return static_cast<uint32_t>(tokens) * static_cast<uint32_t>(args.topk);
}

struct Pair {
  uint32_t token;
  uint32_t slot;
};
AITERLITE_DEVICE Pair pair_of(const Args& args, uint32_t number) {
  const uint32_t token = number / static_cast<uint32_t>(args.topk);
  return {token, number - token * static_cast<uint32_t>(args.topk)};
}

// The expert of a pair by its id alone; `none` for an id that is no expert's.
AITERLITE_DEVICE uint32_t expert_of(const Args& args, const Pair& pair, uint32_t none) {
  const auto* ids = static_cast<const int32_t*>(args.topk_ids);
  const int64_t at = int64_t{pair.token} * args.stride_ids + pair.slot;
  const auto id = static_cast<uint32_t>(load_int(ids + at * args.id_words));
  const bool narrow = args.id_words == 1 || load_int(ids + at * 2 + 1) == 0;
  return narrow && id < static_cast<uint32_t>(args.experts) ? id : none;
}

// Numbers the experts that count. A barrier must come between this and lay_out, and before what is written is read.
template <class E>
AITERLITE_DEVICE void number_experts(const Args& args, typename E::Shared& shared) {
  const uint32_t own = E::own();
  const auto experts = static_cast<uint32_t>(args.experts);
  bool counts[E::kOwned];
  uint32_t sum = 0;
#pragma unroll
  for (uint32_t i = 0; i < E::kOwned; ++i) {
    counts[i] = own + i < experts && (args.expert_mask == nullptr || load_int(args.expert_mask + own + i) != 0);
    sum += counts[i];
  }
  uint32_t local = own;
  if (args.expert_mask != nullptr) local = scan_workgroup<E::kWaves>(sum, Sum{}, 0u, shared.scan).before;
  if (own >= E::kMost) return;
#pragma unroll
  for (uint32_t i = 0; i < E::kOwned; ++i) {
    const bool here = counts[i] && local < static_cast<uint32_t>(args.local_experts);
    shared.local[own + i] = here ? static_cast<uint16_t>(local) : E::kNone;
    local += counts[i];
  }
}

// Where the blocks of each expert begin, by the totals of this thread's experts. A barrier must follow. The leader says
// how many entries and tokens there are.
template <class E>
AITERLITE_DEVICE void lay_out(const Args& args, typename E::Shared& shared, const uint32_t (&total)[E::kOwned],
                              uint32_t live, bool leader) {
  const auto size = static_cast<uint32_t>(args.block_size);
  uint32_t blocks[E::kOwned], sum = 0;
#pragma unroll
  for (uint32_t i = 0; i < E::kOwned; ++i) {
    blocks[i] = up(total[i], size);
    sum += blocks[i];
  }
  const auto scanned = scan_workgroup<E::kWaves>(sum, Sum{}, 0u, shared.scan);
  const uint32_t own = E::own();
  if (own < E::kMost) {
    uint32_t block = scanned.before;
#pragma unroll
    for (uint32_t i = 0; i < E::kOwned; ++i) {
      shared.total[own + i] = total[i];
      shared.block[own + i] = block;
      block += blocks[i];
    }
  }
  if (thread_id() == 0) shared.block[E::kMost] = scanned.all;
  if (leader && thread_id() == 0) {
    store_int(args.num_valid_ids, scanned.all * size);
    if (args.valid_words > 1) store_int(args.num_valid_ids + 1, live / static_cast<uint32_t>(args.topk));
  }
}

AITERLITE_DEVICE float weight_of(const Args& args, const Pair& pair) {
  if (args.topk_weights == nullptr) return 0.0f;
  return load_f32(args.topk_weights + int64_t{pair.token} * args.stride_weights + pair.slot);
}

AITERLITE_DEVICE void write_entry(const Args& args, uint32_t at, uint32_t entry, float weight) {
  store_int(args.sorted_ids + at, entry);
  if (args.sorted_weights != nullptr) store_u32(args.sorted_weights + at, __builtin_bit_cast(uint32_t, weight));
}

// Which local expert a pair goes to.
template <class E>
AITERLITE_DEVICE void write_local(const Args& args, const typename E::Shared& shared, uint32_t number,
                                  uint32_t expert) {
  if (args.local_topk_ids == nullptr) return;
  store_int(args.local_topk_ids + number, expert < E::kMost ? shared.local[expert] : ~0u);
}

// An expert's blocks, by a wave, which writes its entries by `write_entries(expert, first entry, pairs, entries)`.
template <class E, class WriteEntries>
AITERLITE_DEVICE void write_expert(const Args& args, const typename E::Shared& shared, uint32_t expert,
                                   const WriteEntries& write_entries) {
  const auto size = static_cast<uint32_t>(args.block_size);
  const uint32_t total = shared.total[expert], first = shared.block[expert], blocks = shared.block[expert + 1] - first;
  for (uint32_t block = lane_id(); block < blocks; block += kWaveSize) {
    store_int(args.sorted_expert_ids + first + block, shared.local[expert]);
    if (args.token_nums != nullptr) store_int(args.token_nums + first + block, total - block * size);
  }
  write_entries(expert, first * size, total, blocks * size);
}

// All experts that have a pair, dealt to `waves` of which this is one: a wave finds its own by one read.
template <class E, class WriteEntries>
AITERLITE_DEVICE void write_experts(const Args& args, const typename E::Shared& shared, uint32_t wave, uint32_t waves,
                                    const WriteEntries& write_entries) {
  const auto experts = static_cast<uint32_t>(args.experts);
  for (uint32_t first = wave; first < experts; first += waves * kWaveSize) {
    const uint32_t own = first + lane_id() * waves;
    LaneMask left = lanes_where(own < experts && shared.total[own] != 0);
    while (left != 0) {
      write_expert<E>(args, shared, first + first_lane(left) * waves, write_entries);
      left &= left - 1;
    }
  }
}

// This thread's part of the buffer of results; its elements have 2 bytes or more.
template <uint32_t kThreads>
AITERLITE_DEVICE void clear_buffer(const Args& args, uint32_t group, uint32_t groups) {
  auto* buffer = static_cast<char*>(args.moe_buf);
  const int64_t bytes = args.moe_buf_bytes;
  int64_t head = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(buffer) & 15);
  head = head < bytes ? head : bytes;
  const int64_t vectors = (bytes - head) / 16, tail = head + vectors * 16;
  const int64_t thread = int64_t{group} * kThreads + thread_id();
  for (int64_t i = thread; i < vectors; i += int64_t{groups} * kThreads) {
    store_quad(reinterpret_cast<float*>(buffer + head + i * 16), Quad{});
  }
  if (thread * 2 < head) store_u16(buffer + thread * 2, 0);
  if (tail + thread * 2 < bytes) store_u16(buffer + tail + thread * 2, 0);
}

// The pairs of this lane: which they are, and what they are ranked by. A wave has neighbouring ones, a workgroup too.
template <uint32_t kSteps>
struct Pairs {
  uint32_t first;
  uint32_t expert[kSteps];
  uint32_t rank[kSteps];

  AITERLITE_DEVICE uint32_t number(uint32_t step) const { return first + step * kWaveSize; }
};
template <uint32_t kThreads>
AITERLITE_DEVICE uint32_t first_pair(const Args& args, uint32_t tile) {
  const auto steps = static_cast<uint32_t>(args.steps);
  return tile * steps * kThreads + wave_id() * steps * kWaveSize + lane_id();
}

// Loads the ids of a tile's pairs, numbers the experts, and ranks the pairs. Behind it `total` is of this thread's
// experts and `counts` what comes before each wave; a barrier must follow.
template <class E, uint32_t kThreads, uint32_t kSteps>
AITERLITE_DEVICE void rank_tile(const Args& args, typename E::Shared& shared, typename E::Counts& counts, uint32_t tile,
                                uint32_t live, Pairs<kSteps>& pairs, uint32_t (&total)[E::kOwned]) {
  const auto steps = static_cast<uint32_t>(args.steps);
  pairs.first = first_pair<kThreads>(args, tile);
#pragma unroll
  for (uint32_t step = 0; step < kSteps; ++step) {
    pairs.expert[step] = E::kMost;
    if (step < steps && pairs.number(step) < live) {
      pairs.expert[step] = expert_of(args, pair_of(args, pairs.number(step)), E::kMost);
    }
  }
  number_experts<E>(args, shared);
  workgroup_barrier();
#pragma unroll
  for (uint32_t step = 0; step < kSteps; ++step) {
    if (step >= steps) break;
    uint32_t& expert = pairs.expert[step];
    if (expert < E::kMost && shared.local[expert] == E::kNone) expert = E::kMost;
    pairs.rank[step] = rank_in_wave(counts, expert);
  }
  workgroup_barrier();
#pragma unroll
  for (uint32_t i = 0; i < E::kOwned; ++i) {
    total[i] = E::own() < E::kMost ? sum_waves(counts, E::own() + i) : 0;
  }
}

}  // namespace aiterlite::moe
