// act(gate) * up for rows of bf16 or fp16, quantised to 8 bits or not: activation/args.h. One source for gfx942, gfx950
// and sm_90.
//
// A team of AITERLITE_LANES lanes holds a tile of a row in registers: each lane 16 gates and the 16 ups that belong to
// them, in four accesses of 16 bytes whose neighbours are those of its neighbours. So 64 bytes a lane are on their way
// at once. A tile is a part of a row, in which a group that shares a scale lies in neighbouring lanes; or, with a scale
// a row, the row, whose team is at most a wave, or the workgroup. Rows longer than 1,024 lanes hold (AITERLITE_PASSES
// 2) are then read and made twice.
//
// Nothing is added up, and the greatest magnitude is the same in any order: a row's bits do not depend on others. The
// result is rounded before it is quantised, so that a fused call gives the bits of its parts.
//
// Floor, bytes an element of the result: 4 in and 2 out (codes: 1 out), and the scales. At 2,048 columns: 12,288 bytes
// a row, 10,304 with scales of groups of 128.
//
// A grid that is on the chip all at once (AITERLITE_EARLY) fetches its rows before its predecessors have ended.
// Successors are let in at once (AITERLITE_ADMIT): they come where the last workgroups leave room.
#include <aiterlite/activation/args.h>
#include <aiterlite/activation/gated.h>
#include <aiterlite/overlap.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::quant;
using In = AITERLITE_ELEMENT;
using Out = AITERLITE_CODE;

constexpr uint32_t kThreads = AITERLITE_THREADS, kLanes = AITERLITE_LANES, kTeams = kThreads / kLanes,
                   kWaves = kThreads / kWaveSize;
constexpr uint32_t kGroup = AITERLITE_GROUP;  // 0: not quantised; 1: a scale a row
constexpr int kActivation = AITERLITE_ACTIVATION;
constexpr bool kAligned = AITERLITE_ALIGNED, kLimited = AITERLITE_LIMITED, kTransposed = AITERLITE_TRANSPOSED,
               kTwoPasses = AITERLITE_PASSES == 2, kEarly = AITERLITE_EARLY, kAdmit = AITERLITE_ADMIT;
constexpr bool kIsWorkgroup = kLanes > kWaveSize, kCodes = kGroup != 0, kOfGroups = kGroup > 1;
constexpr uint32_t kGroupLanes = kOfGroups ? kGroup / 8 : 1;
static_assert(kIsWorkgroup ? kTeams == 1 : (kLanes & (kLanes - 1)) == 0, "a team is a power of two, or the workgroup");
static_assert(kLanes % kGroupLanes == 0, "a group lies in one part of a strip");
static_assert(kGroup == 1 || !(kIsWorkgroup || kTwoPasses), "only a row with one scale has a workgroup");

using Piece = Strip<In, Out, kLanes, kAligned>;
constexpr uint32_t kHeld = Piece::kElements, kLineElements = 128 / sizeof(In);

}  // namespace

AITERLITE_KERNEL(kThreads)
aiterlite_activation_rows(aiterlite_activation_args args) {
  const uint32_t team = thread_id() / kLanes, lane = thread_id() % kLanes;
  const uint32_t index = workgroup_id() * kTeams + team;
  const auto rows = static_cast<uint32_t>(args.rows), width = static_cast<uint32_t>(args.width),
             tiles = static_cast<uint32_t>(args.tiles);
  const uint32_t row = kGroup == 1 ? index : static_cast<uint32_t>(uint64_t{index} * args.multiplier >> args.shift);
  const uint32_t begin = kGroup == 1 ? 0 : (index - row * tiles) * kHeld;
  const uint32_t left = row < rows ? width : 0;
  const auto* gate = static_cast<const In*>(args.x) + row * args.stride_x;
  const In* up = gate + width;

  if constexpr (kAdmit) admit_successors();
  if constexpr (kEarly) {
#pragma unroll
    for (uint32_t at = lane * kLineElements; at < kHeld; at += kLanes * kLineElements) {
      if (begin + at >= left) continue;
      prefetch_operand(gate + begin + at);
      prefetch_operand(up + begin + at);
    }
  }
  await_predecessors();

  Piece piece;
  // Elements `first` on of a row.
  const auto make = [&](uint32_t first) {
    Vector16 x[2], y[2];
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t at = first + (i * kLanes + lane) * 8;
      x[i] = load_eight<kAligned, Reuse::kRow>(gate, at, left, args.x);
      y[i] = load_eight<kAligned, Reuse::kRow>(up, at, left, args.x);
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i)
      piece.part[i] = activation::gated<In, kActivation, kLimited>(x[i], y[i], args.limit);
  };
  make(begin);
  if constexpr (!kAdmit && !kTwoPasses) admit_successors();

  [[maybe_unused]] auto* codes = static_cast<uint8_t*>(args.out) + row * args.stride_out;
  if constexpr (!kCodes) {
    In* out = static_cast<In*>(args.out) + row * args.stride_out;
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      store_eight<kAligned>(out, begin + (i * kLanes + lane) * 8, left, piece.part[i]);
    }
  } else if constexpr (kOfGroups) {
    float scale[2];
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      scale[i] = scale_of<Out>(reduce_lanes<kGroupLanes>(piece.maximum_of(i), Max{}));
      const uint32_t at = begin + (i * kLanes + lane) * 8;
      if (lane % kGroupLanes == 0 && at < left) {
        const int64_t group = at / kGroup, groups = width / kGroup;
        const int64_t to = kTransposed ? group * rows + row : row * groups + group;
        store_u32(args.scales + to, __builtin_bit_cast(uint32_t, scale[i]));
      }
    }
    piece.store(codes + begin, lane, left > begin ? left - begin : 0, Divisor(scale[0]), Divisor(scale[1]));
  } else {
    AITERLITE_SHARED(float, shared, kWaves);
    float most = piece.maximum(0.0f);
    if constexpr (kTwoPasses) {
#pragma unroll 1
      for (uint32_t first = kHeld; first < width; first += kHeld) {
        make(first);
        most = piece.maximum(most);
      }
      if constexpr (!kAdmit) admit_successors();
    }
    if constexpr (kIsWorkgroup) {
      most = reduce_workgroup<kWaves>(most, Max{}, shared);
    } else {
      most = reduce_lanes<kLanes>(most, Max{});
    }
    const float scale = scale_of<Out>(most);
    if (lane == 0 && left != 0) store_u32(args.scales + int64_t{row}, __builtin_bit_cast(uint32_t, scale));
#pragma unroll 1
    for (uint32_t first = 0; first < (kTwoPasses ? width : 1); first += kHeld) {
      if constexpr (kTwoPasses) make(first);
      piece.store(codes + first, lane, left != 0 ? width - first : 0, Divisor(scale));
    }
  }
}
