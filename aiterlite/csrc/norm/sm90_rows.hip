// RMSNorm with 8-bit results, of more rows than an sm_90 chip holds at once: norm/args.h, aligned rows of 33 to 1,024
// lanes' pieces.
//
// The grid is as many workgroups as the chip holds; each takes every grid-th row. The copy engine brings the rows ahead
// of the one that is being normalised to a ring of AITERLITE_STAGES in shared memory, so that reading never pauses for
// a sum, and a workgroup that ends does not wait for another to begin. A lane takes the 16 elements of its row that it
// has in norm/rows.hip, whose order of sums and roundings this is: the same bits. Weights stay in registers.
//
// Lanes have a stage in registers before they meet for the sum of squares; after that meeting one of them lets the
// copy engine write the stage again. So no barrier is there for that alone.
//
// Traffic: norm/rows.hip's, 3 bytes an element and the scales, but weights once a workgroup. Results of 16 bits, and
// rows with a residual, write as much as they read or more; there more reads under way make a row take longer.
#include <aiterlite/block/reduce.h>
#include <aiterlite/norm/args.h>
#include <aiterlite/norm/row.h>
#include <aiterlite/overlap.h>
#include <aiterlite/tile/sm90_copy.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::quant;
using namespace aiterlite::norm;
using In = AITERLITE_ELEMENT;
using Out = AITERLITE_CODE;

constexpr uint32_t kLanes = AITERLITE_THREADS, kWaves = kLanes / kWaveSize, kStages = AITERLITE_STAGES;
constexpr uint32_t kGroup = AITERLITE_GROUP;  // 1: a scale a row
constexpr bool kGemma = AITERLITE_GEMMA, kSensitive = AITERLITE_MODEL_SENSITIVE, kTransposed = AITERLITE_TRANSPOSED;
static_assert(!AITERLITE_ADD && kGroup != 0, "rows that are written as they were read are faster in norm/rows.hip");
constexpr uint32_t kVector = kVectorElements<In>, kGroupLanes = kGroup > 1 ? kGroup / kVector : 1;
static_assert(kLanes % kGroupLanes == 0, "a group lies in one part of a strip");

using Piece = Strip<In, Out, kLanes, true>;

struct Shared {
  // Of the width that lanes hold; a narrower row fills the beginning.
  uint16_t stage[kStages][Piece::kElements];
  // Of every other row, so that a slow wave reads those of its own.
  float sums[2][kWaves], maxima[2][kWaves];
  Barrier full[kStages];
};
static_assert(sizeof(Shared) <= AITERLITE_SHARED_BYTES, "the ring does not fit AITERLITE_SHARED_BYTES");

}  // namespace

AITERLITE_KERNEL_RESIDENT(kLanes, AITERLITE_RESIDENT)
aiterlite_norm_sm90_rows(aiterlite_norm_args args) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  const auto rows = static_cast<uint32_t>(args.rows), width = static_cast<uint32_t>(args.width);
  const uint32_t lane = thread_id(), first = workgroup_id(), step = static_cast<uint32_t>(args.workgroups);
  const auto* x = static_cast<const In*>(args.x);
  const auto* weight = static_cast<const In*>(args.weight);
  if (lane == 0) {
#pragma unroll
    for (Barrier& full : shared.full) full.open(1);
    publish_barriers();
  }
  admit_successors();
  await_predecessors();

  const uint32_t bytes = width * static_cast<uint32_t>(sizeof(In));
  const uint64_t brief = keep_briefly();
  const auto fetch = [&](uint32_t row, uint32_t s) {
    Barrier& full = shared.full[s];
    full.arrive_expecting(bytes);
    copy_bytes(shared.stage[s], x + row * args.stride_x, bytes, full, brief);
  };
  if (lane == 0) {
#pragma unroll 1
    for (uint32_t s = 0; s < kStages && first + uint64_t{s} * step < rows; ++s) fetch(first + s * step, s);
  }
  uint32_t at[2];
  Vector16 factor[2];
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    at[i] = (i * kLanes + lane) * kVector;
    factor[i] = load_row_vector_if<Reuse::kLikely>(weight + at[i], at[i] < width, weight);
  }
  workgroup_barrier();

  uint32_t s = 0, parity = 0, turn = 0;
#pragma unroll 1
  for (uint64_t row = first; row < rows; row += step) {
    Piece piece;
    shared.full[s].wait(parity);
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const bool wanted = at[i] < width;
      const Vector16 part = load_shared_16(shared.stage[s] + at[i]);
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) piece.part[i].word[j] = wanted ? part.word[j] : 0;
    }
    const float total = reduce_workgroup<kWaves>(squares<In>(piece.part), Sum{}, shared.sums[turn]);
    if (lane == 0 && row + uint64_t{kStages} * step < rows) fetch(static_cast<uint32_t>(row) + kStages * step, s);
    const float root = fast_reciprocal_sqrt(__builtin_fmaf(total, args.inverse_width, args.epsilon));
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      piece.part[i] = normalised<In, kGemma, kSensitive>(piece.part[i], factor[i], root);
    }

    auto* to = static_cast<uint8_t*>(args.out) + row * args.stride_out;
    if constexpr (kGroup == 1) {
      const float scale = scale_of<Out>(reduce_workgroup<kWaves>(piece.maximum(0.0f), Max{}, shared.maxima[turn]));
      if (lane == 0) store_u32(args.scales + row, __builtin_bit_cast(uint32_t, scale));
      piece.store(to, lane, width, Divisor(scale));
    } else {
      const auto groups = static_cast<uint64_t>(width / kGroup);
      float scale[2];
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        scale[i] = scale_of<Out>(reduce_lanes<kGroupLanes>(piece.maximum_of(i), Max{}));
        if (lane % kGroupLanes == 0 && at[i] < width) {
          const uint64_t group = at[i] / kGroup, place = kTransposed ? group * rows + row : row * groups + group;
          store_u32(args.scales + place, __builtin_bit_cast(uint32_t, scale[i]));
        }
      }
      piece.store(to, lane, width, Divisor(scale[0]), Divisor(scale[1]));
    }
    turn ^= 1;
    if (++s == kStages) {
      s = 0;
      parity ^= 1;
    }
  }
}
