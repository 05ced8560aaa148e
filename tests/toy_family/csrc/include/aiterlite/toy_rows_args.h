// Arguments of the toy family's kernels. Rows are x[batch, heads, width]; strides are in elements.
#pragma once
#include <stdint.h>

// sums and tops: [batch, heads, parts], of each part of a row its sum, and where in the row its largest element is.
struct aiterlite_toy_parts_args {
  const void* x;
  void* sums;
  void* tops;
  int64_t stride_batch;
  int64_t stride_head;
  int32_t heads;
  int32_t width;
  int32_t parts;
  int32_t reserved;
};

// total, index and peak: [batch, heads].
struct aiterlite_toy_join_args {
  const void* x;
  const void* sums;
  const void* tops;
  void* total;
  void* index;
  void* peak;
  int64_t stride_batch;
  int64_t stride_head;
  int32_t heads;
  int32_t parts;
};

struct aiterlite_toy_rows_args {
  const void* x;
  void* total;
  void* index;
  void* peak;
  int64_t stride_batch;
  int64_t stride_head;
  int32_t batch;
  int32_t heads;
  int32_t width;
  int32_t reserved;
};
