// As fused_moe/sm90_prepare.hip, for many tokens: sorted by a cluster, hidden states quantised by the others.
//
// One workgroup takes 12.5 us for 1,024 tokens of 8 experts each on an H200, and leaves room for no other on a
// multiprocessor. Here each workgroup of the first cluster sorts an eighth of the tokens. A bit for each expert and
// token says who goes where; what the workgroups before have of an expert, read from their shared memory, and the bits
// before one's own give each pair its place, tokens ascending, the same in every launch. A token that names an expert
// twice has one entry, with the sum of its weights: its other slots count as without expert. Quantising takes eight
// lanes a group of 128, 16 elements each.
//
// Traffic: ids and weights once; x once, its codes and scales once; entries once. At most 1,024 tokens and experts, and
// AITERLITE_PAIRS * kThreads pairs of a workgroup.
#include <aiterlite/block/cluster.h>
#include <aiterlite/block/scan.h>
#include <aiterlite/fused_moe/sm90_args.h>
#include <aiterlite/overlap.h>
#include <aiterlite/quant/strip.h>

namespace {

using namespace aiterlite;
using Args = aiterlite_sm90_moe_args;

constexpr uint32_t kThreads = 512, kWaves = kThreads / kWaveSize, kLanes = 8, kGroup = 128, kRanks = 8;
constexpr uint32_t kPairs = AITERLITE_PAIRS, kMostExperts = 1024, kWords = 1024 / kRanks / 32;
constexpr uint32_t kEach = kMostExperts / kThreads;  // experts of a thread
constexpr uint16_t kNone = 0xffff;

struct Shared {
  uint32_t bits[kWords][kMostExperts];  // tokens that name an expert
  uint32_t count[kMostExperts];         // of those
  uint32_t place[kMostExperts];         // of the first of them, of all entries
  uint32_t end[kMostExperts];           // of an expert's entries, and of its last block
  uint32_t stop[kMostExperts];
  uint16_t local[kMostExperts];  // its number here, or kNone
  uint16_t of_pair[kPairs * kThreads];
  uint32_t scan[2][kWaves];
};

AITERLITE_DEVICE int32_t load_int(const int32_t* p) { return __builtin_bit_cast(int32_t, load_f32(p)); }

// `live_of`: where the number of each block's entries that are no padding goes, where AITERLITE_COUNTS.
AITERLITE_DEVICE void sort(const aiterlite_fused_moe_args& args, Shared& shared, [[maybe_unused]] uint32_t* live_of) {
  const auto experts = static_cast<uint32_t>(args.global_experts), topk = static_cast<uint32_t>(args.topk);
  const auto tokens = static_cast<uint32_t>(args.tokens), size = static_cast<uint32_t>(args.block_size);
  const uint32_t own = thread_id(), rank = cluster_rank();
  const uint32_t each = (tokens + kRanks - 1) / kRanks, first = rank * each;
  const uint32_t pairs = (first >= tokens ? 0 : each < tokens - first ? each : tokens - first) * topk;
  uint32_t live = tokens;
  if (args.num_local_tokens != nullptr) {
    const int32_t asked = load_int(args.num_local_tokens);
    live = asked < 0 ? 0 : static_cast<uint32_t>(asked) < tokens ? static_cast<uint32_t>(asked) : tokens;
  }

  // All reads of memory at once.
  uint32_t id[kPairs], of[kPairs];  // of: the token among those of this workgroup
  float weight[kPairs];
#pragma unroll
  for (uint32_t i = 0; i < kPairs; ++i) {
    const uint32_t pair = own + i * kThreads, token = pair / topk, slot = pair - token * topk;
    of[i] = token;
    id[i] = ~0u;
    weight[i] = 0.0f;
    if (pair >= pairs || first + token >= live) continue;
    const int64_t at = (first + token) * args.stride_ids + slot;
    const int32_t* from = static_cast<const int32_t*>(args.topk_ids) + at * args.id_words;
    id[i] = static_cast<uint32_t>(load_int(from));
    if (args.id_words != 1 && load_int(from + 1) != 0) id[i] = ~0u;
    weight[i] = load_f32(args.topk_weights + (first + token) * args.stride_weights + slot);
  }
  // A thread's experts are neighbours.
  bool counts[kEach];
  uint32_t counted = 0;
#pragma unroll
  for (uint32_t i = 0; i < kEach; ++i) {
    const uint32_t expert = own * kEach + i;
    counts[i] = expert < experts && (args.expert_mask == nullptr || load_int(args.expert_mask + expert) != 0);
    counted += counts[i];
  }
  const uint32_t words = (each + 31) / 32;
  for (uint32_t word = 0; word < words; ++word) {
    for (uint32_t expert = own; expert < experts; expert += kThreads) shared.bits[word][expert] = 0;
  }
  uint32_t number = own * kEach;
  if (args.expert_mask != nullptr) number = scan_workgroup<kWaves>(counted, Sum{}, 0u, shared.scan[0]).before;
#pragma unroll
  for (uint32_t i = 0; i < kEach; ++i) {
    // A mask that names more experts than there are weights leads nowhere.
    const bool here = counts[i] && number < static_cast<uint32_t>(args.experts);
    shared.local[own * kEach + i] = here ? static_cast<uint16_t>(number) : kNone;
    number += counts[i];
  }
  workgroup_barrier();

  bool twice = false;  // whether a token names an expert that it named before
#pragma unroll
  for (uint32_t i = 0; i < kPairs; ++i) {
    const uint32_t pair = own + i * kThreads;
    if (pair >= pairs) continue;
    if (id[i] >= experts || shared.local[id[i]] == kNone) id[i] = kNone;
    if (id[i] != kNone) {
      const uint32_t bit = 1u << of[i] % 32;
      twice |= (set_bits_shared(&shared.bits[of[i] / 32][id[i]], bit) & bit) != 0;
    }
    shared.of_pair[pair] = static_cast<uint16_t>(id[i]);
  }
  const bool some_twice = named_barrier_any(0, kThreads, twice);
#pragma unroll
  for (uint32_t i = 0; i < kEach; ++i) {
    const uint32_t expert = own * kEach + i;
    if (expert >= experts) continue;
    uint32_t count = 0;
    for (uint32_t word = 0; word < words; ++word) count += static_cast<uint32_t>(__popc(shared.bits[word][expert]));
    shared.count[expert] = count;
  }
  cluster_barrier();
  uint32_t before[kEach] = {}, all[kEach] = {}, blocks = 0;
#pragma unroll
  for (uint32_t i = 0; i < kEach; ++i) {
    const uint32_t expert = own * kEach + i;
    if (expert >= experts) continue;
#pragma unroll
    for (uint32_t other = 0; other < kRanks; ++other) {
      const float read = load_from_rank(address_in_rank(&shared.count[expert], other));
      const auto count = __builtin_bit_cast(uint32_t, read);
      all[i] += count;
      before[i] += other < rank ? count : 0;
    }
    blocks += (all[i] + size - 1) / size;
  }
  const auto scanned = scan_workgroup<kWaves>(blocks, Sum{}, 0u, shared.scan[1]);
  cluster_arrive();  // counts have been read
  // Experts whose blocks and padding this workgroup writes.
  const uint32_t share = (experts + kRanks - 1) / kRanks, first_expert = rank * share;
  uint32_t block = scanned.before;
#pragma unroll
  for (uint32_t i = 0; i < kEach; ++i) {
    const uint32_t expert = own * kEach + i;
    if (expert >= experts) continue;
    const uint32_t count = (all[i] + size - 1) / size;
    shared.place[expert] = block * size + before[i];
    shared.end[expert] = block * size + all[i];
    shared.stop[expert] = (block + count) * size;
    if (expert - first_expert < share) {
      for (uint32_t k = 0; k < count; ++k) {
        store_u32(const_cast<int32_t*>(args.sorted_expert_ids) + block + k, shared.local[expert]);
        if constexpr (AITERLITE_COUNTS) {
          const uint32_t left = all[i] - k * size;
          store_u32(live_of + block + k, left < size ? left : size);
        }
      }
    }
    block += count;
  }
  if (rank == 0 && own == 0) {
    auto* valid = const_cast<int32_t*>(args.num_valid_ids);
    store_u32(valid, scanned.all * size);
    store_u32(valid + 1, live);
  }
  workgroup_barrier();

  auto* sorted = const_cast<int32_t*>(args.sorted_ids);
  auto* weights = const_cast<float*>(args.sorted_weights);
#pragma unroll
  for (uint32_t i = 0; i < kPairs; ++i) {
    const uint32_t pair = own + i * kThreads, slot = pair - of[i] * topk;
    if (pair >= pairs) continue;
    bool leads = id[i] != kNone;
    for (uint32_t other = 0; some_twice && leads && other < topk; ++other) {
      if (other == slot || shared.of_pair[of[i] * topk + other] != id[i]) continue;
      if (other < slot) leads = false;
      weight[i] += load_f32(args.topk_weights + (first + of[i]) * args.stride_weights + other);
    }
    store_u32(const_cast<int32_t*>(args.local_topk_ids) + first * topk + pair, leads ? shared.local[id[i]] : ~0u);
    if (!leads) continue;
    uint32_t at = shared.place[id[i]];
    for (uint32_t word = 0; word < of[i] / 32; ++word) at += static_cast<uint32_t>(__popc(shared.bits[word][id[i]]));
    at += static_cast<uint32_t>(__popc(shared.bits[of[i] / 32][id[i]] & ((1u << of[i] % 32) - 1)));
    store_u32(sorted + at, slot << 24 | (first + of[i]));
    weights[at] = weight[i];
  }
  const uint32_t last_expert = first_expert + share < experts ? first_expert + share : experts;
  for (uint32_t expert = first_expert + own / kWaveSize; expert < last_expert; expert += kWaves) {
    for (uint32_t at = shared.end[expert] + lane_id(); at < shared.stop[expert]; at += kWaveSize) {
      store_u32(sorted + at, topk << 24 | tokens);
      weights[at] = 0.0f;
    }
  }
  cluster_wait();
}

template <class In>
AITERLITE_DEVICE void quantise(const Args& args, uint32_t workgroup) {
  const auto groups = static_cast<uint32_t>(args.moe.width) / kGroup;
  const uint32_t segment = workgroup * (kThreads / kLanes) + thread_id() / kLanes, lane = thread_id() % kLanes;
  const uint32_t token = segment / groups, group = segment - token * groups;
  const bool exists = token < static_cast<uint32_t>(args.moe.tokens);
  const auto* x = static_cast<const In*>(args.moe.x);
  const uint32_t left = exists ? kGroup : 0;
  quant::Strip<In, e4m3fn, kLanes, true> strip;
  strip.load(x + (exists ? token * args.moe.stride_x + group * kGroup : 0), lane, left, x);
  const float scale = quant::scale_of<e4m3fn>(reduce_lanes<kLanes>(strip.maximum(0.0f), Max{}));
  strip.store(args.codes + uint64_t{exists ? token : 0} * args.moe.width + group * kGroup, lane, left,
              quant::Divisor(scale));
  if (exists && lane == 0) {
    args.code_scale[token * args.moe.stride_scale_token + group * args.moe.stride_scale_group] = scale;
  }
}

}  // namespace

AITERLITE_KERNEL_RESIDENT(kThreads, 3)
AITERLITE_CLUSTER_DIMS(8)
aiterlite_sm90_moe_prepare_many(const __grid_constant__ aiterlite_sm90_moe_args args) {
  AITERLITE_SHARED(Shared, shared, 1);
  await_predecessors();
  admit_successors();
  const uint32_t own = workgroup_id() * kThreads + thread_id();
  if (own < static_cast<uint32_t>(args.arrivals)) store_u32(args.arrived + own, 0);
  if (workgroup_id() < kRanks) return sort(args.moe, shared[0], args.arrived);
  if constexpr (AITERLITE_QUANTISES) quantise<AITERLITE_ELEMENT>(args, workgroup_id() - kRanks);
}
