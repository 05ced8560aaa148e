// Arguments of the quantisation kernels, shared by host and device units so that one declaration fixes the layout.
#pragma once
#include <stdint.h>

// Rows of x, `stride_x` elements apart, as 8-bit numbers in the dense `out`, and a scale for each `group` elements of a
// row: scales[row * groups + g], or, transposed, scales[g * live + row], where `live` rows are quantised: all, or,
// where num_rows is not null, at most num_rows[0] * num_rows_factor. Nothing is read or written for others.
struct aiterlite_quant_rows_args {
  const void* x;
  void* out;
  float* scales;
  const int32_t* num_rows;
  int64_t stride_x;
  int32_t rows;
  int32_t width;
  int32_t group;
  int32_t groups;  // of a row: width / group
  int32_t num_rows_factor;
  int32_t transposed;
  uint32_t multiplier;
  int32_t shift;
};

// `count` elements, one scale. Dynamic, GPUs have two kernels: the first leaves maxima in partial[partials], the second
// writes the scale. Static, the scale is read.
struct aiterlite_quant_tensor_args {
  const void* x;
  void* out;
  float* scale;
  float* partial;
  int64_t count;
  int32_t partials;
  int32_t reserved;
};
