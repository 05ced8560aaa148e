// A mixture of experts for a few tokens, without sorting, on AMD: two kernels that read each expert's weights once
// (fused_moe/args.h, few_pairs.h). gfx942, gfx950.
//
// What is rounded. x stays as it comes: a 16-bit x is multiplied by weights that become its type, which holds them
// exactly; it is not quantised, which costs less than a launch and is closer to the layer. h is a number of 16 bits
// (bf16 where weights have 8 bits, else the type of x) with no scale: that loses 2^-9 of it, 8 bits 2^-4, and it is
// a few kilobytes. Sums are float.
//
// aiterlite_fused_moe_few_gate_up. A workgroup has a group of pairs of one expert and 8 of the layer's inner width:
// their 8 gate and 8 up rows are one tile, of which a lane holds gate and up of two neighbours. W waves split K; their
// sums meet in LDS, in the order of waves. Grid: pairs, times inner width / 8: one token of 8 slots and a width of 256
// makes 256 workgroups. Traffic: w1 of each group once; x a workgroup, from the caches; h once.
//
// aiterlite_fused_moe_few_down. A workgroup has 16 features of the result of all tokens. Its waves take the groups in
// turn, and all of the inner width of each; products of pairs meet in LDS, where a thread sums those of its token and
// feature in the order of slots, times their weights, rounded once; or, with AITERLITE_BY_SLOTS, leaves each as it is.
// Tokens, or slots, without a pair that counts get zeros. Grid: width / 16. Traffic: w2 of each group once, in rows'
// whole inner width; h a workgroup, from the caches; out once.
//
// No atomics: same operands, same bits.
#include <aiterlite/fused_moe/activation.h>
#include <aiterlite/fused_moe/few_pairs.h>
#include <aiterlite/fused_moe/few_product.h>
#include <aiterlite/fused_moe/row_scales.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::fused_moe;

using X = AITERLITE_X;
using Weight = AITERLITE_ELEMENT;
using Result = AITERLITE_RESULT;
template <bool kFirst, class A, class B>
struct Choose {
  using Type = A;
};
template <class A, class B>
struct Choose<false, A, B> {
  using Type = B;
};
// fp16 would overflow where h is large; of its own weights it is the type that a layer of fp16 has.
using Inner = Choose<sizeof(Weight) == 1, bf16, Weight>::Type;

constexpr uint32_t kWaves = AITERLITE_WAVES, kThreads = kWaves * kWaveSize, kMostPairs = kWaveSize;
constexpr bool kShuffled = AITERLITE_SHUFFLED, kWeighted = AITERLITE_WEIGHTED, kBySlots = AITERLITE_BY_SLOTS,
               kBias1 = AITERLITE_BIAS1, kBias2 = AITERLITE_BIAS2;
constexpr int kScales = AITERLITE_SCALES;
static_assert(kWaves >= 1 && kWaves <= 16, "AITERLITE_WAVES must be 1 to 16");

constexpr uint32_t kRows = 16, kInner = 8, kPitch = kRows + 4;

using GateUp = FewProduct<Weight, X, kShuffled, AITERLITE_UNROLL, kScales == kBlockScales>;
using Down = FewProduct<Weight, Inner, kShuffled, AITERLITE_DOWN_UNROLL, kScales == kBlockScales>;

AITERLITE_DEVICE void leave_sums(const float (&sums)[4], float* at) {
  store_shared_16(at, __builtin_bit_cast(Vector16, sums));
}

}  // namespace

AITERLITE_KERNEL(kThreads) aiterlite_fused_moe_few_gate_up(aiterlite_fused_moe_args args) {
  AITERLITE_SHARED(float, partial, (kWaves * kGroupPairs * kPitch));
  AITERLITE_SHARED(int32_t, pair_of, kGroupPairs);
  const auto width = static_cast<uint32_t>(args.width), inter = static_cast<uint32_t>(args.inter);
  const uint32_t strips = inter / kInner;
  FewPairs pairs(args);
  Group group = pairs.next();
#pragma unroll 1
  for (uint32_t before = workgroup_id() / strips; before > 0 && group.pairs != 0; --before) group = pairs.next();
  if (group.pairs == 0) return;

  const uint32_t lane = lane_id(), wave = wave_id(), gate = workgroup_id() % strips * kInner;
  const auto step = static_cast<uint32_t>(args.gate_step), up = static_cast<uint32_t>(args.up_offset);
  // Row r of the tile: of two gates and their ups in turn, so that a lane's four sums are these.
  const auto weight_row = [&](uint32_t r) { return (gate + r / 4 * 2 + r % 2) * step + (r / 2 % 2) * up; };
  const uint32_t row_bytes = width * sizeof(Weight), expert_bytes = 2 * inter * row_bytes;
  const Buffer weights(static_cast<const char*>(args.w1) + uint64_t{group.expert} * expert_bytes, expert_bytes);
  const int32_t pair = column_pair(group.pairs);
  if (thread_id() < kGroupPairs) pair_of[thread_id()] = pair;
  // A column without a pair reads that of another, and is not used.
  const uint32_t held = pair < 0 ? first_lane(group.pairs) : static_cast<uint32_t>(pair);
  const uint32_t token = held / static_cast<uint32_t>(args.topk);
  const auto* scales = args.w1_scale + uint64_t{group.expert} * (2 * inter / 128) * (width / 128);
  const GateUp product = {weights,
                          WeightLayout<kShuffled>::row(weight_row(lane % 16), row_bytes),
                          static_cast<const char*>(args.x) + token * args.stride_x * sizeof(X),
                          args.x_scale + token * args.stride_scale_token,
                          args.stride_scale_group,
                          scales + uint64_t{weight_row(0) / 128} * (width / 128),
                          scales + uint64_t{weight_row(2) / 128} * (width / 128)};
  float sums[4] = {};
  product.run(sums, wave * AITERLITE_UNROLL, kWaves * AITERLITE_UNROLL, width / GateUp::kBlock);
  leave_sums(sums, partial + (wave * kGroupPairs + lane % 16) * kPitch + lane / 16 * 4);
  workgroup_barrier();

  const Swiglu swiglu = {args.limit, args.beta, args.linear_beta};
#pragma unroll
  for (uint32_t first = 0; first < kGroupPairs * kInner; first += kThreads) {
    const uint32_t index = first + thread_id(), column = index / kInner, i = index % kInner;
    if (index >= kGroupPairs * kInner || pair_of[column] < 0) continue;
    const uint32_t r = i / 2 * 4 + i % 2;
    float both[2] = {};
#pragma unroll
    for (uint32_t w = 0; w < kWaves; ++w) {
#pragma unroll
      for (uint32_t k = 0; k < 2; ++k) both[k] += partial[(w * kGroupPairs + column) * kPitch + r + 2 * k];
    }
    if constexpr (kScales == kRowScales || kScales == kTensorScales) {
#pragma unroll
      for (uint32_t k = 0; k < 2; ++k) {
        both[k] *= load_f32(scale_of_w1<kScales == kTensorScales>(args, group.expert, weight_row(r + 2 * k)));
      }
    }
    const auto number = static_cast<uint32_t>(pair_of[column]), topk = static_cast<uint32_t>(args.topk);
    if constexpr (kWeighted) {
      // Of x times the weight they are as much.
      const float weight = load_f32(args.topk_weights + number / topk * args.stride_weights + number % topk);
#pragma unroll
      for (float& one : both) one *= weight;
    }
    if constexpr (kBias1) {
      const float* rows = args.bias1 + uint64_t{group.expert} * 2 * inter;
#pragma unroll
      for (uint32_t k = 0; k < 2; ++k) both[k] += load_f32(rows + weight_row(r + 2 * k));
    }
    const float h = activate<AITERLITE_ACTIVATION>(both[0], both[1], swiglu);
    store_u16(static_cast<uint16_t*>(args.h) + number * inter + gate + i, from_float<Inner>(h).bits);
  }
}

AITERLITE_KERNEL(kThreads) aiterlite_fused_moe_few_down(aiterlite_fused_moe_args args) {
  AITERLITE_SHARED(float, of_pair, (kMostPairs * kPitch));
  AITERLITE_SHARED(float, weight_of, kMostPairs);
  const auto width = static_cast<uint32_t>(args.width), inter = static_cast<uint32_t>(args.inter);
  const auto topk = static_cast<uint32_t>(args.topk);
  const uint32_t lane = lane_id(), wave = wave_id(), feature = workgroup_id() * kRows;
  FewPairs pairs(args);
  if (wave == 0 && (pairs.counted() >> lane & 1) != 0) {
    weight_of[lane] = kWeighted ? 1.0f : load_f32(args.topk_weights + lane / topk * args.stride_weights + lane % topk);
  }
  const uint32_t row_bytes = inter * sizeof(Weight), expert_bytes = width * row_bytes;
#pragma unroll 1
  for (uint32_t number = 0;; ++number) {
    const Group group = pairs.next();
    if (group.pairs == 0) break;
    if (number % kWaves != wave) continue;
    const Buffer weights(static_cast<const char*>(args.w2) + uint64_t{group.expert} * expert_bytes, expert_bytes);
    const int32_t pair = column_pair(group.pairs);
    const uint32_t held = pair < 0 ? first_lane(group.pairs) : static_cast<uint32_t>(pair);
    const uint64_t scale_row = uint64_t{group.expert} * (width / 128) + feature / 128;
    const float* scales = args.w2_scale + scale_row * (inter / 128);
    const Down product = {weights,
                          WeightLayout<kShuffled>::row(feature + lane % 16, row_bytes),
                          static_cast<const char*>(args.h) + uint64_t{held} * inter * sizeof(Inner),
                          nullptr,
                          0,
                          scales,
                          scales};
    float sums[4] = {};
    product.run(sums, 0, AITERLITE_DOWN_UNROLL, inter / Down::kBlock);
    if constexpr (kScales == kRowScales || kScales == kTensorScales) {
      const uint32_t row = feature + lane / 16 * 4;
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        sums[i] *= load_f32(scale_of_w2<kScales == kTensorScales>(args, group.expert, row + i));
      }
    }
    if constexpr (kBias2) {
      const float* rows = args.bias2 + uint64_t{group.expert} * width + feature + lane / 16 * 4;
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) sums[i] += load_f32(rows + i);
    }
    if (pair >= 0) leave_sums(sums, of_pair + static_cast<uint32_t>(pair) * kPitch + lane / 16 * 4);
  }
  workgroup_barrier();

  const uint32_t tokens = static_cast<uint32_t>(args.tokens);
  if constexpr (kBySlots) {
#pragma unroll 1
    for (uint32_t index = thread_id(); index < tokens * topk * kRows; index += kThreads) {
      const uint32_t pair = index / kRows, row = index % kRows;
      const bool counts = (pairs.counted() >> pair & 1) != 0;
      const float value = counts ? of_pair[pair * kPitch + row] * weight_of[pair] : 0.0f;
      store_u16(static_cast<uint16_t*>(args.out) + uint64_t{pair} * width + feature + row,
                from_float<Result>(value).bits);
    }
    return;
  }
#pragma unroll 1
  for (uint32_t index = thread_id(); index < tokens * kRows; index += kThreads) {
    const uint32_t token = index / kRows, row = index % kRows;
    LaneMask left = pairs.counted() >> token * topk & (topk < 64 ? (LaneMask{1} << topk) - 1 : ~LaneMask{0});
    float sum = 0.0f;
#pragma unroll 1
    while (left != 0) {
      const uint32_t pair = token * topk + first_lane(left);
      sum = __builtin_fmaf(of_pair[pair * kPitch + row], weight_of[pair], sum);
      left &= left - 1;
    }
    store_u16(static_cast<uint16_t*>(args.out) + token * args.stride_out + feature + row, from_float<Result>(sum).bits);
  }
}
