// Scalar memory: loads, stores and atomics of a whole wave.
#include <aiterlite/emulator/access.h>
#include <aiterlite/emulator/atomic.h>

namespace aiterlite::emulator {
namespace {

// base + immediate + register offset, each of the sums with its low two bits dropped.
uint64_t plain_address(const Wave& w, const MicroOp* op, uint64_t base) {
  uint64_t at = base + static_cast<uint64_t>(static_cast<int64_t>(op->inst->offset));
  if (op->src[2].ref != Ref::none) at += scalar32(w, op->src[2]);
  return at & ~3ull;
}

bool checked(Wave& w, const MicroOp* op, uint64_t at, Extent e) {
  if (w.launch->options.check_memory && !in_range(w, at, e.size, e.write)) {
    return violation(w, op, Space::scalar, at, e, 0xff);
  }
  if (__builtin_expect(w.watched, 0)) observe_access(w, op, {Space::scalar, e.write, e.size, 1, &at});
  return true;
}

template <int kDwords>
const MicroOp* load(Wave& w, const MicroOp* op) {
  const uint64_t at = plain_address(w, op, scalar64(w, op->src[0]));
  if (!checked(w, op, at, {kDwords * 4, false})) return nullptr;
  memcpy(&w.s[op->sdst], reinterpret_cast<const void*>(at), kDwords * 4);
  return next(op);
}

// Through a buffer resource: dwords past num_records read as zero.
template <int kDwords>
const MicroOp* buffer_load(Wave& w, const MicroOp* op) {
  const uint32_t s = static_cast<uint32_t>(op->src[0].value);
  const uint64_t base = w.s[s] | static_cast<uint64_t>(w.s[s + 1] & 0xffff) << 32;
  const uint32_t stride = w.s[s + 1] >> 16 & 0x3fff;
  const uint64_t limit = stride ? static_cast<uint64_t>(stride) * w.s[s + 2] : w.s[s + 2];
  const uint64_t offset = plain_address(w, op, 0);
  uint32_t v[kDwords] = {};
  for (int d = 0; d < kDwords; ++d) {
    const uint64_t at = offset + 4 * static_cast<uint64_t>(d);
    if (at + 4 > limit) continue;
    if (!checked(w, op, base + at, {4, false})) return nullptr;
    memcpy(&v[d], reinterpret_cast<const void*>(base + at), 4);
  }
  memcpy(&w.s[op->sdst], v, sizeof(v));
  return next(op);
}

template <int kDwords>
const MicroOp* store(Wave& w, const MicroOp* op) {
  const uint64_t at = plain_address(w, op, scalar64(w, op->src[0]));
  if (!checked(w, op, at, {kDwords * 4, true})) return nullptr;
  memcpy(reinterpret_cast<void*>(at), &w.s[op->src[1].value], kDwords * 4);
  return next(op);
}

template <int kDwords>
const MicroOp* buffer_store(Wave& w, const MicroOp* op) {
  const uint32_t s = static_cast<uint32_t>(op->src[0].value);
  const uint64_t base = w.s[s] | static_cast<uint64_t>(w.s[s + 1] & 0xffff) << 32;
  const uint32_t stride = w.s[s + 1] >> 16 & 0x3fff;
  const uint64_t limit = stride ? static_cast<uint64_t>(stride) * w.s[s + 2] : w.s[s + 2];
  const uint64_t offset = plain_address(w, op, 0);
  for (int d = 0; d < kDwords; ++d) {
    const uint64_t at = offset + 4 * static_cast<uint64_t>(d);
    if (at + 4 > limit) continue;
    if (!checked(w, op, base + at, {4, true})) return nullptr;
    memcpy(reinterpret_cast<void*>(base + at), &w.s[op->src[1].value + static_cast<uint64_t>(d)], 4);
  }
  return next(op);
}

// The data register pair holds the operand and, for cmpswap, the comparand behind it; with glc the old value replaces
// it.
template <Rmw kOp, class T>
const MicroOp* atomic(Wave& w, const MicroOp* op) {
  const uint64_t at = plain_address(w, op, scalar64(w, op->src[0]));
  if (!checked(w, op, at, {sizeof(T), true})) return nullptr;
  // The low two bits of a scalar address do not count.
  if (at % sizeof(T)) {
    misaligned(w, op, Space::scalar, at, sizeof(T), 0xff);
    return nullptr;
  }
  const uint32_t* data = &w.s[op->src[1].value];
  T value, second = 0;
  memcpy(&value, data, sizeof(T));
  if (needs_second(kOp)) memcpy(&second, data + sizeof(T) / 4, sizeof(T));
  const T old = rmw_shared<kOp, T>(w, at, value, second);
  if (op->inst->sc0) memcpy(&w.s[op->src[1].value], &old, sizeof(T));
  return next(op);
}

}  // namespace

void register_smem(HandlerTable& t) {
  t.set(Op::s_load_dword, load<1>);
  t.set(Op::s_load_dwordx2, load<2>);
  t.set(Op::s_load_dwordx4, load<4>);
  t.set(Op::s_load_dwordx8, load<8>);
  t.set(Op::s_load_dwordx16, load<16>);
  t.set(Op::s_buffer_load_dword, buffer_load<1>);
  t.set(Op::s_buffer_load_dwordx2, buffer_load<2>);
  t.set(Op::s_buffer_load_dwordx4, buffer_load<4>);
  t.set(Op::s_buffer_load_dwordx8, buffer_load<8>);
  t.set(Op::s_buffer_load_dwordx16, buffer_load<16>);
  t.set(Op::s_store_dword, store<1>);
  t.set(Op::s_store_dwordx2, store<2>);
  t.set(Op::s_store_dwordx4, store<4>);
  t.set(Op::s_buffer_store_dword, buffer_store<1>);
  t.set(Op::s_buffer_store_dwordx2, buffer_store<2>);
  t.set(Op::s_buffer_store_dwordx4, buffer_store<4>);
#define BOTH(name, rmw)                                   \
  t.set(Op::s_atomic_##name, atomic<Rmw::rmw, uint32_t>); \
  t.set(Op::s_atomic_##name##_x2, atomic<Rmw::rmw, uint64_t>)
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
#undef BOTH
}

}  // namespace aiterlite::emulator
