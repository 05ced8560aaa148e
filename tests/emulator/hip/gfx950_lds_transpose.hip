// The transposing LDS reads of gfx950, in all four element widths: x and out are what each lane's registers hold.
//
// The wave lays its registers into LDS as they are (8 bytes a lane, 12 for 6-bit elements) and reads them back
// transposed: in each group of 16 lanes a matrix with 16 columns becomes one column a lane.
#include <device.h>

using Shorts4 = int16_t __attribute__((ext_vector_type(4)));
using Ints2 = int32_t __attribute__((ext_vector_type(2)));
using Ints3 = int32_t __attribute__((ext_vector_type(3)));
using Shorts4Shared = __attribute__((address_space(3))) Shorts4;
using Ints2Shared = __attribute__((address_space(3))) Ints2;
using Ints3Shared = __attribute__((address_space(3))) Ints3;

struct alignas(4) Ints3Packed {
  int32_t v[3];
};

KERNEL(64) lds_transpose(const Ints2* x, const Ints3Packed* y, Ints2* out, Ints3Packed* out6) {
  SHARED(Ints2, tile, 64);
  SHARED(int32_t, tile6, 64 * 4) __attribute__((aligned(16)));
  const uint32_t t = thread_x();
  tile[t] = x[t];
  // A lane's address must be a multiple of 16 bytes; the 12 it reads are the first of them.
  for (uint32_t j = 0; j < 3; ++j) tile6[4 * t + j] = y[t].v[j];
  barrier();
  out[t] = __builtin_bit_cast(Ints2, __builtin_amdgcn_ds_read_tr16_b64_v4i16((Shorts4Shared*)&tile[t]));
  out[64 + t] = __builtin_amdgcn_ds_read_tr8_b64_v2i32((Ints2Shared*)&tile[t]);
  out[128 + t] = __builtin_amdgcn_ds_read_tr4_b64_v2i32((Ints2Shared*)&tile[t]);
  const Ints3 six = __builtin_amdgcn_ds_read_tr6_b96_v3i32((Ints3Shared*)&tile6[4 * t]);
  for (uint32_t j = 0; j < 3; ++j) out6[t].v[j] = six[j];
}
