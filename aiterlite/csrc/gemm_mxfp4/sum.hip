// The sums over the splits of mfma.hip, in order, and the end of an output: a thread four rows of a token.
//
// Traffic. Each split's floats once, 16 bytes a thread; y once. Grid: (batches * tokens) * parts of a token's rows.
#include <aiterlite/gemm_mxfp4/output.h>
#include <aiterlite/gemm_mxfp4/split_args.h>

namespace {

using namespace aiterlite;
constexpr uint32_t kThreads = AITERLITE_THREADS;

}  // namespace

AITERLITE_KERNEL(kThreads) aiterlite_gemm_mxfp4_sum(aiterlite_gemm_mxfp4_split_args given) {
  const aiterlite_gemm_mxfp4_args& args = given.gemm;
  const auto n = static_cast<uint32_t>(args.n), m = static_cast<uint32_t>(args.m);
  const auto pitch = static_cast<uint32_t>(given.pitch);
  const uint32_t parts = (pitch / 4 + kThreads - 1) / kThreads;
  const uint32_t at = workgroup_id() / parts, row = (workgroup_id() % parts * kThreads + thread_id()) * 4;
  if (row >= m) return;
  const uint64_t split = uint64_t{static_cast<uint32_t>(args.batch)} * n * pitch;
  const float* from = given.partial + uint64_t{at} * pitch + row;
  float sum[4] = {};
#pragma unroll 8
  for (uint32_t s = 0; s < static_cast<uint32_t>(given.splits); ++s, from += split) {
    const Quad more = __builtin_bit_cast(Quad, load_vector<true>(from));
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) sum[i] += more.value[i];
  }
  const gemm_mxfp4::Output<AITERLITE_RESULT> out = {args, at / n};
  out.store_four(sum, at % n, row, out.comes_in_fours());
}
