// Arguments of the MLA kernels, shared by host and device units so that one declaration fixes the layout.
#pragma once
#include <stdint.h>

// Attention of q[rows, heads, 576] over paged rows of 576, whose first 512 are the values, into o[rows, heads, 512].
//
// q and o are dense; a row of KV starts at kv + page * stride_page + slot * stride_slot, in elements. Integers behind
// pointers are int32. What is absent is null: lse, splits_indptr, the scales.
//   splits > 0  request b is cut into `splits` pieces of its tokens. One piece writes o and lse; of several, piece s of
//               a row leaves its normalised sums in partial[row * splits + s, heads, 512] and its log-sum in
//               partial_lse[row * splits + s, heads], which is -inf where it has no tokens.
//   splits 0    planned: workgroup c of `workgroups` takes the rows [work_indptr[c], work_indptr[c + 1]) of
//               work_info[., 8] (mla/work.h), which say where their sums go: partial is [partial_rows, heads / fold,
//               .].
// `fold` is that of rows without a stamp. `scale` multiplies scores; q_scale and kv_scale, of one float, do too, and
// kv_scale the values.
struct aiterlite_mla_decode_args {
  const void* q;
  const void* kv_buffer;
  void* o;
  float* lse;
  float* partial;
  float* partial_lse;
  const int32_t* qo_indptr;
  const int32_t* kv_indptr;
  const int32_t* kv_indices;
  const int32_t* kv_last_page_lens;
  const int32_t* splits_indptr;
  const int32_t* work_indptr;
  const int32_t* work_info_set;
  const float* q_scale;
  const float* kv_scale;
  int64_t stride_page;
  int64_t stride_slot;
  int64_t pages;
  int64_t indices;
  int64_t partial_rows;
  int64_t rows;
  float scale;
  int32_t batch;
  int32_t heads;
  int32_t page_size;
  int32_t splits;
  int32_t workgroups;
  int32_t work_rows;
  int32_t fold;
  int32_t q_len;
  int32_t causal;
  int32_t column_groups;  // workgroups of a GPU that share a piece's rows of q
};

// Merges parts of rows, each of which is normalised and has its log-sum, in the order of the parts.
//
//   splits > 0  row r of o has parts r * splits to (r + 1) * splits.
//   splits 0    tile t of `tiles` has those that reduce_partial_map names from reduce_indptr[t] to the next; fewer
//               than two are none of this kernel's affair. reduce_final_map[t] are its first and its last row
//               (exclusive); where it is null, tiles are as many rows as lie between its first two parts.
// Rows are folded where work_info_set is there and says so. Requests without KV, where kv_indptr is there, become 0 and
// their log-sum -inf. lse may be null.
struct aiterlite_mla_reduce_args {
  const float* partial;
  const float* partial_lse;
  void* o;
  float* lse;
  const int32_t* reduce_indptr;
  const int32_t* reduce_final_map;
  const int32_t* reduce_partial_map;
  const int32_t* work_info_set;
  const int32_t* qo_indptr;
  const int32_t* kv_indptr;
  const int32_t* kv_last_page_lens;
  int64_t partial_rows;
  int64_t rows;
  int32_t batch;
  int32_t heads;
  int32_t page_size;
  int32_t splits;
  int32_t tiles;
  int32_t map_rows;
  int32_t fold;
  int32_t q_len;
  int32_t workgroups;  // of a GPU, that share the tiles
  int32_t reserved;
};
