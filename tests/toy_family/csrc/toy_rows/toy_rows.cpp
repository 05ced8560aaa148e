// The same on a CPU, a row a task.
#include <aiterlite/host_abi.h>
#include <aiterlite/toy_rows_args.h>

namespace {

void rows(int64_t begin, int64_t end, void* context) {
  const auto& args = *static_cast<const aiterlite_toy_rows_args*>(context);
  for (int64_t at = begin; at < end; ++at) {
    const auto* x =
        static_cast<const float*>(args.x) + at / args.heads * args.stride_batch + at % args.heads * args.stride_head;
    float sum = 0;
    int32_t top = 0;
    for (int32_t i = 0; i < args.width; ++i) {
      sum += x[i];
      if (x[i] > x[top]) top = i;
    }
    float& peak = static_cast<float*>(args.peak)[at];
    peak = x[top] + peak / 2;
    static_cast<float*>(args.total)[at] = sum;
    static_cast<int32_t*>(args.index)[at] = top;
  }
}

}  // namespace

AITERLITE_EXPORT int32_t aiterlite_toy_rows_cpu(const aiterlite_toy_rows_args* args, parallel_for_t parallel_for,
                                                int32_t) {
  return parallel_for(0, int64_t{args->batch} * args->heads, 1, rows, const_cast<aiterlite_toy_rows_args*>(args));
}
