// out[token] = the sum over its slots of what the experts made of them (fused_moe/args.h), in float, in the order of
// the slots, rounded once. Slots without an expert here are not read; a token without any gets zeros. gfx942, gfx950,
// sm_90.
//
// Which slots have one says local_topk_ids. Or, with AITERLITE_MARKS, the kernels before have left marks there that are
// not zero; then the sum is added to what out holds. With AITERLITE_WEIGHS slots hold what experts made before routing
// weights: they are multiplied here, each rounded once with its addition.
//
// Tiling. A workgroup has a token, a thread 16 bytes of its row at a time; the loads of kBatch slots are on their way
// at once. Traffic: slots that count and out once. No atomics: same operands, same bits.
#include <aiterlite/fused_moe/sorted_block.h>
#include <aiterlite/numeric/pack.h>
#include <aiterlite/overlap.h>
#include <aiterlite/quant/strip.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::fused_moe;

using Element = AITERLITE_RESULT;
constexpr uint32_t kThreads = AITERLITE_THREADS, kBatch = 8;
constexpr bool kMarks = AITERLITE_MARKS;
#if defined(AITERLITE_WEIGHS)
constexpr bool kWeighs = AITERLITE_WEIGHS;
#else
constexpr bool kWeighs = false;
#endif

// In order; kWhole: all of a batch counts, and nothing is to be selected.
template <bool kWhole>
AITERLITE_DEVICE void add_batch(float (&sum)[8], const Vector16 (&held)[kBatch], const float (&weight)[kBatch],
                                LaneMask adding) {
#pragma unroll
  for (uint32_t i = 0; i < kBatch; ++i) {
    float value[8];
    quant::widen(Element{}, held[i], value);
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j) {
      const float more = kWeighs ? __builtin_fmaf(value[j], weight[i], sum[j]) : sum[j] + value[j];
      sum[j] = kWhole || adding != 0 ? more : sum[j];
    }
    adding &= adding - 1;
  }
}

}  // namespace

AITERLITE_KERNEL(kThreads) aiterlite_fused_moe_sum(aiterlite_fused_moe_args args) {
  await_predecessors();
  const uint32_t token = workgroup_id(), lane = lane_id();
  const auto width = static_cast<uint32_t>(args.width), topk = static_cast<uint32_t>(args.topk);
  const int64_t first_pair = int64_t{token} * topk;
  const int32_t* local = args.local_topk_ids + first_pair;
  bool counts = false;
  if (lane < topk) {
    const int32_t mark = load_int(local + lane);
    counts = kMarks ? mark != 0 : mark >= 0 && mark < args.experts;
  }
  const LaneMask slots = lanes_where(counts);
  const auto* from = static_cast<const uint16_t*>(args.slots) + first_pair * width;
  auto* out = static_cast<uint16_t*>(args.out) + int64_t{token} * args.stride_out;
#pragma unroll 1
  for (uint32_t column = thread_id() * 8; column < width; column += kThreads * 8) {
    float sum[8] = {};
    LaneMask left = slots;
#pragma unroll 1
    while (left != 0) {
      Vector16 held[kBatch];
      float weight[kBatch];
      const LaneMask batch = left;
#pragma unroll
      for (uint32_t i = 0; i < kBatch; ++i) {
        // Behind the last slot, the batch's first one again, which is not added.
        const uint32_t slot = first_lane(left != 0 ? left : batch);
        held[i] = load_row_vector<Reuse::kRow>(from + int64_t{slot} * width + column);
        weight[i] = kWeighs ? load_f32(args.topk_weights + token * args.stride_weights + slot) : 1.0f;
        left &= left - 1;
      }
      if (count_lanes(batch) >= kBatch) {
        add_batch<true>(sum, held, weight, batch);
      } else {
        add_batch<false>(sum, held, weight, batch);
      }
    }
    if constexpr (kMarks) {
      float before[8];
      quant::widen(Element{}, load_row_vector<Reuse::kRow>(out + column), before);
#pragma unroll
      for (uint32_t j = 0; j < 8; ++j) sum[j] += before[j];
    }
    Vector16 made;
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) made.word[j] = pack_pair(Element{}, sum[2 * j], sum[2 * j + 1]);
    store_quad(reinterpret_cast<float*>(out + column), __builtin_bit_cast(Quad, made));
  }
}
