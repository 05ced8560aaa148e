// Vector memory: from a lane's address to a checked host pointer, and the moves between pointers and registers.
#pragma once
#include <aiterlite/emulator/microop.h>
#include <aiterlite/emulator/runtime.h>

namespace aiterlite::emulator {

// One pointer a lane. Lanes outside `mask` have none.
struct Access {
  alignas(64) uint64_t at[kWave];
  uint64_t mask = 0;
  // Buffers only: lanes that are partly or wholly outside the resource. They are not in `mask`; the first inside[l]
  // bytes of lane l's access (a multiple of four) may still be touched.
  uint64_t out_of_bounds = 0;
  uint32_t inside[kWave];
};

// The bytes of one lane's access.
struct Extent {
  uint32_t size;
  bool write;
};

// Finds the range that holds [address, address + size) and remembers it; false if there is none.
bool check_range(Wave& w, uint64_t address, uint64_t size, bool write);

inline bool in_range(Wave& w, uint64_t first, uint64_t size, bool write) {
  const Range* r = write ? w.write_hit : w.hit;
  if (__builtin_expect(r && first >= r->base && first <= r->end && size <= r->end - first, 1)) return true;
  return check_range(w, first, size, write);
}

// Records the violation of one lane; always false.
bool violation(Wave& w, const MicroOp* op, Space space, uint64_t address, Extent e, int lane);
bool lds_violation(Wave& w, const MicroOp* op, Space space, uint64_t offset, uint64_t limit, Extent e, int lane);

// Records that an atomic's address is no multiple of its size; always false.
bool misaligned(Wave& w, const MicroOp* op, Space space, uint64_t address, uint32_t size, int lane);
// The same of the lanes of an atomic on LDS; true where all are aligned. Loads and stores of LDS need not be, as the
// driver sets the chips up.
bool aligned_in_lds(Wave& w, const MicroOp* op, const Access& x, uint32_t size);

// Checks every active lane's pointer against the registered ranges.
bool check_lanes(Wave& w, const MicroOp* op, const Access& x, Space space, Extent e);

// GLOBAL, and FLAT addresses that reach neither aperture.
bool resolve_global(Wave& w, const MicroOp* op, Extent e, Access* x);
// FLAT: lanes may go to LDS and scratch as well. `scratch_lanes` get no pointer: their scratch offsets are in x->at.
bool resolve_flat(Wave& w, const MicroOp* op, Extent e, Access* x, uint64_t* scratch_lanes);
// MUBUF: lanes out of the resource's bounds move from x->mask to x->out_of_bounds.
bool resolve_buffer(Wave& w, const MicroOp* op, Extent e, Access* x);
// DS: at register `slot`, plus `offset`.
bool resolve_lds(Wave& w, const MicroOp* op, uint32_t offset, Extent e, Access* x);

// Tells the workgroup's watches, if it has any, of an access whose pointers lie in LDS.
void resolved_lds(Wave& w, const MicroOp* op, Extent e, const Access& x);

// Lane l's dword of scratch at byte `offset`, any alignment.
inline uint8_t* scratch_byte(Wave& w, uint32_t lane, uint64_t offset) {
  return w.scratch + (offset / 4 * kWave + lane) * 4 + offset % 4;
}
void read_scratch(Wave& w, uint32_t lane, uint64_t offset, void* to, uint32_t bytes);
void write_scratch(Wave& w, uint32_t lane, uint64_t offset, const void* from, uint32_t bytes);

template <class F>
inline void for_each_lane(uint64_t mask, F f) {
  if (mask == ~0ull) {
    for (int l = 0; l < kWave; ++l) f(l);
    return;
  }
  for (; mask; mask &= mask - 1) f(__builtin_ctzll(mask));
}

// What a load does to its register: whole dwords, an extended byte or short, or a short into one half.
enum class Load : uint8_t { x1, x2, x3, x4, u8, s8, u16, s16, d16_u8, d16_s8, d16_16, hi_u8, hi_s8, hi_16 };
enum class Store : uint8_t { x1, x2, x3, x4, b8, b16, hi_b8, hi_b16 };

constexpr uint32_t size_of(Load k) {
  switch (k) {
    case Load::x1:
      return 4;
    case Load::x2:
      return 8;
    case Load::x3:
      return 12;
    case Load::x4:
      return 16;
    case Load::u16:
    case Load::s16:
    case Load::d16_16:
    case Load::hi_16:
      return 2;
    default:
      return 1;
  }
}
constexpr uint32_t size_of(Store k) {
  switch (k) {
    case Store::x1:
      return 4;
    case Store::x2:
      return 8;
    case Store::x3:
      return 12;
    case Store::x4:
      return 16;
    case Store::b16:
    case Store::hi_b16:
      return 2;
    default:
      return 1;
  }
}

// The register contents after a sub-dword load of `raw` (zero-extended) over `old`.
constexpr uint32_t extend(Load k, uint32_t raw, uint32_t old) {
  switch (k) {
    case Load::s8:
      return static_cast<uint32_t>(static_cast<int8_t>(raw));
    case Load::s16:
      return static_cast<uint32_t>(static_cast<int16_t>(raw));
    case Load::d16_u8:
    case Load::d16_16:
      return (old & 0xffff0000u) | raw;
    case Load::d16_s8:
      return (old & 0xffff0000u) | (static_cast<uint32_t>(static_cast<int8_t>(raw)) & 0xffffu);
    case Load::hi_u8:
    case Load::hi_16:
      return (old & 0xffffu) | raw << 16;
    case Load::hi_s8:
      return (old & 0xffffu) | static_cast<uint32_t>(static_cast<int8_t>(raw)) << 16;
    default:
      return raw;
  }
}

typedef uint32_t quad __attribute__((vector_size(16), may_alias));
typedef uint32_t loose_quad __attribute__((vector_size(16), may_alias, aligned(1)));

inline void transpose(quad& a, quad& b, quad& c, quad& d) {
  typedef int32_t index __attribute__((vector_size(16)));
  const quad ab_lo = __builtin_shuffle(a, b, index{0, 4, 1, 5});
  const quad ab_hi = __builtin_shuffle(a, b, index{2, 6, 3, 7});
  const quad cd_lo = __builtin_shuffle(c, d, index{0, 4, 1, 5});
  const quad cd_hi = __builtin_shuffle(c, d, index{2, 6, 3, 7});
  a = __builtin_shuffle(ab_lo, cd_lo, index{0, 1, 4, 5});
  b = __builtin_shuffle(ab_lo, cd_lo, index{2, 3, 6, 7});
  c = __builtin_shuffle(ab_hi, cd_hi, index{0, 1, 4, 5});
  d = __builtin_shuffle(ab_hi, cd_hi, index{2, 3, 6, 7});
}

inline bool consecutive(const Access& x, uint32_t size) {
  if (x.at[kWave - 1] - x.at[0] != static_cast<uint64_t>(size) * (kWave - 1)) return false;
  for (int l = 1; l < kWave; ++l) {
    if (x.at[l] - x.at[0] != static_cast<uint64_t>(size) * l) return false;
  }
  return true;
}

template <Load kLoad>
inline void load_lanes(uint32_t* dst, const Access& x, uint64_t mask) {
  constexpr uint32_t kSize = size_of(kLoad);
  if (mask == ~0ull) {
    if constexpr (kLoad == Load::x1) {
      if (consecutive(x, 4)) {
        memcpy(dst, reinterpret_cast<const void*>(x.at[0]), kRegisterBytes);
        return;
      }
    }
    if constexpr (kLoad == Load::x4) {
      for (int l = 0; l < kWave; l += 4) {
        quad a = *reinterpret_cast<const loose_quad*>(x.at[l]);
        quad b = *reinterpret_cast<const loose_quad*>(x.at[l + 1]);
        quad c = *reinterpret_cast<const loose_quad*>(x.at[l + 2]);
        quad d = *reinterpret_cast<const loose_quad*>(x.at[l + 3]);
        transpose(a, b, c, d);
        store(dst + l, a);
        store(dst + kWave + l, b);
        store(dst + 2 * kWave + l, c);
        store(dst + 3 * kWave + l, d);
      }
      return;
    }
  }
  for_each_lane(mask, [&](int l) {
    const void* p = reinterpret_cast<const void*>(x.at[l]);
    if constexpr (kSize >= 4) {
      uint32_t v[kSize / 4];
      memcpy(v, p, kSize);
      for (uint32_t d = 0; d < kSize / 4; ++d) dst[d * kWave + l] = v[d];
    } else {
      uint32_t raw = 0;
      memcpy(&raw, p, kSize);
      dst[l] = extend(kLoad, raw, dst[l]);
    }
  });
}

template <Store kStore>
inline void store_lanes(const uint32_t* src, const Access& x, uint64_t mask) {
  constexpr uint32_t kSize = size_of(kStore);
  if (mask == ~0ull) {
    if constexpr (kStore == Store::x1) {
      if (consecutive(x, 4)) {
        memcpy(reinterpret_cast<void*>(x.at[0]), src, kRegisterBytes);
        return;
      }
    }
    if constexpr (kStore == Store::x4) {
      for (int l = 0; l < kWave; l += 4) {
        quad a = load<quad>(src + l);
        quad b = load<quad>(src + kWave + l);
        quad c = load<quad>(src + 2 * kWave + l);
        quad d = load<quad>(src + 3 * kWave + l);
        transpose(a, b, c, d);
        *reinterpret_cast<loose_quad*>(x.at[l]) = a;
        *reinterpret_cast<loose_quad*>(x.at[l + 1]) = b;
        *reinterpret_cast<loose_quad*>(x.at[l + 2]) = c;
        *reinterpret_cast<loose_quad*>(x.at[l + 3]) = d;
      }
      return;
    }
  }
  for_each_lane(mask, [&](int l) {
    void* p = reinterpret_cast<void*>(x.at[l]);
    if constexpr (kSize >= 4) {
      uint32_t v[kSize / 4];
      for (uint32_t d = 0; d < kSize / 4; ++d) v[d] = src[d * kWave + l];
      memcpy(p, v, kSize);
    } else {
      const uint32_t v = kStore == Store::hi_b8 || kStore == Store::hi_b16 ? src[l] >> 16 : src[l];
      memcpy(p, &v, kSize);
    }
  });
}

// The lanes that a buffer access found out of bounds: dwords inside are moved, a load gives zero for the others.
template <Load kLoad>
inline void load_out_of_bounds(uint32_t* dst, const Access& x) {
  for_each_lane(x.out_of_bounds, [&](int l) {
    if constexpr (size_of(kLoad) < 4) {
      dst[l] = extend(kLoad, 0, dst[l]);
    } else {
      for (uint32_t d = 0; d < size_of(kLoad) / 4; ++d) {
        uint32_t v = 0;
        if (4 * d < x.inside[l]) memcpy(&v, reinterpret_cast<const void*>(x.at[l] + 4 * d), 4);
        dst[d * kWave + l] = v;
      }
    }
  });
}
template <Store kStore>
inline void store_out_of_bounds(const uint32_t* src, const Access& x) {
  for_each_lane(x.out_of_bounds, [&](int l) {
    for (uint32_t d = 0; 4 * d < x.inside[l]; ++d)
      memcpy(reinterpret_cast<void*>(x.at[l] + 4 * d), &src[d * kWave + l], 4);
  });
}

// Loads to LDS: lane l's data goes to M0 + the instruction's offset + l times the bytes of a lane (a dword at least).
// Lanes out of a buffer's bounds write zeros, as their registers would get.
template <Load kLoad>
inline bool store_to_lds(Wave& w, const MicroOp* op, const Access& x) {
  constexpr uint32_t kSize = size_of(kLoad) < 4 ? 4 : size_of(kLoad);
  const uint64_t base = static_cast<uint64_t>(w.s[m0]) + static_cast<uint32_t>(op->inst->offset);
  Access to;
  to.mask = x.mask | x.out_of_bounds;
  for (uint64_t m = to.mask; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    const uint64_t at = base + static_cast<uint64_t>(l) * kSize;
    if (at + kSize > w.lds_bytes) return lds_violation(w, op, Space::lds, at, w.lds_bytes, {kSize, true}, l);
    to.at[l] = reinterpret_cast<uint64_t>(w.lds) + at;
  }
  resolved_lds(w, op, {kSize, true}, to);
  for (uint64_t m = to.mask; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    uint32_t v[kSize / 4] = {};
    const bool whole = x.mask >> l & 1;
    memcpy(v, reinterpret_cast<const void*>(x.at[l]), whole ? size_of(kLoad) : x.inside[l]);
    if (size_of(kLoad) < 4) v[0] = extend(kLoad, v[0], 0);
    memcpy(reinterpret_cast<void*>(to.at[l]), v, kSize);
  }
  return true;
}

}  // namespace aiterlite::emulator
