// Histograms and other tallies by atomics on LDS, one workgroup a segment of the input.
//
// histogram: counts of bins in LDS (ds_add_u32), flushed to memory with global atomics. ranks: each element above the
// threshold takes a slot of a list in LDS (ds_add_rtn_u32); the list's order is free, its contents are not.
// lds_tallies: one operation a work-item on each of a row of LDS words: add, sub, and, or, xor, min, max (signed and
// not), exchange and compare-and-swap, 64-bit add, max and exchange, float and double add. Float addends are small
// integers, so that every order gives the same bits.
#include <device.h>

constexpr uint32_t kBins = 61;

KERNEL(192) histogram(const uint32_t* x, uint32_t* counts, uint32_t n) {
  SHARED(uint32_t, bins, kBins);
  for (uint32_t b = thread_x(); b < kBins; b += 192) bins[b] = 0;
  barrier();
  for (uint32_t i = group_x() * 192 + thread_x(); i < n; i += grid_size_x()) ATOMIC(fetch_add, &bins[x[i] % kBins], 1u);
  barrier();
  for (uint32_t b = thread_x(); b < kBins; b += 192) {
    if (bins[b]) ATOMIC(fetch_add, &counts[b], bins[b]);
  }
}

KERNEL(128) ranks(const uint32_t* x, uint32_t* list, uint32_t* lengths, uint32_t n, uint32_t threshold) {
  SHARED(uint32_t, kept, 256);
  SHARED(uint32_t, length, 1);
  const uint32_t t = thread_x();
  if (t == 0) length[0] = 0;
  barrier();
  for (uint32_t j = 0; j < 2; ++j) {
    const uint32_t i = group_x() * 256 + j * 128 + t;
    if (i < n && x[i] > threshold) kept[ATOMIC(fetch_add, &length[0], 1u)] = x[i];
  }
  barrier();
  for (uint32_t i = t; i < length[0]; i += 128) list[group_x() * 256 + i] = kept[i];
  if (t == 0) lengths[group_x()] = length[0];
}

KERNEL(128)
lds_tallies(const uint32_t* x, uint32_t* words, uint64_t* longs, float* floats, double* doubles) {
  SHARED(uint32_t, w, 11);
  SHARED(uint64_t, l, 4);
  SHARED(float, f, 1);
  SHARED(double, d, 1);
  const uint32_t t = thread_x();
  const uint32_t v = x[group_x() * 128 + t];
  const uint64_t wide = static_cast<uint64_t>(v) * 0x100000001ull;
  if (t < 11) w[t] = t == 2 ? ~0u : (t == 5 ? 0x7fffffffu : (t == 7 ? ~0u : (t == 6 ? 0x80000000u : 0)));
  if (t < 4) l[t] = t == 2 ? ~0ull : 0;
  if (t == 0) {
    f[0] = 0;
    d[0] = 0;
  }
  barrier();
  ATOMIC(fetch_add, &w[0], v);
  ATOMIC(fetch_add, &w[1], 0u - v);
  ATOMIC(fetch_and, &w[2], v | 0xffu << (t % 24));
  ATOMIC(fetch_or, &w[3], v & 0x11111111u);
  ATOMIC(fetch_xor, &w[4], v);
  ATOMIC(fetch_min, reinterpret_cast<int32_t*>(&w[5]), static_cast<int32_t>(v));
  ATOMIC(fetch_max, reinterpret_cast<int32_t*>(&w[6]), static_cast<int32_t>(v));
  ATOMIC(fetch_min, &w[7], v);
  ATOMIC(fetch_max, &w[8], v);
  // Whoever comes last leaves its value; each value taken out is added up, so nothing is lost.
  ATOMIC(fetch_add, &w[9], ATOMIC(exchange, &w[10], v));
  ATOMIC(fetch_add, &l[0], wide);
  ATOMIC(fetch_max, &l[1], wide);
  ATOMIC(fetch_min, &l[2], wide);
  uint64_t seen = l[3];
  while (!compare_swap(&l[3], seen, seen * 3 + 1)) {
  }
  ATOMIC(fetch_add, &f[0], static_cast<float>(v % 1024));
  ATOMIC(fetch_add, &d[0], static_cast<double>(v));
  barrier();
  if (t == 0) w[9] += w[10];
  barrier();
  if (t < 10) words[group_x() * 10 + t] = w[t];
  if (t < 4) longs[group_x() * 4 + t] = l[t];
  if (t == 0) {
    floats[group_x()] = f[0];
    doubles[group_x()] = d[0];
  }
}
