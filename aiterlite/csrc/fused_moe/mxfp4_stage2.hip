// Stage 2 of a mixture of experts of MXFP4 weights: slots[pair] = weight * h[pair] w2^T, rounded, for the pairs of a
// sorted block, by the block's expert (fused_moe/args.h). A sum over the slots follows. gfx942, gfx950, sm_90.
//
// Tiling. A workgroup of AITERLITE_WAVES waves has AITERLITE_TOKENS entries, as in stage 1; a wave has 32 or 64
// features of the result (AITERLITE_FEATURES), two or four tiles of rows of w2. The loop over k is
// fused_moe/mxfp4_product.h, with rows of h for tokens: bf16, or MXFP4 with AITERLITE_PACKED. Results cross lanes by
// the wave's own shared memory, so that 16 bytes leave a lane.
//
// Traffic. w2 and its scales once a block of its expert; h once a wave, from caches; slots once. Padding reads the row
// of an entry that is not, and writes nothing. Order: as in stage 1: same operands, same bits. Grid: parts of blocks
// that there may be, or pairs, times features / (32 * waves), rounded up.
#include <aiterlite/fused_moe/mxfp4_entries.h>
#include <aiterlite/fused_moe/mxfp4_product.h>
#include <aiterlite/numeric/pack.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::fused_moe;

using Result = AITERLITE_RESULT;
constexpr uint32_t kTokens = AITERLITE_TOKENS, kWaves = AITERLITE_WAVES, kThreads = kWaves * kWaveSize;
[[maybe_unused]] constexpr bool kShuffled = AITERLITE_SHUFFLED, kPacked = AITERLITE_PACKED,
                                kWeighted = AITERLITE_WEIGHTED, kBiased = AITERLITE_BIASED;
constexpr uint32_t kWaveFeatures = AITERLITE_FEATURES, kPitch = kWaveFeatures + 4, kParts = kWaveFeatures / 8;
using Product = MxProduct<bf16, kPacked, kShuffled, kWaveFeatures / 16, kTokens>;
constexpr uint32_t kFeatures = kWaves * kWaveFeatures;

}  // namespace

AITERLITE_MX_KERNEL(kThreads) aiterlite_fused_moe_mxfp4_stage2(aiterlite_fused_moe_args args) {
  AITERLITE_SHARED(float, sums, (kWaves * kTokens * kPitch));
  AITERLITE_SHARED(int32_t, pair_of, kTokens);
  AITERLITE_SHARED(float, weight_of, kTokens);
  await_predecessors();
  const auto width = static_cast<uint32_t>(args.width), inter = static_cast<uint32_t>(args.inter);
  const uint32_t lane = lane_id(), wave = wave_id();
  const uint32_t groups = (width + kFeatures - 1) / kFeatures, group = workgroup_id() % groups;
  const auto entries = MxEntries<kTokens>::of(args, workgroup_id() / groups, false);
  if (!entries.any()) return;
  const int32_t expert = entries.expert;
  const MxMatrix<kShuffled> w2(args.w2, args.w2_scale, inter, width, static_cast<uint32_t>(expert));
  [[maybe_unused]] const float* of_expert = args.bias2 + uint64_t{static_cast<uint32_t>(expert)} * width;
  // Waves behind the last feature make once more what the last one before it makes.
  const uint32_t mine = group * kFeatures + wave * kWaveFeatures, first = mine < width ? mine : width - kWaveFeatures;
  if (thread_id() < kTokens) {
    pair_of[thread_id()] = entries.own_pair();
    weight_of[thread_id()] = kWeighted ? 1.0f : entries.weight(args);
  }
  Product product;
  product.set_rows(w2, [&](uint32_t t, uint32_t r) { return first + t * 16 + r; });
  product.set_tokens(args.h, kPacked ? inter / 2 : 2 * inter, args.h_scale, inter / kMxBlock, 1,
                     [&](uint32_t i) { return int64_t{entries.pair_of(i)}; });
  float* own = sums + wave * kTokens * kPitch;
  product.run([&](uint32_t t, uint32_t r, uint32_t i, float sum) { own[i * kPitch + t * 16 + r] = sum; });
  workgroup_barrier();

  constexpr uint32_t kAtOnce = kWaveSize / kParts;
#pragma unroll
  for (uint32_t begin = 0; begin < kTokens; begin += kAtOnce) {
    const uint32_t entry = begin + lane / kParts, part = lane % kParts;
    if ((kTokens % kAtOnce != 0 && entry >= kTokens) || mine >= width) continue;
    const int32_t pair = pair_of[entry];
    if (pair < 0) continue;
    const float* at = own + entry * kPitch + part * 8;
    const float weight = weight_of[entry];
    float value[8];
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      value[i] = at[i];
      if constexpr (kBiased) value[i] += load_f32(of_expert + first + part * 8 + i);
    }
    Vector16 made;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      made.word[i] = pack_pair(Result{}, value[2 * i] * weight, value[2 * i + 1] * weight);
    }
    const uint64_t row = static_cast<uint32_t>(pair);
    char* to = static_cast<char*>(args.slots) + (row * width + first + part * 8) * 2;
    store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, made));
  }
}
