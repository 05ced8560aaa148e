// Address checking for vector memory.
#include <aiterlite/emulator/access.h>

#include <algorithm>

namespace aiterlite::emulator {

inline constexpr size_t kMaxFindings = 1000;

bool MemoryMap::add(Range range) {
  if (range.end <= range.base) return false;
  const auto at = std::lower_bound(ranges_.begin(), ranges_.end(), range.base,
                                   [](const Range& r, uint64_t base) { return r.base < base; });
  if (at != ranges_.end() && at->base < range.end) return false;
  if (at != ranges_.begin() && (at - 1)->end > range.base) return false;
  ranges_.insert(at, std::move(range));
  return true;
}

bool Range::covers(uint64_t address, uint64_t size) const {
  if (address < base || address > end || size > end - address) return false;
  if (!elements) return true;
  const uint8_t* bits = elements->data();
  const uint64_t first = address - base, last = first + size;
  for (uint64_t at = first; at < last;) {
    if (at % 8 == 0 && last - at >= 8) {
      if (bits[at / 8] != 0xff) return false;
      at += 8;
    } else {
      if (!(bits[at / 8] >> (at % 8) & 1)) return false;
      ++at;
    }
  }
  return true;
}

uint64_t Range::padding_before(uint64_t address) const {
  uint64_t n = 0;
  while (address - n > base && !covers(address - n - 1, 1)) ++n;
  return n;
}

const Range* MemoryMap::find(uint64_t address) const {
  const auto at =
      std::upper_bound(ranges_.begin(), ranges_.end(), address, [](uint64_t a, const Range& r) { return a < r.base; });
  if (at == ranges_.begin() || (at - 1)->end <= address) return nullptr;
  return &*(at - 1);
}

const Range* MemoryMap::nearest(uint64_t address, int64_t* distance) const {
  const Range* best = nullptr;
  uint64_t least = ~0ull;
  for (const Range& r : ranges_) {
    const uint64_t gap = address < r.base ? r.base - address : address >= r.end ? address - r.end + 1 : 0;
    if (gap < least) {
      least = gap;
      best = &r;
      *distance = address < r.base ? -static_cast<int64_t>(gap) : static_cast<int64_t>(gap);
    }
  }
  return best;
}

bool check_range(Wave& w, uint64_t address, uint64_t size, bool write) {
  const Range* r = w.launch->memory->find(address);
  if (!r || size > r->end - address || (write && !r->writable)) return false;
  if (__builtin_expect(r->elements != nullptr, 0)) return r->covers(address, size);
  // Only a range without padding is remembered: in_range() looks at nothing but its ends.
  (write ? w.write_hit : w.hit) = r;
  return true;
}

bool violation(Wave& w, const MicroOp* op, Space space, uint64_t address, Extent e, int lane) {
  Fault f;
  const Range* r = w.launch->memory->find(address);
  const bool inside = r && r->covers(address, e.size);
  f.kind = inside && e.write && !r->writable ? FaultKind::read_only : FaultKind::out_of_range;
  f.space = space;
  f.write = e.write;
  f.lane = static_cast<uint8_t>(lane);
  f.size = e.size;
  f.address = address;
  fault(w, op, std::move(f));
  return false;
}

bool lds_violation(Wave& w, const MicroOp* op, Space space, uint64_t offset, uint64_t limit, Extent e, int lane) {
  Fault f;
  f.kind = FaultKind::out_of_range;
  f.space = space;
  f.write = e.write;
  f.lane = static_cast<uint8_t>(lane);
  f.size = e.size;
  f.address = offset;
  f.limit = limit;
  fault(w, op, std::move(f));
  return false;
}

bool misaligned(Wave& w, const MicroOp* op, Space space, uint64_t address, uint32_t size, int lane) {
  Fault f;
  f.kind = FaultKind::misaligned;
  f.space = space;
  f.write = true;
  f.lane = static_cast<uint8_t>(lane);
  f.size = size;
  f.address = address;
  f.limit = space == Space::lds ? w.lds_bytes : 0;
  fault(w, op, std::move(f));
  return false;
}

bool aligned_in_lds(Wave& w, const MicroOp* op, const Access& x, uint32_t size) {
  for (uint64_t m = x.mask; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    const uint64_t offset = x.at[l] - reinterpret_cast<uint64_t>(w.lds);
    if (__builtin_expect(offset % size != 0, 0)) return misaligned(w, op, Space::lds, offset, size, l);
  }
  return true;
}

namespace {

// `space` as the watches name it: all that goes through the caches is global.
bool resolved(Wave& w, const MicroOp* op, Space space, Extent e, const uint64_t* at, uint64_t mask) {
  if (__builtin_expect(w.watched, 0) && mask) observe_access(w, op, {space, e.write, e.size, mask, at});
  return true;
}

}  // namespace

void resolved_lds(Wave& w, const MicroOp* op, Extent e, const Access& x) {
  if (__builtin_expect(!w.watched, 1)) return;
  uint64_t offsets[kWave];
  for (int l = 0; l < kWave; ++l) offsets[l] = x.at[l] - reinterpret_cast<uint64_t>(w.lds);
  resolved(w, op, Space::lds, e, offsets, x.mask);
}

bool check_lanes(Wave& w, const MicroOp* op, const Access& x, Space space, Extent e) {
  if (!w.launch->options.check_memory || !x.mask) return true;
  uint64_t low = ~0ull, high = 0;
  if (x.mask == ~0ull) {
    for (int l = 0; l < kWave; ++l) {
      low = x.at[l] < low ? x.at[l] : low;
      high = x.at[l] > high ? x.at[l] : high;
    }
  } else {
    for (uint64_t m = x.mask; m; m &= m - 1) {
      const uint64_t a = x.at[__builtin_ctzll(m)];
      low = a < low ? a : low;
      high = a > high ? a : high;
    }
  }
  // One range usually holds all lanes; only otherwise is each looked up.
  const uint64_t span = high - low + e.size;
  if (high + e.size > high && in_range(w, low, span, e.write)) return true;
  for (uint64_t m = x.mask; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    if (!in_range(w, x.at[l], e.size, e.write)) return violation(w, op, space, x.at[l], e, l);
  }
  return true;
}

namespace {

void add_pairs(const uint32_t* pairs, uint64_t offset, Access* x) {
  for (int l = 0; l < kWave; ++l) x->at[l] = (pairs[l] | static_cast<uint64_t>(pairs[kWave + l]) << 32) + offset;
}

}  // namespace

bool resolve_global(Wave& w, const MicroOp* op, Extent e, Access* x) {
  x->mask = w.exec();
  const uint64_t offset = static_cast<uint64_t>(static_cast<int64_t>(op->inst->offset));
  const uint32_t* v = vector_source(w, op, 0);
  if (op->src[2].ref != Ref::none) {
    const uint64_t base = scalar64(w, op->src[2]) + offset;
    for (int l = 0; l < kWave; ++l) x->at[l] = base + v[l];
  } else {
    add_pairs(v, offset, x);
  }
  return check_lanes(w, op, *x, Space::global, e) && resolved(w, op, Space::global, e, x->at, x->mask);
}

bool resolve_flat(Wave& w, const MicroOp* op, Extent e, Access* x, uint64_t* scratch_lanes) {
  x->mask = w.exec();
  *scratch_lanes = 0;
  add_pairs(vector_source(w, op, 0), static_cast<uint64_t>(static_cast<int64_t>(op->inst->offset)), x);
  uint64_t shared = 0;
  for (uint64_t m = x->mask; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    const uint32_t high = static_cast<uint32_t>(x->at[l] >> 32);
    if (high == kSharedAperture) shared |= 1ull << l;
    if (high == kPrivateAperture) *scratch_lanes |= 1ull << l;
  }
  for (uint64_t m = shared; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    const uint64_t at = x->at[l] & 0xffffffffu;
    if (at + e.size > w.lds_bytes) return lds_violation(w, op, Space::lds, at, w.lds_bytes, e, l);
    x->at[l] = reinterpret_cast<uint64_t>(w.lds) + at;
  }
  Access in_lds = *x;
  in_lds.mask = shared;
  resolved_lds(w, op, e, in_lds);
  for (uint64_t m = *scratch_lanes; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    const uint64_t at = x->at[l] & 0xffffffffu;
    if (at + e.size > w.scratch_bytes) return lds_violation(w, op, Space::scratch, at, w.scratch_bytes, e, l);
    x->at[l] = at;
  }
  Access global = *x;
  global.mask = x->mask & ~shared & ~*scratch_lanes;
  if (!check_lanes(w, op, global, Space::flat, e)) return false;
  resolved(w, op, Space::global, e, x->at, global.mask);
  resolved(w, op, Space::scratch, e, x->at, *scratch_lanes);
  x->mask &= ~*scratch_lanes;
  return true;
}

bool resolve_lds(Wave& w, const MicroOp* op, uint32_t offset, Extent e, Access* x) {
  x->mask = w.exec();
  const uint32_t* v = vector_source(w, op, 0);
  const uint64_t base = reinterpret_cast<uint64_t>(w.lds);
  // The sum of register and offset is 32 bits wide: compilers make negative registers with large offsets.
  alignas(64) uint32_t sum[kWave];
  vu32 most = {};
  for (int l = 0; l < kWave; l += kLanes) {
    const vu32 a = load<vu32>(v + l) + offset;
    store(sum + l, a);
    const vu32 active = select(expand_mask(step_mask(x->mask, l)), a, vu32{});
    most = select(active > most, active, most);
  }
  for (int l = 0; l < kWave; ++l) x->at[l] = base + sum[l];
  uint32_t high = 0;
  for (int i = 0; i < kLanes; ++i) high = most[i] > high ? most[i] : high;
  if (static_cast<uint64_t>(high) + e.size <= w.lds_bytes || !x->mask) {
    resolved_lds(w, op, e, *x);
    return true;
  }
  for (uint64_t m = x->mask; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    if (static_cast<uint64_t>(sum[l]) + e.size > w.lds_bytes) {
      return lds_violation(w, op, Space::lds, sum[l], w.lds_bytes, e, l);
    }
  }
  return true;
}

namespace {

// A buffer resource as its four scalar registers describe it.
struct Resource {
  uint64_t base;
  uint32_t stride;
  uint32_t records;
  bool swizzle;
  bool add_thread_id;
  uint32_t element_bytes;
  uint32_t index_stride;
};

Resource read_resource(const Wave& w, uint32_t s) {
  Resource r;
  r.base = w.s[s] | static_cast<uint64_t>(w.s[s + 1] & 0xffff) << 32;
  r.stride = w.s[s + 1] >> 16 & 0x3fff;
  r.swizzle = w.s[s + 1] >> 31;
  r.records = w.s[s + 2];
  r.add_thread_id = w.s[s + 3] >> 23 & 1;
  r.element_bytes = 2u << (w.s[s + 3] >> 19 & 3);
  r.index_stride = 8u << (w.s[s + 3] >> 21 & 3);
  return r;
}

void report_finding(Wave& w, const MicroOp* op, const Access& x, const Resource& r, Extent e) {
  uint64_t left = x.out_of_bounds;
  {
    std::lock_guard<std::mutex> lock(w.launch->mutex);
    for (; left && w.launch->findings.size() < kMaxFindings; left &= left - 1) {
      const int l = __builtin_ctzll(left);
      w.launch->findings.push_back(
          {op->address, static_cast<uint32_t>(l), static_cast<uint32_t>(x.at[l] - r.base), r.records, e.size, e.write});
    }
  }
  if (left) note(*w.launch, "buffers: the first " + std::to_string(kMaxFindings) + " accesses outside are listed");
}

}  // namespace

bool resolve_buffer(Wave& w, const MicroOp* op, Extent e, Access* x) {
  const Inst& inst = *op->inst;
  x->mask = w.exec();
  const Resource r = read_resource(w, static_cast<uint32_t>(op->src[2].value));
  const uint32_t soffset = scalar32(w, op->src[3]);
  const uint32_t* vaddr = op->src[0].ref == Ref::none ? nullptr : vector_source(w, op, 0);
  const uint32_t* vindex = inst.idxen ? vaddr : nullptr;
  const uint32_t* voffset = inst.offen ? vaddr + (inst.idxen ? kWave : 0) : nullptr;
  const uint64_t base = r.base + soffset;
  // A swizzled buffer counts records of `stride` bytes and checks the index; any other counts bytes, and what is
  // checked is the offset against what is left of them behind soffset.
  const uint64_t left = r.records > soffset ? r.records - soffset : 0;
  for (uint64_t m = x->mask; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    const uint64_t index = static_cast<uint64_t>(vindex ? vindex[l] : 0) + (r.add_thread_id ? l : 0);
    const uint64_t offset = static_cast<uint64_t>(voffset ? voffset[l] : 0) + static_cast<uint32_t>(inst.offset);
    uint64_t at;
    uint64_t room;
    if (r.swizzle) {
      at = (index / r.index_stride * r.stride + offset / r.element_bytes * r.element_bytes) * r.index_stride +
           index % r.index_stride * r.element_bytes + offset % r.element_bytes;
      room = index >= r.records || offset >= r.stride ? 0 : r.stride - offset;
    } else {
      at = index * r.stride + offset;
      room = at < left ? left - at : 0;
    }
    x->at[l] = base + at;
    if (room < e.size) {
      x->out_of_bounds |= 1ull << l;
      x->inside[l] = e.size < 4 ? 0 : static_cast<uint32_t>(room) & ~3u;
    }
  }
  x->mask &= ~x->out_of_bounds;
  if (x->out_of_bounds) {
    if (w.launch->options.buffer_findings) report_finding(w, op, *x, r, e);
    for (uint64_t m = x->out_of_bounds; m && w.launch->options.check_memory; m &= m - 1) {
      const int l = __builtin_ctzll(m);
      const Extent part{x->inside[l], e.write};
      if (part.size && !in_range(w, x->at[l], part.size, e.write))
        return violation(w, op, Space::buffer, x->at[l], part, l);
    }
  }
  return check_lanes(w, op, *x, Space::buffer, e) && resolved(w, op, Space::global, e, x->at, x->mask);
}

void read_scratch(Wave& w, uint32_t lane, uint64_t offset, void* to, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; ++i) static_cast<uint8_t*>(to)[i] = *scratch_byte(w, lane, offset + i);
}
void write_scratch(Wave& w, uint32_t lane, uint64_t offset, const void* from, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; ++i) *scratch_byte(w, lane, offset + i) = static_cast<const uint8_t*>(from)[i];
}

}  // namespace aiterlite::emulator
