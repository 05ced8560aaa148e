// bf16 to fp8 with one f32 scale per group of 128: scale = max(amax, 1e-10) / largest fp8, q = x / scale.
//
// The fp8 flavour is the target's. Sixteen lanes a group, eight elements each; the maximum of a group comes from four
// DPP row rotations, so neither LDS nor a barrier is used. Reads 2 bytes and writes 1 an element. K % 128 == 0.
#include <device.h>

#if defined(__gfx950__)
constexpr float kLargest = 448;
#else
constexpr float kLargest = 240;
#endif

struct alignas(16) Eight {
  uint16_t e[8];
};
struct alignas(8) Packed {
  int32_t word[2];
};

template <int rotation>
INLINE float max_with_rotated(float v) {
  constexpr int kRowRotateRight = 0x120;
  const int32_t bits = __builtin_bit_cast(int32_t, v);
  const int32_t moved = __builtin_amdgcn_update_dpp(0, bits, kRowRotateRight + rotation, 0xf, 0xf, true);
  return __builtin_fmaxf(v, __builtin_bit_cast(float, moved));
}

KERNEL(256) quantize_fp8(const uint16_t* x, uint8_t* q, float* scales, uint32_t groups) {
  const uint32_t group = group_x() * 16 + thread_x() / 16;
  // All lanes take part in the rotations; those past the end repeat the last group.
  const uint64_t at = static_cast<uint64_t>(smaller(group, groups - 1)) * 128 + thread_x() % 16 * 8;
  const Eight v = *reinterpret_cast<const Eight*>(x + at);
  float f[8], amax = 0;
  for (int j = 0; j < 8; ++j) {
    f[j] = bf16_to_float(v.e[j]);
    amax = __builtin_fmaxf(amax, __builtin_fabsf(f[j]));
  }
  amax = max_with_rotated<8>(amax);
  amax = max_with_rotated<4>(amax);
  amax = max_with_rotated<2>(amax);
  amax = max_with_rotated<1>(amax);
  const float scale = __builtin_fmaxf(amax, 1e-10f) / kLargest;
  Packed p = {};
  for (int h = 0; h < 2; ++h) {
    int32_t word = 0;
    word = __builtin_amdgcn_cvt_pk_fp8_f32(f[4 * h] / scale, f[4 * h + 1] / scale, word, false);
    word = __builtin_amdgcn_cvt_pk_fp8_f32(f[4 * h + 2] / scale, f[4 * h + 3] / scale, word, true);
    p.word[h] = word;
  }
  if (group < groups) {
    *reinterpret_cast<Packed*>(q + at) = p;
    if (thread_x() % 16 == 0) scales[group] = scale;
  }
}
