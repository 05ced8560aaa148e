// Conversions between floats and 8-bit formats: x and out by thread, four values each.
#include <aiterlite/numeric/block_scale.h>
#include <aiterlite/numeric/fp8.h>

namespace {

using aiterlite::Overflow;

template <class Fp8, Overflow kOverflow>
AITERLITE_DEVICE void encode(const float (&v)[4], uint32_t i, uint8_t* four, uint8_t* two, uint8_t* one) {
  const uint32_t word = aiterlite::pack_fp8<Fp8, kOverflow>(v[0], v[1], v[2], v[3]);
  for (uint32_t j = 0; j < 4; ++j) {
    const uint16_t pair = aiterlite::pack_fp8<Fp8, kOverflow>(v[j], v[j ^ 1]);
    four[4 * i + j] = static_cast<uint8_t>(word >> (8 * j));
    two[4 * i + j] = static_cast<uint8_t>(j % 2 ? aiterlite::pack_fp8<Fp8, kOverflow>(v[j ^ 1], v[j]) >> 8 : pair);
    one[4 * i + j] = aiterlite::to_fp8<Fp8, kOverflow>(v[j]).bits;
  }
}

template <class Fp8>
AITERLITE_DEVICE void decode(uint32_t i, float* one, float* four, uint32_t* as_bf16, uint32_t* as_fp16) {
  float all[4];
  const uint32_t word = 0x03020100u + 0x04040404u * i;
  aiterlite::unpack_fp8<Fp8>(word, all);
  for (uint32_t j = 0; j < 4; ++j) {
    four[4 * i + j] = all[j];
    one[4 * i + j] = aiterlite::to_float(Fp8{static_cast<uint8_t>(4 * i + j)});
  }
  uint32_t pair[2];
  aiterlite::widen_fp8<Fp8>(aiterlite::bf16{}, word, pair);
  as_bf16[2 * i] = pair[0], as_bf16[2 * i + 1] = pair[1];
  aiterlite::widen_fp8<Fp8>(aiterlite::fp16{}, word, pair);
  as_fp16[2 * i] = pair[0], as_fp16[2 * i + 1] = pair[1];
}

}  // namespace

// out: by format (e4m3fn, e4m3fnuz), what overflow becomes (the largest, NaN), and how many at once (4, 2, 1).
AITERLITE_KERNEL(256) encode_fp8(const float* x, uint8_t* out, uint32_t n) {
  const uint32_t i = aiterlite::workgroup_id() * 256 + aiterlite::thread_id();
  if (4 * i >= n) return;
  const float v[4] = {x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]};
  encode<aiterlite::e4m3fn, Overflow::kSaturate>(v, i, out, out + n, out + 2 * n);
  encode<aiterlite::e4m3fn, Overflow::kNan>(v, i, out + 3 * n, out + 4 * n, out + 5 * n);
  encode<aiterlite::e4m3fnuz, Overflow::kSaturate>(v, i, out + 6 * n, out + 7 * n, out + 8 * n);
  encode<aiterlite::e4m3fnuz, Overflow::kNan>(v, i, out + 9 * n, out + 10 * n, out + 11 * n);
}

// All 256 codes, by format: as floats one and four at once, and as pairs of bf16 and fp16. scales: of e8m0.
AITERLITE_KERNEL(64) decode_fp8(float* floats, uint32_t* as_bf16, uint32_t* as_fp16, float* scales) {
  const uint32_t i = aiterlite::thread_id();
  decode<aiterlite::e4m3fn>(i, floats, floats + 256, as_bf16, as_fp16);
  decode<aiterlite::e4m3fnuz>(i, floats + 512, floats + 768, as_bf16 + 128, as_fp16 + 128);
  const uint32_t word = 0x03020100u + 0x04040404u * i;
  scales[4 * i] = aiterlite::to_float(aiterlite::e8m0{static_cast<uint8_t>(4 * i)});
  scales[4 * i + 1] = aiterlite::unpack_e8m0<1>(word);
  scales[4 * i + 2] = aiterlite::unpack_e8m0<2>(word);
  scales[4 * i + 3] = aiterlite::unpack_e8m0<3>(word);
}

// 16-bit values through floats, and floats to pairs of them.
AITERLITE_KERNEL(256) convert_16bit(const uint16_t* x, float* from_bf16, float* from_fp16) {
  const uint32_t i = aiterlite::workgroup_id() * 256 + aiterlite::thread_id();
  from_bf16[i] = aiterlite::to_float(aiterlite::bf16{x[i]});
  from_fp16[i] = aiterlite::to_float(aiterlite::fp16{x[i]});
}
