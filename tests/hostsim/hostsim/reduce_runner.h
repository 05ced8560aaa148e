// As runner.h, for the kernel that reduces over workgroups: they run in an order drawn from the seed, on a workspace of
// exactly the bytes that the layout takes, and must leave its counters, and an atomic region, zero.
#pragma once
#include <aiterlite/gemm_reduce_args.h>
#include <hostsim/runner.h>

#include <numeric>

namespace hostsim {

struct ReduceKernel {
  void (*entry)(aiterlite_gemm_reduce_args);
  uint32_t threads;
  uint32_t rows;
  uint32_t columns;
  int32_t reduce;
};

struct ReduceCaseHeader {
  CaseHeader plain;
  int32_t shards, shard_k;
};

class ReduceWorkspace {
 public:
  ReduceWorkspace(int32_t reduce, size_t tiles, size_t tile_floats, size_t shards)
      : floats_(reduce == AITERLITE_REDUCE_NONE
                    ? 0
                    : tiles * tile_floats * (reduce == AITERLITE_REDUCE_SLICES ? shards : 1)),
        zero_(reduce == AITERLITE_REDUCE_NONE ? 0 : AITERLITE_REDUCE_COUNTERS),
        words_(new uint32_t[zero_ + floats_]) {
    if (reduce == AITERLITE_REDUCE_ATOMIC) zero_ += floats_;
    std::fill(words_.get(), words_.get() + zero_, 0);
    if (reduce == AITERLITE_REDUCE_SLICES) std::fill(words_.get() + zero_, words_.get() + zero_ + floats_, 0x7fc00001);
  }
  uint32_t* counters() { return words_.get(); }
  float* partials() { return reinterpret_cast<float*>(words_.get() + AITERLITE_REDUCE_COUNTERS); }
  void check() {
    if (std::any_of(words_.get(), words_.get() + zero_, [](uint32_t word) { return word != 0; }))
      fail("the workspace was not left zero");
  }

 private:
  size_t floats_, zero_;
  std::unique_ptr<uint32_t[]> words_;
};

inline int run_reduce_cases(const char* cases, const char* results, const ReduceKernel* kernels, size_t count) {
  FILE* in = fopen(cases, "rb");
  FILE* out = fopen(results, "wb");
  if (!in || !out) fail("cannot open the case or the result file");
  ReduceCaseHeader header;
  while (fread(&header, sizeof header, 1, in) == 1) {
    const CaseHeader& plain = header.plain;
    if (plain.kernel < 0 || static_cast<size_t>(plain.kernel) >= count) fail("no such kernel");
    const ReduceKernel& kernel = kernels[plain.kernel];
    Tensor<uint16_t> x(plain.x), w(plain.w), bias(plain.bias), y(plain.y);
    x.read(in);
    w.read(in);
    bias.read(in);
    const auto m = static_cast<uint32_t>(plain.y.width);
    const uint32_t tiles = (m + kernel.rows - 1) / kernel.rows;
    const auto shards = static_cast<uint32_t>(header.shards);
    ReduceWorkspace workspace(kernel.reduce, tiles, kernel.rows * kernel.columns, shards);
    const aiterlite_gemm_args gemm{x.row(0),
                                   w.row(0),
                                   plain.bias.rows ? bias.row(0) : nullptr,
                                   y.row(0),
                                   plain.x.pitch,
                                   plain.w.pitch,
                                   plain.bias.rows == 1 ? 0 : plain.bias.pitch,
                                   plain.y.pitch,
                                   static_cast<int32_t>(plain.y.rows),
                                   static_cast<int32_t>(m),
                                   static_cast<int32_t>(plain.x.width),
                                   0};
    const bool none = kernel.reduce == AITERLITE_REDUCE_NONE;
    const aiterlite_gemm_reduce_args args{gemm, none ? nullptr : workspace.counters(),
                                          none ? nullptr : workspace.partials(), header.shards, header.shard_k};
    std::vector<uint32_t> order(size_t{tiles} * shards);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(static_cast<uint32_t>(plain.seed)));
    for (uint32_t group : order) {
      scheduler.run(group, 1, kernel.threads, aiterlite::kWaveSize, static_cast<uint32_t>(plain.seed) + group,
                    [&] { kernel.entry(args); });
    }
    workspace.check();
    y.write(out);
  }
  fclose(in);
  fclose(out);
  return 0;
}

}  // namespace hostsim
