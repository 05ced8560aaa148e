// Atomics on global memory, through GLOBAL, FLAT and MUBUF addresses.
#include <aiterlite/emulator/access.h>
#include <aiterlite/emulator/atomic.h>

namespace aiterlite::emulator {

uint32_t packed_add_f16(uint32_t a, uint32_t b, bool saturate) {
  uint32_t r = 0;
  for (int h = 0; h < 32; h += 16) {
    const double sum = decode_small(kF16, a >> h & 0xffff) + decode_small(kF16, b >> h & 0xffff);
    r |= encode_small(kF16, sum, Rounding::nearest_even, saturate ? Overflow::saturate : Overflow::special) << h;
  }
  return r;
}
uint32_t packed_add_bf16(uint32_t a, uint32_t b) {
  uint32_t r = 0;
  for (int h = 0; h < 32; h += 16) {
    const double sum = decode_small(kBf16, a >> h & 0xffff) + decode_small(kBf16, b >> h & 0xffff);
    r |= encode_small(kBf16, sum, Rounding::nearest_even, Overflow::special) << h;
  }
  return r;
}

namespace {

template <Rmw kOp, class T>
const MicroOp* apply(Wave& w, const MicroOp* op, const Access& x, uint64_t in_lds, Space space) {
  const uint32_t* data = vector_source(w, op, 1);
  const uint32_t* other = data + sizeof(T) / 4 * kWave;
  const bool returns = op->has_dst && op->inst->sc0;
  uint32_t* dst = returns ? w.at(op->dst) : nullptr;
  T old[kWave];
  for (uint64_t m = x.mask; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    if (x.at[l] % sizeof(T)) {
      const bool shared = in_lds >> l & 1;
      misaligned(w, op, shared ? Space::lds : space, shared ? x.at[l] - reinterpret_cast<uint64_t>(w.lds) : x.at[l],
                 sizeof(T), l);
      return nullptr;
    }
    const T value = lane_value<T>(data + l);
    const T second = needs_second(kOp) ? lane_value<T>(other + l) : 0;
    old[l] = in_lds >> l & 1 ? rmw_private<kOp, T>(w, x.at[l], value, second)
                             : rmw_shared<kOp, T>(w, x.at[l], value, second);
  }
  if (!returns) return next(op);
  // The destination may be the data: it is written once every lane has been read.
  for (uint64_t m = x.mask; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    set_lane_value<T>(dst + l, old[l]);
  }
  for (uint64_t m = x.out_of_bounds; m; m &= m - 1) set_lane_value<T>(dst + __builtin_ctzll(m), 0);
  return next(op);
}

template <Rmw kOp, class T>
const MicroOp* global_atomic(Wave& w, const MicroOp* op) {
  Access x;
  if (!resolve_global(w, op, {sizeof(T), true}, &x)) return nullptr;
  FloatGuard guard(w, sizeof(T) == 8);
  return apply<kOp, T>(w, op, x, 0, Space::global);
}

template <Rmw kOp, class T>
const MicroOp* flat_atomic(Wave& w, const MicroOp* op) {
  Access x;
  uint64_t in_scratch;
  if (!resolve_flat(w, op, {sizeof(T), true}, &x, &in_scratch)) return nullptr;
  if (in_scratch) return unsupported(w, op, "an atomic on scratch memory");
  const uint64_t lds = reinterpret_cast<uint64_t>(w.lds);
  uint64_t in_lds = 0;
  for (uint64_t m = x.mask; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    if (x.at[l] >= lds && x.at[l] < lds + w.lds_bytes) in_lds |= 1ull << l;
  }
  FloatGuard guard(w, sizeof(T) == 8);
  return apply<kOp, T>(w, op, x, in_lds, Space::flat);
}

template <Rmw kOp, class T>
const MicroOp* buffer_atomic(Wave& w, const MicroOp* op) {
  Access x;
  if (!resolve_buffer(w, op, {sizeof(T), true}, &x)) return nullptr;
  FloatGuard guard(w, sizeof(T) == 8);
  return apply<kOp, T>(w, op, x, 0, Space::buffer);
}

}  // namespace

void register_atomics(HandlerTable& t) {
#define ONE(name, rmw, T)                                      \
  t.set(Op::global_atomic_##name, global_atomic<Rmw::rmw, T>); \
  t.set(Op::flat_atomic_##name, flat_atomic<Rmw::rmw, T>);     \
  t.set(Op::buffer_atomic_##name, buffer_atomic<Rmw::rmw, T>)
#define BOTH(name, rmw)     \
  ONE(name, rmw, uint32_t); \
  ONE(name##_x2, rmw, uint64_t)
  BOTH(swap, swap);
  BOTH(cmpswap, cmpswap);
  BOTH(add, add);
  BOTH(sub, sub);
  BOTH(smin, smin);
  BOTH(umin, umin);
  BOTH(smax, smax);
  BOTH(umax, umax);
  BOTH(and, bit_and);
  BOTH(or, bit_or);
  BOTH(xor, bit_xor);
  BOTH(inc, inc);
  BOTH(dec, dec);
  ONE(add_f32, fadd, uint32_t);
  ONE(pk_add_f16, pk_add_f16, uint32_t);
  ONE(pk_add_bf16, pk_add_bf16, uint32_t);
  ONE(add_f64, fadd, uint64_t);
  ONE(min_f64, fmin, uint64_t);
  ONE(max_f64, fmax, uint64_t);
#undef BOTH
#undef ONE
}

}  // namespace aiterlite::emulator
