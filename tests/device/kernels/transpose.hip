// Transposes in registers.
#include <aiterlite/fragment/transpose.h>
#include <aiterlite/numeric/pack.h>

AITERLITE_KERNEL(64) transpose_registers(const uint32_t* x, uint32_t* bytes, uint32_t* pairs) {
  const uint32_t t = aiterlite::thread_id();
  uint32_t w[4] = {x[4 * t], x[4 * t + 1], x[4 * t + 2], x[4 * t + 3]};
  uint32_t v[2] = {w[0], w[1]};
  aiterlite::transpose_bytes(w);
  aiterlite::transpose_pairs(v);
  for (uint32_t i = 0; i < 4; ++i) bytes[4 * t + i] = w[i];
  for (uint32_t i = 0; i < 2; ++i) pairs[2 * t + i] = v[i];
}

AITERLITE_KERNEL(64) pack_pairs(const float* x, uint32_t* as_bf16, uint32_t* as_fp16) {
  const uint32_t i = aiterlite::workgroup_id() * 64 + aiterlite::thread_id();
  as_bf16[i] = aiterlite::pack_pair(aiterlite::bf16{}, x[2 * i], x[2 * i + 1]);
  as_fp16[i] = aiterlite::pack_pair(aiterlite::fp16{}, x[2 * i], x[2 * i + 1]);
}
