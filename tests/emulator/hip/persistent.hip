// Workgroups that stay and wait for each other through atomics in memory.
//
// phases: every workgroup adds 1 to a counter and waits until all have, between phases; in phase p workgroup g replaces
// its row by a mix of the rows of its two neighbours of phase p - 1. look_back: a prefix sum over tiles, where each
// workgroup takes a tile by ticket and waits for its predecessor's total. All workgroups must be resident.
#include <device.h>

template <class T>
INLINE T load_shared_word(const T* p) {
  return __hip_atomic_load(p, __ATOMIC_ACQUIRE, __HIP_MEMORY_SCOPE_AGENT);
}

DEVICE void wait_for_all(uint32_t* arrived, uint32_t target) {
  barrier();
  if (thread_x() == 0) {
    __hip_atomic_fetch_add(arrived, 1u, __ATOMIC_ACQ_REL, __HIP_MEMORY_SCOPE_AGENT);
    while (load_shared_word(arrived) < target) __builtin_amdgcn_s_sleep(1);
  }
  barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "agent");
}

KERNEL(128) phases(uint32_t* rows, uint32_t* arrived, uint32_t groups, uint32_t count) {
  const uint32_t t = thread_x(), g = group_x();
  for (uint32_t p = 0; p < count; ++p) {
    const uint32_t* from = rows + p % 2 * groups * 128;
    uint32_t* to = rows + (p + 1) % 2 * groups * 128;
    const uint32_t left = from[(g + groups - 1) % groups * 128 + t];
    const uint32_t right = from[(g + 1) % groups * 128 + (t + 1) % 128];
    to[g * 128 + t] = left * 3 + (right ^ p);
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "agent");
    wait_for_all(arrived, (p + 1) * groups);
  }
}

KERNEL(64) look_back(const uint32_t* x, uint32_t* out, uint32_t* ticket, uint64_t* totals, uint32_t tiles) {
  SHARED(uint32_t, shared, 2);
  const uint32_t t = thread_x();
  for (;;) {
    barrier();
    if (t == 0) shared[0] = __hip_atomic_fetch_add(ticket, 1u, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
    barrier();
    const uint32_t tile = shared[0];
    if (tile >= tiles) return;
    uint32_t v = x[tile * 64 + t];
    for (uint32_t step = 1; step < 64; step <<= 1) {
      const int32_t source = static_cast<int32_t>(t) - static_cast<int32_t>(step);
      const uint32_t other = static_cast<uint32_t>(__builtin_amdgcn_ds_bpermute(source * 4, static_cast<int32_t>(v)));
      if (source >= 0) v += other;
    }
    if (t == 63) {
      uint32_t before = 0;
      if (tile > 0) {
        uint64_t word;
        while (((word = load_shared_word(&totals[tile - 1])) >> 32) == 0) __builtin_amdgcn_s_sleep(1);
        before = static_cast<uint32_t>(word);
      }
      __hip_atomic_store(&totals[tile], 1ull << 32 | (before + v), __ATOMIC_RELEASE, __HIP_MEMORY_SCOPE_AGENT);
      shared[1] = before;
    }
    barrier();
    out[tile * 64 + t] = v + shared[1];
  }
}
