// What comes before the expert GEMMs on sm_90, in one launch: pairs of token and slot sorted by experts, and hidden
// states quantised in groups of 128.
//
// The first workgroup sorts. A bit for each expert and token says who goes where; counting the bits before one's own
// gives each pair its place, tokens ascending, without a sort and the same in every launch. A token that names an
// expert twice has one entry, with the sum of its weights: its other slots count as without expert. The others
// quantise: eight lanes a group, 16 elements each; or, for MXFP4 weights (AITERLITE_QUANTISES above 1), blocks of 32.
//
// Traffic: ids and weights once; x once, its codes and scales once; entries once. At most 1,024 tokens and experts.
#include <aiterlite/block/scan.h>
#include <aiterlite/fused_moe/sm90_args.h>
#include <aiterlite/fused_moe/sm90_mx_numbers.h>
#include <aiterlite/overlap.h>
#include <aiterlite/quant/strip.h>

namespace {

using namespace aiterlite;
using Args = aiterlite_sm90_moe_args;

constexpr uint32_t kThreads = 1024, kWaves = kThreads / kWaveSize, kLanes = 8, kGroup = 128;
constexpr bool kSorts = AITERLITE_SORTS;
// Pairs of a thread.
constexpr uint32_t kPairs = AITERLITE_PAIRS;
constexpr uint16_t kNone = 0xffff;

AITERLITE_DEVICE int32_t load_int(const int32_t* p) { return __builtin_bit_cast(int32_t, load_f32(p)); }

// Arrays in shared memory, for these many experts, tokens, pairs and entries.
struct Arrays {
  uint32_t pitch;     // words of an expert's bits; odd, so that experts lie in different banks
  uint32_t* bits;     // [experts][pitch]
  float* weight;      // [pairs]
  uint16_t* before;   // [experts][pitch]: bits in the words before
  uint16_t* local;    // [experts]: its number here, or kNone
  uint16_t* block;    // [experts]: its first block
  uint16_t* of_pair;  // [pairs]: its expert, or kNone
  uint16_t* pair_of;  // [entries]: its pair, or kNone

  AITERLITE_DEVICE Arrays(char* bytes, uint32_t experts, uint32_t tokens, uint32_t pairs)
      : pitch((tokens + 31) / 32 | 1),
        bits(reinterpret_cast<uint32_t*>(bytes)),
        weight(reinterpret_cast<float*>(bits + experts * pitch)),
        before(reinterpret_cast<uint16_t*>(weight + pairs)),
        local(before + experts * pitch),
        block(local + experts),
        of_pair(block + experts),
        pair_of(of_pair + pairs) {}
};

// pair / topk, for pairs up to kPairs * kThreads and topk up to 32.
class Division {
 public:
  AITERLITE_DEVICE explicit Division(uint32_t topk) : topk_(topk), multiplier_(((1u << 20) + topk - 1) / topk) {}
  AITERLITE_DEVICE uint32_t token(uint32_t pair) const {
    return static_cast<uint32_t>(uint64_t{pair} * multiplier_ >> 20);
  }
  AITERLITE_DEVICE uint32_t slot(uint32_t pair) const { return pair - token(pair) * topk_; }

 private:
  uint32_t topk_, multiplier_;
};

AITERLITE_DEVICE void sort(const aiterlite_fused_moe_args& args, char* bytes, uint32_t* scan) {
  const auto experts = static_cast<uint32_t>(args.global_experts), topk = static_cast<uint32_t>(args.topk);
  const auto tokens = static_cast<uint32_t>(args.tokens), size = static_cast<uint32_t>(args.block_size);
  const uint32_t own = thread_id(), pairs = tokens * topk;
  const Arrays arrays(bytes, experts, tokens, pairs);
  const Division pairs_to(topk);
  uint32_t live = tokens;
  if (args.num_local_tokens != nullptr) {
    const int32_t asked = load_int(args.num_local_tokens);
    live = asked < 0 ? 0 : static_cast<uint32_t>(asked) < tokens ? static_cast<uint32_t>(asked) : tokens;
  }

  // All reads of memory at once.
  uint32_t id[kPairs];
  float weight[kPairs];
#pragma unroll
  for (uint32_t i = 0; i < kPairs; ++i) {
    const uint32_t pair = own + i * kThreads, token = pairs_to.token(pair), slot = pairs_to.slot(pair);
    id[i] = ~0u;
    weight[i] = 0.0f;
    if (pair >= pairs || token >= live) continue;
    const int32_t* at = static_cast<const int32_t*>(args.topk_ids) + (token * args.stride_ids + slot) * args.id_words;
    id[i] = static_cast<uint32_t>(load_int(at));
    if (args.id_words != 1 && load_int(at + 1) != 0) id[i] = ~0u;
    weight[i] = load_f32(args.topk_weights + token * args.stride_weights + slot);
  }
  const bool counts = own < experts && (args.expert_mask == nullptr || load_int(args.expert_mask + own) != 0);
  for (uint32_t i = own; i < experts * arrays.pitch; i += kThreads) arrays.bits[i] = 0;
  uint32_t number = own;
  if (args.expert_mask != nullptr) number = scan_workgroup<kWaves>(uint32_t{counts}, Sum{}, 0u, scan).before;
  // A mask that names more experts than there are weights leads nowhere.
  const bool here = counts && number < static_cast<uint32_t>(args.experts);
  if (own < experts) arrays.local[own] = here ? static_cast<uint16_t>(number) : kNone;
  workgroup_barrier();

  bool twice = false;  // whether a token names an expert that it named before
#pragma unroll
  for (uint32_t i = 0; i < kPairs; ++i) {
    const uint32_t pair = own + i * kThreads, token = pairs_to.token(pair);
    if (pair >= pairs) continue;
    if (id[i] >= experts || arrays.local[id[i]] == kNone) id[i] = kNone;
    if (id[i] != kNone) {
      const uint32_t bit = 1u << token % 32;
      twice |= (set_bits_shared(arrays.bits + id[i] * arrays.pitch + token / 32, bit) & bit) != 0;
    }
    arrays.of_pair[pair] = static_cast<uint16_t>(id[i]);
  }
  const bool some_twice = named_barrier_any(0, kThreads, twice);

  uint32_t total = 0;
  if (own < experts) {
    const uint32_t* bits = arrays.bits + own * arrays.pitch;
    uint16_t* before = arrays.before + own * arrays.pitch;
#pragma unroll 8
    for (uint32_t word = 0; word < (tokens + 31) / 32; ++word) {
      before[word] = static_cast<uint16_t>(total);
      total += static_cast<uint32_t>(__popc(bits[word]));
    }
  }
  const uint32_t blocks = (total + size - 1) / size;
  const auto scanned = scan_workgroup<kWaves>(blocks, Sum{}, 0u, scan);
  const uint32_t entries = scanned.all * size;
  if (own < experts) {
    arrays.block[own] = static_cast<uint16_t>(scanned.before);
    for (uint32_t k = 0; k < blocks; ++k) {
      store_u32(const_cast<int32_t*>(args.sorted_expert_ids) + scanned.before + k, arrays.local[own]);
    }
  }
  if (own == 0) {
    auto* valid = const_cast<int32_t*>(args.num_valid_ids);
    store_u32(valid, entries);
    store_u32(valid + 1, live);
  }
  for (uint32_t i = own; i < entries; i += kThreads) arrays.pair_of[i] = kNone;
  workgroup_barrier();

#pragma unroll
  for (uint32_t i = 0; i < kPairs; ++i) {
    const uint32_t pair = own + i * kThreads, token = pairs_to.token(pair), slot = pairs_to.slot(pair);
    if (pair >= pairs) continue;
    bool leads = id[i] != kNone;
    for (uint32_t other = 0; some_twice && leads && other < topk; ++other) {
      if (other == slot || arrays.of_pair[token * topk + other] != id[i]) continue;
      if (other < slot) leads = false;
      weight[i] += load_f32(args.topk_weights + token * args.stride_weights + other);
    }
    store_u32(const_cast<int32_t*>(args.local_topk_ids) + pair, leads ? arrays.local[id[i]] : ~0u);
    if (!leads) continue;
    const uint32_t word = id[i] * arrays.pitch + token / 32;
    const uint32_t below = arrays.bits[word] & ((1u << token % 32) - 1);
    const uint32_t at = arrays.block[id[i]] * size + arrays.before[word] + static_cast<uint32_t>(__popc(below));
    arrays.pair_of[at] = static_cast<uint16_t>(pair);
    arrays.weight[pair] = weight[i];
  }
  workgroup_barrier();
  // In order, since a wave that writes 32 entries apart takes as long as for 32 lines.
  for (uint32_t i = own; i < entries; i += kThreads) {
    const uint32_t pair = arrays.pair_of[i], token = pairs_to.token(pair);
    const bool exists = pair != kNone;
    store_u32(const_cast<int32_t*>(args.sorted_ids) + i,
              exists ? pairs_to.slot(pair) << 24 | token : topk << 24 | tokens);
    const_cast<float*>(args.sorted_weights)[i] = exists ? arrays.weight[pair] : 0.0f;
  }
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

// The same in blocks of 32, as MXFP4 or MXFP8 has them: four lanes a block, 8 elements each.
template <int kRounding>
AITERLITE_DEVICE void quantise_blocks(const Args& args, uint32_t workgroup) {
  const auto width = static_cast<uint32_t>(args.moe.width);
  const uint32_t each = width / 8, own = workgroup * kThreads + thread_id();
  const bool exists = own < static_cast<uint32_t>(args.moe.tokens) * each;
  // Quads behind the last one read the first, so that all lanes exchange.
  const uint32_t index = exists ? own : own % 4, token = index / each, at = index % each;
  const auto* x = static_cast<const uint16_t*>(args.moe.x) + int64_t{token} * args.moe.stride_x + at * 8;
  const auto made = experts::mx::codes_of_block<kRounding>(load_row_vector<Reuse::kRow>(x));
  if (!exists) return;
  experts::mx::store_block(args.codes + uint64_t{token} * width + at / 4 * 32, at % 4, made);
  if (at % 4 == 0) args.code_scale[uint64_t{token} * (width / 32) + at / 4] = made.scale;
}

}  // namespace

AITERLITE_KERNEL(kThreads)
aiterlite_sm90_moe_prepare(const __grid_constant__ aiterlite_sm90_moe_args args) {
  AITERLITE_DYNAMIC_SHARED(char, bytes);
  AITERLITE_SHARED(uint32_t, scan, kWaves);
  await_predecessors();
  admit_successors();
  const uint32_t own = workgroup_id() * kThreads + thread_id();
  if (own < static_cast<uint32_t>(args.arrivals)) store_u32(args.arrived + own, 0);
  if (kSorts && workgroup_id() == 0) return sort(args.moe, &bytes, scan);
  if constexpr (AITERLITE_QUANTISES > 1) {
    quantise_blocks<AITERLITE_QUANTISES>(args, workgroup_id() - kSorts);
  } else if constexpr (AITERLITE_QUANTISES) {
    quantise<AITERLITE_ELEMENT>(args, workgroup_id() - kSorts);
  }
}
