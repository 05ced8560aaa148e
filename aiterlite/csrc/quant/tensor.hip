// A tensor of bf16 or fp16 as 8-bit numbers with one scale: quant/args.h. A workgroup has AITERLITE_UNITS strips a
// wave.
//
// Static: one kernel, which multiplies by the scale's reciprocal. Dynamic: the first kernel leaves the greatest
// magnitude of each workgroup's share, at most AITERLITE_THREADS * 4 of them; each workgroup of the second reduces them
// again, which is a few kilobytes of the second cache, and the first one writes the scale. A maximum is the same in any
// order, and there are no atomics: same operands, same bits. Traffic an element: 2 bytes in, dynamic twice, and 1 out.
#include <aiterlite/overlap.h>
#include <aiterlite/quant/args.h>
#include <aiterlite/quant/strip.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::quant;
using In = AITERLITE_ELEMENT;
using Out = AITERLITE_CODE;

constexpr uint32_t kThreads = AITERLITE_THREADS, kUnits = AITERLITE_UNITS, kWaves = kThreads / kWaveSize;
constexpr bool kAligned = AITERLITE_ALIGNED;
using Piece = Strip<In, Out, kWaveSize, kAligned>;
constexpr uint32_t kShare = kThreads * kUnits * 16;

// The elements from a strip's first one on, as many as matter.
AITERLITE_DEVICE uint32_t left_of(const aiterlite_quant_tensor_args& args, int64_t first) {
  const int64_t left = args.count - first;
  return left <= 0 ? 0 : static_cast<uint32_t>(left < Piece::kElements ? left : Piece::kElements);
}
AITERLITE_DEVICE int64_t first_of(int64_t share, uint32_t unit) {
  return share * kShare + int64_t{wave_id() * kUnits + unit} * Piece::kElements;
}
AITERLITE_DEVICE void load(Piece (&piece)[kUnits], const aiterlite_quant_tensor_args& args, int64_t share) {
#pragma unroll
  for (uint32_t u = 0; u < kUnits; ++u) {
    const int64_t first = first_of(share, u);
    piece[u].load(static_cast<const In*>(args.x) + first, lane_id(), left_of(args, first), args.x);
  }
}
template <class Scaling>
AITERLITE_DEVICE void store(const Piece (&piece)[kUnits], const aiterlite_quant_tensor_args& args, int64_t share,
                            const Scaling& scaled) {
#pragma unroll
  for (uint32_t u = 0; u < kUnits; ++u) {
    const int64_t first = first_of(share, u);
    piece[u].store(static_cast<uint8_t*>(args.out) + first, lane_id(), left_of(args, first), scaled);
  }
}

}  // namespace

#if AITERLITE_STATIC

AITERLITE_KERNEL_RESIDENT(kThreads, AITERLITE_RESIDENT)
aiterlite_quant_static(aiterlite_quant_tensor_args args) {
  await_predecessors();
  Piece piece[kUnits];
  load(piece, args, workgroup_id());
  const Multiplier scaled(load_f32(args.scale));
  admit_successors();
  store(piece, args, workgroup_id(), scaled);
}

#else

AITERLITE_KERNEL_RESIDENT(kThreads, AITERLITE_RESIDENT)
aiterlite_quant_maxima(aiterlite_quant_tensor_args args) {
  AITERLITE_SHARED(float, shared, kWaves);
  await_predecessors();
  float most = 0.0f;
#pragma unroll 1
  for (int64_t share = workgroup_id(); share * kShare < args.count; share += args.partials) {
    Piece piece[kUnits];
    load(piece, args, share);
#pragma unroll
    for (const Piece& one : piece) most = one.maximum(most);
  }
  admit_successors();
  most = reduce_workgroup<kWaves>(most, Max{}, shared);
  if (thread_id() == 0) store_u32(args.partial + workgroup_id(), __builtin_bit_cast(uint32_t, most));
}

AITERLITE_KERNEL_RESIDENT(kThreads, AITERLITE_RESIDENT)
aiterlite_quant_tensor(aiterlite_quant_tensor_args args) {
  AITERLITE_SHARED(float, shared, kWaves);
  await_predecessors();
  Piece piece[kUnits];
  load(piece, args, workgroup_id());
  float most = 0.0f;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t at = i * kThreads + thread_id();
    const bool there = at < static_cast<uint32_t>(args.partials);
    const float one = load_f32(args.partial + (there ? at : 0));
    most = there ? __builtin_fmaxf(most, one) : most;
  }
  most = reduce_workgroup<kWaves>(most, Max{}, shared);
  admit_successors();
  const float scale = scale_of<Out>(most);
  if (workgroup_id() == 0 && thread_id() == 0) store_u32(args.scale, __builtin_bit_cast(uint32_t, scale));
  store(piece, args, workgroup_id(), Divisor(scale));
}

#endif
