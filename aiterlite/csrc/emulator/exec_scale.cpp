// Conversions to and from the 8-, 6- and 4-bit floats, with and without block scales and stochastic rounding. A scale
// is the exponent of an f32: 2^(e - 127) multiplies what is widened and divides what is narrowed.
#include <aiterlite/emulator/lanes.h>
#include <aiterlite/emulator/runtime.h>

namespace aiterlite::emulator {
namespace {

enum class Type : uint8_t { f32, f16, bf16, fp8, bf8, fp6, bf6, fp4 };

constexpr int width(Type t) {
  switch (t) {
    case Type::f32:
      return 32;
    case Type::f16:
    case Type::bf16:
      return 16;
    case Type::fp8:
    case Type::bf8:
      return 8;
    case Type::fp6:
    case Type::bf6:
      return 6;
    default:
      return 4;
  }
}

const SmallFloat& format(const Wave& w, Type t) {
  static constexpr SmallFloat kF32{8, 23, 127, 0x7f7fffff, 0x7f800000, 0x7fc00000, false};
  switch (t) {
    case Type::f32:
      return kF32;
    case Type::f16:
      return kF16;
    case Type::bf16:
      return kBf16;
    case Type::fp8:
      return small_format(fp8_format(w, false));
    case Type::bf8:
      return small_format(fp8_format(w, true));
    case Type::fp6:
      return kFp6;
    case Type::bf6:
      return kBf6;
    default:
      return kFp4;
  }
}

double scale_of(uint32_t bits) { return exp2i(static_cast<int>(bits >> 23 & 255) - 127); }

// A lane's view of consecutive registers as a string of fields.
struct Fields {
  uint32_t* p;  // lane's dword 0; dword d is kWave * d further
  uint32_t get(int bit, int bits) const {
    const uint64_t lo = p[bit / 32 * kWave];
    const uint64_t hi = bit % 32 + bits > 32 ? p[(bit / 32 + 1) * kWave] : 0;
    return static_cast<uint32_t>((lo | hi << 32) >> (bit % 32)) & (bits == 32 ? ~0u : (1u << bits) - 1);
  }
  void put(int bit, int bits, uint32_t v) const {
    for (int i = 0; i < bits;) {
      const int at = (bit + i) % 32;
      const int n = bits - i < 32 - at ? bits - i : 32 - at;
      const uint32_t mask = (n == 32 ? ~0u : (1u << n) - 1) << at;
      uint32_t& word = p[(bit + i) / 32 * kWave];
      word = (word & ~mask) | (v >> i << at & mask);
      i += n;
    }
  }
};

// 64 lanes of source `slot` with its sign modifiers applied.
const uint32_t* signed_source(Wave& w, const MicroOp* op, int slot) {
  const uint32_t* s = vector_source(w, op, slot);
  const Inst& inst = *op->inst;
  if (!((inst.abs | inst.neg) >> slot & 1)) return s;
  uint32_t* to = w.tmp[slot][0];
  for (int l = 0; l < kWave; ++l) {
    uint32_t v = s[l];
    if (inst.abs >> slot & 1) v &= 0x7fffffffu;
    if (inst.neg >> slot & 1) v ^= 0x80000000u;
    to[l] = v;
  }
  return to;
}

// The general conversion of `kCount` values a lane.
//   kFrom, kTo   formats
//   kRandom      src[1] holds random bits and the scale moves to src[2]
//   kPair        values alternate between src[0] and src[1] (pk of two f32; 2xpk16), scale in src[2]
template <Type kFrom, Type kTo, int kCount, bool kRandom, bool kPair>
const MicroOp* convert(Wave& w, const MicroOp* op) {
  const Inst& inst = *op->inst;
  constexpr int kScaleSlot = kRandom || kPair ? 2 : 1;
  const uint32_t* a = kFrom == Type::f32 && kCount <= 2 ? signed_source(w, op, 0) : vector_source(w, op, 0);
  const uint32_t* b = kPair && kCount <= 2 ? signed_source(w, op, 1) : vector_source(w, op, 1);
  const uint32_t* scales = vector_source(w, op, kScaleSlot);
  const SmallFloat& from = format(w, kFrom);
  const SmallFloat& to = format(w, kTo);
  const uint64_t mask = w.exec();
  uint32_t* dst = w.at(op->dst);
  constexpr int kFromBits = width(kFrom), kToBits = width(kTo);
  constexpr int kResult = kToBits * kCount;
  // Narrow sources and results that fill less than a register are placed by op_sel.
  const int source_bit = kFromBits * kCount <= 8    ? 8 * (inst.op_sel & 3)
                         : kFromBits * kCount == 16 ? 16 * (inst.op_sel & 1)
                                                    : 0;
  const int result_bit = kResult <= 8 ? 8 * (inst.op_sel >> 2 & 3) : kResult == 16 ? 16 * (inst.op_sel >> 3 & 1) : 0;
  const bool narrows = kToBits < kFromBits;
  const Overflow overflow = kToBits <= 6 || (w.mode & kModeFp16Ovfl) ? Overflow::saturate : Overflow::special;
  for (int l = 0; l < kWave; ++l) {
    if (!(mask >> l & 1)) continue;
    const double scale = scale_of(scales[l]);
    uint32_t random = kRandom ? b[l] : 0;
    const Fields out{dst + l};
    uint32_t codes[kCount];
    for (int k = 0; k < kCount; ++k) {
      const uint32_t* source = kPair && (k & 1) ? b : a;
      const int index = kPair ? k / 2 : k;
      const Fields in{const_cast<uint32_t*>(source) + l};
      const double v = decode_small(from, in.get(source_bit + index * kFromBits, kFromBits));
      codes[k] = encode_small(to, narrows ? v / scale : v * scale,
                              kRandom ? Rounding::stochastic : Rounding::nearest_even, overflow, random);
      if (kRandom) random = prng(random);
    }
    for (int k = 0; k < kCount; ++k) out.put(result_bit + k * kToBits, kToBits, codes[k]);
  }
  return next(op);
}

// Without a scale: v_cvt_pk_fp8_f32 and v_cvt_pk_bf8_f32.
template <bool kBf8>
const MicroOp* cvt_pk_fp8(Wave& w, const MicroOp* op) {
  const uint32_t* a = signed_source(w, op, 0);
  const uint32_t* b = signed_source(w, op, 1);
  const Fp8 f = fp8_format(w, kBf8);
  const bool saturate = w.mode & kModeFp16Ovfl;
  const bool high = op->inst->op_sel >> 3 & 1;
  uint32_t* dst = w.at(op->dst);
  const uint64_t mask = w.exec();
  for (int i = 0; i < kWave; i += kLanes) {
    const vu32 r = f32_to_fp8(load<vf32>(a + i), f, saturate) | f32_to_fp8(load<vf32>(b + i), f, saturate) << 8;
    const vu32 old = load<vu32>(dst + i);
    const vu32 merged = high ? (old & 0xffffu) | r << 16 : (old & 0xffff0000u) | r;
    store(dst + i, select(expand_mask(step_mask(mask, i)), merged, old));
  }
  return next(op);
}

// v_cvt_sr_*_f32: the random bits of src[1] decide the rounding.
template <Type kTo>
const MicroOp* cvt_sr(Wave& w, const MicroOp* op) {
  const uint32_t* a = signed_source(w, op, 0);
  const uint32_t* random = vector_source(w, op, 1);
  const SmallFloat& to = format(w, kTo);
  constexpr int kBits = width(kTo);
  const int bit = kBits == 8 ? 8 * (op->inst->op_sel >> 2 & 3) : 16 * (op->inst->op_sel >> 3 & 1);
  const Overflow overflow = w.mode & kModeFp16Ovfl ? Overflow::saturate : Overflow::special;
  uint32_t* dst = w.at(op->dst);
  const uint64_t mask = w.exec();
  for (int l = 0; l < kWave; ++l) {
    if (!(mask >> l & 1)) continue;
    Fields{dst + l}.put(bit, kBits, encode_small(to, widen(a[l]), Rounding::stochastic, overflow, random[l]));
  }
  return next(op);
}

}  // namespace

void register_scale(HandlerTable& t) {
  t.set(Op::v_cvt_pk_fp8_f32, cvt_pk_fp8<false>);
  t.set(Op::v_cvt_pk_bf8_f32, cvt_pk_fp8<true>);
  t.set(Op::v_cvt_sr_fp8_f32, cvt_sr<Type::fp8>);
  t.set(Op::v_cvt_sr_bf8_f32, cvt_sr<Type::bf8>);
  t.set(Op::v_cvt_sr_f16_f32, cvt_sr<Type::f16>);
  t.set(Op::v_cvt_sr_bf16_f32, cvt_sr<Type::bf16>);

#define CONVERT(name, from, to, count, random, pair) \
  t.set(Op::v_cvt_scalef32_##name, convert<Type::from, Type::to, count, random, pair>)
  CONVERT(pk_fp8_f32, f32, fp8, 2, false, true);
  CONVERT(pk_bf8_f32, f32, bf8, 2, false, true);
  CONVERT(pk_fp4_f32, f32, fp4, 2, false, true);
  CONVERT(sr_fp8_f32, f32, fp8, 1, true, false);
  CONVERT(sr_bf8_f32, f32, bf8, 1, true, false);
  CONVERT(sr_pk_fp4_f32, f32, fp4, 2, true, false);
  CONVERT(pk_f32_fp8, fp8, f32, 2, false, false);
  CONVERT(pk_f32_bf8, bf8, f32, 2, false, false);
  CONVERT(pk_f32_fp4, fp4, f32, 2, false, false);
  CONVERT(f32_fp8, fp8, f32, 1, false, false);
  CONVERT(f32_bf8, bf8, f32, 1, false, false);
#define CONVERT_16(half)                                   \
  CONVERT(pk_fp8_##half, half, fp8, 2, false, false);      \
  CONVERT(pk_bf8_##half, half, bf8, 2, false, false);      \
  CONVERT(pk_fp4_##half, half, fp4, 2, false, false);      \
  CONVERT(sr_fp8_##half, half, fp8, 1, true, false);       \
  CONVERT(sr_bf8_##half, half, bf8, 1, true, false);       \
  CONVERT(sr_pk_fp4_##half, half, fp4, 2, true, false);    \
  CONVERT(pk_##half##_fp8, fp8, half, 2, false, false);    \
  CONVERT(pk_##half##_bf8, bf8, half, 2, false, false);    \
  CONVERT(pk_##half##_fp4, fp4, half, 2, false, false);    \
  CONVERT(pk32_fp6_##half, half, fp6, 32, false, false);   \
  CONVERT(pk32_bf6_##half, half, bf6, 32, false, false);   \
  CONVERT(sr_pk32_fp6_##half, half, fp6, 32, true, false); \
  CONVERT(sr_pk32_bf6_##half, half, bf6, 32, true, false); \
  CONVERT(pk32_##half##_fp6, fp6, half, 32, false, false); \
  CONVERT(pk32_##half##_bf6, bf6, half, 32, false, false)
  CONVERT_16(f16);
  CONVERT_16(bf16);
#undef CONVERT_16
  CONVERT(f16_fp8, fp8, f16, 1, false, false);
  CONVERT(f16_bf8, bf8, f16, 1, false, false);
  CONVERT(2xpk16_fp6_f32, f32, fp6, 32, false, true);
  CONVERT(2xpk16_bf6_f32, f32, bf6, 32, false, true);
  CONVERT(sr_pk32_fp6_f32, f32, fp6, 32, true, false);
  CONVERT(sr_pk32_bf6_f32, f32, bf6, 32, true, false);
  CONVERT(pk32_f32_fp6, fp6, f32, 32, false, false);
  CONVERT(pk32_f32_bf6, bf6, f32, 32, false, false);
#undef CONVERT
}

}  // namespace aiterlite::emulator
