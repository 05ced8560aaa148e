// Integer instructions that have no operator: byte permutation, alignment, sums of differences, bit fields, counts.
//
// out[op, i] = op(a[i], b[i], c[i]).
#include <device.h>

KERNEL(64) bit_builtins(const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  const uint32_t x = a[i], y = b[i], z = c[i];
  uint32_t* o = out + i;
  uint32_t row = 0;
  auto put = [&](uint32_t value) { o[static_cast<uint64_t>(row++) * n] = value; };
  put(__builtin_amdgcn_perm(x, y, z));
  put(__builtin_amdgcn_perm(x, y, 0x0c0d0703));
  put(__builtin_amdgcn_alignbit(x, y, z));
  put(__builtin_amdgcn_alignbyte(x, y, z));
  put(__builtin_amdgcn_sad_u8(x, y, z));
  put(__builtin_amdgcn_sad_u16(x, y, z));
  put(__builtin_amdgcn_sad_hi_u8(x, y, z));
  put(__builtin_amdgcn_msad_u8(x, y, z));
  put(__builtin_amdgcn_lerp(x, y, z));
  put(__builtin_amdgcn_ubfe(x, y & 31, z & 31));
  put(__builtin_amdgcn_sbfe(static_cast<int32_t>(x), y & 31, z & 31));
  put(__builtin_amdgcn_mbcnt_lo(x, y));
  put(__builtin_amdgcn_mbcnt_hi(x, y));
  put(static_cast<uint32_t>(__builtin_bitreverse32(x)));
  put(__builtin_bit_cast(uint32_t, __builtin_amdgcn_cvt_pk_u16(x, y)));
  put(__builtin_amdgcn_cvt_pk_u8_f32(static_cast<float>(x & 511), y & 3, z));
}
