// Atomics on the local data share.
#include <aiterlite/emulator/access.h>
#include <aiterlite/emulator/atomic.h>

namespace aiterlite::emulator {
namespace {

// cmpst has the comparand in data0 and the new value in data1, the reverse of modify()'s order.
constexpr bool swaps_data(Rmw op) { return op == Rmw::cmpswap || op == Rmw::fcmpswap; }

template <Rmw kOp, class T, bool kReturn>
const MicroOp* atomic(Wave& w, const MicroOp* op) {
  Access x;
  if (!resolve_lds(w, op, static_cast<uint32_t>(op->inst->offset), {sizeof(T), true}, &x)) return nullptr;
  if (!aligned_in_lds(w, op, x, sizeof(T))) return nullptr;
  const uint32_t* data0 = vector_source(w, op, 1);
  const uint32_t* data1 = needs_second(kOp) ? vector_source(w, op, 2) : data0;
  FloatGuard guard(w, sizeof(T) == 8);
  T old[kWave];
  for_each_lane(x.mask, [&](int l) {
    const T a = lane_value<T>(data0 + l);
    const T b = lane_value<T>(data1 + l);
    old[l] = swaps_data(kOp) ? rmw_private<kOp, T>(w, x.at[l], b, a) : rmw_private<kOp, T>(w, x.at[l], a, b);
  });
  if constexpr (kReturn) {
    uint32_t* dst = w.at(op->dst);
    for_each_lane(x.mask, [&](int l) { set_lane_value<T>(dst + l, old[l]); });
  }
  return next(op);
}

// ds_wrxchg2: two exchanges.
template <class T, uint32_t kStep>
const MicroOp* exchange2(Wave& w, const MicroOp* op) {
  Access x[2];
  if (!resolve_lds(w, op, op->inst->offset0 * kStep, {sizeof(T), true}, &x[0])) return nullptr;
  if (!resolve_lds(w, op, op->inst->offset1 * kStep, {sizeof(T), true}, &x[1])) return nullptr;
  for (const Access& one : x) {
    if (!aligned_in_lds(w, op, one, sizeof(T))) return nullptr;
  }
  T old[2][kWave];
  for (int k = 0; k < 2; ++k) {
    const uint32_t* data = vector_source(w, op, 1 + k);
    for_each_lane(x[k].mask,
                  [&](int l) { old[k][l] = rmw_private<Rmw::swap, T>(w, x[k].at[l], lane_value<T>(data + l), 0); });
  }
  uint32_t* dst = w.at(op->dst);
  for (int k = 0; k < 2; ++k) {
    for_each_lane(x[k].mask, [&](int l) { set_lane_value<T>(dst + k * sizeof(T) / 4 * kWave + l, old[k][l]); });
  }
  return next(op);
}

// Each dword of the pair is exchanged where the top bit of its data is set.
const MicroOp* conditional_exchange(Wave& w, const MicroOp* op) {
  Access x;
  if (!resolve_lds(w, op, static_cast<uint32_t>(op->inst->offset), {8, true}, &x)) return nullptr;
  const uint32_t* data = vector_source(w, op, 1);
  uint32_t old[2][kWave];
  for_each_lane(x.mask, [&](int l) {
    for (int k = 0; k < 2; ++k) {
      void* p = reinterpret_cast<void*>((x.at[l] & ~7ull) + 4 * static_cast<uint64_t>(k));
      const uint32_t v = data[k * kWave + l];
      memcpy(&old[k][l], p, 4);
      const uint32_t value = v & 0x7fffffffu;
      if (v >> 31) memcpy(p, &value, 4);
    }
  });
  uint32_t* dst = w.at(op->dst);
  for_each_lane(x.mask, [&](int l) {
    dst[l] = old[0][l];
    dst[kWave + l] = old[1][l];
  });
  return next(op);
}

}  // namespace

void register_ds_atomics(HandlerTable& t) {
#define INTEGER(name, rmw, t32, t64)                                  \
  t.set(Op::ds_##name##_##t32, atomic<Rmw::rmw, uint32_t, false>);    \
  t.set(Op::ds_##name##_rtn_##t32, atomic<Rmw::rmw, uint32_t, true>); \
  t.set(Op::ds_##name##_##t64, atomic<Rmw::rmw, uint64_t, false>);    \
  t.set(Op::ds_##name##_rtn_##t64, atomic<Rmw::rmw, uint64_t, true>)
  INTEGER(add, add, u32, u64);
  INTEGER(sub, sub, u32, u64);
  INTEGER(rsub, rsub, u32, u64);
  INTEGER(inc, inc, u32, u64);
  INTEGER(dec, dec, u32, u64);
  t.set(Op::ds_min_i32, atomic<Rmw::smin, uint32_t, false>);
  t.set(Op::ds_min_rtn_i32, atomic<Rmw::smin, uint32_t, true>);
  t.set(Op::ds_min_i64, atomic<Rmw::smin, uint64_t, false>);
  t.set(Op::ds_min_rtn_i64, atomic<Rmw::smin, uint64_t, true>);
  t.set(Op::ds_max_i32, atomic<Rmw::smax, uint32_t, false>);
  t.set(Op::ds_max_rtn_i32, atomic<Rmw::smax, uint32_t, true>);
  t.set(Op::ds_max_i64, atomic<Rmw::smax, uint64_t, false>);
  t.set(Op::ds_max_rtn_i64, atomic<Rmw::smax, uint64_t, true>);
  INTEGER(min, umin, u32, u64);
  INTEGER(max, umax, u32, u64);
  INTEGER(and, bit_and, b32, b64);
  INTEGER(or, bit_or, b32, b64);
  INTEGER(xor, bit_xor, b32, b64);
  INTEGER(mskor, mskor, b32, b64);
  INTEGER(cmpst, cmpswap, b32, b64);
  INTEGER(cmpst, fcmpswap, f32, f64);
  INTEGER(min, fmin, f32, f64);
  INTEGER(max, fmax, f32, f64);
  INTEGER(add, fadd, f32, f64);
#undef INTEGER
  t.set(Op::ds_wrxchg_rtn_b32, atomic<Rmw::swap, uint32_t, true>);
  t.set(Op::ds_wrxchg_rtn_b64, atomic<Rmw::swap, uint64_t, true>);
  t.set(Op::ds_wrap_rtn_b32, atomic<Rmw::wrap, uint32_t, true>);
  t.set(Op::ds_pk_add_f16, atomic<Rmw::pk_add_f16, uint32_t, false>);
  t.set(Op::ds_pk_add_rtn_f16, atomic<Rmw::pk_add_f16, uint32_t, true>);
  t.set(Op::ds_pk_add_bf16, atomic<Rmw::pk_add_bf16, uint32_t, false>);
  t.set(Op::ds_pk_add_rtn_bf16, atomic<Rmw::pk_add_bf16, uint32_t, true>);
  t.set(Op::ds_wrxchg2_rtn_b32, exchange2<uint32_t, 4>);
  t.set(Op::ds_wrxchg2st64_rtn_b32, exchange2<uint32_t, 256>);
  t.set(Op::ds_wrxchg2_rtn_b64, exchange2<uint64_t, 8>);
  t.set(Op::ds_wrxchg2st64_rtn_b64, exchange2<uint64_t, 512>);
  t.set(Op::ds_condxchg32_rtn_b64, conditional_exchange);
}

}  // namespace aiterlite::emulator
