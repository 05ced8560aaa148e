// Stage 1 of a mixture of experts of MXFP4 weights and hidden states, on gfx950: h[pair] = act(x w1_gate^T) * (x
// w1_up^T) as MXFP4 by RoundUp, of the pairs of a block of 32 sorted entries, by the block's expert (fused_moe/args.h).
//
// Tiling. A workgroup has a block and 64 or 128 of the layer's inner width (AITERLITE_UNITS of 32), 128 or 256 rows of
// w1. Its four waves have the steps of 256 k in four runs, as long as each other or one longer; the last one has what
// is behind the last step. So few tokens keep more of the chip reading, and tokens are read once for all of those rows.
// The loop is fused_moe/mxfp4_codes.h.
//
// Epilogue. Sums of the waves are added in LDS, in the waves' order. A lane then has 8 neighbours of h of an entry, for
// each 64 of inter, and four lanes a block of 32. Codes of h [pairs, kInter / 2]; its scales [pairs, kInter / 32], rows
// at multiples of 8 bytes.
//
// Traffic. w1 and its scales once a block of its expert; x once for 64 or 128 of inter, from caches; h once. Nothing is
// read for padding. No atomics: same operands, same bits, which for a token do not depend on others, nor on the width
// that a workgroup has. Grid: blocks, or groups of pairs, times inner width / 64 or 128, rounded up.
#include <aiterlite/block/quad.h>
#include <aiterlite/fused_moe/activation.h>
#include <aiterlite/fused_moe/mxfp4_block.h>
#include <aiterlite/numeric/mxfp4_encode.h>
#include <aiterlite/numeric/pack.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::fused_moe;

constexpr uint32_t kWidth = AITERLITE_WIDTH, kInter = AITERLITE_INTER, kTopk = AITERLITE_TOPK;
constexpr uint32_t kWaves = 4, kThreads = kWaves * kWaveSize, kUnits = AITERLITE_UNITS, kInner = 32 * kUnits,
                   kRows = 2 * kInner, kPitch = kRows + 4, kGroups = (kInter + kInner - 1) / kInner;
constexpr bool kShuffled = AITERLITE_SHUFFLED, kWeighted = AITERLITE_WEIGHTED, kBiased = AITERLITE_BIASED,
               kInterleaved = AITERLITE_INTERLEAVED, kWhole = kInter % kInner == 0;
using Product = BlockProduct<kUnits, kShuffled, 2 * kInter, kWidth, kWhole, kWaves>;
using Source = Product::Source;
// Biases of few tokens would be spilled, too, and few workgroups share a unit there.
constexpr int kSimdWaves = kBiased && AITERLITE_FEW ? 1 : kWavesOfSimd<kShuffled, kUnits>;

}  // namespace

AITERLITE_KERNEL_WAVES(kThreads, kSimdWaves)
aiterlite_fused_moe_mxfp4_codes_stage1(aiterlite_fused_moe_args args) {
  AITERLITE_SHARED(Quad, sums, (kWaves * kBlockEntries * kPitch / 4));
  const uint32_t group = workgroup_id() % kGroups, number = workgroup_id() / kGroups, first = group * kInner;
  const uint32_t lane = lane_id(), wave = wave_id();
#if AITERLITE_FEW
  const SortedBlock block = few_block<kTopk, AITERLITE_FEW == 2>(args, number, group == 0 && wave == 0);
#else
  const SortedBlock block = SortedBlock::of(args, number);
#endif
  if (!block.any()) return;
  const auto expert = static_cast<uint32_t>(block.expert);

  // 32 gate rows, or up rows, or both in turn, each.
  const Source::Matrices w1(args.w1, args.w1_scale);
  const auto first_of = [&](uint32_t i) {
    if constexpr (kInterleaved) {
      return kWhole || first + i / 2 * 32 < kInter ? 2 * first + 32 * i : kOutside;
    } else {
      const uint32_t inner = first + i % kUnits * 32;
      return kWhole || inner < kInter ? inner + i / kUnits * kInter : kOutside;
    }
  };
  Source from(w1, expert, first_of, args.x, args.x_scale, static_cast<uint32_t>(args.tokens));
  from.set_token(block.entry.token);
  Product::Sums found = {};
  Product::run(from, found, wave);

  float* const all = reinterpret_cast<float*>(sums);
  float* const own = all + wave * kBlockEntries * kPitch + lane % 32 * kPitch;
#pragma unroll
  for (uint32_t t = 0; t < 2 * kUnits; ++t) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const float (&sum)[16] = found[t];
      const Quad four = {{sum[4 * i], sum[4 * i + 1], sum[4 * i + 2], sum[4 * i + 3]}};
      store_shared_16(own + t / 2 * kUnitRows + unit_row(t % 2, i), __builtin_bit_cast(Vector16, four));
    }
  }
  workgroup_barrier();

  // Gates and ups of 8 neighbours of h, or both in turn.
  const uint32_t entry = thread_id() / 8;
  const auto pair = static_cast<int32_t>(shuffle(static_cast<uint32_t>(block.entry.pair(kTopk)), entry));
  if (pair < 0) return;
  [[maybe_unused]] float weight = 1.0f;
  if constexpr (kWeighted) {
    const auto row = static_cast<uint32_t>(pair) / kTopk, slot = static_cast<uint32_t>(pair) % kTopk;
    weight = load_f32(args.topk_weights + int64_t{row} * args.stride_weights + slot);
  }
  const Swiglu swiglu = {args.limit, args.beta, args.linear_beta};
  [[maybe_unused]] const float* of_expert = args.bias1 + uint64_t{2} * expert * kInter;
#pragma unroll
  for (uint32_t columns = 0; columns < kInner; columns += 64) {
    const uint32_t part = columns / 8 + thread_id() % 8, inner = first + part * 8;
    Quad value[4];
#pragma unroll
    for (uint32_t q = 0; q < 4; ++q) {
      const uint32_t at = kInterleaved ? part * 16 + q * 4 : part * 8 + q % 2 * 4 + q / 2 * kInner;
      const float* const from_wave = all + entry * kPitch + at;
      value[q] = __builtin_bit_cast(Quad, load_shared_16(from_wave));
#pragma unroll
      for (uint32_t w = 1; w < kWaves; ++w) {
        add_quad(value[q], __builtin_bit_cast(Quad, load_shared_16(from_wave + w * kBlockEntries * kPitch)));
      }
    }
    if (!kWhole && inner >= kInter) return;
    Vector16 h;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      float made[2];
#pragma unroll
      for (uint32_t j = 0; j < 2; ++j) {
        const uint32_t n = 2 * i + j;
        float gate = kInterleaved ? value[n / 2].value[n % 2 * 2] : value[n / 4].value[n % 4];
        float up = kInterleaved ? value[n / 2].value[n % 2 * 2 + 1] : value[2 + n / 4].value[n % 4];
        // Of x times the weight they are as much.
        if constexpr (kWeighted) gate *= weight, up *= weight;
        if constexpr (kBiased) {
          const float* bias = of_expert + (inner + n) * static_cast<uint32_t>(args.gate_step);
          gate += load_f32(bias);
          up += load_f32(bias + args.up_offset);
        }
        made[j] = activate<AITERLITE_ACTIVATION>(gate, up, swiglu);
      }
      h.word[i] = pack_pair(bf16{}, made[0], made[1]);
    }
    const uint32_t both = greatest_halves(h), most = greater_u16_pair(both, both >> 16) & 0xffffu;
    const uint32_t byte = mx_scale_byte(float_bits_of<bf16>(greatest_in_quad(most) & 0xffffu), {0x3fffffu, 1});
    const uint64_t row = static_cast<uint32_t>(pair);
    store_u32(static_cast<char*>(args.h) + row * (kInter / 2) + inner / 2, encode_eight_by<bf16>(h, byte));
    if (part % 4 == 0) {
      store_u8(reinterpret_cast<uint8_t*>(args.h_scale) + row * kScaleStride<kInter> + inner / kMxBlock,
               static_cast<uint8_t>(byte));
    }
  }
}
