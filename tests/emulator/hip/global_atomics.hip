// Atomics on memory by all workgroups at once.
//
// tallies: add, and, or, xor, min, max in 32 and 64 bits, without the old value. tickets: a returning add hands out
// distinct slots (their order is free). float_tallies: float and double add, a compare-and-swap loop for the float
// maximum; addends are small integers, so that every order gives the same bits. double_bounds: double minimum and
// maximum, 64-bit compare-and-swap, subtraction. exclusive: a lock by compare-and-swap around a read-modify-write that
// is not atomic by itself.
#include <device.h>

KERNEL(128)
tallies(const uint32_t* x, uint32_t* words, uint64_t* longs, uint32_t n) {
  const uint32_t i = group_x() * 128 + thread_x();
  if (i >= n) return;
  const uint32_t v = x[i];
  const uint64_t wide = static_cast<uint64_t>(v) * 0x1000000fdull;
  ATOMIC(fetch_add, &words[0], v);
  ATOMIC(fetch_and, &words[1], v | 0xffu << (i % 24));
  ATOMIC(fetch_or, &words[2], v & 0x11111111u);
  ATOMIC(fetch_xor, &words[3], v);
  ATOMIC(fetch_min, reinterpret_cast<int32_t*>(&words[4]), static_cast<int32_t>(v));
  ATOMIC(fetch_max, reinterpret_cast<int32_t*>(&words[5]), static_cast<int32_t>(v));
  ATOMIC(fetch_min, &words[6], v);
  ATOMIC(fetch_max, &words[7], v);
  ATOMIC(fetch_add, &longs[0], wide);
  ATOMIC(fetch_and, &longs[1], wide | 0xffull << (i % 56));
  ATOMIC(fetch_or, &longs[2], wide & 0x1111111111111111ull);
  ATOMIC(fetch_xor, &longs[3], wide);
  ATOMIC(fetch_min, reinterpret_cast<int64_t*>(&longs[4]), static_cast<int64_t>(wide));
  ATOMIC(fetch_max, reinterpret_cast<int64_t*>(&longs[5]), static_cast<int64_t>(wide));
  ATOMIC(fetch_min, &longs[6], wide);
  ATOMIC(fetch_max, &longs[7], wide);
}

KERNEL(128)
tickets(const uint32_t* x, uint32_t* counter, uint64_t* long_counter, uint32_t* list, uint64_t* swapped, uint32_t n) {
  const uint32_t i = group_x() * 128 + thread_x();
  if (i >= n) return;
  list[ATOMIC(fetch_add, counter, 1u)] = x[i];
  // Every value that was put in is taken out by exactly one other work-item, or is still there.
  swapped[i] = ATOMIC(exchange, long_counter, static_cast<uint64_t>(x[i]) << 20 | i);
}

KERNEL(128) float_tallies(const float* x, float* sum, double* double_sum, float* maximum, uint32_t n) {
  const uint32_t i = group_x() * 128 + thread_x();
  if (i >= n) return;
  const float v = x[i];
  ATOMIC(fetch_add, &sum[i % 3], v);
  ATOMIC(fetch_add, &double_sum[i % 2], static_cast<double>(v) * 0.5);
  uint32_t* bits = reinterpret_cast<uint32_t*>(maximum);
  uint32_t seen = ATOMIC(fetch_or, bits, 0u);
  while (__builtin_bit_cast(float, seen) < v) {
    if (compare_swap(bits, seen, __builtin_bit_cast(uint32_t, v))) break;
  }
}

KERNEL(128) exclusive(uint32_t* lock, volatile uint32_t* pair, const uint32_t* x) {
  if (thread_x() != 0) return;
  uint32_t expected = 0;
  while (!compare_swap(lock, expected, 1u)) expected = 0;
#if !defined(CORPUS_HOST)
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "agent");
#endif
  pair[0] = pair[0] * 5 + 3;
  pair[1] = pair[1] + x[group_x()];
#if !defined(CORPUS_HOST)
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "agent");
#endif
  ATOMIC(exchange, lock, 0u);
}

#if !defined(CORPUS_HOST)
KERNEL(128) double_bounds(const double* x, double* bounds, uint64_t* folded, uint32_t* less, uint32_t n) {
  const uint32_t i = group_x() * 128 + thread_x();
  if (i >= n) return;
  __builtin_amdgcn_global_atomic_fmin_f64((__attribute__((address_space(1))) double*)&bounds[0], x[i]);
  __builtin_amdgcn_global_atomic_fmax_f64((__attribute__((address_space(1))) double*)&bounds[1], x[i]);
  uint64_t seen = 0;
  while (!compare_swap(folded, seen, seen ^ __builtin_bit_cast(uint64_t, x[i]))) {
  }
  __hip_atomic_fetch_sub(less, 1u, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
#endif
