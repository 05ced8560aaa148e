// Stage 2 of a mixture of experts of MXFP4 weights and hidden states, on gfx950, for many tokens: slots[pair] = h[pair]
// w2^T, rounded, for the pairs of a block of 32 sorted entries, by the block's expert (fused_moe/args.h). A sum over
// the slots follows, which multiplies them by routing weights; where slots are the result they are multiplied here.
//
// Tiling. A wave has 128 features of a block, a workgroup those of four; lanes store the four neighbours that
// they have. The loop is fused_moe/mxfp4_codes.h.
//
// Traffic. w2 and its scales once a block of its expert; h once for 128 features, from caches; slots once. Order: that
// of mxfp4_codes_sums.hip, and so a token's bits are those that it has among few tokens. Grid: blocks times groups of
// features.
#include <aiterlite/fused_moe/mxfp4_block.h>
#include <aiterlite/numeric/pack.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::fused_moe;

using Result = AITERLITE_RESULT;
constexpr uint32_t kWidth = AITERLITE_WIDTH, kInter = AITERLITE_INTER, kTopk = AITERLITE_TOPK;
constexpr uint32_t kWaves = 4, kThreads = kWaves * kWaveSize, kUnits = 2, kFeatures = kUnits * kUnitRows,
                   kGroups = (kWidth + kWaves * kFeatures - 1) / (kWaves * kFeatures);
constexpr bool kShuffled = AITERLITE_SHUFFLED, kBiased = AITERLITE_BIASED, kWeighs = AITERLITE_WEIGHS,
               kWhole = kWidth % kFeatures == 0;
using Product = BlockProduct<kUnits, kShuffled, kWidth, kInter, kWhole, 1>;
using Source = Product::Source;

}  // namespace

AITERLITE_KERNEL_WAVES(kThreads, kWavesOfSimd<kShuffled>)
aiterlite_fused_moe_mxfp4_codes_stage2(aiterlite_fused_moe_args args) {
  const uint32_t group = workgroup_id() % kGroups, number = workgroup_id() / kGroups;
  const uint32_t first = (group * kWaves + wave_id()) * kFeatures;
  const SortedBlock block = SortedBlock::of(args, number);
  if (!block.any() || first >= kWidth) return;
  const auto expert = static_cast<uint32_t>(block.expert);
  const int32_t pair = block.entry.pair(kTopk);

  const auto first_of = [&](uint32_t i) { return kWhole || first + 32 * i < kWidth ? first + 32 * i : kOutside; };
  const Source::Matrices w2(args.w2, args.w2_scale);
  Source from(w2, expert, first_of, args.h, args.h_scale, static_cast<uint32_t>(args.tokens) * kTopk);
  from.set_token(pair);
  Product::Sums found = {};
  Product::run(from, found);
  Product::pin(found);

  if (pair < 0) return;
  [[maybe_unused]] float weight = 1.0f;
  if constexpr (kWeighs) {
    const auto token = static_cast<uint32_t>(block.entry.token), slot = static_cast<uint32_t>(block.entry.slot);
    weight = load_f32(args.topk_weights + int64_t{token} * args.stride_weights + slot);
  }
  [[maybe_unused]] const float* of_expert = args.bias2 + uint64_t{expert} * kWidth;
  auto* const to = static_cast<Result*>(args.slots) + uint64_t{static_cast<uint32_t>(pair)} * kWidth;
#pragma unroll
  for (uint32_t t = 0; t < 2 * kUnits; ++t) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t own = first + t / 2 * kUnitRows + unit_row(t % 2, i);
      if (!kWhole && own >= kWidth) continue;
      float value[4];
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) {
        value[j] = found[t][4 * i + j];
        if constexpr (kBiased) value[j] += load_f32(of_expert + own + j);
        if constexpr (kWeighs) value[j] *= weight;
      }
      store_vector8(to + own, {{pack_pair(Result{}, value[0], value[1]), pack_pair(Result{}, value[2], value[3])}});
    }
  }
}
