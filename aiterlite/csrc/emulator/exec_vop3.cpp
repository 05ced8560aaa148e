// Vector instructions that exist in the VOP3 encoding only: byte arithmetic, packing conversions, division steps.
#include <aiterlite/emulator/float.h>
#include <aiterlite/emulator/lanes.h>
#include <aiterlite/emulator/runtime.h>

namespace aiterlite::emulator {
namespace {

vu32 absolute_difference(vu32 a, vu32 b) { return select(a > b, a - b, b - a); }

vu32 sad_u8(vu32 a, vu32 b, vu32 c) {
  for (uint32_t k = 0; k < 32; k += 8) c += absolute_difference(a >> k & 0xffu, b >> k & 0xffu);
  return c;
}
vu32 msad_u8(vu32 a, vu32 b, vu32 c) {
  for (uint32_t k = 0; k < 32; k += 8) {
    const vu32 y = b >> k & 0xffu;
    c += select(y == 0u, vu32{}, absolute_difference(a >> k & 0xffu, y));
  }
  return c;
}
uint32_t sad_u8(uint32_t a, uint32_t b, uint32_t c, bool masked) {
  for (int k = 0; k < 32; k += 8) {
    const uint32_t x = a >> k & 255, y = b >> k & 255;
    if (!masked || y) c += x > y ? x - y : y - x;
  }
  return c;
}

vu32 perm(vu32 a, vu32 b, vu32 sel) {
  vu32 r = {};
  for (uint32_t k = 0; k < 32; k += 8) {
    const vu32 s = sel >> k & 0xffu;
    const vu32 shift = (s & 3u) << 3;
    vu32 v = select(s < 4u, b >> shift, a >> shift) & 0xffu;  // selectors 0..3 read src1, 4..7 src0
    // 8..11: the sign of bytes 1, 3, 5, 7.
    const vu32 word = select(s < 10u, b, a);
    const vu32 sign_shift = select((s & 1u) == 0u, splat(15u), splat(31u));
    v = select(s >= 8u, (word >> sign_shift & 1u) * 0xffu, v);
    v = select(s == 12u, vu32{}, v);
    v = select(s >= 13u, splat(0xffu), v);
    r |= v << k;
  }
  return r;
}

vu32 f32_to_u8(vf32 v) {
  const vu32 whole = f32_to_u32(vrndne(v));
  return select(whole > 255u, splat(255u), whole);
}
vu32 insert_byte(vu32 into, vu32 byte, vu32 position) {
  const vu32 shift = (position & 3u) << 3;
  return (into & ~(splat(0xffu) << shift)) | (byte << shift);
}

vu32 clip_u16(vu32 v) { return select(v > 0xffffu, splat(0xffffu), v); }
vu32 clip_i16(vi32 v) { return bits(select(v > 32767, splat(32767), select(v < -32768, splat(-32768), v))) & 0xffffu; }
vu32 clip_i8(vi32 v) { return bits(select(v > 127, splat(127), select(v < -128, splat(-128), v))) & 0xffu; }
vu32 clip_u8(vi32 v) { return bits(select(v > 255, splat(255), select(v < 0, vi32{}, v))); }

struct Cube {
  vi32 z_major, y_major;
};
Cube cube(vf32 x, vf32 y, vf32 z) {
  const auto magnitude = [](vf32 v) { return as_f32(bits(v) & 0x7fffffffu); };
  const vf32 ax = magnitude(x), ay = magnitude(y), az = magnitude(z);
  return {(az >= ax) & (az >= ay), ay >= ax};
}
vf32 negate(vf32 v) { return as_f32(bits(v) ^ 0x80000000u); }

// The truth table of v_bitop3: bit (4a + 2b + c) is the result for source bits a, b, c.
vu32 bitop3(uint32_t table, vu32 a, vu32 b, vu32 c) {
  vu32 r = {};
  for (uint32_t k = 0; k < 8; ++k) {
    if (table >> k & 1) r |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
  }
  return r;
}
const MicroOp* bitop3_handler(Wave& w, const MicroOp* op) {
  const uint32_t* s[3] = {vector_source(w, op, 0), vector_source(w, op, 1), vector_source(w, op, 2)};
  uint64_t mask = w.exec();
  if (op->flags & kPrepare) mask = prepare(w, op, s, 3);
  const uint32_t table = op->inst->bitop;
  const uint32_t keep = op->inst->op == Op::v_bitop3_b16 ? 0xffffu : ~0u;
  for (int i = 0; i < kWave; i += kLanes) {
    store(w.out[0] + i, bitop3(table, load<vu32>(s[0] + i), load<vu32>(s[1] + i), load<vu32>(s[2] + i)) & keep);
  }
  finish(w, op, mask);
  return next(op);
}

// The four 16-bit sums of quad SAD, or the four 32-bit ones.
template <bool kMasked>
const MicroOp* qsad_pk(Wave& w, const MicroOp* op) {
  const uint32_t* s[3] = {vector_source(w, op, 0), vector_source(w, op, 1), vector_source(w, op, 2)};
  for (int l = 0; l < kWave; ++l) {
    const uint64_t a = read_lane<uint64_t>(s[0] + l);
    const uint64_t c = read_lane<uint64_t>(s[2] + l);
    uint64_t r = 0;
    for (int k = 0; k < 4; ++k) {
      const uint32_t sum =
          sad_u8(static_cast<uint32_t>(a >> (8 * k)), s[1][l], static_cast<uint32_t>(c >> (16 * k) & 0xffff), kMasked);
      r |= static_cast<uint64_t>(sum & 0xffff) << (16 * k);
    }
    write_lane(w.out[0] + l, r);
  }
  finish(w, op, w.exec());
  return next(op);
}
const MicroOp* mqsad_u32(Wave& w, const MicroOp* op) {
  const uint32_t* s[3] = {vector_source(w, op, 0), vector_source(w, op, 1), vector_source(w, op, 2)};
  for (int l = 0; l < kWave; ++l) {
    const uint64_t a = read_lane<uint64_t>(s[0] + l);
    for (int k = 0; k < 4; ++k) {
      w.out[k][l] = sad_u8(static_cast<uint32_t>(a >> (8 * k)), s[1][l], s[2][k * kWave + l], true);
    }
  }
  finish(w, op, w.exec());
  return next(op);
}

// Division. v_div_scale moves numerator and denominator to where the refinement neither overflows nor loses denormal
// bits, and tells v_div_fmas by VCC that the quotient has to be scaled back; v_div_fixup settles the special values.
template <class T>
struct Ieee;
template <>
struct Ieee<float> {
  static constexpr int kTiny = 23, kScale = 64, kNear = 96, kBias = 127, kTop = 255, kUnderflow = -150;
  static int exponent(float x) { return static_cast<int>(f32_bits(x) >> 23 & 255); }
  static bool denormal(double x) { return x != 0 && __builtin_fabs(x) < 0x1p-126; }
  static float nan() { return f32_from_bits(0x7fc00000u); }
  static float invalid() { return f32_from_bits(0xffc00000u); }
};
template <>
struct Ieee<double> {
  static constexpr int kTiny = 53, kScale = 128, kNear = 768, kBias = 1023, kTop = 2047, kUnderflow = -1075;
  static int exponent(double x) { return static_cast<int>(f64_bits(x) >> 52 & 2047); }
  static bool denormal(double x) { return x != 0 && __builtin_fabs(x) < 0x1p-1022; }
  static double nan() { return f64_from_bits(0x7ff8000000000000ull); }
  static double invalid() { return f64_from_bits(0xfff8000000000000ull); }
};

template <class T>
T scale_operand(T s0, T denominator, T numerator, bool* vcc) {
  using I = Ieee<T>;
  *vcc = false;
  if (numerator == 0 || denominator == 0) return I::nan();
  if (s0 != s0 || denominator != denominator || numerator != numerator) return s0;
  const bool of_denominator = memcmp(&s0, &denominator, sizeof(T)) == 0;
  const auto by = [&](int e) { return static_cast<T>(__builtin_ldexp(static_cast<double>(s0), e)); };
  if (I::exponent(numerator) - I::exponent(denominator) >= I::kNear) {
    *vcc = true;
    return of_denominator ? by(I::kScale) : s0;
  }
  if (I::denormal(static_cast<double>(denominator))) return by(I::kScale);
  const bool reciprocal_denormal = I::denormal(static_cast<double>(static_cast<T>(1) / denominator));
  // The quotient's magnitude from the exponents: exact enough, and without the host's flushing.
  const bool quotient_denormal = I::exponent(numerator) - I::exponent(denominator) + I::kBias <= 0 ||
                                 I::denormal(static_cast<double>(numerator / denominator));
  if (reciprocal_denormal && quotient_denormal) {
    *vcc = true;
    return of_denominator ? by(-I::kScale) : s0;
  }
  if (reciprocal_denormal) return by(-I::kScale);
  if (quotient_denormal) {
    *vcc = true;
    return of_denominator ? s0 : by(I::kScale);
  }
  if (I::exponent(numerator) <= I::kTiny) return by(I::kScale);
  return s0;
}

template <class T>
const MicroOp* div_scale(Wave& w, const MicroOp* op) {
  const uint32_t* s[3] = {vector_source(w, op, 0), vector_source(w, op, 1), vector_source(w, op, 2)};
  uint64_t mask = w.exec();
  if (op->flags & kPrepare) mask = prepare(w, op, s, 3);
  FloatGuard guard(w, sizeof(T) == 8);
  uint64_t vcc = 0;
  for (int l = 0; l < kWave; ++l) {
    bool scaled;
    write_lane(w.out[0] + l,
               scale_operand(read_lane<T>(s[0] + l), read_lane<T>(s[1] + l), read_lane<T>(s[2] + l), &scaled));
    vcc |= static_cast<uint64_t>(scaled) << l;
  }
  finish(w, op, mask);
  w.set_pair(op->sdst, vcc & mask);
  return next(op);
}

float fmas(float a, float b, float c, bool scale) {
  const float plain = __builtin_fmaf(a, b, c);
  if (!scale) return plain;
  // One rounding only: the sum is kept to more bits than a float has, its last one sticky, until it has been scaled.
  const double p = static_cast<double>(a) * b;
  const double sum = p + c;
  const double t = sum - p;
  const double error = (p - (sum - t)) + (c - t);
  uint64_t odd = f64_bits(sum);
  if (error != 0 && error == error && !(odd & 1)) odd += (error > 0) == (sum > 0) ? 1 : -1;
  return static_cast<float>(f64_from_bits(odd) * (Ieee<float>::exponent(c) > 127 ? 0x1p64 : 0x1p-64));
}
double fmas(double a, double b, double c, bool scale) {
  const double plain = __builtin_fma(a, b, c);
  if (!scale) return plain;
  if (Ieee<double>::exponent(c) > 1023) return plain * 0x1p128;
  const double scaled = plain * 0x1p-128;
  if (__builtin_fabs(scaled) >= 0x1p-1022) return scaled;
  const double p = a * b;
  const double rest = __builtin_fma(a, b, -p);
  const double sum = p + c;
  const double t = sum - p;
  const double low = ((p - (sum - t)) + (c - t)) + rest;
  const double whole = sum + low;
  const double error = low - (whole - sum);
  // In units of the smallest denormal the result is the integer nearest to whole + error; only where `whole` lies
  // halfway does the error decide.
  const double units = whole * 0x1p946;
  double r = __builtin_rint(units);
  if (error != 0 && __builtin_fabs(units - r) == 0.5) r = units + __builtin_copysign(0.5, error);
  return r * 0x1p-1074;
}

template <class T>
const MicroOp* div_fmas(Wave& w, const MicroOp* op) {
  const uint32_t* s[3] = {vector_source(w, op, 0), vector_source(w, op, 1), vector_source(w, op, 2)};
  uint64_t mask = w.exec();
  if (op->flags & kPrepare) mask = prepare(w, op, s, 3);
  FloatGuard guard(w, sizeof(T) == 8);
  const uint64_t vcc = w.vcc();
  for (int l = 0; l < kWave; ++l) {
    write_lane(w.out[0] + l,
               fmas(read_lane<T>(s[0] + l), read_lane<T>(s[1] + l), read_lane<T>(s[2] + l), vcc >> l & 1));
  }
  finish(w, op, mask);
  return next(op);
}

template <class T>
T fixup(T quotient, T denominator, T numerator) {
  using I = Ieee<T>;
  const bool negative = __builtin_signbit(denominator) != __builtin_signbit(numerator);
  const T infinity = static_cast<T>(INFINITY);
  const auto sign = [&](T x) { return negative ? -x : x; };
  const T n = numerator < 0 ? -numerator : numerator;
  const T d = denominator < 0 ? -denominator : denominator;
  if (numerator != numerator) return numerator + numerator;
  if (denominator != denominator) return denominator + denominator;
  if (d == 0 && n == 0) return I::invalid();
  if (d == infinity && n == infinity) return I::invalid();
  if (d == 0 || n == infinity) return sign(infinity);
  if (d == infinity || n == 0) return sign(static_cast<T>(0));
  const int difference = I::exponent(numerator) - I::exponent(denominator);
  if (difference < I::kUnderflow) return sign(static_cast<T>(0));
  // Of finite operands the refinement makes a NaN only where the quotient overflows on the way.
  if (quotient != quotient) return sign(infinity);
  const T q = __builtin_signbit(quotient) ? -quotient : quotient;
  return sign(q);
}

}  // namespace

// The lambda is named before it becomes a template argument: g++ 12 reads a > inside one as the end of the list.
#define V(name, ...)                \
  do {                              \
    constexpr auto f = __VA_ARGS__; \
    t.set(Op::name, vop<f>);        \
  } while (0)
#define EACH(name, ...)             \
  do {                              \
    constexpr auto f = __VA_ARGS__; \
    t.set(Op::name, vop_each<f>);   \
  } while (0)

void register_vop3(HandlerTable& t) {
  V(v_sad_u8, [](vu32 a, vu32 b, vu32 c) { return sad_u8(a, b, c); });
  V(v_sad_hi_u8, [](vu32 a, vu32 b, vu32 c) { return (sad_u8(a, b, vu32{}) << 16) + c; });
  V(v_sad_u16, [](vu32 a, vu32 b, vu32 c) {
    return c + absolute_difference(a & 0xffffu, b & 0xffffu) + absolute_difference(a >> 16, b >> 16);
  });
  V(v_sad_u32, [](vu32 a, vu32 b, vu32 c) { return absolute_difference(a, b) + c; });
  V(v_msad_u8, [](vu32 a, vu32 b, vu32 c) { return msad_u8(a, b, c); });
  t.set(Op::v_qsad_pk_u16_u8, qsad_pk<false>);
  t.set(Op::v_mqsad_pk_u16_u8, qsad_pk<true>);
  t.set(Op::v_mqsad_u32_u8, mqsad_u32);
  V(v_lerp_u8, [](vu32 a, vu32 b, vu32 c) {
    vu32 r = {};
    for (uint32_t k = 0; k < 32; k += 8) r |= (((a >> k & 0xffu) + (b >> k & 0xffu) + (c >> k & 1u)) >> 1) << k;
    return r;
  });
  V(v_perm_b32, [](vu32 a, vu32 b, vu32 c) { return perm(a, b, c); });
  t.set(Op::v_bitop3_b32, bitop3_handler);
  t.set(Op::v_bitop3_b16, bitop3_handler);

  V(v_cubeid_f32, [](vf32 x, vf32 y, vf32 z) {
    const Cube c = cube(x, y, z);
    const auto face = [](vf32 v, float positive) { return select(v < 0.0f, splat(positive + 1.0f), splat(positive)); };
    return select(c.z_major, face(z, 4.0f), select(c.y_major, face(y, 2.0f), face(x, 0.0f)));
  });
  V(v_cubesc_f32, [](vf32 x, vf32 y, vf32 z) {
    const Cube c = cube(x, y, z);
    return select(c.z_major, select(z < 0.0f, negate(x), x), select(c.y_major, x, select(x < 0.0f, z, negate(z))));
  });
  V(v_cubetc_f32, [](vf32 x, vf32 y, vf32 z) {
    const Cube c = cube(x, y, z);
    return select(c.z_major, negate(y), select(c.y_major, select(y < 0.0f, negate(z), z), negate(y)));
  });
  V(v_cubema_f32, [](vf32 x, vf32 y, vf32 z) {
    const Cube c = cube(x, y, z);
    return select(c.z_major, z, select(c.y_major, y, x)) * 2.0f;
  });

  V(v_cvt_pk_u8_f32, [](vf32 a, vu32 b, vu32 c) { return insert_byte(c, f32_to_u8(a), b); });
  t.set(Op::v_cvt_pkaccum_u8_f32,
        vop_accumulate<[](vf32 a, vu32 b, vu32 d) { return insert_byte(d, f32_to_u8(a), b); }>);
  V(v_cvt_pknorm_i16_f32, [](vf32 a, vf32 b) { return snorm(a) | snorm(b) << 16; });
  V(v_cvt_pknorm_u16_f32, [](vf32 a, vf32 b) { return unorm(a) | unorm(b) << 16; });
  V(v_cvt_pkrtz_f16_f32,
    [](vf32 a, vf32 b) { return f32_to_f16(a, Rounding::zero, false) | f32_to_f16(b, Rounding::zero, false) << 16; });
  V(v_cvt_pk_f16_f32, [](Wave& w, vf32 a, vf32 b) {
    const bool saturate = w.mode & kModeFp16Ovfl;
    return f32_to_f16(a, Rounding::nearest_even, saturate) | f32_to_f16(b, Rounding::nearest_even, saturate) << 16;
  });
  V(v_cvt_pk_bf16_f32, [](vf32 a, vf32 b) { return f32_to_bf16(a) | f32_to_bf16(b) << 16; });
  V(v_cvt_pk_u16_u32, [](vu32 a, vu32 b) { return clip_u16(a) | clip_u16(b) << 16; });
  V(v_cvt_pk_i16_i32, [](vi32 a, vi32 b) { return clip_i16(a) | clip_i16(b) << 16; });
  V(v_ashr_pk_i8_i32,
    [](vi32 a, vi32 b, vi32 c) { return Vu16{clip_i8(a >> (c & 31)) | clip_i8(b >> (c & 31)) << 8}; });
  V(v_ashr_pk_u8_i32,
    [](vi32 a, vi32 b, vi32 c) { return Vu16{clip_u8(a >> (c & 31)) | clip_u8(b >> (c & 31)) << 8}; });

  t.set(Op::v_div_scale_f32, div_scale<float>);
  t.set(Op::v_div_scale_f64, div_scale<double>);
  t.set(Op::v_div_fmas_f32, div_fmas<float>);
  t.set(Op::v_div_fmas_f64, div_fmas<double>);
  EACH(v_div_fixup_f32, [](float a, float b, float c) { return fixup(a, b, c); });
  EACH(v_div_fixup_f64, [](Wave& w, double a, double b, double c) {
    FloatGuard guard(w, true);
    return fixup(a, b, c);
  });
}

}  // namespace aiterlite::emulator
