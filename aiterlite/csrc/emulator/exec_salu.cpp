// Scalar ALU, program flow, and the instructions that change how the wave itself runs.
#include <aiterlite/emulator/lanes.h>
#include <aiterlite/emulator/runtime.h>

namespace aiterlite::emulator {
namespace {

template <class T>
T read_scalar(const Wave& w, const Source& s) {
  if constexpr (sizeof(T) == 8) {
    return static_cast<T>(scalar64(w, s));
  } else {
    return static_cast<T>(scalar32(w, s));
  }
}
template <class T>
void write_scalar(Wave& w, const MicroOp* op, T x) {
  if constexpr (sizeof(T) == 8) {
    w.set_pair(op->sdst, static_cast<uint64_t>(x));
  } else {
    w.s[op->sdst] = static_cast<uint32_t>(x);
  }
}

enum Scc { keep, nonzero };

// Result from the sources alone; SCC kept, or set to "result is not zero".
template <auto F, Scc kScc, size_t... I>
inline const MicroOp* run_scalar(Wave& w, const MicroOp* op, std::index_sequence<I...>) {
  using S = SignatureOf<F>;
  const auto r = F(read_scalar<typename S::template Arg<I>>(w, op->src[I])...);
  write_scalar(w, op, r);
  if constexpr (kScc == nonzero) w.scc = r != 0;
  return next(op);
}
template <auto F, Scc kScc = keep>
const MicroOp* sop(Wave& w, const MicroOp* op) {
  return run_scalar<F, kScc>(w, op, std::make_index_sequence<SignatureOf<F>::kCount>());
}

// As sop, with SCC as a first parameter that F may also write.
template <auto F>
const MicroOp* sop_scc(Wave& w, const MicroOp* op) {
  bool s = w.scc;
  const uint32_t r = F(s, scalar32(w, op->src[0]), scalar32(w, op->src[1]));
  w.s[op->sdst] = r;
  w.scc = s;
  return next(op);
}

template <auto F, class T>
const MicroOp* compare(Wave& w, const MicroOp* op) {
  w.scc = F(read_scalar<T>(w, op->src[0]), read_scalar<T>(w, op->src[1]));
  return next(op);
}

// s_cmpk: the second operand is simm16.
template <auto F, class T>
const MicroOp* compare_k(Wave& w, const MicroOp* op) {
  T k;
  if constexpr (static_cast<T>(-1) < static_cast<T>(0)) {
    k = static_cast<int16_t>(op->inst->simm16);
  } else {
    k = op->inst->simm16;
  }
  w.scc = F(read_scalar<T>(w, op->src[0]), k);
  return next(op);
}

constexpr auto kEq = [](auto a, auto b) { return a == b; };
constexpr auto kNe = [](auto a, auto b) { return a != b; };
constexpr auto kGt = [](auto a, auto b) { return a > b; };
constexpr auto kGe = [](auto a, auto b) { return a >= b; };
constexpr auto kLt = [](auto a, auto b) { return a < b; };
constexpr auto kLe = [](auto a, auto b) { return a <= b; };

template <class T>
T field_mask(uint32_t width) {
  return width >= sizeof(T) * 8 ? ~static_cast<T>(0) : (static_cast<T>(1) << width) - 1;
}
template <class T>
T extract(T x, uint32_t control, bool sign) {
  constexpr uint32_t kBits = sizeof(T) * 8;
  const uint32_t offset = control & (kBits - 1);
  const uint32_t width = control >> 16 & 0x7f;
  if (width == 0) return 0;
  using S = typename std::conditional<sizeof(T) == 8, int64_t, int32_t>::type;
  T v = sign ? static_cast<T>(static_cast<S>(x) >> offset) : x >> offset;
  v &= field_mask<T>(width);
  if (sign && width < kBits && (v >> (width - 1) & 1)) v |= ~field_mask<T>(width);
  return v;
}

template <auto F>
const MicroOp* saveexec(Wave& w, const MicroOp* op) {
  const uint64_t old = w.exec();
  const uint64_t s0 = scalar64(w, op->src[0]);
  const uint64_t exec = F(s0, old);
  w.set_pair(op->sdst, old);
  w.set_pair(exec_lo, exec);
  w.scc = exec != 0;
  return next(op);
}
template <auto F>
const MicroOp* wrexec(Wave& w, const MicroOp* op) {
  const uint64_t exec = F(scalar64(w, op->src[0]), w.exec());
  w.set_pair(exec_lo, exec);
  w.set_pair(op->sdst, exec);
  w.scc = exec != 0;
  return next(op);
}

template <auto F>
const MicroOp* branch(Wave& w, const MicroOp* op) {
  if (!F(w)) return next(op);
  if (op->target) return op->target;
  Fault f;
  f.kind = FaultKind::bad_jump;
  f.address = branch_target(*op->inst, op->address);
  return fault(w, op, std::move(f));
}

// Code that the kernel was not known to reach is held to its registers before it runs.
const MicroOp* reach(Wave& w, const MicroOp* to) {
  std::vector<Unallocated> found;
  w.launch->reach->follow({to}, &found);
  return found.empty() ? to : unallocated(w, found.front());
}

const MicroOp* jump(Wave& w, const MicroOp* op, uint64_t address) {
  const MicroOp* to = find_code(w, address);
  if (to) return w.launch->reach->covers(to) ? to : reach(w, to);
  Fault f;
  f.kind = FaultKind::bad_jump;
  f.address = address;
  return fault(w, op, std::move(f));
}

uint64_t after(const MicroOp* op) { return op->address + op->len * 4u; }

const MicroOp* getpc(Wave& w, const MicroOp* op) {
  w.set_pair(op->sdst, after(op));
  return next(op);
}
const MicroOp* setpc(Wave& w, const MicroOp* op) { return jump(w, op, scalar64(w, op->src[0])); }
const MicroOp* swappc(Wave& w, const MicroOp* op) {
  const uint64_t to = scalar64(w, op->src[0]);
  w.set_pair(op->sdst, after(op));
  return jump(w, op, to);
}
const MicroOp* call(Wave& w, const MicroOp* op) {
  w.set_pair(op->sdst, after(op));
  return jump(w, op, branch_target(*op->inst, op->address));
}

const MicroOp* skip(Wave&, const MicroOp* op) { return next(op); }

const MicroOp* endpgm(Wave& w, const MicroOp* op) { return leave(w, op, Stop::ended); }
const MicroOp* barrier(Wave& w, const MicroOp* op) { return leave(w, next(op), Stop::barrier); }
const MicroOp* sleep(Wave& w, const MicroOp* op) { return leave(w, next(op), Stop::yield); }
const MicroOp* trap(Wave& w, const MicroOp* op) {
  Fault f;
  f.kind = FaultKind::trap;
  f.detail = "s_trap " + std::to_string(op->inst->simm16 & 0xff);
  return fault(w, op, std::move(f));
}

const MicroOp* cmov32(Wave& w, const MicroOp* op) {
  if (w.scc) w.s[op->sdst] = scalar32(w, op->src[0]);
  return next(op);
}
const MicroOp* cmov64(Wave& w, const MicroOp* op) {
  if (w.scc) w.set_pair(op->sdst, scalar64(w, op->src[0]));
  return next(op);
}
const MicroOp* movk(Wave& w, const MicroOp* op) {
  w.s[op->sdst] = static_cast<uint32_t>(static_cast<int16_t>(op->inst->simm16));
  return next(op);
}
const MicroOp* cmovk(Wave& w, const MicroOp* op) { return w.scc ? movk(w, op) : next(op); }
const MicroOp* addk(Wave& w, const MicroOp* op) {
  const int32_t a = static_cast<int32_t>(w.s[op->sdst]);
  int32_t r;
  w.scc = __builtin_add_overflow(a, static_cast<int32_t>(static_cast<int16_t>(op->inst->simm16)), &r);
  w.s[op->sdst] = static_cast<uint32_t>(r);
  return next(op);
}
const MicroOp* mulk(Wave& w, const MicroOp* op) {
  w.s[op->sdst] *= static_cast<uint32_t>(static_cast<int16_t>(op->inst->simm16));
  return next(op);
}
const MicroOp* cselect64(Wave& w, const MicroOp* op) {
  w.set_pair(op->sdst, scalar64(w, op->src[w.scc ? 0 : 1]));
  return next(op);
}

template <bool kSet, class T>
const MicroOp* bitset(Wave& w, const MicroOp* op) {
  const T bit = static_cast<T>(1) << (scalar32(w, op->src[0]) & (sizeof(T) * 8 - 1));
  T v;
  memcpy(&v, &w.s[op->sdst], sizeof(T));
  v = kSet ? v | bit : v & ~bit;
  memcpy(&w.s[op->sdst], &v, sizeof(T));
  return next(op);
}

// Where M0 moves the scalar operand `base` of `count` registers; false, with the wave stopped, if there is no such.
bool movrel(Wave& w, const MicroOp* op, const Operand& base, uint32_t count, uint32_t* at) {
  const uint64_t i = static_cast<uint64_t>(base.index) + w.s[m0];
  if (i + count > 128) {
    unsupported(w, op, "scalar register index past the register file");
    return false;
  }
  *at = static_cast<uint32_t>(i);
  const uint32_t last = *at + count - 1;
  if (base.kind != OperandKind::sgpr || last < w.launch->reach->allocation().sgprs) return true;
  unallocated(w, {op, RegisterFile::sgpr, last, false}, "with " + std::to_string(w.s[m0]) + " in M0, ");
  return false;
}
const MicroOp* movrels32(Wave& w, const MicroOp* op) {
  uint32_t i;
  if (!movrel(w, op, op->inst->src[0], 1, &i)) return nullptr;
  w.s[op->sdst] = w.s[i];
  return next(op);
}
const MicroOp* movrels64(Wave& w, const MicroOp* op) {
  uint32_t i;
  if (!movrel(w, op, op->inst->src[0], 2, &i)) return nullptr;
  w.set_pair(op->sdst, w.pair(i));
  return next(op);
}
const MicroOp* movreld32(Wave& w, const MicroOp* op) {
  uint32_t i;
  if (!movrel(w, op, op->inst->dst[0], 1, &i)) return nullptr;
  w.s[i] = scalar32(w, op->src[0]);
  return next(op);
}
const MicroOp* movreld64(Wave& w, const MicroOp* op) {
  uint32_t i;
  if (!movrel(w, op, op->inst->dst[0], 2, &i)) return nullptr;
  w.set_pair(i, scalar64(w, op->src[0]));
  return next(op);
}

// Hardware registers by s_getreg/s_setreg number; false for one that is not modelled.
bool read_hwreg(const Wave& w, uint32_t id, uint32_t* value) {
  switch (id) {
    case 1:
      *value = w.mode;
      return true;
    case 2:
      *value = w.scc | (w.exec() == 0 ? 1u << 9 : 0) | (w.vcc() == 0 ? 1u << 10 : 0);
      return true;
    case 4:
      *value = (w.index & 3) << 4 | (w.index >> 2 & 15);
      return true;  // HW_ID: SIMD, wave slot
    case 5:
      *value = 0;
      return true;  // GPR_ALLOC
    case 6:
      *value = w.lds_bytes / 512 << 12;
      return true;  // LDS_ALLOC
    case 15:
      *value = kSharedAperture >> 16 << 16 | kPrivateAperture >> 16;
      return true;  // SH_MEM_BASES
    case 20:
      *value = static_cast<uint32_t>(w.group->linear % w.launch->xcds);
      return true;  // XCC_ID
    default:
      return false;
  }
}

const MicroOp* getreg(Wave& w, const MicroOp* op) {
  const uint32_t k = op->inst->simm16;
  uint32_t v;
  if (!read_hwreg(w, k & 63, &v)) return unsupported(w, op, "s_getreg of a hardware register that is not modelled");
  w.s[op->sdst] = v >> (k >> 6 & 31) & field_mask<uint32_t>((k >> 11) + 1);
  return next(op);
}
const MicroOp* setreg(Wave& w, const MicroOp* op) {
  const uint32_t k = op->inst->simm16;
  if ((k & 63) != 1) return unsupported(w, op, "s_setreg of a hardware register other than MODE");
  const uint32_t offset = k >> 6 & 31;
  const uint32_t mask = field_mask<uint32_t>((k >> 11) + 1) << offset;
  const uint32_t old = w.mode;
  w.mode = (old & ~mask) | (scalar32(w, op->src[0]) << offset & mask);
  set_float_mode(w);
  if ((old ^ w.mode) & (kModeVskip | kModeGprIdx)) return leave(w, next(op), Stop::relook);
  return next(op);
}

const MicroOp* setvskip(Wave& w, const MicroOp* op) {
  const bool on = scalar32(w, op->src[0]) >> (scalar32(w, op->src[1]) & 31) & 1;
  const uint32_t mode = on ? w.mode | kModeVskip : w.mode & ~kModeVskip;
  if (mode == w.mode) return next(op);
  w.mode = mode;
  return leave(w, next(op), Stop::relook);
}

const MicroOp* gpr_idx_on(Wave& w, const MicroOp* op) {
  w.mode |= kModeGprIdx;
  const uint32_t which = op->src[1].ref == Ref::constant ? static_cast<uint32_t>(op->src[1].value) & 15 : 0;
  w.s[m0] = (w.s[m0] & 0xffff0f00u) | (scalar32(w, op->src[0]) & 0xff) | which << 12;
  return leave(w, next(op), Stop::relook);
}
const MicroOp* gpr_idx_off(Wave& w, const MicroOp* op) {
  w.mode &= ~kModeGprIdx;
  return leave(w, next(op), Stop::relook);
}
const MicroOp* gpr_idx_idx(Wave& w, const MicroOp* op) {
  w.s[m0] = (w.s[m0] & ~0xffu) | (scalar32(w, op->src[0]) & 0xff);
  return next(op);
}
const MicroOp* gpr_idx_mode(Wave& w, const MicroOp* op) {
  w.s[m0] = (w.s[m0] & ~0xf000u) | (op->inst->simm16 & 15u) << 12;
  return next(op);
}

// The clocks count the wave's own instructions, as of its last turn, and how often they were read: they advance, and a
// run can be repeated.
const MicroOp* memtime(Wave& w, const MicroOp* op) {
  w.set_pair(op->sdst, w.executed + 64 * ++w.clock_reads);
  return next(op);
}

int32_t first_difference(uint64_t x, int bits) {  // leading bits equal to the sign bit, -1 if all are
  const uint64_t sign = x >> (bits - 1) & 1;
  for (int i = 1; i < bits; ++i) {
    if ((x >> (bits - 1 - i) & 1) != sign) return i;
  }
  return -1;
}

template <class T>
T whole_quads(T x) {
  T r = 0;
  for (unsigned i = 0; i < sizeof(T) * 8; i += 4) {
    if (x >> i & 15) r |= static_cast<T>(15) << i;
  }
  return r;
}
template <class T>
T quad_mask(T x) {
  T r = 0;
  for (unsigned i = 0; i < sizeof(T) * 2; ++i) r |= static_cast<T>((x >> (4 * i) & 15) != 0) << i;
  return r;
}
template <class T>
T reverse(T x) {
  T r = 0;
  for (unsigned i = 0; i < sizeof(T) * 8; ++i) r |= (x >> i & 1) << (sizeof(T) * 8 - 1 - i);
  return r;
}

}  // namespace

// The lambda is named before it becomes a template argument: g++ 12 reads a > inside one as the end of the list.
#define PLAIN(name, ...)            \
  do {                              \
    constexpr auto f = __VA_ARGS__; \
    t.set(Op::name, sop<f>);        \
  } while (0)
#define LOGIC(name, ...)              \
  do {                                \
    constexpr auto f = __VA_ARGS__;   \
    t.set(Op::name, sop<f, nonzero>); \
  } while (0)
#define CARRY(name, ...)            \
  do {                              \
    constexpr auto f = __VA_ARGS__; \
    t.set(Op::name, sop_scc<f>);    \
  } while (0)

namespace {

void register_arithmetic(HandlerTable& t) {
  CARRY(s_add_u32, [](bool& c, uint32_t a, uint32_t b) {
    uint32_t r;
    c = __builtin_add_overflow(a, b, &r);
    return r;
  });
  CARRY(s_sub_u32, [](bool& c, uint32_t a, uint32_t b) {
    c = b > a;
    return a - b;
  });
  CARRY(s_add_i32, [](bool& c, uint32_t a, uint32_t b) {
    int32_t r;
    c = __builtin_add_overflow(static_cast<int32_t>(a), static_cast<int32_t>(b), &r);
    return static_cast<uint32_t>(r);
  });
  CARRY(s_sub_i32, [](bool& c, uint32_t a, uint32_t b) {
    int32_t r;
    c = __builtin_sub_overflow(static_cast<int32_t>(a), static_cast<int32_t>(b), &r);
    return static_cast<uint32_t>(r);
  });
  CARRY(s_addc_u32, [](bool& c, uint32_t a, uint32_t b) {
    const uint64_t r = static_cast<uint64_t>(a) + b + c;
    c = r >> 32;
    return static_cast<uint32_t>(r);
  });
  CARRY(s_subb_u32, [](bool& c, uint32_t a, uint32_t b) {
    const uint64_t r = static_cast<uint64_t>(a) - b - c;
    c = r >> 63;
    return static_cast<uint32_t>(r);
  });
  CARRY(s_min_i32, [](bool& c, uint32_t a, uint32_t b) {
    c = static_cast<int32_t>(a) < static_cast<int32_t>(b);
    return c ? a : b;
  });
  CARRY(s_min_u32, [](bool& c, uint32_t a, uint32_t b) {
    c = a < b;
    return c ? a : b;
  });
  CARRY(s_max_i32, [](bool& c, uint32_t a, uint32_t b) {
    c = static_cast<int32_t>(a) >= static_cast<int32_t>(b);
    return c ? a : b;
  });
  CARRY(s_max_u32, [](bool& c, uint32_t a, uint32_t b) {
    c = a >= b;
    return c ? a : b;
  });
  CARRY(s_cselect_b32, [](bool& c, uint32_t a, uint32_t b) { return c ? a : b; });
  t.set(Op::s_cselect_b64, cselect64);
  CARRY(s_lshl1_add_u32, [](bool& c, uint32_t a, uint32_t b) {
    const uint64_t r = (static_cast<uint64_t>(a) << 1) + b;
    c = r >> 32;
    return static_cast<uint32_t>(r);
  });
  CARRY(s_lshl2_add_u32, [](bool& c, uint32_t a, uint32_t b) {
    const uint64_t r = (static_cast<uint64_t>(a) << 2) + b;
    c = r >> 32;
    return static_cast<uint32_t>(r);
  });
  CARRY(s_lshl3_add_u32, [](bool& c, uint32_t a, uint32_t b) {
    const uint64_t r = (static_cast<uint64_t>(a) << 3) + b;
    c = r >> 32;
    return static_cast<uint32_t>(r);
  });
  CARRY(s_lshl4_add_u32, [](bool& c, uint32_t a, uint32_t b) {
    const uint64_t r = (static_cast<uint64_t>(a) << 4) + b;
    c = r >> 32;
    return static_cast<uint32_t>(r);
  });
  PLAIN(s_mul_i32, [](uint32_t a, uint32_t b) { return a * b; });
  PLAIN(s_mul_hi_u32, [](uint32_t a, uint32_t b) { return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32); });
  PLAIN(s_mul_hi_i32, [](int32_t a, int32_t b) { return static_cast<uint32_t>(static_cast<int64_t>(a) * b >> 32); });
  LOGIC(s_absdiff_i32, [](uint32_t a, uint32_t b) {
    const uint32_t d = a - b;
    return static_cast<int32_t>(d) < 0 ? 0u - d : d;
  });
  LOGIC(s_abs_i32, [](uint32_t a) { return static_cast<int32_t>(a) < 0 ? 0u - a : a; });
  PLAIN(s_pack_ll_b32_b16, [](uint32_t a, uint32_t b) { return (b << 16) | (a & 0xffffu); });
  PLAIN(s_pack_lh_b32_b16, [](uint32_t a, uint32_t b) { return (b & 0xffff0000u) | (a & 0xffffu); });
  PLAIN(s_pack_hh_b32_b16, [](uint32_t a, uint32_t b) { return (b & 0xffff0000u) | (a >> 16); });
  PLAIN(s_sext_i32_i8, [](uint32_t a) { return static_cast<uint32_t>(static_cast<int8_t>(a)); });
  PLAIN(s_sext_i32_i16, [](uint32_t a) { return static_cast<uint32_t>(static_cast<int16_t>(a)); });
  t.set(Op::s_movk_i32, movk);
  t.set(Op::s_cmovk_i32, cmovk);
  t.set(Op::s_addk_i32, addk);
  t.set(Op::s_mulk_i32, mulk);
}

void register_bits(HandlerTable& t) {
#define BOTH(name, ...)                                                              \
  LOGIC(name##_b32, [](uint32_t a, uint32_t b) -> uint32_t { return __VA_ARGS__; }); \
  LOGIC(name##_b64, [](uint64_t a, uint64_t b) -> uint64_t { return __VA_ARGS__; })
  BOTH(s_and, a & b);
  BOTH(s_or, a | b);
  BOTH(s_xor, a ^ b);
  BOTH(s_andn2, a & ~b);
  BOTH(s_orn2, a | ~b);
  BOTH(s_nand, ~(a & b));
  BOTH(s_nor, ~(a | b));
  BOTH(s_xnor, ~(a ^ b));
#undef BOTH
  LOGIC(s_lshl_b32, [](uint32_t a, uint32_t b) { return a << (b & 31); });
  LOGIC(s_lshl_b64, [](uint64_t a, uint32_t b) { return a << (b & 63); });
  LOGIC(s_lshr_b32, [](uint32_t a, uint32_t b) { return a >> (b & 31); });
  LOGIC(s_lshr_b64, [](uint64_t a, uint32_t b) { return a >> (b & 63); });
  LOGIC(s_ashr_i32, [](int32_t a, uint32_t b) { return a >> (b & 31); });
  LOGIC(s_ashr_i64, [](int64_t a, uint32_t b) { return a >> (b & 63); });
  PLAIN(s_bfm_b32, [](uint32_t a, uint32_t b) { return ((1u << (a & 31)) - 1) << (b & 31); });
  PLAIN(s_bfm_b64, [](uint32_t a, uint32_t b) { return ((1ull << (a & 63)) - 1) << (b & 63); });
  LOGIC(s_bfe_u32, [](uint32_t a, uint32_t b) { return extract<uint32_t>(a, b, false); });
  LOGIC(s_bfe_i32, [](uint32_t a, uint32_t b) { return extract<uint32_t>(a, b, true); });
  LOGIC(s_bfe_u64, [](uint64_t a, uint32_t b) { return extract<uint64_t>(a, b, false); });
  LOGIC(s_bfe_i64, [](uint64_t a, uint32_t b) { return extract<uint64_t>(a, b, true); });
  PLAIN(s_mov_b32, [](uint32_t a) { return a; });
  PLAIN(s_mov_b64, [](uint64_t a) { return a; });
  LOGIC(s_not_b32, [](uint32_t a) { return ~a; });
  LOGIC(s_not_b64, [](uint64_t a) { return ~a; });
  LOGIC(s_wqm_b32, [](uint32_t a) { return whole_quads(a); });
  LOGIC(s_wqm_b64, [](uint64_t a) { return whole_quads(a); });
  LOGIC(s_quadmask_b32, [](uint32_t a) { return quad_mask(a); });
  LOGIC(s_quadmask_b64, [](uint64_t a) { return quad_mask(a); });
  PLAIN(s_brev_b32, [](uint32_t a) { return reverse(a); });
  PLAIN(s_brev_b64, [](uint64_t a) { return reverse(a); });
  LOGIC(s_bcnt0_i32_b32, [](uint32_t a) -> uint32_t { return __builtin_popcount(~a); });
  LOGIC(s_bcnt0_i32_b64, [](uint64_t a) -> uint32_t { return __builtin_popcountll(~a); });
  LOGIC(s_bcnt1_i32_b32, [](uint32_t a) -> uint32_t { return __builtin_popcount(a); });
  LOGIC(s_bcnt1_i32_b64, [](uint64_t a) -> uint32_t { return __builtin_popcountll(a); });
  PLAIN(s_ff0_i32_b32, [](uint32_t a) -> int32_t { return a == ~0u ? -1 : __builtin_ctz(~a); });
  PLAIN(s_ff0_i32_b64, [](uint64_t a) -> int32_t { return a == ~0ull ? -1 : __builtin_ctzll(~a); });
  PLAIN(s_ff1_i32_b32, [](uint32_t a) -> int32_t { return a == 0 ? -1 : __builtin_ctz(a); });
  PLAIN(s_ff1_i32_b64, [](uint64_t a) -> int32_t { return a == 0 ? -1 : __builtin_ctzll(a); });
  PLAIN(s_flbit_i32_b32, [](uint32_t a) -> int32_t { return a == 0 ? -1 : __builtin_clz(a); });
  PLAIN(s_flbit_i32_b64, [](uint64_t a) -> int32_t { return a == 0 ? -1 : __builtin_clzll(a); });
  PLAIN(s_flbit_i32, [](uint32_t a) -> int32_t { return first_difference(a, 32); });
  PLAIN(s_flbit_i32_i64, [](uint64_t a) -> int32_t { return first_difference(a, 64); });
  PLAIN(s_bitreplicate_b64_b32, [](uint32_t a) {
    uint64_t r = 0;
    for (int i = 0; i < 32; ++i) r |= static_cast<uint64_t>(a >> i & 1) * 3 << (2 * i);
    return r;
  });
  t.set(Op::s_bitset0_b32, bitset<false, uint32_t>);
  t.set(Op::s_bitset0_b64, bitset<false, uint64_t>);
  t.set(Op::s_bitset1_b32, bitset<true, uint32_t>);
  t.set(Op::s_bitset1_b64, bitset<true, uint64_t>);
  t.set(Op::s_cmov_b32, cmov32);
  t.set(Op::s_cmov_b64, cmov64);
  t.set(Op::s_movrels_b32, movrels32);
  t.set(Op::s_movrels_b64, movrels64);
  t.set(Op::s_movreld_b32, movreld32);
  t.set(Op::s_movreld_b64, movreld64);
#define SAVE(name, ...) t.set(Op::name, saveexec<[](uint64_t s, uint64_t e) { return __VA_ARGS__; }>)
  SAVE(s_and_saveexec_b64, s & e);
  SAVE(s_or_saveexec_b64, s | e);
  SAVE(s_xor_saveexec_b64, s ^ e);
  SAVE(s_andn2_saveexec_b64, s & ~e);
  SAVE(s_orn2_saveexec_b64, s | ~e);
  SAVE(s_nand_saveexec_b64, ~(s & e));
  SAVE(s_nor_saveexec_b64, ~(s | e));
  SAVE(s_xnor_saveexec_b64, ~(s ^ e));
  SAVE(s_andn1_saveexec_b64, ~s & e);
  SAVE(s_orn1_saveexec_b64, ~s | e);
#undef SAVE
  t.set(Op::s_andn1_wrexec_b64, wrexec<[](uint64_t s, uint64_t e) { return ~s & e; }>);
  t.set(Op::s_andn2_wrexec_b64, wrexec<[](uint64_t s, uint64_t e) { return s & ~e; }>);
}

void register_compares(HandlerTable& t) {
#define SIX(suffix, T)                              \
  t.set(Op::s_cmp_eq_##suffix, compare<kEq, T>);    \
  t.set(Op::s_cmp_lg_##suffix, compare<kNe, T>);    \
  t.set(Op::s_cmp_gt_##suffix, compare<kGt, T>);    \
  t.set(Op::s_cmp_ge_##suffix, compare<kGe, T>);    \
  t.set(Op::s_cmp_lt_##suffix, compare<kLt, T>);    \
  t.set(Op::s_cmp_le_##suffix, compare<kLe, T>);    \
  t.set(Op::s_cmpk_eq_##suffix, compare_k<kEq, T>); \
  t.set(Op::s_cmpk_lg_##suffix, compare_k<kNe, T>); \
  t.set(Op::s_cmpk_gt_##suffix, compare_k<kGt, T>); \
  t.set(Op::s_cmpk_ge_##suffix, compare_k<kGe, T>); \
  t.set(Op::s_cmpk_lt_##suffix, compare_k<kLt, T>); \
  t.set(Op::s_cmpk_le_##suffix, compare_k<kLe, T>)
  SIX(i32, int32_t);
  SIX(u32, uint32_t);
#undef SIX
#define COMPARE(name, T, ...)       \
  do {                              \
    constexpr auto f = __VA_ARGS__; \
    t.set(Op::name, compare<f, T>); \
  } while (0)
  t.set(Op::s_cmp_eq_u64, compare<kEq, uint64_t>);
  t.set(Op::s_cmp_lg_u64, compare<kNe, uint64_t>);
  COMPARE(s_bitcmp0_b32, uint32_t, [](uint32_t a, uint32_t b) { return !(a >> (b & 31) & 1); });
  COMPARE(s_bitcmp1_b32, uint32_t, [](uint32_t a, uint32_t b) { return (a >> (b & 31) & 1) != 0; });
  COMPARE(s_bitcmp0_b64, uint64_t, [](uint64_t a, uint64_t b) { return !(a >> (b & 63) & 1); });
  COMPARE(s_bitcmp1_b64, uint64_t, [](uint64_t a, uint64_t b) { return (a >> (b & 63) & 1) != 0; });
}

void register_flow(HandlerTable& t) {
  t.set(Op::s_branch, branch<[](const Wave&) { return true; }>);
  t.set(Op::s_cbranch_scc0, branch<[](const Wave& w) { return !w.scc; }>);
  t.set(Op::s_cbranch_scc1, branch<[](const Wave& w) { return w.scc; }>);
  t.set(Op::s_cbranch_vccz, branch<[](const Wave& w) { return w.vcc() == 0; }>);
  t.set(Op::s_cbranch_vccnz, branch<[](const Wave& w) { return w.vcc() != 0; }>);
  t.set(Op::s_cbranch_execz, branch<[](const Wave& w) { return w.exec() == 0; }>);
  t.set(Op::s_cbranch_execnz, branch<[](const Wave& w) { return w.exec() != 0; }>);
  // No debugger is attached: the conditional-debug branches fall through.
  for (Op op :
       {Op::s_cbranch_cdbgsys, Op::s_cbranch_cdbguser, Op::s_cbranch_cdbgsys_or_user, Op::s_cbranch_cdbgsys_and_user}) {
    t.set(op, skip);
  }
  t.set(Op::s_getpc_b64, getpc);
  t.set(Op::s_setpc_b64, setpc);
  t.set(Op::s_swappc_b64, swappc);
  t.set(Op::s_call_b64, call);
  t.set(Op::s_endpgm, endpgm);
  t.set(Op::s_endpgm_saved, endpgm);
  t.set(Op::s_barrier, barrier);
  t.set(Op::s_sleep, sleep);
  t.set(Op::s_trap, trap);
  // Memory completes when it is issued, so waiting, priorities, caches and performance markers have nothing to do.
  for (Op op :
       {Op::s_nop, Op::s_waitcnt, Op::s_setprio, Op::s_icache_inv, Op::s_incperflevel, Op::s_decperflevel,
        Op::s_ttracedata, Op::s_wakeup, Op::s_dcache_inv, Op::s_dcache_wb, Op::s_dcache_inv_vol, Op::s_dcache_wb_vol}) {
    t.set(op, skip);
  }
  t.set(Op::s_getreg_b32, getreg);
  t.set(Op::s_setreg_b32, setreg);
  t.set(Op::s_setreg_imm32_b32, setreg);
  t.set(Op::s_setvskip, setvskip);
  t.set(Op::s_set_gpr_idx_on, gpr_idx_on);
  t.set(Op::s_set_gpr_idx_off, gpr_idx_off);
  t.set(Op::s_set_gpr_idx_idx, gpr_idx_idx);
  t.set(Op::s_set_gpr_idx_mode, gpr_idx_mode);
  t.set(Op::s_memtime, memtime);
  t.set(Op::s_memrealtime, memtime);
}

}  // namespace

void register_salu(HandlerTable& t) {
  register_arithmetic(t);
  register_bits(t);
  register_compares(t);
  register_flow(t);
}

}  // namespace aiterlite::emulator
