// The end of a piece in mla/sm90_decode_wide.hip: sums of its two groups become results.
#pragma once
#include <aiterlite/block/online_softmax.h>
#include <aiterlite/block/reduce.h>
#include <aiterlite/mla/sm90_wide.h>
#include <aiterlite/numeric/pack.h>

namespace aiterlite::mla::wide {

// Columns of a group's values that lie in shared memory at a time: as floats, in the place of half of q. Chunks of 16
// bytes are permuted by the row's number.
inline constexpr uint32_t kStagedColumns = kValues / 32 * 64, kStagedChunks = kStagedColumns / 4;
static_assert(kGroups * kRows * kStagedColumns * sizeof(float) <= sizeof(Shared::q), "what is staged has q's place");
AITERLITE_DEVICE char* staged_at(Shared& shared, uint32_t group, uint32_t row, uint32_t chunk) {
  return shared.q[0].bytes + ((group * kRows + row) * kStagedChunks + (chunk ^ row % 4 * 2)) * 16;
}

// Results of the piece. Values pass through shared memory, so that a row's lie side by side.
template <class Out>
AITERLITE_DEVICE void finish(const aiterlite_mla_decode_args& args, const State& state, const WidePlace& place,
                             Shared& shared) {
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const float total = reduce_lanes<4>(state.weights[i], Sum{});
    if (place.lane % 4 == 0) shared.of_group[place.group][place.row(i)] = total;
  }
  // And here nobody reads q any more.
  named_barrier_wait(kAllBarrier, kMultipliers);
  float by[2];
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const float total = shared.of_group[0][place.row(i)] + shared.of_group[1][place.row(i)];
    by[i] = total == 0.0f ? 0.0f : 1.0f / total;
    const Destination destination = shared.destination[place.row(i)];
    float* log_sums = destination.partial() ? args.partial_lse : args.lse;
    if (place.group == 0 && place.lane % 4 == 0 && destination.exists() && log_sums != nullptr) {
      const float log_sum = total == 0.0f ? -__builtin_inff() : (state.relative[i] + fast_log2(total)) * kLn2;
      store_u32(log_sums + destination.row(), __builtin_bit_cast(uint32_t, log_sum));
    }
  }
#pragma unroll
  for (uint32_t half = 0; half < kHalves; ++half) {
    if (half > 0) wave_barrier();
#pragma unroll
    for (uint32_t k = 0; k < kValues; k += 2) {
      const uint32_t i = k / 2 % 2;
      char* to = staged_at(shared, place.group, place.row(i), k / 4 * 2 + place.lane % 4 / 2) + place.lane % 2 * 8;
      store_shared_8(to, as_words(state.values[half][k] * by[i], state.values[half][k + 1] * by[i]));
    }
    wave_barrier();
    const int64_t column = (half * kGroups + place.group) * kStagedColumns + place.lane * 4;
#pragma unroll 4
    for (uint32_t row = place.warp * 16; row < place.warp * 16 + 16; ++row) {
      const Destination destination = shared.destination[row];
      const Vector16 value = load_shared_16(staged_at(shared, place.group, row, place.lane));
      const int64_t at = destination.row() * kValueDim + column;
      if (!destination.exists()) continue;
      if (destination.partial()) {
        *reinterpret_cast<Vector16*>(args.partial + at) = value;
      } else {
        uint32_t words[2];
#pragma unroll
        for (uint32_t w = 0; w < 2; ++w) {
          words[w] = pack_pair(Out{}, __builtin_bit_cast(float, value.word[2 * w]),
                               __builtin_bit_cast(float, value.word[2 * w + 1]));
        }
        store_vector8(static_cast<Out*>(args.o) + at, {{words[0], words[1]}});
      }
    }
  }
}

}  // namespace aiterlite::mla::wide
