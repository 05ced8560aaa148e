// Read-modify-write operations on one memory location, and how each changes the value there.
#pragma once
#include <aiterlite/emulator/convert.h>
#include <aiterlite/emulator/wave.h>

namespace aiterlite::emulator {

enum class Rmw : uint8_t {
  swap,
  cmpswap,
  add,
  sub,
  rsub,
  smin,
  umin,
  smax,
  umax,
  bit_and,
  bit_or,
  bit_xor,
  inc,
  dec,
  mskor,
  wrap,
  fadd,
  fmin,
  fmax,
  fcmpswap,
  pk_add_f16,
  pk_add_bf16,
};

constexpr bool needs_second(Rmw op) {
  return op == Rmw::cmpswap || op == Rmw::mskor || op == Rmw::wrap || op == Rmw::fcmpswap;
}

uint32_t packed_add_f16(uint32_t a, uint32_t b, bool saturate);
uint32_t packed_add_bf16(uint32_t a, uint32_t b);

template <class T>
struct FloatOf {
  using type = float;
};
template <>
struct FloatOf<uint64_t> {
  using type = double;
};

template <class T>
inline typename FloatOf<T>::type as_float(T bits) {
  typename FloatOf<T>::type f;
  memcpy(&f, &bits, sizeof(T));
  return f;
}
template <class T>
inline T as_bits(typename FloatOf<T>::type f) {
  T bits;
  memcpy(&bits, &f, sizeof(T));
  return bits;
}

// The new value at the location. `data` is the operand; `other` the comparand of cmpswap, the mask's companion of
// mskor, the addend of wrap.
template <Rmw kOp, class T>
inline T modify(const Wave& w, T old, T data, T other) {
  using S = typename std::make_signed<T>::type;
  (void)w;
  (void)other;
  if constexpr (kOp == Rmw::swap) return data;
  if constexpr (kOp == Rmw::cmpswap) return old == other ? data : old;
  if constexpr (kOp == Rmw::add) return old + data;
  if constexpr (kOp == Rmw::sub) return old - data;
  if constexpr (kOp == Rmw::rsub) return data - old;
  if constexpr (kOp == Rmw::smin) return static_cast<S>(data) < static_cast<S>(old) ? data : old;
  if constexpr (kOp == Rmw::umin) return data < old ? data : old;
  if constexpr (kOp == Rmw::smax) return static_cast<S>(data) > static_cast<S>(old) ? data : old;
  if constexpr (kOp == Rmw::umax) return data > old ? data : old;
  if constexpr (kOp == Rmw::bit_and) return old & data;
  if constexpr (kOp == Rmw::bit_or) return old | data;
  if constexpr (kOp == Rmw::bit_xor) return old ^ data;
  if constexpr (kOp == Rmw::inc) return old >= data ? 0 : old + 1;
  if constexpr (kOp == Rmw::dec) return old == 0 || old > data ? data : old - 1;
  if constexpr (kOp == Rmw::mskor) return (old & ~data) | other;
  if constexpr (kOp == Rmw::wrap) return old >= data ? old - data : old + other;
  if constexpr (kOp == Rmw::fadd) return as_bits<T>(as_float(old) + as_float(data));
  if constexpr (kOp == Rmw::fmin || kOp == Rmw::fmax) {
    const auto a = as_float(old), b = as_float(data);
    if (a != a) return data;
    if (b != b) return old;
    if (a == b) return kOp == Rmw::fmin ? old | data : old & data;
    return (a < b) == (kOp == Rmw::fmin) ? old : data;
  }
  if constexpr (kOp == Rmw::fcmpswap) return as_float(old) == as_float(other) ? data : old;
  if constexpr (kOp == Rmw::pk_add_f16)
    return packed_add_f16(static_cast<uint32_t>(old), static_cast<uint32_t>(data), w.mode & kModeFp16Ovfl);
  if constexpr (kOp == Rmw::pk_add_bf16)
    return packed_add_bf16(static_cast<uint32_t>(old), static_cast<uint32_t>(data));
  return old;
}

// Workgroups may run on several threads: global atomics are atomic on the host too.
template <Rmw kOp, class T>
inline T rmw_shared(const Wave& w, uint64_t address, T data, T other) {
  T* p = reinterpret_cast<T*>(address);
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  T value;
  do {
    value = modify<kOp, T>(w, old, data, other);
  } while (!__atomic_compare_exchange_n(p, &old, value, true, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
  return old;
}

// A workgroup's LDS belongs to one thread.
template <Rmw kOp, class T>
inline T rmw_private(const Wave& w, uint64_t address, T data, T other) {
  T old;
  memcpy(&old, reinterpret_cast<const void*>(address), sizeof(T));
  const T value = modify<kOp, T>(w, old, data, other);
  memcpy(reinterpret_cast<void*>(address), &value, sizeof(T));
  return old;
}

template <class T>
inline T lane_value(const uint32_t* p) {
  if constexpr (sizeof(T) == 8) return p[0] | static_cast<T>(p[kWave]) << 32;
  return p[0];
}
template <class T>
inline void set_lane_value(uint32_t* p, T v) {
  p[0] = static_cast<uint32_t>(v);
  if constexpr (sizeof(T) == 8) p[kWave] = static_cast<uint32_t>(v >> 32);
}

}  // namespace aiterlite::emulator
