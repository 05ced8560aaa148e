// Loads through a resource that ends within the lanes' reach: to registers, and to LDS, which held other bytes.
#include <aiterlite/isa/amdgcn_buffer.h>
#include <aiterlite/platform.h>

AITERLITE_KERNEL(128) load_bounded(const char* x, aiterlite::Vector16* loaded, uint32_t* in_lds, uint32_t bytes) {
  constexpr uint32_t kWords = aiterlite::kLoadToLdsBytes / 4;
  AITERLITE_SHARED(uint32_t, tile, 128 * kWords) __attribute__((aligned(16)));
  const uint32_t thread = aiterlite::thread_id();
  for (uint32_t i = 0; i < kWords; ++i) tile[i * 128 + thread] = 0xffffffffu;
  aiterlite::workgroup_barrier();
  const aiterlite::Buffer buffer(x, bytes);
  loaded[thread] = buffer.load(16 * thread);
  buffer.load_to_lds(4 * kWords * (127 - thread), tile + aiterlite::wave_id() * 64 * kWords);
  aiterlite::await_loads<0>();
  aiterlite::workgroup_barrier();
  for (uint32_t i = 0; i < kWords; ++i) in_lds[i * 128 + thread] = tile[i * 128 + thread];
}

namespace {
struct Reversed {
  uint32_t word[128];
};
}  // namespace

// Through LDS that the launch sizes.
AITERLITE_KERNEL(128) reverse_in_dynamic_lds(const uint32_t* x, uint32_t* out) {
  AITERLITE_DYNAMIC_SHARED(Reversed, shared);
  const uint32_t thread = aiterlite::thread_id();
  shared.word[127 - thread] = x[thread];
  aiterlite::workgroup_barrier();
  out[thread] = shared.word[thread];
}
