// Kernels that touch what they must not, where the launch says: one work-item (`item`) takes another index than its
// own.
//
// Everything else each of them does is in bounds, so a launch with item past the grid runs to its end.
#include <device.h>

struct alignas(16) Four {
  uint32_t v[4];
};

KERNEL(128) read_at(const uint32_t* x, uint32_t* out, uint32_t item, uint64_t index) {
  const uint32_t i = group_x() * 128 + thread_x();
  out[i] = x[i == item ? index : i] + 1;
}

KERNEL(128) write_at(uint32_t* out, uint32_t item, uint64_t index) {
  const uint32_t i = group_x() * 128 + thread_x();
  out[i == item ? index : i] = i;
}

KERNEL(128) read_wide_at(const Four* x, Four* out, uint32_t item, uint64_t byte) {
  const uint32_t i = group_x() * 128 + thread_x();
  const auto* from = reinterpret_cast<const char*>(x) + (i == item ? byte : 16ull * i);
  out[i] = *reinterpret_cast<const Four*>(from);
}

// The load is dead for all but the lanes that are on.
KERNEL(128) masked_read(const uint32_t* x, const uint64_t* index, uint32_t* out, uint32_t n) {
  const uint32_t i = group_x() * 128 + thread_x();
  out[i] = 7;
  if (index[i] < n) out[i] = x[index[i]];
}

// The same in every lane, so a scalar load.
KERNEL(64) read_uniform(const uint32_t* x, uint32_t* out, uint64_t index) { out[thread_x()] = x[index + group_x()]; }

KERNEL(128) lds_at(uint32_t* out, uint32_t item, uint32_t index, uint32_t write) {
  SHARED(uint32_t, tile, 128);
  const uint32_t t = thread_x(), i = group_x() * 128 + t;
  tile[t] = t;
  barrier();
  const uint32_t at = i == item ? index : 127 - t;
  if (write) {
    tile[at] = t;
    barrier();
    out[i] = tile[t];
  } else {
    out[i] = tile[at];
  }
}

KERNEL(64) scratch_at(const uint32_t* x, uint32_t* out, uint32_t item, uint32_t index) {
  const uint32_t i = group_x() * 64 + thread_x();
  uint32_t mine[96];
  for (uint32_t j = 0; j < 96; ++j) mine[j] = x[j] * i;
  out[i] = mine[i == item ? index : x[i % 96] % 96];
}

// Words at any byte, then an atomic at any byte.
KERNEL(64) unaligned_at(const uint8_t* x, uint32_t* out, uint8_t* counters, uint32_t offset, uint32_t counter) {
  const uint32_t t = thread_x();
  using Word = uint32_t __attribute__((aligned(1)));
  out[t] = *reinterpret_cast<const Word*>(x + 4 * t + offset);
  if (t == 17) ATOMIC(fetch_add, reinterpret_cast<uint32_t*>(counters + counter), 5u);
}

// `bytes` is what the resource claims to cover, whatever lies behind `x`.
KERNEL(64) resource_at(uint32_t* x, uint32_t* out, uint32_t bytes, uint32_t item, int32_t byte, uint32_t write) {
  const uint32_t i = group_x() * 64 + thread_x();
  const __amdgpu_buffer_rsrc_t r = __builtin_amdgcn_make_buffer_rsrc(x, 0, bytes, 0x00027000);
  const int32_t at = i == item ? byte : static_cast<int32_t>(4 * i);
  if (write) {
    __builtin_amdgcn_raw_buffer_store_b32(i, r, at, 0, 0);
  } else {
    out[i] = __builtin_amdgcn_raw_buffer_load_b32(r, at, 0, 0);
  }
}
