// Stage 1 of a mixture of experts of MXFP4 weights: h[pair] = act(x w1_gate^T) * (x w1_up^T), for the pairs of token
// and slot of a sorted block, by the block's expert (fused_moe/args.h). gfx942, gfx950, sm_90.
//
// Tiling. A workgroup has AITERLITE_TOKENS entries of a block; a wave has 32 of the layer's inner width, two tiles of
// gate rows and two of up rows. AITERLITE_WAVES of them are four, whose tokens come from the same caches, and one for a
// few tokens (AITERLITE_FEW, fused_moe/mxfp4_entries.h), so that as many CUs as can be read. The loop over k is
// fused_moe/mxfp4_product.h. The sums of a token are the same in all of these ways. On gfx950 MXFP4 of both sides is
// multiplied by mxfp4_codes_stage1.hip, but for hidden states that come as codes.
//
// Epilogue. Sums cross lanes by the wave's own shared memory, so that a lane has 8 neighbours of h of a token, and four
// lanes a block of 32. h is bf16; where x is packed it becomes MXFP4 by RoundUp, its codes [pairs, inter / 2] and its
// scales [pairs, inter / 32]; with AITERLITE_ROUNDS it is the bf16 number that MXFP8 has for it.
//
// Traffic. w1 and its scales once a block of its expert; x once a wave, from caches; h once. Padding reads the row of
// an entry that is not, and writes nothing. Order: that of fused_moe/mxfp4_product.h; no atomics: same operands, same
// bits. Grid: parts of blocks that there may be, or pairs, times inner width / (32 * waves), rounded up.
#include <aiterlite/block/quad.h>
#include <aiterlite/fused_moe/activation.h>
#include <aiterlite/fused_moe/mxfp4_entries.h>
#include <aiterlite/fused_moe/mxfp4_product.h>
#include <aiterlite/numeric/mxfp4_encode.h>
#include <aiterlite/numeric/mxfp8_round.h>
#include <aiterlite/numeric/pack.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::fused_moe;

using Number = AITERLITE_NUMBER;
constexpr uint32_t kTokens = AITERLITE_TOKENS, kWaves = AITERLITE_WAVES, kThreads = kWaves * kWaveSize;
constexpr bool kShuffled = AITERLITE_SHUFFLED, kPacked = AITERLITE_PACKED, kWeighted = AITERLITE_WEIGHTED,
               kBiased = AITERLITE_BIASED;
constexpr uint32_t kInner = kMxBlock, kGroupInner = kWaves * kInner, kPitch = 2 * kInner + 4;
static_assert(!kPacked || __is_same(Number, bf16), "products of codes are bf16's");

using Product = MxProduct<Number, kPacked, kShuffled, 4, kTokens>;

}  // namespace

AITERLITE_MX_KERNEL(kThreads) aiterlite_fused_moe_mxfp4_stage1(aiterlite_fused_moe_args args) {
  AITERLITE_SHARED(Quad, sums, (kWaves * kTokens * kPitch / 4));
  AITERLITE_SHARED(int32_t, pair_of, kTokens);
  AITERLITE_SHARED(float, weight_of, kTokens);
  await_predecessors();
  const auto width = static_cast<uint32_t>(args.width), inter = static_cast<uint32_t>(args.inter);
  const uint32_t groups = (inter + kGroupInner - 1) / kGroupInner, group = workgroup_id() % groups;
  const auto entries = MxEntries<kTokens>::of(args, workgroup_id() / groups, true);
  if (!entries.any()) return;

  const uint32_t lane = lane_id(), wave = wave_id();
  // Where the inner width ends amid these 128, waves behind it make once more what the last one before it makes.
  const uint32_t mine = group * kGroupInner + wave * kInner, first = mine < inter ? mine : inter - kInner;
  const auto step = static_cast<uint32_t>(args.gate_step), up = static_cast<uint32_t>(args.up_offset);
  if (thread_id() < kTokens) {
    pair_of[thread_id()] = entries.own_pair();
    weight_of[thread_id()] = kWeighted ? entries.weight(args) : 1.0f;
  }
  const MxMatrix<kShuffled> w1(args.w1, args.w1_scale, width, 2 * inter, static_cast<uint32_t>(entries.expert));
  float* own = reinterpret_cast<float*>(sums) + wave * kTokens * kPitch;
  Product product;
  product.set_rows(w1, [&](uint32_t t, uint32_t r) { return (first + t % 2 * 16 + r) * step + t / 2 * up; });
  product.set_tokens(args.x, args.stride_x * (kPacked ? 1 : 2), args.x_scale, args.stride_scale_token,
                     args.stride_scale_group, [&](uint32_t i) { return int64_t{entries.token_of(i)}; });
  product.run([&](uint32_t t, uint32_t r, uint32_t i, float sum) { own[i * kPitch + t * 16 + r] = sum; });
  workgroup_barrier();

  const Swiglu swiglu = {args.limit, args.beta, args.linear_beta};
  [[maybe_unused]] const float* of_expert = args.bias1 + uint64_t{2} * static_cast<uint32_t>(entries.expert) * inter;
  constexpr uint32_t kAtOnce = kWaveSize / 4;
#pragma unroll
  for (uint32_t begin = 0; begin < kTokens; begin += kAtOnce) {
    const uint32_t entry = begin + lane / 4, quarter = lane % 4;
    const bool within = kTokens % kAtOnce == 0 || entry < kTokens;
    const uint32_t held = within ? entry : 0;
    const float* at = own + held * kPitch + quarter * 8;
    const float weight = weight_of[held];
    Vector16 h;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      float value[2];
#pragma unroll
      for (uint32_t j = 0; j < 2; ++j) {
        // Of x times the weight they are as much.
        float gate = at[2 * i + j] * weight, upper = at[2 * i + j + kInner] * weight;
        if constexpr (kBiased) {
          const float* bias = of_expert + (first + quarter * 8 + 2 * i + j) * step;
          gate += load_f32(bias);
          upper += load_f32(bias + up);
        }
        value[j] = activate<AITERLITE_ACTIVATION>(gate, upper, swiglu);
      }
      h.word[i] = pack_pair(bf16{}, value[0], value[1]);
    }
    const int32_t pair = pair_of[held];
    const bool stores = within && pair >= 0 && mine < inter;
    const uint64_t row = static_cast<uint32_t>(pair);
    if constexpr (kPacked) {
      const uint32_t both = greatest_halves(h), most = greater_u16_pair(both, both >> 16) & 0xffffu;
      const uint32_t byte = mx_scale_byte(float_bits_of<bf16>(greatest_in_quad(most) & 0xffffu), {0x3fffffu, 1});
      const uint32_t codes = encode_eight_e2m1<bf16>(h, mx_half_reciprocal(byte));
      if (!stores) continue;
      store_u32(static_cast<char*>(args.h) + row * (inter / 2) + (first + quarter * 8) / 2, codes);
      auto* scales = reinterpret_cast<uint8_t*>(args.h_scale) + row * (inter / kMxBlock) + first / kMxBlock;
      if (quarter == 0) store_u8(scales, static_cast<uint8_t>(byte));
    } else {
      if constexpr (AITERLITE_ROUNDS) h = round_quad_to_mxfp8<bf16>(h);
      if (!stores) continue;
      char* to = static_cast<char*>(args.h) + (row * inter + first + quarter * 8) * 2;
      store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, h));
    }
  }
}
