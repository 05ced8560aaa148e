// The end of a piece in mla/sm90_decode.hip: sums of its two groups become results.
#pragma once
#include <aiterlite/block/online_softmax.h>
#include <aiterlite/block/reduce.h>
#include <aiterlite/mla/sm90_columns.h>
#include <aiterlite/numeric/pack.h>
#include <aiterlite/tile/sm90_copy.h>

namespace aiterlite::mla {

// A group's half of the values of each column, which lie side by side in shared memory: parts as they are, by the copy
// engine, which reads them until await_stores says that it has; o rounded.
template <class Cut, class Out>
AITERLITE_DEVICE void store_columns(const aiterlite_mla_decode_args& args, const float* staged, const Sm90Place& place,
                                    typename Cut::Shared& shared) {
  constexpr uint32_t kColumns = Cut::kColumns, kHalf = Cut::kKept * 64, kQuads = kHalf / 4;
  const uint32_t thread = place.warp * kWaveSize + place.lane;
  if (shared.destination(0)->partial()) {
    if (thread < kColumns) {
      const Destination destination = *shared.destination(thread);
      if (destination.exists()) {
        float* to = args.partial + destination.row() * kValueDim + place.group * kHalf;
        store_bytes(to, staged + thread * Cut::kStagedPitch, kHalf * sizeof(float));
      }
      commit_stores();
    }
    return;
  }
#pragma unroll 4
  for (uint32_t at = thread; at < kColumns * kQuads; at += kGroupThreads) {
    const Destination destination = *shared.destination(at / kQuads);
    const Vector16 value = load_shared_16(staged + at / kQuads * Cut::kStagedPitch + at % kQuads * 4);
    uint32_t words[2];
#pragma unroll
    for (uint32_t w = 0; w < 2; ++w) {
      words[w] = pack_pair(Out{}, __builtin_bit_cast(float, value.word[2 * w]),
                           __builtin_bit_cast(float, value.word[2 * w + 1]));
    }
    Out* to = static_cast<Out*>(args.o) + destination.row() * kValueDim + place.group * kHalf + at % kQuads * 4;
    if (destination.exists()) store_vector8(to, {{words[0], words[1]}});
  }
}

// The result of a piece from the sums of its groups, and where it goes. Values pass through shared memory twice: once
// so that each group has half of them from both, and once so that a column's lie side by side.
template <class Cut, class Out>
AITERLITE_DEVICE void finish(const aiterlite_mla_decode_args& args, float value_scale, const typename Cut::Sums& sums,
                             const Sm90Place& place, typename Cut::Shared& shared) {
  constexpr uint32_t kColumns = Cut::kColumns, kKept = Cut::kKept;
#pragma unroll
  for (uint32_t j = 0; j < kColumns / 8; ++j) {
    float total[2];
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) total[e] = reduce_strided<4>(sums.weights[2 * j + e], Sum{});
    if (place.lane < 4) {
      store_shared_8(shared.of_warp(place.group, place.warp, place.column(j)), as_words(total[0], total[1]));
      if (place.warp == 0) {
        store_shared_8(shared.relative(place.group, place.column(j)),
                       as_words(sums.relative[2 * j], sums.relative[2 * j + 1]));
      }
    }
  }
  named_barrier_wait(kAllBarrier, kMultipliers);
  // What each group's values of a column are multiplied by, in the place of what they were relative to.
  const uint32_t thread = place.warp * kWaveSize + place.lane;
  if (place.group == 0 && thread < kColumns) {
    float relative[kGroups], most = kLowest, total = 0.0f;
#pragma unroll
    for (uint32_t g = 0; g < kGroups; ++g) {
      relative[g] = *shared.relative(g, thread);
      most = __builtin_fmaxf(most, relative[g]);
    }
#pragma unroll
    for (uint32_t g = 0; g < kGroups; ++g) {
      relative[g] = fast_exp2(relative[g] - most);
#pragma unroll
      for (uint32_t warp = 0; warp < kGroupWaves; ++warp) total += *shared.of_warp(g, warp, thread) * relative[g];
    }
#pragma unroll
    for (uint32_t g = 0; g < kGroups; ++g) {
      *shared.relative(g, thread) = total == 0.0f ? 0.0f : relative[g] * (value_scale / total);
    }
    const Destination destination = *shared.destination(thread);
    float* log_sums = destination.partial() ? args.partial_lse : args.lse;
    if (destination.exists() && log_sums != nullptr) {
      const float log_sum = total == 0.0f ? -__builtin_inff() : (most + fast_log2(total)) * kLn2;
      store_u32(log_sums + destination.row(), __builtin_bit_cast(uint32_t, log_sum));
    }
  }
  named_barrier_wait(kAllBarrier, kMultipliers);
  float factor[kColumns / 4], kept[kKept][kColumns / 2];
#pragma unroll
  for (uint32_t c = 0; c < kColumns / 4; ++c) factor[c] = *shared.relative(place.group, place.column(c / 2) + c % 2);
  const bool second = place.group == 1;
#pragma unroll
  for (uint32_t b = 0; b < kKept; ++b) {
#pragma unroll
    for (uint32_t quad = 0; quad < kColumns / 8; ++quad) {
      Quad given;
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t k = quad * 4 + i, c = k / 4 * 2 + k % 2;
        const float low = sums.values[b][k], high = sums.values[kKept + b][k];
        kept[b][k] = (second ? high : low) * factor[c];
        given.value[i] = (second ? low : high) * factor[c];
      }
      shared.exchanged(place.group)[(b * (kColumns / 8) + quad) * kGroupThreads + thread] = given;
    }
  }
  named_barrier_wait(kAllBarrier, kMultipliers);
#pragma unroll
  for (uint32_t b = 0; b < kKept; ++b) {
#pragma unroll
    for (uint32_t quad = 0; quad < kColumns / 8; ++quad) {
      const Quad got = shared.exchanged(1 - place.group)[(b * (kColumns / 8) + quad) * kGroupThreads + thread];
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) kept[b][quad * 4 + i] += got.value[i];
    }
  }
  // Only this group reads what the other one gave, so its place is this group's now.
  place.group_barrier();
  float* staged = reinterpret_cast<float*>(shared.exchanged(1 - place.group));
#pragma unroll
  for (uint32_t b = 0; b < kKept; ++b) {
#pragma unroll
    for (uint32_t c = 0; c < kColumns / 4; ++c) {
      float* to = staged + (place.column(c / 2) + c % 2) * Cut::kStagedPitch + b * 64 + place.warp * 16;
      Cut::Operands::stage_values(to, place.lane / 4, kept[b][c / 2 * 4 + c % 2], kept[b][c / 2 * 4 + c % 2 + 2]);
    }
  }
  publish_to_engines();
  place.group_barrier();
  store_columns<Cut, Out>(args, staged, place, shared);
}

}  // namespace aiterlite::mla
