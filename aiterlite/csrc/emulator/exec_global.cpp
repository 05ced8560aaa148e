// Loads and stores through GLOBAL, FLAT and SCRATCH addresses, and loads from global memory straight to LDS.
#include <aiterlite/emulator/access.h>

namespace aiterlite::emulator {
namespace {

template <Load kLoad>
const MicroOp* global_load(Wave& w, const MicroOp* op) {
  Access x;
  if (!resolve_global(w, op, {size_of(kLoad), false}, &x)) return nullptr;
  load_lanes<kLoad>(w.at(op->dst), x, x.mask);
  return next(op);
}

template <Store kStore>
const MicroOp* global_store(Wave& w, const MicroOp* op) {
  Access x;
  if (!resolve_global(w, op, {size_of(kStore), true}, &x)) return nullptr;
  store_lanes<kStore>(vector_source(w, op, 1), x, x.mask);
  return next(op);
}

// Lane l of `dst` from `bytes` bytes at `raw`.
template <Load kLoad>
void deliver(uint32_t* dst, int l, const uint32_t* raw) {
  if constexpr (size_of(kLoad) < 4) {
    dst[l] = extend(kLoad, raw[0], dst[l]);
  } else {
    for (uint32_t d = 0; d < size_of(kLoad) / 4; ++d) dst[d * kWave + l] = raw[d];
  }
}
template <Store kStore>
void collect(const uint32_t* src, int l, uint32_t* raw) {
  if constexpr (size_of(kStore) < 4) {
    raw[0] = kStore == Store::hi_b8 || kStore == Store::hi_b16 ? src[l] >> 16 : src[l];
  } else {
    for (uint32_t d = 0; d < size_of(kStore) / 4; ++d) raw[d] = src[d * kWave + l];
  }
}

template <Load kLoad>
const MicroOp* flat_load(Wave& w, const MicroOp* op) {
  Access x;
  uint64_t in_scratch;
  if (!resolve_flat(w, op, {size_of(kLoad), false}, &x, &in_scratch)) return nullptr;
  uint32_t* dst = w.at(op->dst);
  load_lanes<kLoad>(dst, x, x.mask);
  for (uint64_t m = in_scratch; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    uint32_t raw[4] = {};
    read_scratch(w, static_cast<uint32_t>(l), x.at[l], raw, size_of(kLoad));
    deliver<kLoad>(dst, l, raw);
  }
  return next(op);
}

template <Store kStore>
const MicroOp* flat_store(Wave& w, const MicroOp* op) {
  Access x;
  uint64_t in_scratch;
  if (!resolve_flat(w, op, {size_of(kStore), true}, &x, &in_scratch)) return nullptr;
  const uint32_t* src = vector_source(w, op, 1);
  store_lanes<kStore>(src, x, x.mask);
  for (uint64_t m = in_scratch; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    uint32_t raw[4] = {};
    collect<kStore>(src, l, raw);
    write_scratch(w, static_cast<uint32_t>(l), x.at[l], raw, size_of(kStore));
  }
  return next(op);
}

// A scratch address: scalar and vector parts, both optional, and the immediate. `uniform` says that all lanes share it.
struct ScratchAddress {
  int64_t base = 0;
  const uint32_t* lanes = nullptr;
  bool whole_dwords = false;  // uniform and aligned: 64 lanes lie side by side

  int64_t at(int l) const { return base + (lanes ? static_cast<int64_t>(lanes[l]) : 0); }
};

bool resolve_scratch(Wave& w, const MicroOp* op, Extent e, ScratchAddress* a) {
  a->base = op->inst->offset;
  if (op->src[2].ref != Ref::none) a->base += scalar32(w, op->src[2]);
  if (op->src[0].ref != Ref::none) a->lanes = vector_source(w, op, 0);
  a->whole_dwords = !a->lanes && (a->base & 3) == 0;
  const auto inside = [&](int64_t at) { return at >= 0 && static_cast<uint64_t>(at) + e.size <= w.scratch_bytes; };
  for (uint64_t m = a->lanes || !inside(a->base) ? w.exec() : 0; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    if (!inside(a->at(l))) {
      return lds_violation(w, op, Space::scratch, static_cast<uint64_t>(a->at(l)), w.scratch_bytes, e, l);
    }
  }
  if (__builtin_expect(w.watched, 0) && w.exec()) {
    uint64_t offsets[kWave];
    for (int l = 0; l < kWave; ++l) offsets[l] = static_cast<uint64_t>(a->at(l));
    observe_access(w, op, {Space::scratch, e.write, e.size, w.exec(), offsets});
  }
  return true;
}

template <Load kLoad>
const MicroOp* scratch_load(Wave& w, const MicroOp* op) {
  ScratchAddress a;
  if (!resolve_scratch(w, op, {size_of(kLoad), false}, &a)) return nullptr;
  const uint64_t mask = w.exec();
  if (!mask) return next(op);
  uint32_t* dst = w.at(op->dst);
  if (size_of(kLoad) >= 4 && a.whole_dwords) {
    for (uint32_t d = 0; d < size_of(kLoad) / 4; ++d) {
      alignas(64) uint32_t row[kWave];
      memcpy(row, w.scratch + (static_cast<uint64_t>(a.base) / 4 + d) * kRegisterBytes, kRegisterBytes);
      merge(dst + d * kWave, row, mask);
    }
    return next(op);
  }
  for_each_lane(mask, [&](int l) {
    uint32_t raw[4] = {};
    read_scratch(w, static_cast<uint32_t>(l), static_cast<uint64_t>(a.at(l)), raw, size_of(kLoad));
    deliver<kLoad>(dst, l, raw);
  });
  return next(op);
}

template <Store kStore>
const MicroOp* scratch_store(Wave& w, const MicroOp* op) {
  ScratchAddress a;
  if (!resolve_scratch(w, op, {size_of(kStore), true}, &a)) return nullptr;
  const uint64_t mask = w.exec();
  if (!mask) return next(op);
  const uint32_t* src = vector_source(w, op, 1);
  if (size_of(kStore) >= 4 && a.whole_dwords && mask == ~0ull) {
    memcpy(w.scratch + static_cast<uint64_t>(a.base) / 4 * kRegisterBytes, src, size_of(kStore) / 4 * kRegisterBytes);
    return next(op);
  }
  for_each_lane(mask, [&](int l) {
    uint32_t raw[4] = {};
    collect<kStore>(src, l, raw);
    write_scratch(w, static_cast<uint32_t>(l), static_cast<uint64_t>(a.at(l)), raw, size_of(kStore));
  });
  return next(op);
}

// Lane l's data goes to LDS at M0 + offset + l * (bytes a lane, at least a dword).
template <Load kLoad>
const MicroOp* global_load_lds(Wave& w, const MicroOp* op) {
  Access x;
  if (!resolve_global(w, op, {size_of(kLoad), false}, &x)) return nullptr;
  return store_to_lds<kLoad>(w, op, x) ? next(op) : nullptr;
}

}  // namespace

void register_global(HandlerTable& t) {
#define LOADS(space, handler)                                 \
  t.set(Op::space##_load_ubyte, handler<Load::u8>);           \
  t.set(Op::space##_load_sbyte, handler<Load::s8>);           \
  t.set(Op::space##_load_ushort, handler<Load::u16>);         \
  t.set(Op::space##_load_sshort, handler<Load::s16>);         \
  t.set(Op::space##_load_dword, handler<Load::x1>);           \
  t.set(Op::space##_load_dwordx2, handler<Load::x2>);         \
  t.set(Op::space##_load_dwordx3, handler<Load::x3>);         \
  t.set(Op::space##_load_dwordx4, handler<Load::x4>);         \
  t.set(Op::space##_load_ubyte_d16, handler<Load::d16_u8>);   \
  t.set(Op::space##_load_ubyte_d16_hi, handler<Load::hi_u8>); \
  t.set(Op::space##_load_sbyte_d16, handler<Load::d16_s8>);   \
  t.set(Op::space##_load_sbyte_d16_hi, handler<Load::hi_s8>); \
  t.set(Op::space##_load_short_d16, handler<Load::d16_16>);   \
  t.set(Op::space##_load_short_d16_hi, handler<Load::hi_16>)
#define STORES(space, handler)                                   \
  t.set(Op::space##_store_byte, handler<Store::b8>);             \
  t.set(Op::space##_store_byte_d16_hi, handler<Store::hi_b8>);   \
  t.set(Op::space##_store_short, handler<Store::b16>);           \
  t.set(Op::space##_store_short_d16_hi, handler<Store::hi_b16>); \
  t.set(Op::space##_store_dword, handler<Store::x1>);            \
  t.set(Op::space##_store_dwordx2, handler<Store::x2>);          \
  t.set(Op::space##_store_dwordx3, handler<Store::x3>);          \
  t.set(Op::space##_store_dwordx4, handler<Store::x4>)
  LOADS(global, global_load);
  STORES(global, global_store);
  LOADS(flat, flat_load);
  STORES(flat, flat_store);
  LOADS(scratch, scratch_load);
  STORES(scratch, scratch_store);
#undef LOADS
#undef STORES
  t.set(Op::global_load_lds_ubyte, global_load_lds<Load::u8>);
  t.set(Op::global_load_lds_sbyte, global_load_lds<Load::s8>);
  t.set(Op::global_load_lds_ushort, global_load_lds<Load::u16>);
  t.set(Op::global_load_lds_sshort, global_load_lds<Load::s16>);
  t.set(Op::global_load_lds_dword, global_load_lds<Load::x1>);
  t.set(Op::global_load_lds_dwordx3, global_load_lds<Load::x3>);
  t.set(Op::global_load_lds_dwordx4, global_load_lds<Load::x4>);
}

}  // namespace aiterlite::emulator
