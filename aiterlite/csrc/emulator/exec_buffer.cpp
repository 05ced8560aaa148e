// Untyped buffer loads and stores, to registers and to LDS, and the cache instructions that share their encoding.
#include <aiterlite/emulator/access.h>

namespace aiterlite::emulator {
namespace {

template <Load kLoad>
const MicroOp* buffer_load(Wave& w, const MicroOp* op) {
  Access x;
  if (!resolve_buffer(w, op, {size_of(kLoad), false}, &x)) return nullptr;
  if (op->inst->lds) return store_to_lds<kLoad>(w, op, x) ? next(op) : nullptr;
  uint32_t* dst = w.at(op->dst);
  load_lanes<kLoad>(dst, x, x.mask);
  if (x.out_of_bounds) load_out_of_bounds<kLoad>(dst, x);
  return next(op);
}

template <Store kStore>
const MicroOp* buffer_store(Wave& w, const MicroOp* op) {
  Access x;
  if (!resolve_buffer(w, op, {size_of(kStore), true}, &x)) return nullptr;
  const uint32_t* src = vector_source(w, op, 1);
  store_lanes<kStore>(src, x, x.mask);
  if (x.out_of_bounds) store_out_of_bounds<kStore>(src, x);
  return next(op);
}

const MicroOp* skip(Wave&, const MicroOp* op) { return next(op); }

}  // namespace

void register_buffer(HandlerTable& t) {
  t.set(Op::buffer_load_ubyte, buffer_load<Load::u8>);
  t.set(Op::buffer_load_sbyte, buffer_load<Load::s8>);
  t.set(Op::buffer_load_ushort, buffer_load<Load::u16>);
  t.set(Op::buffer_load_sshort, buffer_load<Load::s16>);
  t.set(Op::buffer_load_dword, buffer_load<Load::x1>);
  t.set(Op::buffer_load_dwordx2, buffer_load<Load::x2>);
  t.set(Op::buffer_load_dwordx3, buffer_load<Load::x3>);
  t.set(Op::buffer_load_dwordx4, buffer_load<Load::x4>);
  t.set(Op::buffer_load_ubyte_d16, buffer_load<Load::d16_u8>);
  t.set(Op::buffer_load_ubyte_d16_hi, buffer_load<Load::hi_u8>);
  t.set(Op::buffer_load_sbyte_d16, buffer_load<Load::d16_s8>);
  t.set(Op::buffer_load_sbyte_d16_hi, buffer_load<Load::hi_s8>);
  t.set(Op::buffer_load_short_d16, buffer_load<Load::d16_16>);
  t.set(Op::buffer_load_short_d16_hi, buffer_load<Load::hi_16>);
  t.set(Op::buffer_store_byte, buffer_store<Store::b8>);
  t.set(Op::buffer_store_byte_d16_hi, buffer_store<Store::hi_b8>);
  t.set(Op::buffer_store_short, buffer_store<Store::b16>);
  t.set(Op::buffer_store_short_d16_hi, buffer_store<Store::hi_b16>);
  t.set(Op::buffer_store_dword, buffer_store<Store::x1>);
  t.set(Op::buffer_store_dwordx2, buffer_store<Store::x2>);
  t.set(Op::buffer_store_dwordx3, buffer_store<Store::x3>);
  t.set(Op::buffer_store_dwordx4, buffer_store<Store::x4>);
  // Memory is coherent here: there is no cache to write back or invalidate.
  t.set(Op::buffer_wbl2, skip);
  t.set(Op::buffer_inv, skip);
}

}  // namespace aiterlite::emulator
