// Arguments of the skinny GEMM that reduces over workgroups, and the layout of its workspace, shared by host and device
// units so that one declaration fixes both.
#pragma once
#include <aiterlite/gemm_args.h>

// A workspace begins with the counters, and the partial sums follow. Its counters are zero whenever no launch runs on
// it; the reduction decides what else is zero.
#define AITERLITE_REDUCE_COUNTERS 4096

enum {
  AITERLITE_REDUCE_NONE = 0,    // one shard: no workspace
  AITERLITE_REDUCE_SLICES = 1,  // a slice of float sums for each shard of each tile; read only where it was written
  AITERLITE_REDUCE_ATOMIC = 2,  // one region of float sums for each tile, zero between launches
};

// Shard s of `shards` sums shard_k of k from s * shard_k on; the last one sums what is left (at least 1).
struct aiterlite_gemm_reduce_args {
  struct aiterlite_gemm_args gemm;
  uint32_t* counters;
  float* partials;
  int32_t shards;
  int32_t shard_k;
};
