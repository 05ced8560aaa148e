// Private arrays that registers cannot hold: indexed by data, passed to functions, and spilled.
//
// private_sort: each work-item sorts 24 words of its own in scratch by insertion, with the index in a second array.
// bytes_and_shorts: narrow private elements at odd places, through a pointer that is private or global by lane.
// spills: far more live values than the 24 registers that the kernel may have.
#include <device.h>

constexpr int kLength = 24;

KERNEL(64) private_sort(const int32_t* x, int32_t* out, int32_t* order, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  int32_t value[kLength];
  int32_t index[kLength];
  for (int j = 0; j < kLength; ++j) {
    const int32_t v = x[i * kLength + j];
    int k = j;
    while (k > 0 && value[k - 1] > v) {
      value[k] = value[k - 1];
      index[k] = index[k - 1];
      --k;
    }
    value[k] = v;
    index[k] = j;
  }
  for (int j = 0; j < kLength; ++j) {
    out[i * kLength + j] = value[j];
    order[i * kLength + j] = index[j];
  }
}

struct Record {
  uint8_t tag;
  int8_t delta[7];
  uint16_t amount[6];
  uint64_t total;
};

__attribute__((noinline)) DEVICE uint64_t tally(const uint8_t* bytes, uint32_t count) {
  uint64_t sum = 0;
  for (uint32_t j = 0; j < count; ++j) sum = sum * 31 + bytes[j];
  return sum;
}

KERNEL(64) bytes_and_shorts(const uint8_t* x, uint64_t* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  Record record[3];
  for (uint32_t r = 0; r < 3; ++r) {
    record[r].tag = x[i];
    for (uint32_t j = 0; j < 7; ++j) record[r].delta[j] = static_cast<int8_t>(x[i + j] - 100);
    for (uint32_t j = 0; j < 6; ++j) record[r].amount[j] = static_cast<uint16_t>(x[i + j] * x[i + r]);
    record[r].total = 0;
  }
  Record& mine = record[x[i] % 3];
  for (uint32_t j = 0; j < 42; ++j) {
    mine.total += static_cast<uint64_t>(mine.delta[(x[i + 1] + j) % 7] * 256 + mine.amount[(x[i + 2] + j) % 6]);
  }
  // A generic pointer: to the lane's own scratch for odd items, to memory for even ones.
  const uint8_t* bytes = i & 1 ? reinterpret_cast<const uint8_t*>(mine.delta) : x + i;
  out[2 * i] = mine.total + record[(x[i] + 1) % 3].amount[x[i + 3] % 6];
  out[2 * i + 1] = tally(bytes, 7);
}

#if defined(CORPUS_HOST)
#define FEW_REGISTERS
#else
#define FEW_REGISTERS __attribute__((amdgpu_num_vgpr(24), amdgpu_num_sgpr(32)))
#endif

FEW_REGISTERS KERNEL(64) spills(const uint32_t* x, uint32_t* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  uint32_t v[48];
#pragma unroll
  for (uint32_t j = 0; j < 48; ++j) v[j] = x[(i * 7 + j * 13) % n];
#pragma unroll 1
  for (uint32_t round = 0; round < 3; ++round) {
#pragma unroll
    for (uint32_t j = 0; j < 48; ++j) v[j] = v[j] * 3 + (v[(j + 17) % 48] ^ (v[(j + 31) % 48] >> 3));
  }
  uint32_t s = 0;
#pragma unroll
  for (uint32_t j = 0; j < 48; ++j) s = s * 33 + v[j];
  out[i] = s;
}
