// Handlers made from lane functions. A lambda's parameter types say how each source is read, its result type how the
// result is stored:
//   vu32 vi32 vf32   32 bits a lane, a whole vector at a time
//   Half             f16 in the low 16 bits, computed with as f32
//   Vu16 Vi16        the low 16 bits, zero- or sign-extended to 32
// A first parameter of type Wave& gives access to the mode.
#pragma once
#include <aiterlite/emulator/convert.h>
#include <aiterlite/emulator/microop.h>

#include <tuple>
#include <utility>

namespace aiterlite::emulator {

struct Half {
  vf32 v;
};
struct Vu16 {
  vu32 v;
};
struct Vi16 {
  vi32 v;
};

// Values below the smallest normal f16 become zero.
inline vf32 flush_f16(vf32 v) {
  const vu32 x = bits(v);
  return as_f32(select((x & 0x7fffffffu) < 0x38800000u, x & 0x80000000u, x));
}

template <class T>
inline T read_lanes(const Wave& w, const uint32_t* p) {
  if constexpr (__is_same(T, Half)) {
    const vf32 v = f16_to_f32(load<vu32>(p));
    return Half{mode_denorm_f16_f64(w.mode) & 1 ? v : flush_f16(v)};
  } else if constexpr (__is_same(T, Vu16)) {
    return Vu16{load<vu32>(p) & 0xffffu};
  } else if constexpr (__is_same(T, Vi16)) {
    return Vi16{as_i32(load<vu32>(p) << 16) >> 16};
  } else {
    return load<T>(p);
  }
}

inline Rounding f16_rounding(const Wave& w) { return static_cast<Rounding>(mode_round_f16_f64(w.mode)); }

template <class T>
inline void write_lanes(const Wave& w, uint32_t* p, T v) {
  if constexpr (__is_same(T, Half)) {
    const vf32 x = mode_denorm_f16_f64(w.mode) & 2 ? v.v : flush_f16(v.v);
    store(p, f32_to_f16(x, f16_rounding(w), w.mode & kModeFp16Ovfl));
  } else if constexpr (__is_same(T, Vu16)) {
    store(p, v.v & 0xffffu);
  } else if constexpr (__is_same(T, Vi16)) {
    store(p, bits(v.v) & 0xffffu);
  } else {
    store(p, v);
  }
}

template <class F>
struct Signature;
template <class C, class R, class... A>
struct Signature<R (C::*)(A...) const> {
  using Result = R;
  static constexpr bool kTakesWave = false;
  static constexpr int kCount = sizeof...(A);
  template <int I>
  using Arg = typename std::tuple_element<I, std::tuple<A...>>::type;
};
template <class C, class R, class... A>
struct Signature<R (C::*)(Wave&, A...) const> {
  using Result = R;
  static constexpr bool kTakesWave = true;
  static constexpr int kCount = sizeof...(A);
  template <int I>
  using Arg = typename std::tuple_element<I, std::tuple<A...>>::type;
};
template <auto F>
using SignatureOf = Signature<decltype(&decltype(F)::operator())>;

template <auto F, size_t... I>
inline const MicroOp* run_lanes(Wave& w, const MicroOp* op, std::index_sequence<I...>) {
  using S = SignatureOf<F>;
  const uint32_t* s[sizeof...(I)] = {vector_source(w, op, I)...};
  uint64_t mask = w.exec();
  if (__builtin_expect(op->flags & kPrepare, 0)) mask = prepare(w, op, s, sizeof...(I));
  const bool direct = mask == ~0ull && !(op->flags & kFinish);
  uint32_t* out = __builtin_expect(direct, 1) ? w.at(op->dst) : w.out[0];
  for (int i = 0; i < kWave; i += kLanes) {
    if constexpr (S::kTakesWave) {
      write_lanes(w, out + i, F(w, read_lanes<typename S::template Arg<I>>(w, s[I] + i)...));
    } else {
      write_lanes(w, out + i, F(read_lanes<typename S::template Arg<I>>(w, s[I] + i)...));
    }
  }
  if (__builtin_expect(!direct, 0)) finish(w, op, mask);
  return next(op);
}

// A handler that computes the destination from the sources alone.
template <auto F>
const MicroOp* vop(Wave& w, const MicroOp* op) {
  return run_lanes<F>(w, op, std::make_index_sequence<SignatureOf<F>::kCount>());
}

// As vop, with the destination's old value as the last parameter (v_fmac, v_dot*c).
template <auto F, size_t... I>
inline const MicroOp* run_accumulate(Wave& w, const MicroOp* op, std::index_sequence<I...>) {
  using S = SignatureOf<F>;
  using Old = typename S::template Arg<S::kCount - 1>;
  const uint32_t* s[sizeof...(I)] = {vector_source(w, op, I)...};
  uint64_t mask = w.exec();
  if (__builtin_expect(op->flags & kPrepare, 0)) mask = prepare(w, op, s, sizeof...(I));
  const bool direct = mask == ~0ull && !(op->flags & kFinish);
  const uint32_t* old = w.at(op->dst);
  uint32_t* out = __builtin_expect(direct, 1) ? w.at(op->dst) : w.out[0];
  for (int i = 0; i < kWave; i += kLanes) {
    if constexpr (S::kTakesWave) {
      write_lanes(w, out + i,
                  F(w, read_lanes<typename S::template Arg<I>>(w, s[I] + i)..., read_lanes<Old>(w, old + i)));
    } else {
      write_lanes(w, out + i, F(read_lanes<typename S::template Arg<I>>(w, s[I] + i)..., read_lanes<Old>(w, old + i)));
    }
  }
  if (__builtin_expect(!direct, 0)) finish(w, op, mask);
  return next(op);
}
template <auto F>
const MicroOp* vop_accumulate(Wave& w, const MicroOp* op) {
  return run_accumulate<F>(w, op, std::make_index_sequence<SignatureOf<F>::kCount - 1>());
}

// One lane at a time, for 64-bit operands and for what has no vector form. uint64_t, int64_t and double parameters take
// two dwords, the others one; the same for the result.
template <class T>
inline T read_lane(const uint32_t* p) {
  if constexpr (sizeof(T) == 8) {
    const uint64_t v = p[0] | static_cast<uint64_t>(p[kWave]) << 32;
    T r;
    memcpy(&r, &v, 8);
    return r;
  } else {
    T r;
    memcpy(&r, p, 4);
    return r;
  }
}
template <class T>
inline void write_lane(uint32_t* p, T x) {
  if constexpr (sizeof(T) == 8) {
    uint64_t v;
    memcpy(&v, &x, 8);
    p[0] = static_cast<uint32_t>(v);
    p[kWave] = static_cast<uint32_t>(v >> 32);
  } else {
    memcpy(p, &x, 4);
  }
}

template <auto F, size_t... I>
inline const MicroOp* run_each(Wave& w, const MicroOp* op, std::index_sequence<I...>) {
  using S = SignatureOf<F>;
  const uint32_t* s[sizeof...(I)] = {vector_source(w, op, I)...};
  uint64_t mask = w.exec();
  if (__builtin_expect(op->flags & kPrepare, 0)) mask = prepare(w, op, s, sizeof...(I));
  uint32_t* out = w.out[0];
  for (int l = 0; l < kWave; ++l) {
    if constexpr (S::kTakesWave) {
      write_lane(out + l, F(w, read_lane<typename S::template Arg<I>>(s[I] + l)...));
    } else {
      write_lane(out + l, F(read_lane<typename S::template Arg<I>>(s[I] + l)...));
    }
  }
  finish(w, op, mask);
  return next(op);
}
template <auto F>
const MicroOp* vop_each(Wave& w, const MicroOp* op) {
  return run_each<F>(w, op, std::make_index_sequence<SignatureOf<F>::kCount>());
}

}  // namespace aiterlite::emulator
