// f64 arithmetic and 64-bit integer vector instructions.
#include <aiterlite/emulator/float.h>
#include <aiterlite/emulator/lanes.h>
#include <aiterlite/emulator/runtime.h>

namespace aiterlite::emulator {
namespace {

double quieted(double x) { return f64_from_bits(f64_bits(x) | 0x0008000000000000ull); }

double settle(double r, double a, double b = 0, double c = 0) {
  if (r == r) return r;
  if (a != a) return quieted(a);
  if (b != b) return quieted(b);
  if (c != c) return quieted(c);
  return f64_from_bits(0x7ff8000000000000ull);
}

bool ieee(const Wave& w) { return w.mode & kModeIeee; }
bool signalling(double x) { return is_snan64(f64_bits(x)); }

double max64(double a, double b, bool ieee_mode) {
  if (ieee_mode && signalling(a)) return quieted(a);
  if (ieee_mode && signalling(b)) return quieted(b);
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return f64_from_bits(f64_bits(a) & f64_bits(b));
  return a > b ? a : b;
}
double min64(double a, double b, bool ieee_mode) {
  if (ieee_mode && signalling(a)) return quieted(a);
  if (ieee_mode && signalling(b)) return quieted(b);
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return f64_from_bits(f64_bits(a) | f64_bits(b));
  return a < b ? a : b;
}

double rndne(double x) {
  if (!(__builtin_fabs(x) < 0x1p52)) return x != x ? quieted(x) : x;
  const double t = __builtin_trunc(x);
  const double rest = __builtin_fabs(x - t);
  const bool odd = static_cast<int64_t>(t) & 1;
  const double r = rest > 0.5 || (rest == 0.5 && odd) ? t + __builtin_copysign(1.0, x) : t;
  return __builtin_copysign(r, x);
}

int32_t to_i32(double x) {
  if (x != x) return 0;
  if (x >= 2147483647.0) return 0x7fffffff;
  if (x <= -2147483648.0) return static_cast<int32_t>(0x80000000u);
  return static_cast<int32_t>(x);
}
uint32_t to_u32(double x) {
  if (!(x > 0)) return 0;
  if (x >= 4294967295.0) return 0xffffffffu;
  return static_cast<uint32_t>(x);
}

// A handler that runs under the f64 rounding and denormal mode.
template <auto F>
const MicroOp* each64(Wave& w, const MicroOp* op) {
  FloatGuard guard(w, true);
  return vop_each<F>(w, op);
}

const MicroOp* fmac64(Wave& w, const MicroOp* op) {
  const uint32_t* s[2] = {vector_source(w, op, 0), vector_source(w, op, 1)};
  uint64_t mask = w.exec();
  if (op->flags & kPrepare) mask = prepare(w, op, s, 2);
  FloatGuard guard(w, true);
  const uint32_t* d = w.at(op->dst);
  for (int l = 0; l < kWave; ++l) {
    const double a = read_lane<double>(s[0] + l), b = read_lane<double>(s[1] + l), c = read_lane<double>(d + l);
    write_lane(w.out[0] + l, settle(__builtin_fma(a, b, c), a, b, c));
  }
  finish(w, op, mask);
  return next(op);
}

// v_mad_u64_u32 and v_mad_i64_i32: the carry (or overflow into bit 64) goes to dst[1].
template <bool kSigned>
const MicroOp* mad64(Wave& w, const MicroOp* op) {
  const uint32_t* s[3] = {vector_source(w, op, 0), vector_source(w, op, 1), vector_source(w, op, 2)};
  uint64_t mask = w.exec();
  if (op->flags & kPrepare) mask = prepare(w, op, s, 3);
  uint64_t carries = 0;
  for (int l = 0; l < kWave; ++l) {
    const uint64_t c = read_lane<uint64_t>(s[2] + l);
    uint64_t r;
    bool carry;
    if (kSigned) {
      const int64_t product = static_cast<int64_t>(static_cast<int32_t>(s[0][l])) * static_cast<int32_t>(s[1][l]);
      r = static_cast<uint64_t>(product) + c;
      // Bit 64 of the 65-bit signed sum.
      const __int128 sum = static_cast<__int128>(product) + static_cast<int64_t>(c);
      carry = static_cast<uint64_t>(sum >> 64) & 1;
    } else {
      carry = __builtin_add_overflow(static_cast<uint64_t>(s[0][l]) * s[1][l], c, &r);
    }
    write_lane(w.out[0] + l, r);
    carries |= static_cast<uint64_t>(carry) << l;
  }
  finish(w, op, mask);
  w.set_pair(op->sdst, carries & mask);
  return next(op);
}

// 2/pi behind the point, highest bit first; v_trig_preop_f64 knows 1201 of these bits.
constexpr uint64_t kTwoOverPi[19] = {
    0xa2f9836e4e441529ull, 0xfc2757d1f534ddc0ull, 0xdb6295993c439041ull, 0xfe5163abdebbc561ull, 0xb7246e3a424dd2e0ull,
    0x06492eea09d1921cull, 0xfe1deb1cb129a73eull, 0xe88235f52ebb4484ull, 0xe99c7026b45f7e41ull, 0x3991d639835339f4ull,
    0x9c845f8bbdf9283bull, 0x1ff897ffde05980full, 0xef2f118b5a0a6d1full, 0x6d367ecf27cb09b7ull, 0x4f463f669e5fea2dull,
    0x7527bac7ebe5f17bull, 0x3d0739f78a5292eaull, 0x6bfb5fb11f8d5d08ull, 0x56033046fc7b6babull};

double trig_preop(double x, uint32_t segment) {
  int shift = static_cast<int>(segment & 31) * 53;
  const int e = static_cast<int>(f64_bits(x) >> 52 & 2047);
  if (e > 1077) shift += e - 1077;
  uint64_t field = 0;
  for (int i = 0; i < 53; ++i) {
    const int bit = shift + i;
    const uint64_t v = bit < 1201 ? kTwoOverPi[bit / 64] >> (63 - bit % 64) & 1 : 0;
    field = field << 1 | v;
  }
  int scale = -53 - shift;
  if (e >= 1968) scale += 128;
  return __builtin_ldexp(static_cast<double>(field), scale);
}

// The lambda is named before it becomes a template argument: g++ 12 reads a > inside one as the end of the list.
#define EACH(name, ...)             \
  do {                              \
    constexpr auto f = __VA_ARGS__; \
    t.set(Op::name, vop_each<f>);   \
  } while (0)
#define EACH64(name, ...)           \
  do {                              \
    constexpr auto f = __VA_ARGS__; \
    t.set(Op::name, each64<f>);     \
  } while (0)

}  // namespace

void register_f64(HandlerTable& t) {
  EACH64(v_add_f64, [](double a, double b) { return settle(a + b, a, b); });
  EACH64(v_mul_f64, [](double a, double b) { return settle(a * b, a, b); });
  EACH64(v_fma_f64, [](double a, double b, double c) { return settle(__builtin_fma(a, b, c), a, b, c); });
  t.set(Op::v_fmac_f64, fmac64);
  EACH64(v_min_f64, [](Wave& w, double a, double b) { return min64(a, b, ieee(w)); });
  EACH64(v_max_f64, [](Wave& w, double a, double b) { return max64(a, b, ieee(w)); });
  EACH64(v_ldexp_f64, [](double a, int32_t n) { return settle(__builtin_ldexp(a, n), a); });
  EACH64(v_trunc_f64, [](double a) { return settle(__builtin_trunc(a), a); });
  EACH64(v_ceil_f64, [](double a) { return settle(__builtin_ceil(a), a); });
  EACH64(v_floor_f64, [](double a) { return settle(__builtin_floor(a), a); });
  EACH64(v_rndne_f64, [](double a) { return rndne(a); });
  EACH64(v_fract_f64, [](double a) { return settle(a - __builtin_floor(a), a); });
  EACH64(v_rcp_f64, [](double a) { return settle(1.0 / a, a); });
  EACH64(v_rsq_f64, [](double a) { return settle(1.0 / __builtin_sqrt(a), a); });
  EACH64(v_sqrt_f64, [](double a) { return settle(__builtin_sqrt(a), a); });
  EACH64(v_frexp_mant_f64, [](double a) {
    int e;
    return __builtin_isfinite(a) ? __builtin_frexp(a, &e) : a;
  });
  EACH64(v_frexp_exp_i32_f64, [](double a) {
    int e = 0;
    if (__builtin_isfinite(a)) __builtin_frexp(a, &e);
    return static_cast<int32_t>(e);
  });
  EACH64(v_trig_preop_f64, [](double a, uint32_t b) { return trig_preop(a, b); });
  EACH64(v_cvt_i32_f64, [](double a) { return to_i32(a); });
  EACH64(v_cvt_u32_f64, [](double a) { return to_u32(a); });
  EACH64(v_cvt_f64_i32, [](int32_t a) { return static_cast<double>(a); });
  EACH64(v_cvt_f64_u32, [](uint32_t a) { return static_cast<double>(a); });
  EACH(v_cvt_f64_f32, [](Wave& w, uint32_t a) {
    const uint32_t x = mode_denorm_f32(w.mode) & 1 || (a & 0x7f800000) ? a : a & 0x80000000u;
    return widen(x);
  });
  EACH(v_cvt_f32_f64, [](Wave& w, double a) {
    if (a != a)
      return static_cast<uint32_t>(f64_bits(a) >> 32 & 0x80000000u) | 0x7fc00000u |
             static_cast<uint32_t>(f64_bits(a) >> 29 & 0x3fffff);
    const uint32_t r = round_to_f32(a, static_cast<Rounding>(mode_round_f32(w.mode)));
    return mode_denorm_f32(w.mode) & 2 || (r & 0x7f800000) ? r : r & 0x80000000u;
  });

  EACH(v_lshlrev_b64, [](uint32_t a, uint64_t b) { return b << (a & 63); });
  EACH(v_lshrrev_b64, [](uint32_t a, uint64_t b) { return b >> (a & 63); });
  EACH(v_ashrrev_i64, [](uint32_t a, int64_t b) { return b >> (a & 63); });
  EACH(v_lshl_add_u64, [](uint64_t a, uint32_t b, uint64_t c) { return (a << (b & 7)) + c; });
  t.set(Op::v_mad_u64_u32, mad64<false>);
  t.set(Op::v_mad_i64_i32, mad64<true>);
}

}  // namespace aiterlite::emulator
