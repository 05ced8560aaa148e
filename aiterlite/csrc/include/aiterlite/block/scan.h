// Scans over the lanes of a wave and over a workgroup: what all threads up to this one combine to. An Op need not
// commute, but it has a neutral value, `without`. Five or six steps a wave: DPP on AMD, shuffles on NVIDIA.
#pragma once
#include <aiterlite/block/reduce.h>

namespace aiterlite {

template <class T>
struct Scanned {
  T before;  // of the threads before this one
  T all;
};

namespace scan_detail {
template <uint32_t kStep, class T, class Op>
AITERLITE_DEVICE T step(const T& value, Op op, const T& without) {
  static_assert(sizeof(T) == 4, "scan: values of one word");
  const uint32_t before =
      preceding_word<kStep>(__builtin_bit_cast(uint32_t, value), __builtin_bit_cast(uint32_t, without));
  return op(__builtin_bit_cast(T, before), value);
}
}  // namespace scan_detail

// With this lane's own value.
template <class T, class Op>
AITERLITE_DEVICE T scan_wave(T value, Op op, T without) {
  value = scan_detail::step<1>(value, op, without);
  value = scan_detail::step<2>(value, op, without);
  value = scan_detail::step<4>(value, op, without);
  value = scan_detail::step<8>(value, op, without);
  value = scan_detail::step<16>(value, op, without);
  if constexpr (kWaveSize > 32) value = scan_detail::step<32>(value, op, without);
  return value;
}

// `shared` are kWaves values that nothing else uses from here to the next barrier after this returns.
template <uint32_t kWaves, class T, class Op>
AITERLITE_DEVICE Scanned<T> scan_workgroup(T value, Op op, T without, T* shared) {
  const T inclusive = scan_wave(value, op, without);
  const uint32_t previous =
      previous_word(__builtin_bit_cast(uint32_t, inclusive), __builtin_bit_cast(uint32_t, without));
  T before = __builtin_bit_cast(T, previous);
  T all = __builtin_bit_cast(T, last_word(__builtin_bit_cast(uint32_t, inclusive)));
  if constexpr (kWaves > 1) {
    const uint32_t mine = wave_id();
    if (lane_id() == 0) shared[mine] = all;
    workgroup_barrier();
    T waves_before = without;
    all = without;
#pragma unroll
    for (uint32_t wave = 0; wave < kWaves; ++wave) {
      if (wave == mine) waves_before = all;
      all = op(all, shared[wave]);
    }
    before = op(waves_before, before);
  }
  return {before, all};
}

}  // namespace aiterlite
