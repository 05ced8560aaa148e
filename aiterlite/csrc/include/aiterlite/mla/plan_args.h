// Arguments of the planners of MLA, shared by host and device units so that one declaration fixes both.
#pragma once
#include <stdint.h>

// What the tensors are is in ops/mla_plan.py. Numbers of entries are those of the buffers that a call brings, so that
// nothing is written behind them; `units` is one less than that of work_indptr.
struct aiterlite_mla_plan_args {
  const int32_t* qo_indptr;
  const int32_t* kv_indptr;
  const int32_t* kv_last_page_lens;
  uint64_t* work_metadata_ptrs;
  int32_t* work_info_set;
  int32_t* work_indptr;
  int32_t* reduce_indptr;
  int32_t* reduce_final_map;
  int32_t* reduce_partial_map;
  int32_t batch;
  int32_t fold;         // requests of the plan that stand for one
  int32_t tile_tokens;  // tokens of a q tile, at most
  int32_t heads;        // of a folded request
  int32_t max_q;        // the longest query
  int32_t uniform_q;    // the length of all queries; 0: they differ
  int32_t page_size;
  int32_t granularity;   // KV entries of a block, in which work is counted
  int32_t trim;          // 1: a tile leaves out the KV that none of its tokens sees
  int32_t units;         // workgroups that work is dealt to
  int32_t splits;        // fast: those that the budget is for; intra, cost: pieces of a tile, at most
  int32_t fixed_splits;  // intra: pieces of a tile; 0: by the length of its KV
  int32_t work_rows;
  int32_t reduce_tiles;
  int32_t partial_entries;
  int32_t reserved;
};

// A plan brought forward: see mla/plan_update.h. `rejected` may be null.
struct aiterlite_mla_plan_update_args {
  const int32_t* kv_indptr;
  const int32_t* rejected;
  int32_t* work_info_set;
  const int32_t* work_indptr;
  const int32_t* reduce_indptr;
  int32_t* reduce_final_map;
  int32_t* reduce_partial_map;
  int32_t batch;
  int32_t units;
  int32_t work_rows;
  int32_t reduce_tiles;
  int32_t partial_entries;
  int32_t max_q;  // tokens of the longest query, as planned
};
