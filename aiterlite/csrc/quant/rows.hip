// Rows of bf16 or fp16 as 8-bit numbers, a scale for each row or for each group of its elements: quant/args.h.
//
// A segment is what shares a scale. A team of AITERLITE_LANES lanes holds AITERLITE_BATCH segments in registers: each
// lane AITERLITE_UNITS times 16 elements of each, so that a segment is read once, 16 bytes at a time, and the greatest
// magnitude is found across lanes. A team is at most a wave, or it is the workgroup; then a barrier lies between.
// Segments longer than a team holds (AITERLITE_PASSES 2) are read twice. Traffic an element: 2 bytes in, 1 out, and 4
// bytes a segment. No atomics: same operands, same bits.
//
// Transposed scales of a group are those of consecutive rows. There, neighbouring teams take the same group of eight
// rows, which makes whole 32-byte sectors of scales; otherwise a row's groups in order.
//
// A grid that is on the chip all at once (AITERLITE_EARLY) is over in about the time that memory takes to answer: it
// fetches its rows before its predecessors have ended, and lets its successors do so at once. They take no place from
// it.
#include <aiterlite/overlap.h>
#include <aiterlite/quant/args.h>
#include <aiterlite/quant/strip.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::quant;
using In = AITERLITE_ELEMENT;
using Out = AITERLITE_CODE;

constexpr uint32_t kThreads = AITERLITE_THREADS, kLanes = AITERLITE_LANES, kUnits = AITERLITE_UNITS,
                   kBatch = AITERLITE_BATCH, kTeams = kThreads / kLanes, kTileRows = 8;
constexpr bool kAligned = AITERLITE_ALIGNED, kTransposed = AITERLITE_TRANSPOSED, kTwoPasses = AITERLITE_PASSES == 2,
               kEarly = AITERLITE_EARLY;
constexpr bool kIsWorkgroup = kLanes > kWaveSize;
static_assert(kIsWorkgroup ? kTeams == 1 : (kLanes & (kLanes - 1)) == 0, "a team is a power of two, or the workgroup");

using Piece = Strip<In, Out, kLanes, kAligned>;
constexpr uint32_t kHeld = kUnits * Piece::kElements, kLineElements = 128 / sizeof(In);

struct Segment {
  uint32_t row;
  uint32_t group;
};

AITERLITE_DEVICE Segment segment_of(const aiterlite_quant_rows_args& args, uint32_t index) {
  const auto groups = static_cast<uint32_t>(args.groups);
  const auto quotient = static_cast<uint32_t>(uint64_t{index} * args.multiplier >> args.shift);
  if constexpr (kTransposed) {
    const uint32_t place = index - quotient * kTileRows * groups;
    return {quotient * kTileRows + place % kTileRows, place / kTileRows};
  } else {
    return {quotient, index - quotient * groups};
  }
}

AITERLITE_DEVICE uint32_t live_rows(const aiterlite_quant_rows_args& args) {
  if (args.num_rows == nullptr) return static_cast<uint32_t>(args.rows);
  const int64_t asked = int64_t{__builtin_bit_cast(int32_t, load_f32(args.num_rows))} * args.num_rows_factor;
  return asked < 0 ? 0 : static_cast<uint32_t>(asked < args.rows ? asked : args.rows);
}

AITERLITE_DEVICE void load(Piece (&piece)[kUnits], const In* from, uint32_t lane, uint32_t left, const void* safe) {
#pragma unroll
  for (uint32_t u = 0; u < kUnits; ++u) {
    const uint32_t before = u * Piece::kElements;
    piece[u].load(from + before, lane, left > before ? left - before : 0, safe);
  }
}
AITERLITE_DEVICE float maximum(const Piece (&piece)[kUnits], float most) {
#pragma unroll
  for (const Piece& one : piece) most = one.maximum(most);
  return most;
}
AITERLITE_DEVICE void store(const Piece (&piece)[kUnits], uint8_t* to, uint32_t lane, uint32_t left,
                            const Divisor& scaled) {
#pragma unroll
  for (uint32_t u = 0; u < kUnits; ++u) {
    const uint32_t before = u * Piece::kElements;
    piece[u].store(to + before, lane, left > before ? left - before : 0, scaled);
  }
}

}  // namespace

AITERLITE_KERNEL_RESIDENT(kThreads, AITERLITE_RESIDENT)
aiterlite_quant_rows(aiterlite_quant_rows_args args) {
  AITERLITE_SHARED(float, shared, (kThreads / kWaveSize));
  const uint32_t team = thread_id() / kLanes, lane = thread_id() % kLanes;
  const uint32_t first = workgroup_id() * kTeams * kBatch + team;
  Segment segment[kBatch];
#pragma unroll
  for (uint32_t b = 0; b < kBatch; ++b) segment[b] = segment_of(args, first + b * kTeams);

  const auto* x = static_cast<const In*>(args.x);
  const auto size = static_cast<uint32_t>(args.group);
  const auto from = [&](const Segment& s) { return x + s.row * args.stride_x + int64_t{s.group} * size; };
  const auto to = [&](const Segment& s) {
    return static_cast<uint8_t*>(args.out) + int64_t{s.row} * args.width + int64_t{s.group} * size;
  };
  if constexpr (kEarly) {
    admit_successors();
#pragma unroll
    for (uint32_t b = 0; b < kBatch; ++b) {
      // How many rows there are is not known yet where a tensor says so.
      if (args.num_rows != nullptr || segment[b].row >= static_cast<uint32_t>(args.rows)) continue;
#pragma unroll
      for (uint32_t at = lane * kLineElements; at < kHeld; at += kLanes * kLineElements) {
        if (at < size) prefetch_operand(from(segment[b]) + at);
      }
    }
  }
  await_predecessors();
  const uint32_t live = live_rows(args);
  // Elements of a segment from `at` on, which is inside it.
  const auto left = [&](const Segment& s, uint32_t at) { return s.row < live ? size - at : 0; };

  Piece piece[kBatch][kUnits];
  float most[kBatch];
#pragma unroll
  for (uint32_t b = 0; b < kBatch; ++b) load(piece[b], from(segment[b]), lane, left(segment[b], 0), x);
#pragma unroll
  for (uint32_t b = 0; b < kBatch; ++b) most[b] = maximum(piece[b], 0.0f);
  if constexpr (kTwoPasses) {
#pragma unroll 1
    for (uint32_t at = kHeld; at < size; at += kHeld) {
      load(piece[0], from(segment[0]) + at, lane, left(segment[0], at), x);
      most[0] = maximum(piece[0], most[0]);
    }
  }
  if constexpr (!kEarly) admit_successors();

#pragma unroll
  for (uint32_t b = 0; b < kBatch; ++b) {
    if constexpr (kIsWorkgroup) {
      most[b] = reduce_workgroup<kThreads / kWaveSize>(most[b], Max{}, shared);
    } else {
      most[b] = reduce_lanes<kLanes>(most[b], Max{});
    }
    const float scale = scale_of<Out>(most[b]);
    const Divisor scaled(scale);
    const Segment& s = segment[b];
    if constexpr (kTwoPasses) {
#pragma unroll 1
      for (uint32_t at = 0; at < size; at += kHeld) {
        load(piece[0], from(s) + at, lane, left(s, at), x);
        store(piece[0], to(s) + at, lane, left(s, at), scaled);
      }
    } else {
      store(piece[b], to(s), lane, left(s, 0), scaled);
    }
    if (lane == 0 && s.row < live) {
      const int64_t at = kTransposed ? int64_t{s.group} * live + s.row : int64_t{s.row} * args.groups + s.group;
      store_u32(args.scales + at, __builtin_bit_cast(uint32_t, scale));
    }
  }
}
