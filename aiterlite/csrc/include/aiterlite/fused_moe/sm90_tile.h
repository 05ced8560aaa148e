// The end of a tile of stage 1 on sm_90, 128 gate rows and the 128 up rows that go with them: h of 128 elements.
//
// A tile that a cut goes through (sm90_cut.h) leaves a partial sum in each share, and a second kernel adds them in
// order.
#pragma once
#include <aiterlite/fused_moe/activation.h>
#include <aiterlite/fused_moe/row_scales.h>
#include <aiterlite/fused_moe/sm90_cut.h>
#include <aiterlite/quant/strip.h>
#include <aiterlite/vector.h>

namespace aiterlite::experts {

// Stage 1's work.
template <class AnyLists>
AITERLITE_DEVICE std::conditional_t<AITERLITE_WHOLE, WholeTiles, Shares> cut_of(const Args& args,
                                                                                const AnyLists& lists) {
  return {static_cast<uint32_t>(args.moe.width) / kStep, static_cast<uint32_t>(args.moe.inter) / kRows, lists.blocks(),
          static_cast<uint32_t>(args.workgroups)};
}
// Shuffled weights whose gate and up rows take turns lie so in the boxes too: the first has those of h's first 64
// elements. Neighbouring rows are neighbouring lanes of four, which exchange: the one with a gate row takes its up row
// of the first box, the one with an up row its gate row of the second.
inline constexpr bool kTakeTurns = kInterleaved && AITERLITE_SHUFFLED;

AITERLITE_DEVICE void pair_gate_and_up(Tile& tile, const Place& place) {
  if constexpr (kTakeTurns) {
    const bool has_gate = place.lane / 4 % 2 == 0;
#pragma unroll
    for (uint32_t k = 0; k < kSums; ++k) {
      const float got = shuffle_xor(has_gate ? tile.second[k] : tile.first[k], 4);
      (has_gate ? tile.second[k] : tile.first[k]) = got;
    }
  }
}
// Of a tile's 128 elements of h, those of a thread.
AITERLITE_DEVICE uint32_t element_of(const Place& place, uint32_t i) {
  return kTakeTurns ? place.row(i) / 2 + (place.lane / 4 % 2) * (kRows / 2) : place.row(i);
}

AITERLITE_DEVICE float* partial_of(const Args& args, uint32_t slot) {
  return args.partial + uint64_t{slot} * kColumns * 2 * kRows;
}
// Which of a thread's columns are no padding: bit 2 * j + c.
template <class AnyLists>
AITERLITE_DEVICE uint32_t live_columns(const AnyLists& lists, const Place& place, uint32_t block) {
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
    if (live >> column & 1) visit(k, place.column(k / 4, k % 2) * 2 * kRows + element_of(place, k / 2 % 2));
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
  const fused_moe::Swiglu swiglu = {args.limit, args.beta, args.linear_beta};
  float row_scale[2][2] = {{1.0f, 1.0f}, {1.0f, 1.0f}}, bias[2][2] = {};
  const auto read_rows = [&](const float* rows, float (&into)[2][2]) {
    const uint32_t expert = lists.expert(block);
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t row = (part * kRows + element_of(place, i)) * static_cast<uint32_t>(args.gate_step);
      const float* of = rows + uint64_t{expert} * 2 * inter + row;
      into[i][0] = load_f32(of);
      into[i][1] = load_f32(of + args.up_offset);
    }
  };
  if constexpr (kTensorScales) {
#pragma unroll
    for (uint32_t up = 0; up < 2; ++up) {
      row_scale[0][up] = load_f32(fused_moe::scale_of_gate_or_up(args, lists.expert(block), up));
      row_scale[1][up] = row_scale[0][up];
    }
  } else if constexpr (kRowScales) {
    read_rows(args.w1_scale, row_scale);
  }
  if constexpr (AITERLITE_BIAS1) read_rows(args.bias1, bias);
  float most[kSums / 2];
#pragma unroll
  for (uint32_t k = 0; k < kSums; ++k) {
    const uint32_t i = k / 2 % 2, j = k / 4, c = k % 2;
    float gate = tile.first[k] * row_scale[i][0], up = tile.second[k] * row_scale[i][1];
    if constexpr (AITERLITE_WEIGHTED_INPUT) {
      const float weight = lists.weight(block * kColumns + place.column(j, c));
      gate *= weight;
      up *= weight;
    }
    if constexpr (AITERLITE_BIAS1) {
      gate += bias[i][0];
      up += bias[i][1];
    }
    tile.first[k] = fused_moe::activate<AITERLITE_ACTIVATION>(gate, up, swiglu);
    const float magnitude = __builtin_fabsf(tile.first[k]);
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
    put<Code>(shared.rows[column], element_of(place, k / 2 % 2), tile.first[k], shared.scale[column]);
  }
  barrier();
  // Where h is tiled (AITERLITE_TILED), a block's rows lie as the matrix unit wants them: 128 bytes of each a step.
  constexpr uint32_t kChunks = kRows * sizeof(Code) / 16;
  auto* h = static_cast<uint8_t*>(args.h) + uint64_t{block} * kColumns * inter * sizeof(Code);
  constexpr uint32_t kPart = kRows * sizeof(Code);
#pragma unroll
  for (uint32_t at = place.thread; at < kColumns * kChunks; at += kMultipliers) {
    const uint32_t column = at / kChunks, byte = at % kChunks * 16;
    const Vector16 bytes = load_shared_16(&shared.rows[column][byte]);
    const uint32_t step = byte / kStepBytes, chunk = byte % kStepBytes / 16;
    uint8_t* to = kTiled ? h + part * (kPart * kColumns) + step * (kStepBytes * kColumns) + column * kStepBytes +
                               (chunk ^ column % 8) * 16
                         : h + uint64_t{column} * inter * sizeof(Code) + part * kPart + byte;
    store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, bytes));
  }
}

}  // namespace aiterlite::experts
