// Stage 2 of a mixture of experts of MXFP4 weights and hidden states, on gfx950, and the sum over slots, for few
// tokens: out[token] = sum over its slots, in their order, of weight * (h[pair] w2^T, rounded), rounded
// (fused_moe/args.h).
//
// Tiling. A workgroup has 64 or 128 features (AITERLITE_UNITS of 64) of all tokens. Its waves take blocks of 32 sorted
// entries in turn, whose results go to LDS, a row for each token and slot; tokens of a slot follow each other, 16 bytes
// further apart than rows are long, so that lanes of neighbouring ones meet different banks. Then a lane has 8 features
// of a token and adds its slots. What has no expert here is a row of zeros with a weight of zero, whatever its weight
// is. The loop is fused_moe/mxfp4_codes.h.
//
// Traffic. w2 and its scales once a block of its expert; h once for a workgroup, from caches; out once. No atomics:
// same operands, same bits, which for a token do not depend on others. Grid: features / 64 or 128, rounded up.
#include <aiterlite/fused_moe/mxfp4_block.h>
#include <aiterlite/numeric/pack.h>
#include <aiterlite/quant/strip.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::fused_moe;

using Result = AITERLITE_RESULT;
constexpr uint32_t kWidth = AITERLITE_WIDTH, kInter = AITERLITE_INTER, kBlocks = AITERLITE_BLOCKS;
constexpr uint32_t kWaves = AITERLITE_WAVES, kThreads = kWaves * kWaveSize, kUnits = AITERLITE_UNITS,
                   kFeatures = kUnits * kUnitRows, kParts = kFeatures / 8;
constexpr uint32_t kTopk = AITERLITE_TOPK, kTokens = AITERLITE_TOKENS, kRowBytes = 2 * kFeatures + 16,
                   kSlotBytes = kTokens * kRowBytes;
constexpr bool kShuffled = AITERLITE_SHUFFLED, kBiased = AITERLITE_BIASED, kWeighted = AITERLITE_WEIGHTED,
               kWhole = kWidth % kFeatures == 0;
static_assert(kBlocks <= kWaves * kWaveSize, "a lane has a block of its wave's");
using Product = BlockProduct<kUnits, kShuffled, kWidth, kInter, kWhole, 1>;
using Source = Product::Source;
using Pair = float __attribute__((ext_vector_type(2)));

}  // namespace

AITERLITE_KERNEL_WAVES(kThreads, kWavesOfSimd<kShuffled>)
aiterlite_fused_moe_mxfp4_codes_sums(aiterlite_fused_moe_args args) {
  AITERLITE_SHARED(Vector16, slots, (kTopk * kSlotBytes / 16));
  AITERLITE_SHARED(Vector16, weights, (kTokens * ((kTopk + 1) / 2)));  // each twice, as two products at once take it
  char* const rows = reinterpret_cast<char*>(slots);
  char* const pairs_weights = reinterpret_cast<char*>(weights);
  constexpr uint32_t kTokenWeights = (kTopk + 1) / 2 * 16;
  const auto tokens = static_cast<uint32_t>(args.tokens), experts = static_cast<uint32_t>(args.experts);
  const uint32_t first = workgroup_id() * kFeatures, lane = lane_id(), wave = wave_id(), pairs = tokens * kTopk;

  // The experts of the wave's blocks: wave, wave + kWaves and so forth.
  const uint32_t own_block = wave + kWaves * lane, held_block = own_block < kBlocks ? own_block : 0;
  const auto named = static_cast<uint32_t>(load_int(args.sorted_expert_ids + held_block));
  const auto used = static_cast<uint32_t>(load_int(args.num_valid_ids));
  const auto weigh = [&](uint32_t pair) {
    const uint32_t token = pair / kTopk, slot = pair % kTopk;
    const bool counts = static_cast<uint32_t>(load_int(args.local_topk_ids + pair)) < experts;
    float weight = kWeighted ? 1.0f : load_f32(args.topk_weights + int64_t{token} * args.stride_weights + slot);
    if (!counts) {
      weight = 0.0f;
      for (uint32_t i = 0; i < kParts; ++i) {
        store_shared_16(rows + slot * kSlotBytes + token * kRowBytes + i * 16, Vector16{});
      }
    }
    if constexpr (!kWeighted) {
      store_shared_8(pairs_weights + token * kTokenWeights + slot * 8,
                     __builtin_bit_cast(Vector8, Pair{weight, weight}));
    }
  };
  if constexpr (kTokens * kTopk <= kThreads) {
    if (thread_id() < pairs) weigh(thread_id());
  } else {
#pragma unroll 1
    for (uint32_t pair = thread_id(); pair < pairs; pair += kThreads) weigh(pair);
  }

  LaneMask left = lanes_where(own_block < kBlocks && own_block * kBlockEntries < used && named < experts);
  const auto first_of = [&](uint32_t i) { return kWhole || first + 32 * i < kWidth ? first + 32 * i : kOutside; };
  const Source::Matrices w2(args.w2, args.w2_scale);
  Source from(w2, 0, first_of, args.h, args.h_scale, pairs);
#pragma unroll 1
  for (; left != 0; left &= left - 1) {
    const uint32_t which = first_lane(left), expert = word_of_lane(named, which);
    const int32_t* const ids = args.sorted_ids + (wave + kWaves * which) * kBlockEntries;
    const auto entry = BlockEntry::of(args, static_cast<uint32_t>(load_int(ids + lane % kBlockEntries)));
    from.set_expert(w2, expert);
    from.set_token(entry.pair(kTopk));
    Product::Sums found = {};
    Product::run(from, found);
    Product::pin(found);
    if (entry.token < 0) continue;
    [[maybe_unused]] const float* of_expert = args.bias2 + uint64_t{expert} * kWidth + first;
    char* const row =
        rows + static_cast<uint32_t>(entry.slot) * kSlotBytes + static_cast<uint32_t>(entry.token) * kRowBytes;
#pragma unroll
    for (uint32_t t = 0; t < 2 * kUnits; ++t) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t own = t / 2 * kUnitRows + unit_row(t % 2, i);
        float value[4];
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
          value[j] = found[t][4 * i + j];
          if constexpr (kBiased) {
            if (kWhole || first + own < kWidth) value[j] += load_f32(of_expert + own + j);
          }
        }
        const Vector8 four = {{pack_pair(Result{}, value[0], value[1]), pack_pair(Result{}, value[2], value[3])}};
        store_shared_8(row + 2 * own, four);
      }
    }
  }
  workgroup_barrier();

  const uint32_t part = thread_id() % kParts, column = first + part * 8;
  if (!kWhole && column >= kWidth) return;
#pragma unroll 1
  for (uint32_t token = thread_id() / kParts; token < tokens; token += kThreads / kParts) {
    const char* const row = rows + token * kRowBytes + part * 16;
    Pair sum[4] = {};
#pragma unroll
    for (uint32_t s = 0; s < kTopk; s += 2) {
      Quad weight = {};
      if constexpr (!kWeighted) {
        weight = __builtin_bit_cast(Quad, load_shared_16(pairs_weights + token * kTokenWeights + s * 8));
      }
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        if (s + i == kTopk) break;
        float value[8];
        quant::widen(Result{}, load_shared_16(row + (s + i) * kSlotBytes), value);
        const Pair by = {weight.value[2 * i], weight.value[2 * i + 1]};
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
          const Pair held = {value[2 * j], value[2 * j + 1]};
          sum[j] = kWeighted ? sum[j] + held : __builtin_elementwise_fma(held, by, sum[j]);
        }
      }
    }
    Vector16 made;
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) made.word[j] = pack_pair(Result{}, sum[j][0], sum[j][1]);
    auto* const to = static_cast<Result*>(args.out) + int64_t{token} * args.stride_out + column;
    store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, made));
  }
}
