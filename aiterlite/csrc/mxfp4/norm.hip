// RMSNorm of rows of bf16 or fp16, with a residual added before or not, as MXFP4: mxfp4/norm_args.h. One source for
// gfx942, gfx950 and sm_90.
//
// A team of AITERLITE_LANES lanes holds a row in registers, each lane 16 elements of it, in two accesses of 16 bytes
// whose neighbours are those of its neighbours; the team, the order of its sums and the rounding are those of
// norm/rows.hip (norm/row.h), so that a call gives the bits of its parts. Four neighbouring lanes hold two blocks, of
// which they find the greatest magnitudes at once; two of them store the 16 bytes of one block each.
//
// Rows longer than 1,024 lanes hold (AITERLITE_PASSES 2) are read twice. Shuffled scales are stored byte by byte, as
// rows are made; rows and blocks that are not there have teams and lanes too, which store zeros.
//
// Floor, bytes an element: 2 in, 0.53 out; with a residual 2 in and 2 out more, unquantised 2 out more. No atomics:
// same operands, same bits.
//
// A grid that is on the chip all at once (AITERLITE_EARLY) fetches its rows and weights before its predecessors have
// ended, and lets its successors start at once.
#include <aiterlite/block/quad.h>
#include <aiterlite/mxfp4/norm_args.h>
#include <aiterlite/norm/row.h>
#include <aiterlite/numeric/mxfp4_encode.h>
#include <aiterlite/overlap.h>
#include <aiterlite/tile/mx_scale_tile.h>

namespace {

using namespace aiterlite;
using In = AITERLITE_ELEMENT;

constexpr uint32_t kThreads = AITERLITE_THREADS, kLanes = AITERLITE_LANES, kTeams = kThreads / kLanes,
                   kWaves = kThreads / kWaveSize, kBlock = 32, kHeld = 16 * kLanes, kLineElements = 128 / sizeof(In);
constexpr bool kAligned = AITERLITE_ALIGNED, kAdd = AITERLITE_ADD, kPlain = AITERLITE_PLAIN,
               kShuffled = AITERLITE_LAYOUT == 2, kTwoPasses = AITERLITE_PASSES == 2, kEarly = AITERLITE_EARLY;
constexpr bool kIsWorkgroup = kLanes > kWaveSize;
static_assert(kIsWorkgroup ? kTeams == 1 : (kLanes & (kLanes - 1)) == 0, "a team is a power of two, or the workgroup");
static_assert(kLanes % 4 == 0, "a block lies in the same part of four lanes");

AITERLITE_DEVICE constexpr uint32_t place_of(uint32_t part, uint32_t lane) { return (part * kLanes + lane) * 8; }

AITERLITE_DEVICE int64_t scale_at(const aiterlite_mxfp4_norm_args& args, uint32_t row, uint32_t block) {
  if constexpr (kShuffled) {
    const int64_t tile = int64_t{row / kScaleTileRows} * (static_cast<uint32_t>(args.scale_blocks) / kScaleTileBlocks) +
                         block / kScaleTileBlocks;
    return tile * kScaleTileBytes + place_in_scale_tile(row % kScaleTileRows, block % kScaleTileBlocks);
  } else {
    return row * args.stride_row + block * args.stride_block;
  }
}

}  // namespace

AITERLITE_KERNEL_RESIDENT(kThreads, AITERLITE_RESIDENT)
aiterlite_mxfp4_norm(aiterlite_mxfp4_norm_args args) {
  AITERLITE_SHARED(float, shared_sums, kWaves);
  const uint32_t team = thread_id() / kLanes, lane = thread_id() % kLanes, row = workgroup_id() * kTeams + team;
  const auto rows = static_cast<uint32_t>(args.rows), width = static_cast<uint32_t>(args.width);
  const uint32_t left = row < rows ? width : 0;
  const auto* weight = static_cast<const In*>(args.weight);
  const auto* x = static_cast<const In*>(args.x) + row * args.stride_x;
  const auto* residual = static_cast<const In*>(args.residual_in) + row * args.stride_in;
  auto* sum = static_cast<In*>(args.residual_out) + row * args.stride_sum;
  auto* plain = static_cast<In*>(args.plain) + row * args.stride_plain;

  if constexpr (kEarly) {
    admit_successors();
#pragma unroll
    for (uint32_t at = lane * kLineElements; at < kHeld; at += kLanes * kLineElements) {
      if (at >= left) continue;
      prefetch_operand(weight + at);
      prefetch_operand(x + at);
      if constexpr (kAdd) prefetch_operand(residual + at);
    }
  }
  await_predecessors();
  const uint32_t blocks = width / kBlock, part = lane % 4;
  auto* scales = static_cast<uint8_t*>(args.scales);
  // A row of padding; the same for all threads of a workgroup that is a team.
  if constexpr (kShuffled && kIsWorkgroup) {
    if (row >= rows) {
      for (uint32_t block = lane; block < static_cast<uint32_t>(args.scale_blocks); block += kLanes) {
        store_u8(scales + scale_at(args, row, block), 0);
      }
      return;
    }
  }

  // From element `first` of the row on; what is not wanted is read of the weights, which nothing writes.
  Vector16 piece[2];
  const auto load = [&](const In* from, uint32_t first, uint32_t i) {
    return quant::load_eight<kAligned, Reuse::kRow>(from, first + place_of(i, lane), left, weight);
  };
  float squares = 0.0f;
#pragma unroll 1
  for (uint32_t first = 0; first < (kTwoPasses ? width : 1); first += kHeld) {
    Vector16 other[2];
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      piece[i] = load(x, first, i);
      if constexpr (kAdd) other[i] = load(residual, first, i);
    }
    if constexpr (kAdd) {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        piece[i] = norm::sum_of<In>(piece[i], other[i]);
        quant::store_eight<kAligned>(sum, first + place_of(i, lane), left, piece[i]);
      }
    }
    squares += norm::squares<In>(piece);
  }
  if constexpr (!kEarly) admit_successors();
  if constexpr (kIsWorkgroup) {
    squares = reduce_workgroup<kWaves>(squares, Sum{}, shared_sums);
  } else {
    squares = reduce_lanes<kLanes>(squares, Sum{});
  }
  const float root = fast_reciprocal_sqrt(__builtin_fmaf(squares, args.inverse_width, args.epsilon));

  const MxScaleRule rule = {args.carry, args.least};
  auto* codes = static_cast<uint8_t*>(args.out) + int64_t{row} * (width / 2);
#pragma unroll 1
  for (uint32_t first = 0; first < (kTwoPasses ? width : 1); first += kHeld) {
    Vector16 word = {};
    uint32_t byte[2];
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      if constexpr (kTwoPasses) piece[i] = load(kAdd ? sum : x, first, i);
      const Vector16 by = quant::load_eight<kAligned, Reuse::kLikely>(weight, first + place_of(i, lane), width, weight);
      piece[i] = norm::normalised<In, false, false>(piece[i], by, root);
      if constexpr (kPlain) quant::store_eight<kAligned>(plain, first + place_of(i, lane), left, piece[i]);
    }
    const uint32_t a = greatest_halves(piece[0]), b = greatest_halves(piece[1]);
    const uint32_t most =
        greatest_in_quad(greater_u16_pair(pick_bytes<0, 1, 4, 5>(a, b), pick_bytes<2, 3, 6, 7>(a, b)));
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      byte[i] = mx_scale_byte(float_bits_of<In>(i == 0 ? most & 0xffffu : most >> 16), rule);
      word.word[i] = encode_eight_by<In>(piece[i], byte[i]);
    }
    word = transpose_in_quad(word, part);
    // Lanes 0 and 1 of four have the block of that part.
    const uint32_t at = first + place_of(part, lane - part);
    if (part >= 2 || at >= width) continue;
    const uint32_t found = part == 0 ? byte[0] : byte[1], block = at / kBlock;
    if (row < rows) {
      if constexpr (kAligned) {
        store_quad(reinterpret_cast<float*>(codes + at / 2), __builtin_bit_cast(Quad, word));
      } else {
#pragma unroll
        for (uint32_t i = 0; i < 16; ++i) {
          store_u8(codes + at / 2 + i, static_cast<uint8_t>(word.word[i / 4] >> (i % 4 * 8)));
        }
      }
    }
    if (row < static_cast<uint32_t>(args.scale_rows)) {
      store_u8(scales + scale_at(args, row, block), static_cast<uint8_t>(row < rows ? found : 0));
    }
  }
  if constexpr (kShuffled) {
    if (row >= static_cast<uint32_t>(args.scale_rows)) return;
    for (uint32_t block = blocks + lane; block < static_cast<uint32_t>(args.scale_blocks); block += kLanes) {
      store_u8(scales + scale_at(args, row, block), 0);
    }
  }
}
