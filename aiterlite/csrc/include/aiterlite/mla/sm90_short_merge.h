// The end of mla/sm90_decode_short.hip: sums of a workgroup's columns become results, those of a cluster's workgroups
// together.
//
// In a cluster, what each rank's weights are relative to and their sums go to all ranks while the last tile's values
// are multiplied. With these each rank knows what its values are worth, and sends slices of 16 values, as fp16 times a
// power of two of their own, which loses an eighth of what rounding o does, to the rank that adds them, in the order of
// ranks.
#pragma once
#include <aiterlite/block/online_softmax.h>
#include <aiterlite/mla/sm90_short.h>
#include <aiterlite/numeric/pack.h>

namespace aiterlite::mla {

// This rank's maxima and sums of weights to all ranks: a lane has a rank, and two of each eight columns. All threads
// that multiply.
template <class Cut>
AITERLITE_DEVICE void send_stats(const typename Cut::Sums& sums, const Sm90Place& place, uint32_t rank,
                                 typename Cut::Shared& shared) {
  // All have come, and may be written to.
  cluster_wait();
  const uint32_t to = place.warp * 8 + place.lane / 4;
  if (place.group != 0 || to >= Cut::kRanks) return;
#pragma unroll
  for (uint32_t j = 0; j < Cut::kColumns / 8; ++j) {
    const Quad stats = {{sums.relative[2 * j], sums.weight(j, 0), sums.relative[2 * j + 1], sums.weight(j, 1)}};
    mailbox_send(&shared.mailbox, to, reinterpret_cast<Quad*>(shared.stats[rank][place.column(j)]), stats);
  }
}

// Where a column's results go.
struct ShortResult {
  int64_t row;  // of o or of partial, in heads
  bool partial;

  AITERLITE_DEVICE static ShortResult of(const aiterlite_mla_decode_args& args, const ShortTask& task, int64_t row) {
    if (args.splits > 1) return {(row * args.splits + task.split) * args.heads + task.first_head, true};
    return {row * args.heads + task.first_head, false};
  }
};

AITERLITE_DEVICE void store_log_sum(const aiterlite_mla_decode_args& args, const ShortResult& result, uint32_t column,
                                    float most, float total) {
  float* log_sums = result.partial ? args.partial_lse : args.lse;
  if (log_sums == nullptr) return;
  const float log_sum = total == 0.0f ? -__builtin_inff() : (most + fast_log2(total)) * kLn2;
  store_u32(log_sums + result.row + column, __builtin_bit_cast(uint32_t, log_sum));
}

// What a thread's columns are to be multiplied by. In a cluster a lane reads a rank's stats or two's, and lanes combine
// them.
template <class Cut>
AITERLITE_DEVICE void make_factors(const aiterlite_mla_decode_args& args, const ShortResult& result, uint32_t count,
                                   float value_scale, const typename Cut::Sums& sums, const Sm90Place& place,
                                   uint32_t rank, typename Cut::Shared& shared, float (&factor)[Cut::kColumns / 4]) {
  constexpr uint32_t kLanes = Cut::kRanks < 8 ? Cut::kRanks : 8, kEach = Cut::kRanks / kLanes;
  if constexpr (Cut::kRanks > 1) mailbox_wait(&shared.mailbox);
#pragma unroll
  for (uint32_t j = 0; j < Cut::kColumns / 8; ++j) {
    Quad stats[kEach];
#pragma unroll
    for (uint32_t r = 0; r < kEach; ++r) {
      if constexpr (Cut::kRanks == 1) {
        stats[r] = {{sums.relative[2 * j], sums.weight(j, 0), sums.relative[2 * j + 1], sums.weight(j, 1)}};
      } else {
        const uint32_t from = place.lane / 4 % kLanes + r * kLanes;
        stats[r] = *reinterpret_cast<const Quad*>(shared.stats[from][place.column(j)]);
      }
    }
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) {
      float most = stats[0].value[2 * e], total = 0.0f;
#pragma unroll
      for (uint32_t r = 1; r < kEach; ++r) most = __builtin_fmaxf(most, stats[r].value[2 * e]);
#pragma unroll
      for (uint32_t step = 1; step < kLanes; step *= 2) most = __builtin_fmaxf(most, shuffle_xor(most, 4 * step));
#pragma unroll
      for (uint32_t r = 0; r < kEach; ++r) {
        total += stats[r].value[2 * e + 1] * fast_exp2(stats[r].value[2 * e] - most);
      }
#pragma unroll
      for (uint32_t step = 1; step < kLanes; step *= 2) total += shuffle_xor(total, 4 * step);
      const float own = fast_exp2(sums.relative[2 * j + e] - most) * value_scale;
      factor[2 * j + e] = total == 0.0f ? 0.0f : own * normal_reciprocal(total);
      const uint32_t column = place.column(j) + e;
      if (rank == 0 && place.group + place.warp == 0 && place.lane < 4 && column < count) {
        store_log_sum(args, result, column, most, total);
      }
    }
  }
}

// The values at place b of a thread's sums, multiplied.
template <class Cut>
AITERLITE_DEVICE void finished(const typename Cut::Sums& sums, uint32_t b, const float (&factor)[Cut::kColumns / 4],
                               float (&value)[Cut::kColumns / 2]) {
#pragma unroll
  for (uint32_t k = 0; k < Cut::kColumns / 2; ++k) {
    float sum = sums.values[b][k];
    if constexpr (Cut::kTwice) sum += sums.values[b][k + Cut::kColumns / 2];
    value[k] = sum * factor[k / 4 * 2 + k % 2];
  }
}

// Which slice of 16 values a warp has at place b.
template <class Cut>
AITERLITE_DEVICE uint32_t slice_at(const Sm90Place& place, uint32_t b, uint32_t rank) {
  return (place.group * Cut::kKept + Cut::block_at(b, rank)) * kGroupWaves + place.warp;
}

// Of 16 values of eight columns, lane l has those that are rows g and g + 8 of the matrix unit's sums, of columns 2 t
// and 2 t + 1: sum[2 i + e].
template <class Cut, class Out>
AITERLITE_DEVICE void store_values(const aiterlite_mla_decode_args& args, const ShortResult& result, uint32_t count,
                                   uint32_t first_column, uint32_t first_value, const float (&sum)[4]) {
  using Operands = typename Cut::Operands;
  const uint32_t lane = lane_id(), g = lane / 4, t = lane % 4;
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    if (result.partial) {
      const uint32_t column = first_column + 2 * t;
      float* to = args.partial + (result.row + column) * kValueDim + first_value + Operands::value_dim(g, i);
#pragma unroll
      for (uint32_t e = 0; e < 2; ++e) {
        if (column + e < count) store_u32(to + e * kValueDim, __builtin_bit_cast(uint32_t, sum[2 * i + e]));
      }
    } else if constexpr (Operands::kPaired) {
      // A thread has neighbours.
      const uint32_t column = first_column + 2 * t + i;
      Out* to = static_cast<Out*>(args.o) + (result.row + column) * kValueDim + first_value + 2 * g;
      if (column < count) store_u32(to, pack_pair(Out{}, sum[i], sum[2 + i]));
    } else {
      const uint32_t turned = transpose_matrix(pack_pair(Out{}, sum[2 * i], sum[2 * i + 1])), column = first_column + g;
      Out* to = static_cast<Out*>(args.o) + (result.row + column) * kValueDim + first_value + 8 * i + 2 * t;
      if (column < count) store_u32(to, turned);
    }
  }
}

// Values of a workgroup alone.
template <class Cut, class Out>
AITERLITE_DEVICE void store_block(const aiterlite_mla_decode_args& args, const ShortResult& result, uint32_t count,
                                  const typename Cut::Sums& sums, uint32_t b, const float (&factor)[Cut::kColumns / 4],
                                  const Sm90Place& place) {
  float value[Cut::kColumns / 2];
  finished<Cut>(sums, b, factor, value);
#pragma unroll
  for (uint32_t j = 0; j < Cut::kColumns / 8; ++j) {
    const float of_columns[4] = {value[4 * j], value[4 * j + 1], value[4 * j + 2], value[4 * j + 3]};
    store_values<Cut, Out>(args, result, count, 8 * j, slice_at<Cut>(place, b, 0) * 16, of_columns);
  }
}

// A slice to the rank that adds it. Beside an infinity nothing is scaled.
template <class Cut>
AITERLITE_DEVICE void send_block(const typename Cut::Sums& sums, uint32_t b, const float (&factor)[Cut::kColumns / 4],
                                 const Sm90Place& place, uint32_t rank, typename Cut::Shared& shared) {
  const uint32_t slice = slice_at<Cut>(place, b, rank), to = slice / Cut::kOwnSlices, own = slice % Cut::kOwnSlices;
  float value[Cut::kColumns / 2], most = 0.0f;
  finished<Cut>(sums, b, factor, value);
#pragma unroll
  for (uint32_t k = 0; k < Cut::kColumns / 2; ++k) most = __builtin_fmaxf(most, __builtin_fabsf(value[k]));
  const Scaling scaling = scaling_to_fp16(greatest_word(__builtin_bit_cast(uint32_t, most)) >> 16);
#pragma unroll
  for (uint32_t v = 0; v < Cut::kVectors; ++v) {
    Vector16 words;
#pragma unroll
    for (uint32_t w = 0; w < 4; ++w) {
      words.word[w] =
          native_pack_fp16(value[8 * v + 2 * w] * scaling.factor, value[8 * v + 2 * w + 1] * scaling.factor);
    }
    store_in_rank(address_in_rank(shared.received(rank, own) + v * kWaveSize + place.lane, to), words);
  }
  if (place.lane == 0) store_in_rank(address_in_rank(&shared.undo[own][rank], to), scaling.undo);
}

// What all ranks have sent, added.
template <class Cut, class Out>
AITERLITE_DEVICE void add_slices(const aiterlite_mla_decode_args& args, const ShortResult& result, uint32_t count,
                                 const Sm90Place& place, uint32_t rank, typename Cut::Shared& shared) {
  constexpr uint32_t kOctets = Cut::kColumns / 8, kUnits = Cut::kOwnSlices * kOctets;
#pragma unroll 1
  for (uint32_t unit = place.group * kGroupWaves + place.warp; unit < kUnits; unit += kMultipliers / kWaveSize) {
    const uint32_t slice = unit / kOctets, octet = unit % kOctets;
    const Vector16* from = shared.received(0, slice) + octet / 2 * kWaveSize + place.lane;
    Vector8 got[Cut::kRanks];
    float undo[Cut::kRanks], sum[4] = {};
#pragma unroll
    for (uint32_t r = 0; r < Cut::kRanks; ++r) {
      got[r] = load_shared_8(&from[r * Cut::kOwnSlices * Cut::kVectors * kWaveSize].word[octet % 2 * 2]);
      undo[r] = shared.undo[slice][r];
    }
#pragma unroll
    for (uint32_t r = 0; r < Cut::kRanks; ++r) {
#pragma unroll
      for (uint32_t k = 0; k < 4; ++k) {
        sum[k] += to_float(fp16{static_cast<uint16_t>(got[r].word[k / 2] >> (k % 2 * 16))}) * undo[r];
      }
    }
    store_values<Cut, Out>(args, result, count, 8 * octet, (rank * Cut::kOwnSlices + slice) * 16, sum);
  }
}

}  // namespace aiterlite::mla
