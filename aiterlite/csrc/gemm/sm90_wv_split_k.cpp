// Host unit of the skinny GEMM that sm_90's copy engine feeds: describes both operands to it, and launches.
#include <aiterlite/host_abi.h>
#include <aiterlite/sm90_gemm_args.h>

namespace {

constexpr int32_t kAbi = 1;
constexpr int32_t kInvalid = -1;

// The constants of cuTensorMapEncodeTiled that are used here.
enum { kFloat16 = 6, kBfloat16 = 9, kNoInterleave = 0, kSwizzle128 = 3, kPromote128 = 2, kFillZeros = 0 };
constexpr uint32_t kStep = 64;  // elements of a row in one copy, 128 bytes

typedef int32_t (*encode_t)(void* map, int32_t type, uint32_t rank, void* address, const uint64_t* sizes,
                            const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                            int32_t interleave, int32_t swizzle, int32_t promotion, int32_t fill);

bool is_int32(int64_t value) { return value == static_cast<int32_t>(value); }

// A matrix of rows of k elements, in boxes of kStep elements of `box_rows` rows.
int32_t describe(encode_t encode, void* map, int32_t type, const void* address, int64_t rows, int64_t k, int64_t stride,
                 int64_t box_rows) {
  const uint64_t sizes[2] = {static_cast<uint64_t>(k), static_cast<uint64_t>(rows)};
  // The one row of a matrix may have any stride.
  const uint64_t strides[1] = {static_cast<uint64_t>(rows > 1 ? stride : (k + 7) / 8 * 8) * 2};
  const uint32_t box[2] = {kStep, static_cast<uint32_t>(box_rows)};
  const uint32_t element_strides[2] = {1, 1};
  return encode(map, type, 2, const_cast<void*>(address), sizes, strides, box, element_strides, kNoInterleave,
                kSwizzle128, kPromote128, kFillZeros);
}

}  // namespace

AITERLITE_EXPORT int32_t aiterlite_sm90_gemm_abi(void) { return kAbi; }

// Launches with aiterlite_sm90_gemm_args by value. `encode` is the driver's cuTensorMapEncodeTiled, `tile_rows` by
// `tile_columns` what a cluster of `cluster` workgroups computes, element 0 bf16 and 1 fp16; strides are in elements.
// Returns the driver's status, or -1 for sizes beyond 32 bits or more tokens than columns.
AITERLITE_EXPORT int32_t aiterlite_sm90_wv_split_k_launch(launch_t launch, encode_t encode, void* function,
                                                          void* stream, uint32_t block, uint32_t shared_bytes,
                                                          int64_t tile_rows, int64_t tile_columns, int64_t cluster,
                                                          int32_t element, const void* x, const void* w,
                                                          const void* bias, void* y, int64_t stride_x, int64_t stride_w,
                                                          int64_t stride_bias, int64_t stride_y, int64_t n, int64_t m,
                                                          int64_t k) {
  if (n < 1 || n > tile_columns || m < 1 || !is_int32(m) || k < 1 || !is_int32(k) || tile_rows < 1) return kInvalid;
  const int64_t grid = (m + tile_rows - 1) / tile_rows * cluster;
  if (!is_int32(grid)) return kInvalid;
  const int32_t type = element == 1 ? kFloat16 : kBfloat16;
  aiterlite_sm90_gemm_args args = {};
  const int32_t w_status = describe(encode, &args.w_map, type, w, m, k, stride_w, tile_rows);
  if (w_status != 0) return w_status;
  const int32_t x_status = describe(encode, &args.x_map, type, x, n, k, stride_x, tile_columns);
  if (x_status != 0) return x_status;
  const auto n32 = static_cast<int32_t>(n), m32 = static_cast<int32_t>(m), k32 = static_cast<int32_t>(k);
  args.gemm = {x, w, bias, y, stride_x, stride_w, stride_bias, stride_y, n32, m32, k32, 0};
  void* params[] = {&args};
  return launch(function, static_cast<uint32_t>(grid), 1, 1, block, 1, 1, shared_bytes, stream, params, nullptr);
}
