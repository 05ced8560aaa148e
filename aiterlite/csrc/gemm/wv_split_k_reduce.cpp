// Host unit of the skinny GEMM that reduces over workgroups: what a launch needs, checked against what it is given.
// The CPU implementation of the operator is that of gemm.cpp, which takes any number of tokens.
#include <aiterlite/gemm_reduce_args.h>
#include <aiterlite/host_abi.h>

namespace {

constexpr int32_t kAbi = 1;
constexpr int32_t kInvalid = -1;
constexpr int32_t kSmallWorkspace = -3;
constexpr int64_t kMaxGrid = INT32_MAX;

bool is_int32(int64_t value) { return value == static_cast<int32_t>(value); }

}  // namespace

AITERLITE_EXPORT int32_t aiterlite_gemm_reduce_abi(void) { return kAbi; }

// The bytes that a launch with this many tiles of `tile_floats` outputs, and shards, reads and writes in its workspace.
AITERLITE_EXPORT int64_t aiterlite_wv_split_k_reduce_workspace(int32_t reduce, int64_t tiles, int64_t tile_floats,
                                                               int64_t shards) {
  if (reduce == AITERLITE_REDUCE_NONE) return 0;
  const int64_t copies = reduce == AITERLITE_REDUCE_SLICES ? shards : 1;
  return static_cast<int64_t>(sizeof(uint32_t)) * AITERLITE_REDUCE_COUNTERS +
         static_cast<int64_t>(sizeof(float)) * tiles * tile_floats * copies;
}

// Calls a driver's launch (hipModuleLaunchKernel and cuLaunchKernel have this one signature) with
// aiterlite_gemm_reduce_args by value. A tile is tile_rows weight rows by tile_columns tokens.
// Returns its status, -1 for sizes that do not fit the kernel or each other, or -3 for a workspace that is too small.
AITERLITE_EXPORT int32_t aiterlite_wv_split_k_reduce_launch(launch_t launch, void* function, void* stream,
                                                            uint32_t block, int32_t reduce, int64_t tile_rows,
                                                            int64_t tile_columns, int64_t shards, int64_t shard_k,
                                                            void* workspace, int64_t workspace_bytes, const void* x,
                                                            const void* w, const void* bias, void* y, int64_t stride_x,
                                                            int64_t stride_w, int64_t stride_bias, int64_t stride_y,
                                                            int64_t n, int64_t m, int64_t k) {
  const bool sizes = n >= 1 && n <= tile_columns && m >= 1 && is_int32(m) && k >= 1 && is_int32(k) && tile_rows >= 1;
  if (!sizes || shards < 1 || !is_int32(shards) || shard_k < 1 || !is_int32(shard_k)) return kInvalid;
  const bool covers = shards * shard_k >= k && (shards - 1) * shard_k < k;
  const int64_t tiles = (m + tile_rows - 1) / tile_rows;
  if (!covers || tiles * shards > kMaxGrid) return kInvalid;
  if (reduce == AITERLITE_REDUCE_NONE ? shards != 1 : tiles > AITERLITE_REDUCE_COUNTERS) return kInvalid;
  const int64_t need = aiterlite_wv_split_k_reduce_workspace(reduce, tiles, tile_rows * tile_columns, shards);
  if (need > 0 && (workspace == nullptr || workspace_bytes < need)) return kSmallWorkspace;

  auto* counters = static_cast<uint32_t*>(need > 0 ? workspace : nullptr);
  auto* partials = reinterpret_cast<float*>(need > 0 ? counters + AITERLITE_REDUCE_COUNTERS : nullptr);
  const auto n32 = static_cast<int32_t>(n), m32 = static_cast<int32_t>(m), k32 = static_cast<int32_t>(k);
  aiterlite_gemm_reduce_args args = {
      {x, w, bias, y, stride_x, stride_w, stride_bias, stride_y, n32, m32, k32, 0},
      counters,
      partials,
      static_cast<int32_t>(shards),
      static_cast<int32_t>(shard_k),
  };
  void* params[] = {&args};
  return launch(function, static_cast<uint32_t>(tiles * shards), 1, 1, block, 1, 1, 0, stream, params, nullptr);
}
