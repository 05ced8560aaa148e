// Sums what the experts made of each token over its slots: in float, slot by slot, rounded once; no atomic, so the same
// operands give the same bits. gfx942, gfx950, sm_90.
//
// A thread has 16 bytes of a token's row, or one element where rows are not all at multiples of 16 bytes; its loads of
// several slots are on their way at once. Traffic: input and output once.
#include <aiterlite/moe_sorting/args.h>
#include <aiterlite/numeric/types.h>
#include <aiterlite/overlap.h>
#include <aiterlite/vector.h>

namespace {

using namespace aiterlite;

constexpr uint32_t kThreads = 128;

struct fp32 {
  uint32_t bits;
};
AITERLITE_DEVICE float widen(fp32 value) { return __builtin_bit_cast(float, value.bits); }
AITERLITE_DEVICE float widen(bf16 value) { return to_float(value); }
AITERLITE_DEVICE float widen(fp16 value) { return to_float(value); }

using Element = AITERLITE_ELEMENT;
using Bits = decltype(Element::bits);
constexpr uint32_t kElements = AITERLITE_VECTORS ? kVectorElements<Element> : 1, kPerWord = 4 / sizeof(Element);

AITERLITE_DEVICE Bits narrow(float value) {
  if constexpr (sizeof(Element) == 4) {
    return __builtin_bit_cast(uint32_t, value);
  } else {
    return from_float<Element>(value).bits;
  }
}

AITERLITE_DEVICE void load(const Element* p, float (&value)[kElements]) {
  if constexpr (AITERLITE_VECTORS) {
    const Vector16 vector = load_row_vector<Reuse::kRow>(p);
#pragma unroll
    for (uint32_t i = 0; i < kElements; ++i) {
      const uint32_t bits = vector.word[i / kPerWord] >> (i % kPerWord * 8 * sizeof(Element));
      value[i] = widen(Element{static_cast<Bits>(bits)});
    }
  } else if constexpr (sizeof(Element) == 4) {
    value[0] = load_f32(p);
  } else {
    value[0] = widen(Element{load_u16(p)});
  }
}

AITERLITE_DEVICE void store(Element* p, const float (&value)[kElements]) {
  if constexpr (AITERLITE_VECTORS) {
    Quad quad;
#pragma unroll
    for (uint32_t word = 0; word < 4; ++word) {
      uint32_t bits = 0;
#pragma unroll
      for (uint32_t i = 0; i < kPerWord; ++i) {
        bits |= static_cast<uint32_t>(narrow(value[word * kPerWord + i])) << (i * 8 * sizeof(Element));
      }
      quad.value[word] = __builtin_bit_cast(float, bits);
    }
    store_quad(reinterpret_cast<float*>(p), quad);
  } else if constexpr (sizeof(Element) == 4) {
    store_u32(p, narrow(value[0]));
  } else {
    store_u16(p, narrow(value[0]));
  }
}

}  // namespace

AITERLITE_KERNEL(kThreads) aiterlite_moe_sum(aiterlite_moe_sum_args args) {
  await_predecessors();
  const uint32_t columns = static_cast<uint32_t>(args.width) / kElements;
  const uint32_t groups = (columns + kThreads - 1) / kThreads;
  const uint32_t token = workgroup_id() / groups, column = workgroup_id() % groups * kThreads + thread_id();
  if (column >= columns) return;
  const auto* from = static_cast<const Element*>(args.input) + int64_t{token} * args.stride_token + column * kElements;
  float sum[kElements] = {};
#pragma unroll 8
  for (int32_t slot = 0; slot < args.topk; ++slot) {
    float value[kElements];
    load(from + slot * args.stride_slot, value);
#pragma unroll
    for (uint32_t i = 0; i < kElements; ++i) sum[i] += value[i];
  }
  admit_successors();
  auto* to = static_cast<Element*>(args.output) + int64_t{token} * args.stride_out + column * kElements;
  store(to, sum);
}
