// What sm_90's kernels of stage 1 share: how its work is cut, and the end of a tile.
//
// A tile is a sorted block of kColumns entries by 128 elements of h: 128 gate rows and the 128 up rows that go with
// them. Its products come in steps of 128 bytes of K. All steps of all tiles, in order, are cut into equal shares, one
// a workgroup, so that each streams as many bytes; a tile that a cut goes through leaves a partial sum in each share,
// and a second kernel adds them in order.
#pragma once
#include <aiterlite/fused_moe/sm90_lists.h>
#include <aiterlite/numeric/types.h>
#include <aiterlite/quant/strip.h>
#include <aiterlite/vector.h>

namespace aiterlite::experts {

inline constexpr uint32_t kRows = 128, kStepBytes = 128;
inline constexpr uint32_t kMultipliers = 256, kSums = kColumns / 2;  // of a thread, of gate or of up
inline constexpr bool kInterleaved = AITERLITE_INTERLEAVED, kRowScales = AITERLITE_ROW_SCALES;
using Code = AITERLITE_CODE;  // of weights, x and h
inline constexpr bool kIsFp8 = sizeof(Code) == 1;
inline constexpr uint32_t kStep = kStepBytes / sizeof(Code);

static_assert(kColumns == 8 || kColumns == 16 || kColumns == 24 || kColumns == 32 || kColumns == 48 || kColumns == 64,
              "AITERLITE_COLS must be 8, 16, 24, 32, 48 or 64");

// Part of a tile: `count` steps from `first` on.
struct Piece {
  uint32_t block, part, first, count;
  bool whole;
  uint32_t slot;  // where its partial sums go
};

struct Cut {
  uint32_t steps, parts, workgroups;  // steps of a tile, tiles of a block; that share
  uint32_t all, each, more;           // steps in all, of a share; the first `more` shares have one more

  AITERLITE_DEVICE Cut(const Args& args, const Lists& lists)
      : steps(static_cast<uint32_t>(args.moe.width) / kStep),
        parts(static_cast<uint32_t>(args.moe.inter) / kRows),
        workgroups(static_cast<uint32_t>(args.workgroups)),
        all(lists.blocks() * parts * steps),
        each(all / workgroups),
        more(all - each * workgroups) {}
  // The first step of a workgroup's share.
  AITERLITE_DEVICE uint32_t begin(uint32_t workgroup) const {
    return workgroup * each + (workgroup < more ? workgroup : more);
  }
  template <class Take>
  AITERLITE_DEVICE void for_each_piece(uint32_t workgroup, const Take& take) const {
    const uint32_t from = begin(workgroup), end = begin(workgroup + 1);
#pragma unroll 1
    for (uint32_t at = from; at < end;) {
      const uint32_t tile = at / steps, first = at - tile * steps;
      const uint32_t count = end - at < steps - first ? end - at : steps - first;
      take(Piece{tile / parts, tile % parts, first, count, count == steps, 2 * workgroup + (at != from)});
      at += count;
    }
  }
};

// A thread of the two multiplying warpgroups, and what it has of a tile: rows row(0) and row(1), of gate and of up,
// columns column(j, 0) and column(j, 1) for each j < kColumns / 8, as fragment/sm90_wgmma.h has them.
struct Place {
  uint32_t thread, warp, lane;

  AITERLITE_DEVICE explicit Place(uint32_t thread)
      : thread(thread), warp(thread / kWaveSize), lane(thread % kWaveSize) {}
  AITERLITE_DEVICE uint32_t row(uint32_t i) const { return warp * 16 + lane / 4 + 8 * i; }
  AITERLITE_DEVICE uint32_t column(uint32_t j, uint32_t c) const { return 8 * j + lane % 4 * 2 + c; }
};
struct Tile {
  float gate[kSums], up[kSums];
};

AITERLITE_DEVICE float* partial_of(const Args& args, uint32_t slot) {
  return args.partial + uint64_t{slot} * kColumns * 2 * kRows;
}
// Which of a thread's columns are no padding: bit 2 * j + c.
AITERLITE_DEVICE uint32_t live_columns(const Lists& lists, const Place& place, uint32_t block) {
  uint32_t live = 0;
#pragma unroll
  for (uint32_t k = 0; k < kColumns / 4; ++k) {
    const bool exists = lists.token(block * kColumns + place.column(k / 2, k % 2)) != ~0u;
    live |= static_cast<uint32_t>(exists) << k;
  }
  return live;
}
// Partial sums lie as [column][gate rows, up rows]; those of padding are not there. Visits (sum, place of gate's).
template <class Visit>
AITERLITE_DEVICE void for_each_live(uint32_t live, const Place& place, const Visit& visit) {
#pragma unroll
  for (uint32_t k = 0; k < kSums; ++k) {
    const uint32_t column = k / 4 * 2 + k % 2;
    if (live >> column & 1) visit(k, place.column(k / 4, k % 2) * 2 * kRows + place.row(k / 2 % 2));
  }
}

AITERLITE_DEVICE float sigmoid(float x) { return fast_reciprocal(1.0f + fast_exp2(x * -1.4426950408889634f)); }

// act(gate) * up; silu, gelu (by the error function), swiglu.
AITERLITE_DEVICE float activate(const aiterlite_fused_moe_args& args, float gate, float up) {
  if constexpr (AITERLITE_ACTIVATION == 0) {
    return gate * sigmoid(gate) * up;
  } else if constexpr (AITERLITE_ACTIVATION == 1) {
    return 0.5f * gate * (1.0f + erff(gate * 0.70710678118654752f)) * up;
  } else {
    // As torch's clamp, these keep a NaN.
    gate = gate > args.limit ? args.limit : gate;
    up = up > args.limit ? args.limit : up < -args.limit ? -args.limit : up;
    return gate * sigmoid(args.beta * gate) * (up + args.linear_beta);
  }
}

// An element of h as it lies in memory; `scale` is that of its entry.
template <class To>
AITERLITE_DEVICE void put(uint8_t* row, uint32_t at, float value, float scale) {
  if constexpr (sizeof(To) == 1) {
    row[at] = to_fp8<To, Overflow::kSaturate>(quant::Divisor(scale)(value)).bits;
  } else {
    reinterpret_cast<uint16_t*>(row)[at] = from_float<To>(value).bits;
  }
}

// What the end of a tile needs in shared memory: rows of h on their way to memory, 16 bytes apart from a power of two.
struct FinishShared {
  alignas(16) uint8_t rows[kColumns][kRows * sizeof(Code) + 16];
  float most[kMultipliers / kWaveSize][kColumns];
  float scale[kColumns];
};

// The end of a tile whose sums are complete: h = act(gate) * up, quantised for each entry, to memory. All multipliers
// take part, and `barrier` is between them.
template <class Barrier>
AITERLITE_DEVICE void finish(const Args& all, const Lists& lists, FinishShared& shared, Tile& tile, const Place& place,
                             uint32_t block, uint32_t part, const Barrier& barrier) {
  const aiterlite_fused_moe_args& args = all.moe;
  const auto inter = static_cast<uint32_t>(args.inter);
  float row_scale[2][2] = {{1.0f, 1.0f}, {1.0f, 1.0f}};
  if constexpr (kRowScales) {
    const uint32_t expert = lists.expert(block);
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t row = (part * kRows + place.row(i)) * static_cast<uint32_t>(args.gate_step);
      const float* scale = args.w1_scale + uint64_t{expert} * 2 * inter + row;
      row_scale[i][0] = load_f32(scale);
      row_scale[i][1] = load_f32(scale + args.up_offset);
    }
  }
  float most[kSums / 2];
#pragma unroll
  for (uint32_t k = 0; k < kSums; ++k) {
    const uint32_t i = k / 2 % 2, j = k / 4, c = k % 2;
    float gate = tile.gate[k] * row_scale[i][0], up = tile.up[k] * row_scale[i][1];
    if constexpr (AITERLITE_WEIGHTED_INPUT) {
      const float weight = lists.weight(block * kColumns + place.column(j, c));
      gate *= weight;
      up *= weight;
    }
    tile.gate[k] = activate(args, gate, up);
    const float magnitude = __builtin_fabsf(tile.gate[k]);
    most[2 * j + c] = i == 0 ? magnitude : __builtin_fmaxf(most[2 * j + c], magnitude);
  }
  if constexpr (kIsFp8) {
#pragma unroll
    for (uint32_t k = 0; k < kSums / 2; ++k) {
      most[k] = reduce_strided<4>(most[k], Max{});
      if (place.lane < 4) shared.most[place.warp][place.column(k / 2, k % 2)] = most[k];
    }
  }
  barrier();
  if constexpr (kIsFp8) {
    if (place.thread < kColumns) {
      float greatest = 0.0f;
#pragma unroll
      for (const auto& of_warp : shared.most) greatest = __builtin_fmaxf(greatest, of_warp[place.thread]);
      const float scale = quant::scale_of<Code>(greatest);
      shared.scale[place.thread] = scale;
      args.h_scale[uint64_t{part} * static_cast<uint32_t>(all.entry_pitch) + block * kColumns + place.thread] = scale;
    }
    barrier();
  }
#pragma unroll
  for (uint32_t k = 0; k < kSums; ++k) {
    const uint32_t column = place.column(k / 4, k % 2);
    put<Code>(shared.rows[column], place.row(k / 2 % 2), tile.gate[k], shared.scale[column]);
  }
  barrier();
  constexpr uint32_t kChunks = kRows * sizeof(Code) / 16;
  auto* h = static_cast<uint8_t*>(args.h) + (uint64_t{block} * kColumns * inter + part * kRows) * sizeof(Code);
#pragma unroll
  for (uint32_t at = place.thread; at < kColumns * kChunks; at += kMultipliers) {
    const uint32_t column = at / kChunks, byte = at % kChunks * 16;
    const Vector16 bytes = load_shared_16(&shared.rows[column][byte]);
    store_quad(reinterpret_cast<float*>(h + uint64_t{column} * inter * sizeof(Code) + byte),
               __builtin_bit_cast(Quad, bytes));
  }
}

}  // namespace aiterlite::experts
