// The local data share: loads, stores, transposed loads, lane exchanges, and the append counters.
#include <aiterlite/emulator/access.h>

namespace aiterlite::emulator {
namespace {

template <Load kLoad>
const MicroOp* read(Wave& w, const MicroOp* op) {
  Access x;
  if (!resolve_lds(w, op, static_cast<uint32_t>(op->inst->offset), {size_of(kLoad), false}, &x)) return nullptr;
  load_lanes<kLoad>(w.at(op->dst), x, x.mask);
  return next(op);
}

template <Store kStore>
const MicroOp* write(Wave& w, const MicroOp* op) {
  Access x;
  if (!resolve_lds(w, op, static_cast<uint32_t>(op->inst->offset), {size_of(kStore), true}, &x)) return nullptr;
  store_lanes<kStore>(vector_source(w, op, 1), x, x.mask);
  return next(op);
}

// Two addresses, offset0 and offset1 times the element (or 64 of them).
template <Load kLoad, uint32_t kStep>
const MicroOp* read2(Wave& w, const MicroOp* op) {
  constexpr uint32_t kDwords = size_of(kLoad) / 4;
  Access x[2];
  if (!resolve_lds(w, op, op->inst->offset0 * kStep, {size_of(kLoad), false}, &x[0])) return nullptr;
  if (!resolve_lds(w, op, op->inst->offset1 * kStep, {size_of(kLoad), false}, &x[1])) return nullptr;
  // The address register may be among the results: both addresses were read before either is loaded.
  uint32_t* dst = w.at(op->dst);
  load_lanes<kLoad>(dst, x[0], x[0].mask);
  load_lanes<kLoad>(dst + kDwords * kWave, x[1], x[1].mask);
  return next(op);
}

template <Store kStore, uint32_t kStep>
const MicroOp* write2(Wave& w, const MicroOp* op) {
  Access x[2];
  if (!resolve_lds(w, op, op->inst->offset0 * kStep, {size_of(kStore), true}, &x[0])) return nullptr;
  if (!resolve_lds(w, op, op->inst->offset1 * kStep, {size_of(kStore), true}, &x[1])) return nullptr;
  store_lanes<kStore>(vector_source(w, op, 1), x[0], x[0].mask);
  store_lanes<kStore>(vector_source(w, op, 2), x[1], x[1].mask);
  return next(op);
}

// Transposed loads. The 16 lanes of a group load a matrix of 16 columns, row by row: with E elements a lane, row n is
// what lanes n * 16 / E and on load. Lane l then gets column l.
template <int kBits, int kElements>
const MicroOp* read_transposed(Wave& w, const MicroOp* op) {
  constexpr uint32_t kBytes = kBits * kElements / 8;
  constexpr int kLanesPerRow = 16 / kElements;
  constexpr uint32_t kField = (1u << kBits) - 1;
  Access x;
  if (!resolve_lds(w, op, static_cast<uint32_t>(op->inst->offset), {kBytes, false}, &x)) return nullptr;
  if (!x.mask) return next(op);
  uint8_t raw[kWave][kBytes + 4] = {};
  for_each_lane(x.mask, [&](int l) { memcpy(raw[l], reinterpret_cast<const void*>(x.at[l]), kBytes); });
  const auto element = [&](int lane, int e) {
    uint32_t v;
    memcpy(&v, &raw[lane][e * kBits / 8], 4);
    return v >> (e * kBits % 8) & kField;
  };
  uint32_t* dst = w.at(op->dst);
  for_each_lane(x.mask, [&](int l) {
    uint64_t out[2] = {};
    for (int n = 0; n < kElements; ++n) {
      const int lane = (l & ~15) + (l & 15) / kElements + n * kLanesPerRow;
      const uint64_t v = element(lane, (l & 15) % kElements);
      const int bit = n * kBits;
      out[bit / 64] |= v << (bit % 64);
      if (bit % 64 + kBits > 64) out[1] |= v >> (64 - bit % 64);
    }
    for (uint32_t d = 0; d < kBytes / 4; ++d) dst[d * kWave + l] = static_cast<uint32_t>(out[d / 2] >> (32 * (d % 2)));
  });
  return next(op);
}

const MicroOp* permute(Wave& w, const MicroOp* op) {
  const uint32_t* address = vector_source(w, op, 0);
  const uint32_t* data = vector_source(w, op, 1);
  alignas(64) uint32_t r[kWave] = {};
  for (uint64_t m = w.exec(); m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    r[(address[l] + static_cast<uint32_t>(op->inst->offset)) / 4 % 64] = data[l];
  }
  merge(w.at(op->dst), r, w.exec());
  return next(op);
}

const MicroOp* bpermute(Wave& w, const MicroOp* op) {
  const uint32_t* address = vector_source(w, op, 0);
  const uint32_t* data = vector_source(w, op, 1);
  const uint64_t exec = w.exec();
  alignas(64) uint32_t r[kWave];
  for (int l = 0; l < kWave; ++l) {
    const uint32_t from = (address[l] + static_cast<uint32_t>(op->inst->offset)) / 4 % 64;
    r[l] = exec >> from & 1 ? data[from] : 0;
  }
  merge(w.at(op->dst), r, exec);
  return next(op);
}

// The lane that lane l reads under ds_swizzle's 16-bit pattern.
int swizzle_lane(uint32_t pattern, int l) {
  const int in_group = l & 31;
  if (pattern >= 0xe000) {  // FFT: a bit reversal of the low bits
    int mask = static_cast<int>(pattern & 31);
    int reversed = 0;
    for (int i = 0; i < 5; ++i) reversed |= (in_group >> i & 1) << (4 - i);
    int shift = 0;
    for (int m = mask; m & 1; m >>= 1) ++shift;
    return (l & 32) | (in_group & mask) | reversed >> shift;
  }
  if (pattern >= 0xc000) {  // rotate within groups set by the mask
    const int mask = static_cast<int>(pattern & 31);
    const int rotate = static_cast<int>(pattern >> 5 & 31) * (pattern >> 10 & 1 ? -1 : 1);
    return (l & 32) | (in_group & mask) | ((in_group + rotate) & ~mask & 31);
  }
  if (pattern >= 0x8000) return (l & ~3) + static_cast<int>(pattern >> (2 * (l & 3)) & 3);  // quad permute
  const int and_mask = static_cast<int>(pattern & 31);
  const int or_mask = static_cast<int>(pattern >> 5 & 31);
  const int xor_mask = static_cast<int>(pattern >> 10 & 31);
  return (l & 32) | (((in_group & and_mask) | or_mask) ^ xor_mask);
}
const MicroOp* swizzle(Wave& w, const MicroOp* op) {
  const uint32_t* data = vector_source(w, op, op->src[1].ref == Ref::none ? 0 : 1);
  const uint32_t pattern = static_cast<uint32_t>(op->inst->offset) & 0xffff;
  const uint64_t exec = w.exec();
  alignas(64) uint32_t r[kWave];
  for (int l = 0; l < kWave; ++l) {
    const int from = swizzle_lane(pattern, l);
    r[l] = exec >> from & 1 ? data[from] : 0;
  }
  merge(w.at(op->dst), r, exec);
  return next(op);
}

// Lane l at M0 + offset + 4 l.
bool resolve_addtid(Wave& w, const MicroOp* op, bool is_write, Access* x) {
  x->mask = w.exec();
  const uint64_t base = (w.s[m0] & 0xffff) + static_cast<uint32_t>(op->inst->offset);
  for (int l = 0; l < kWave; ++l) {
    const uint64_t at = base + 4 * static_cast<uint64_t>(l);
    if ((x->mask >> l & 1) && at + 4 > w.lds_bytes) {
      return lds_violation(w, op, Space::lds, at, w.lds_bytes, {4, is_write}, l);
    }
    x->at[l] = reinterpret_cast<uint64_t>(w.lds) + at;
  }
  resolved_lds(w, op, {4, is_write}, *x);
  return true;
}
const MicroOp* read_addtid(Wave& w, const MicroOp* op) {
  Access x;
  if (!resolve_addtid(w, op, false, &x)) return nullptr;
  load_lanes<Load::x1>(w.at(op->dst), x, x.mask);
  return next(op);
}
const MicroOp* write_addtid(Wave& w, const MicroOp* op) {
  Access x;
  if (!resolve_addtid(w, op, true, &x)) return nullptr;
  store_lanes<Store::x1>(vector_source(w, op, 1), x, x.mask);
  return next(op);
}

// ds_append and ds_consume move a counter at M0 + offset by the number of active lanes.
template <int kSign>
const MicroOp* append(Wave& w, const MicroOp* op) {
  const uint64_t at = static_cast<uint64_t>(w.s[m0] & 0xffff) + static_cast<uint32_t>(op->inst->offset);
  if (at + 4 > w.lds_bytes) {
    lds_violation(w, op, Space::lds, at, w.lds_bytes, {4, true}, 0);
    return nullptr;
  }
  if (at % 4) {
    misaligned(w, op, Space::lds, at, 4, 0);
    return nullptr;
  }
  if (w.watched && w.exec()) observe_access(w, op, {Space::lds, true, 4, 1, &at});
  uint32_t old;
  memcpy(&old, w.lds + at, 4);
  const uint32_t value = old + static_cast<uint32_t>(kSign * __builtin_popcountll(w.exec()));
  memcpy(w.lds + at, &value, 4);
  alignas(64) uint32_t r[kWave];
  spread(r, old);
  merge(w.at(op->dst), r, w.exec());
  return next(op);
}

const MicroOp* skip(Wave&, const MicroOp* op) { return next(op); }

}  // namespace

void register_ds_atomics(HandlerTable& t);

void register_ds(HandlerTable& t) {
  t.set(Op::ds_nop, skip);
  t.set(Op::ds_read_b32, read<Load::x1>);
  t.set(Op::ds_read_b64, read<Load::x2>);
  t.set(Op::ds_read_b96, read<Load::x3>);
  t.set(Op::ds_read_b128, read<Load::x4>);
  t.set(Op::ds_read_u8, read<Load::u8>);
  t.set(Op::ds_read_i8, read<Load::s8>);
  t.set(Op::ds_read_u16, read<Load::u16>);
  t.set(Op::ds_read_i16, read<Load::s16>);
  t.set(Op::ds_read_u8_d16, read<Load::d16_u8>);
  t.set(Op::ds_read_u8_d16_hi, read<Load::hi_u8>);
  t.set(Op::ds_read_i8_d16, read<Load::d16_s8>);
  t.set(Op::ds_read_i8_d16_hi, read<Load::hi_s8>);
  t.set(Op::ds_read_u16_d16, read<Load::d16_16>);
  t.set(Op::ds_read_u16_d16_hi, read<Load::hi_16>);
  t.set(Op::ds_read2_b32, read2<Load::x1, 4>);
  t.set(Op::ds_read2st64_b32, read2<Load::x1, 256>);
  t.set(Op::ds_read2_b64, read2<Load::x2, 8>);
  t.set(Op::ds_read2st64_b64, read2<Load::x2, 512>);
  t.set(Op::ds_write_b32, write<Store::x1>);
  t.set(Op::ds_write_b64, write<Store::x2>);
  t.set(Op::ds_write_b96, write<Store::x3>);
  t.set(Op::ds_write_b128, write<Store::x4>);
  t.set(Op::ds_write_b8, write<Store::b8>);
  t.set(Op::ds_write_b16, write<Store::b16>);
  t.set(Op::ds_write_b8_d16_hi, write<Store::hi_b8>);
  t.set(Op::ds_write_b16_d16_hi, write<Store::hi_b16>);
  t.set(Op::ds_write2_b32, write2<Store::x1, 4>);
  t.set(Op::ds_write2st64_b32, write2<Store::x1, 256>);
  t.set(Op::ds_write2_b64, write2<Store::x2, 8>);
  t.set(Op::ds_write2st64_b64, write2<Store::x2, 512>);
  t.set(Op::ds_read_b64_tr_b16, read_transposed<16, 4>);
  t.set(Op::ds_read_b64_tr_b8, read_transposed<8, 8>);
  t.set(Op::ds_read_b64_tr_b4, read_transposed<4, 16>);
  t.set(Op::ds_read_b96_tr_b6, read_transposed<6, 16>);
  t.set(Op::ds_permute_b32, permute);
  t.set(Op::ds_bpermute_b32, bpermute);
  t.set(Op::ds_swizzle_b32, swizzle);
  t.set(Op::ds_read_addtid_b32, read_addtid);
  t.set(Op::ds_write_addtid_b32, write_addtid);
  t.set(Op::ds_append, append<1>);
  t.set(Op::ds_consume, append<-1>);
  register_ds_atomics(t);
}

}  // namespace aiterlite::emulator
