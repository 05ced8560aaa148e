// Packed 16- and 32-bit arithmetic, dot products and the mixed-precision fused multiply-add.
#include <aiterlite/emulator/float.h>
#include <aiterlite/emulator/half.h>
#include <aiterlite/emulator/lanes.h>

namespace aiterlite::emulator {
namespace {

bool ieee(const Wave& w) { return w.mode & kModeIeee; }

// One half of a packed operand, in the low 16 bits.
inline vu32 half_of(const uint32_t* p, int half) { return half ? load<vu32>(p) >> 16 : load<vu32>(p) & 0xffffu; }

template <class T>
inline T read_half(const Wave& w, const uint32_t* p, int half) {
  alignas(kVectorBytes) uint32_t b[kLanes];
  store(b, half_of(p, half));
  return read_lanes<T>(w, b);
}
template <class T>
inline vu32 half_result(const Wave& w, T v) {
  alignas(kVectorBytes) uint32_t b[kLanes];
  write_lanes(w, b, v);
  return load<vu32>(b) & 0xffffu;
}

// F on both halves; prepare() has put the chosen halves in place.
template <auto F, bool kAccumulate, size_t... I>
inline const MicroOp* run_packed(Wave& w, const MicroOp* op, std::index_sequence<I...>) {
  using S = SignatureOf<F>;
  const uint32_t* s[sizeof...(I)] = {
      (kAccumulate && I == sizeof...(I) - 1 ? w.at(op->dst) : vector_source(w, op, I))...};
  uint64_t mask = w.exec();
  if (__builtin_expect(op->flags & kPrepare, 0)) mask = prepare(w, op, s, sizeof...(I) - kAccumulate);
  const bool direct = mask == ~0ull && !(op->flags & kFinish);
  uint32_t* out = direct ? w.at(op->dst) : w.out[0];
  for (int i = 0; i < kWave; i += kLanes) {
    vu32 r[2];
    for (int h = 0; h < 2; ++h) {
      if constexpr (S::kTakesWave) {
        r[h] = half_result(w, F(w, read_half<typename S::template Arg<I>>(w, s[I] + i, h)...));
      } else {
        r[h] = half_result(w, F(read_half<typename S::template Arg<I>>(w, s[I] + i, h)...));
      }
    }
    store(out + i, r[0] | r[1] << 16);
  }
  if (!direct) finish(w, op, mask);
  return next(op);
}
template <auto F>
const MicroOp* packed(Wave& w, const MicroOp* op) {
  return run_packed<F, false>(w, op, std::make_index_sequence<SignatureOf<F>::kCount>());
}
template <auto F>
const MicroOp* packed_accumulate(Wave& w, const MicroOp* op) {
  return run_packed<F, true>(w, op, std::make_index_sequence<SignatureOf<F>::kCount>());
}

// F on two f32 values a lane.
template <auto F, size_t... I>
inline const MicroOp* run_packed_f32(Wave& w, const MicroOp* op, std::index_sequence<I...>) {
  const uint32_t* s[sizeof...(I)] = {vector_source(w, op, I)...};
  uint64_t mask = w.exec();
  if (__builtin_expect(op->flags & kPrepare, 0)) mask = prepare(w, op, s, sizeof...(I));
  const bool direct = mask == ~0ull && !(op->flags & kFinish);
  uint32_t* out = direct ? w.at(op->dst) : w.out[0];
  for (int i = 0; i < kWave; i += kLanes) {
    const vf32 lo = F(load<vf32>(s[I] + i)...);
    const vf32 hi = F(load<vf32>(s[I] + kWave + i)...);
    store(out + i, lo);
    store(out + kWave + i, hi);
  }
  if (!direct) finish(w, op, mask);
  return next(op);
}
template <auto F>
const MicroOp* packed_f32(Wave& w, const MicroOp* op) {
  return run_packed_f32<F>(w, op, std::make_index_sequence<SignatureOf<F>::kCount>());
}

const MicroOp* pk_mov(Wave& w, const MicroOp* op) {
  const uint32_t* a = vector_source(w, op, 0);
  const uint32_t* b = vector_source(w, op, 1);
  memcpy(w.out[0], a + (op->inst->op_sel & 1 ? kWave : 0), kRegisterBytes);
  memcpy(w.out[1], b + (op->inst->op_sel & 2 ? kWave : 0), kRegisterBytes);
  finish(w, op, w.exec());
  return next(op);
}

// v_fma_mix: op_sel_hi says whether a source is f16, op_sel which half; neg_hi is its absolute value.
enum class Mix { f32, low, high };
template <Mix kTo>
const MicroOp* fma_mix(Wave& w, const MicroOp* op) {
  const Inst& inst = *op->inst;
  const uint32_t* s[3] = {vector_source(w, op, 0), vector_source(w, op, 1), vector_source(w, op, 2)};
  uint32_t* dst = w.at(op->dst);
  for (int i = 0; i < kWave; i += kLanes) {
    vf32 v[3];
    for (int k = 0; k < 3; ++k) {
      const vu32 raw = load<vu32>(s[k] + i);
      v[k] = inst.op_sel_hi >> k & 1 ? f16_to_f32(inst.op_sel >> k & 1 ? raw >> 16 : raw) : as_f32(raw);
      if (inst.neg_hi >> k & 1) v[k] = as_f32(bits(v[k]) & 0x7fffffffu);
      if (inst.neg_lo >> k & 1) v[k] = as_f32(bits(v[k]) ^ 0x80000000u);
    }
    vf32 r = fma(v[0], v[1], v[2]);
    if (inst.clamp) {
      const vf32 low = select(r > 0.0f, r, vf32{});
      r = select(is_nan(r), w.mode & kModeDx10Clamp ? vf32{} : r, select(low < 1.0f, low, splat(1.0f)));
    }
    if (kTo == Mix::f32) {
      store(w.out[0] + i, r);
    } else {
      const vu32 h = f32_to_f16(r, f16_rounding(w), w.mode & kModeFp16Ovfl);
      const vu32 old = load<vu32>(dst + i);
      store(w.out[0] + i, kTo == Mix::low ? (old & 0xffff0000u) | h : (old & 0xffffu) | h << 16);
    }
  }
  const uint64_t mask = w.exec();
  if (mask == ~0ull) {
    memcpy(dst, w.out[0], kRegisterBytes);
  } else {
    merge(dst, w.out[0], mask);
  }
  return next(op);
}

// Sum of the products of kCount fields of kBits, signed or not.
template <int kBits, bool kSigned>
inline vi32 dot(vu32 a, vu32 b, vi32 c) {
  for (uint32_t k = 0; k < 32; k += kBits) {
    constexpr uint32_t kUp = 32 - kBits;
    if (kSigned) {
      c += as_i32(bits((as_i32(a << (kUp - k)) >> kUp)) * bits((as_i32(b << (kUp - k)) >> kUp)));
    } else {
      c += as_i32(((a << (kUp - k)) >> kUp) * ((b << (kUp - k)) >> kUp));
    }
  }
  return c;
}
template <int kBits, bool kSigned>
inline vi32 dot_saturating(vu32 a, vu32 b, vi32 c) {
  vi32 r;
  for (int l = 0; l < kLanes; ++l) {
    int64_t sum = kSigned ? static_cast<int64_t>(c[l]) : static_cast<int64_t>(static_cast<uint32_t>(c[l]));
    for (int k = 0; k < 32; k += kBits) {
      const uint32_t x = a[l] >> k & ((1u << kBits) - 1), y = b[l] >> k & ((1u << kBits) - 1);
      if (kSigned) {
        const int up = 32 - kBits;
        sum += static_cast<int64_t>(static_cast<int32_t>(x << up) >> up) * (static_cast<int32_t>(y << up) >> up);
      } else {
        sum += static_cast<int64_t>(x) * y;
      }
    }
    if (kSigned) {
      r[l] = static_cast<int32_t>(sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : sum);
    } else {
      r[l] = static_cast<int32_t>(sum > UINT32_MAX ? UINT32_MAX : sum);
    }
  }
  return r;
}

inline vf32 dot2_f16(vu32 a, vu32 b, vf32 c) {
  const vf32 lo = fma(f16_to_f32(a), f16_to_f32(b), c);
  return fma(f16_to_f32(a >> 16), f16_to_f32(b >> 16), lo);
}
inline vf32 dot2_bf16(vu32 a, vu32 b, vf32 c) {
  const vf32 products = fma(bf16_hi_to_f32(a), bf16_hi_to_f32(b), bf16_lo_to_f32(a) * bf16_lo_to_f32(b));
  return with_nan(products + c, products, c);
}

vi32 imin(vi32 a, vi32 b) { return select(a < b, a, b); }
vi32 imax(vi32 a, vi32 b) { return select(a > b, a, b); }
vu32 umin(vu32 a, vu32 b) { return select(a < b, a, b); }
vu32 umax(vu32 a, vu32 b) { return select(a > b, a, b); }
Vu16 clip_u16(vi32 v) { return {bits(select(v < 0, vi32{}, select(v > 0xffff, splat(0xffff), v)))}; }
Vi16 clip_i16(vi32 v) { return {select(v < -32768, splat(-32768), select(v > 32767, splat(32767), v))}; }

// The lambda is named before it becomes a template argument: g++ 12 reads a > inside one as the end of the list.
#define WITH(setter, name, handler, ...) \
  do {                                   \
    constexpr auto f = __VA_ARGS__;      \
    t.setter(Op::name, handler<f>);      \
  } while (0)
#define PK(name, ...) WITH(set, name, packed, __VA_ARGS__)
#define PKC(name, ...) WITH(set_clamped, name, packed, __VA_ARGS__)
#define V(name, ...) WITH(set, name, vop, __VA_ARGS__)
#define VC(name, ...) WITH(set_clamped, name, vop, __VA_ARGS__)
#define ACC(name, ...) WITH(set, name, vop_accumulate, __VA_ARGS__)
#define ACCC(name, ...) WITH(set_clamped, name, vop_accumulate, __VA_ARGS__)
#define PKF(name, ...) WITH(set, name, packed_f32, __VA_ARGS__)

void register_packed_integer(HandlerTable& t) {
  PK(v_pk_mad_i16, [](vu32 a, vu32 b, vu32 c) { return a * b + c; });
  PK(v_pk_mad_u16, [](vu32 a, vu32 b, vu32 c) { return a * b + c; });
  PKC(v_pk_mad_i16, [](Vi16 a, Vi16 b, Vi16 c) { return clip_i16(a.v * b.v + c.v); });
  PKC(v_pk_mad_u16,
      [](Vu16 a, Vu16 b, Vu16 c) { return Vu16{umin(umin(a.v * b.v, splat(0xffffu)) + c.v, splat(0xffffu))}; });
  PK(v_pk_mul_lo_u16, [](vu32 a, vu32 b) { return a * b; });
  PK(v_pk_add_i16, [](vu32 a, vu32 b) { return a + b; });
  PK(v_pk_sub_i16, [](vu32 a, vu32 b) { return a - b; });
  PK(v_pk_add_u16, [](vu32 a, vu32 b) { return a + b; });
  PK(v_pk_sub_u16, [](vu32 a, vu32 b) { return a - b; });
  PKC(v_pk_add_i16, [](Vi16 a, Vi16 b) { return clip_i16(a.v + b.v); });
  PKC(v_pk_sub_i16, [](Vi16 a, Vi16 b) { return clip_i16(a.v - b.v); });
  PKC(v_pk_add_u16, [](Vu16 a, Vu16 b) { return clip_u16(as_i32(a.v + b.v)); });
  PKC(v_pk_sub_u16, [](Vu16 a, Vu16 b) { return clip_u16(as_i32(a.v - b.v)); });
  PK(v_pk_lshlrev_b16, [](vu32 a, vu32 b) { return b << (a & 15u); });
  PK(v_pk_lshrrev_b16, [](vu32 a, Vu16 b) { return b.v >> (a & 15u); });
  PK(v_pk_ashrrev_i16, [](vu32 a, Vi16 b) { return Vi16{b.v >> as_i32(a & 15u)}; });
  PK(v_pk_max_i16, [](Vi16 a, Vi16 b) { return Vi16{imax(a.v, b.v)}; });
  PK(v_pk_min_i16, [](Vi16 a, Vi16 b) { return Vi16{imin(a.v, b.v)}; });
  PK(v_pk_max_u16, [](Vu16 a, Vu16 b) { return umax(a.v, b.v); });
  PK(v_pk_min_u16, [](Vu16 a, Vu16 b) { return umin(a.v, b.v); });
}

void register_packed_float(HandlerTable& t) {
  PK(v_pk_fma_f16, [](Half a, Half b, Half c) { return Half{fma_f16(a.v, b.v, c.v)}; });
  PK(v_pk_add_f16, [](Half a, Half b) { return Half{with_nan(a.v + b.v, a.v, b.v)}; });
  PK(v_pk_mul_f16, [](Half a, Half b) { return Half{with_nan(a.v * b.v, a.v, b.v)}; });
  PK(v_pk_min_f16, [](Wave& w, vu32 a, vu32 b) { return picked_f16(w, vmin(raw_f16(a), raw_f16(b), ieee(w))); });
  PK(v_pk_max_f16, [](Wave& w, vu32 a, vu32 b) { return picked_f16(w, vmax(raw_f16(a), raw_f16(b), ieee(w))); });
  PK(v_pk_minimum3_f16, [](Wave& w, vu32 a, vu32 b, vu32 c) {
    return picked_f16(w, vminimum(vminimum(raw_f16(a), raw_f16(b)), raw_f16(c)));
  });
  PK(v_pk_maximum3_f16, [](Wave& w, vu32 a, vu32 b, vu32 c) {
    return picked_f16(w, vmaximum(vmaximum(raw_f16(a), raw_f16(b)), raw_f16(c)));
  });
  WITH(set, v_pk_fmac_f16, packed_accumulate, [](Half a, Half b, Half d) { return Half{fma_f16(a.v, b.v, d.v)}; });
  PKF(v_pk_fma_f32, [](vf32 a, vf32 b, vf32 c) { return fma(a, b, c); });
  PKF(v_pk_mul_f32, [](vf32 a, vf32 b) { return with_nan(a * b, a, b); });
  PKF(v_pk_add_f32, [](vf32 a, vf32 b) { return with_nan(a + b, a, b); });
  t.set(Op::v_pk_mov_b32, pk_mov);
  for (auto setter : {&HandlerTable::set, &HandlerTable::set_clamped}) {
    (t.*setter)(Op::v_fma_mix_f32, fma_mix<Mix::f32>);
    (t.*setter)(Op::v_fma_mixlo_f16, fma_mix<Mix::low>);
    (t.*setter)(Op::v_fma_mixhi_f16, fma_mix<Mix::high>);
  }
}

void register_dot(HandlerTable& t) {
  V(v_dot2_f32_f16, [](vu32 a, vu32 b, vf32 c) { return dot2_f16(a, b, c); });
  V(v_dot2_f32_bf16, [](vu32 a, vu32 b, vf32 c) { return dot2_bf16(a, b, c); });
  ACC(v_dot2c_f32_f16, [](vu32 a, vu32 b, vf32 d) { return dot2_f16(a, b, d); });
  ACC(v_dot2c_f32_bf16, [](vu32 a, vu32 b, vf32 d) { return dot2_bf16(a, b, d); });
#define DOT(name, bits, is_signed)                                               \
  V(name, [](vu32 a, vu32 b, vi32 c) { return dot<bits, is_signed>(a, b, c); }); \
  VC(name, [](vu32 a, vu32 b, vi32 c) { return dot_saturating<bits, is_signed>(a, b, c); })
  DOT(v_dot2_i32_i16, 16, true);
  DOT(v_dot2_u32_u16, 16, false);
  DOT(v_dot4_i32_i8, 8, true);
  DOT(v_dot4_u32_u8, 8, false);
  DOT(v_dot8_i32_i4, 4, true);
  DOT(v_dot8_u32_u4, 4, false);
#undef DOT
#define DOTC(name, bits)                                                      \
  ACC(name, [](vu32 a, vu32 b, vi32 d) { return dot<bits, true>(a, b, d); }); \
  ACCC(name, [](vu32 a, vu32 b, vi32 d) { return dot_saturating<bits, true>(a, b, d); })
  DOTC(v_dot2c_i32_i16, 16);
  DOTC(v_dot4c_i32_i8, 8);
  DOTC(v_dot8c_i32_i4, 4);
#undef DOTC
}

}  // namespace

void register_vop3p(HandlerTable& t) {
  register_packed_integer(t);
  register_packed_float(t);
  register_dot(t);
}

}  // namespace aiterlite::emulator
