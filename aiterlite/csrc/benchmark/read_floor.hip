// Reads the weights w[m, k] and does nothing with them: the lower bound of any GEMM, which has to read them.
//
// w is dense (stride_w == k) and 16-byte aligned, and M * K is a multiple of 8. Each thread reads 16 bytes per step of
// AITERLITE_WAVES waves times args.n workgroups, AITERLITE_UNROLL steps at once, all issued before the first is used,
// so a wave reads consecutive memory and the chip walks through it as one front. Traffic: M * K elements, once. The
// loads stay alive because a workgroup whose bits all combine to one unlikely value stores it to y[0]; y needs 4 bytes.
//
// Compiled with AITERLITE_OVERLAP it starts as early as a kernel of the package does.
//
// args: weight, y, m, k, and n = the number of workgroups launched. x, bias and the strides are not used.
#include <aiterlite/gemm_args.h>
#include <aiterlite/numeric/types.h>
#include <aiterlite/overlap.h>
#include <aiterlite/vector.h>

namespace {

constexpr uint32_t kThreads = AITERLITE_WAVES * aiterlite::kWaveSize;
constexpr uint32_t kUnroll = AITERLITE_UNROLL;

}  // namespace

AITERLITE_KERNEL(kThreads) aiterlite_read_floor(aiterlite_gemm_args args) {
  const auto* w = static_cast<const aiterlite::Vector16*>(args.weight);
  const int64_t count = static_cast<int64_t>(args.m) * args.k / aiterlite::kVectorElements<aiterlite::bf16>;
  const int64_t step = static_cast<int64_t>(args.n) * kThreads;
  int64_t i = static_cast<int64_t>(aiterlite::workgroup_id()) * kThreads + aiterlite::thread_id();

  aiterlite::await_predecessors();
  uint32_t bits = 0;
#pragma unroll 1
  for (; i + (kUnroll - 1) * step < count; i += kUnroll * step) {
    aiterlite::Vector16 v[kUnroll];
#pragma unroll
    for (uint32_t u = 0; u < kUnroll; ++u) v[u] = aiterlite::load_vector<true>(w + i + u * step);
    aiterlite::schedule_barrier();
#pragma unroll
    for (uint32_t u = 0; u < kUnroll; ++u) bits ^= v[u].word[0] ^ v[u].word[1] ^ v[u].word[2] ^ v[u].word[3];
  }
  // What is left is less than a full batch, and is also issued at once.
  aiterlite::Vector16 v[kUnroll];
#pragma unroll
  for (uint32_t u = 0; u < kUnroll; ++u)
    v[u] = aiterlite::load_vector_if<true>(w + i + u * step, i + u * step < count, w);
  aiterlite::schedule_barrier();
#pragma unroll
  for (uint32_t u = 0; u < kUnroll; ++u) bits ^= v[u].word[0] ^ v[u].word[1] ^ v[u].word[2] ^ v[u].word[3];
  aiterlite::admit_successors();
  if (bits == 0x5bd1e995u) aiterlite::store_u32(args.y, bits);
}
