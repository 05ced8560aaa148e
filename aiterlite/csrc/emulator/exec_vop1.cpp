// One-source 32-bit vector instructions: moves, conversions, rounding, transcendentals, bit searches, lane access.
#include <aiterlite/emulator/float.h>
#include <aiterlite/emulator/lanes.h>
#include <aiterlite/emulator/runtime.h>

namespace aiterlite::emulator {
namespace {

const MicroOp* skip(Wave&, const MicroOp* op) { return next(op); }

const MicroOp* mov(Wave& w, const MicroOp* op) {
  const uint32_t* s[1] = {vector_source(w, op, 0)};
  uint64_t mask = w.exec();
  if (op->flags & kPrepare) mask = prepare(w, op, s, 1);
  uint32_t* dst = w.at(op->dst);
  if (op->flags & kFinish) {
    memcpy(w.out[0], s[0], kRegisterBytes);
    finish(w, op, mask);
  } else if (mask == ~0ull) {
    memmove(dst, s[0], kRegisterBytes);
  } else {
    merge(dst, s[0], mask);
  }
  return next(op);
}

const MicroOp* mov64(Wave& w, const MicroOp* op) {
  const uint32_t* s[1] = {vector_source(w, op, 0)};
  uint64_t mask = w.exec();
  if (op->flags & kPrepare) mask = prepare(w, op, s, 1);
  memcpy(w.out[0], s[0], 2 * kRegisterBytes);
  finish(w, op, mask);
  return next(op);
}

// AGPR moves ignore nothing but EXEC.
const MicroOp* swap(Wave& w, const MicroOp* op) {
  uint32_t* a = w.at(op->dst);
  uint32_t* b = w.at(op->src[0].value);
  uint32_t old[kWave];
  memcpy(old, a, sizeof(old));
  merge(a, b, w.exec());
  merge(b, old, w.exec());
  return next(op);
}

// Exchanges the odd rows of dst[0] with the even rows of src[0] (16), or the upper half with the lower (32).
template <int kRow>
const MicroOp* permlane_swap(Wave& w, const MicroOp* op) {
  uint32_t* d = w.at(op->dst);
  uint32_t* s = w.at(op->src[0].value);
  const uint64_t exec = w.exec();
  for (int base = 0; base < kWave; base += 2 * kRow) {
    for (int i = base; i < base + kRow; ++i) {
      const uint32_t from_d = d[i + kRow];
      const uint32_t from_s = s[i];
      if (exec >> i & 1) s[i] = from_d;
      if (exec >> (i + kRow) & 1) d[i + kRow] = from_s;
    }
  }
  return next(op);
}

const MicroOp* readfirstlane(Wave& w, const MicroOp* op) {
  const uint64_t exec = w.exec();
  const int lane = exec ? __builtin_ctzll(exec) : 0;
  w.s[op->sdst] = vector_source(w, op, 0)[lane];
  return next(op);
}
const MicroOp* readlane(Wave& w, const MicroOp* op) {
  const uint32_t lane = scalar32(w, op->src[1]) & 63;
  w.s[op->sdst] = vector_source(w, op, 0)[lane];
  return next(op);
}
const MicroOp* writelane(Wave& w, const MicroOp* op) {
  w.at(op->dst)[scalar32(w, op->src[1]) & 63] = scalar32(w, op->src[0]);
  return next(op);
}

vu32 leading_zeros(vu32 v) {  // of a non-zero value; by halving
  vu32 n = {};
  for (uint32_t step : {16u, 8u, 4u, 2u, 1u}) {
    const vi32 empty = (v >> (32 - step)) == 0u;
    n += select(empty, splat(step), vu32{});
    v = select(empty, v << step, v);
  }
  return n;
}
vu32 ffbh(vu32 v) { return select(v == 0u, splat(~0u), leading_zeros(v)); }
vu32 ffbl(vu32 v) {
  const vu32 lowest = v & (~v + 1u);
  return select(v == 0u, splat(~0u), 31u - leading_zeros(lowest));
}
vu32 ffbh_signed(vi32 v) {
  const vu32 x = bits(v ^ (v >> 31));
  return select(x == 0u, splat(~0u), leading_zeros(x));
}
vu32 reverse(vu32 v) {
  v = (v >> 1 & 0x55555555u) | (v & 0x55555555u) << 1;
  v = (v >> 2 & 0x33333333u) | (v & 0x33333333u) << 2;
  v = (v >> 4 & 0x0f0f0f0fu) | (v & 0x0f0f0f0fu) << 4;
  v = (v >> 8 & 0x00ff00ffu) | (v & 0x00ff00ffu) << 8;
  return v >> 16 | v << 16;
}

// sin and cos of a number of revolutions; beyond 256 the hardware gives 0 and 1.
vf32 revolve(vf32 v, bool cosine) {
  vf32 r;
  for (int i = 0; i < kLanes; ++i) {
    const double x = static_cast<double>(v[i]);
    if (!(__builtin_fabs(x) <= 256.0)) {
      r[i] = __builtin_isfinite(x) ? (cosine ? 1.0f : 0.0f) : f32_from_bits(0x7fc00000u);
      continue;
    }
    const double turn = x - __builtin_rint(x);
    r[i] = static_cast<float>(cosine ? __builtin_cos(turn * 6.283185307179586476925)
                                     : __builtin_sin(turn * 6.283185307179586476925));
  }
  return with_nan(r, v);
}

vf32 frexp_mant(vf32 v) {
  vf32 r;
  for (int i = 0; i < kLanes; ++i) {
    int e;
    const double x = widen(bits(v)[i]);
    r[i] = __builtin_isfinite(x) ? static_cast<float>(__builtin_frexp(x, &e)) : v[i];
  }
  return r;
}
vi32 frexp_exp(vf32 v) {
  vi32 r;
  for (int i = 0; i < kLanes; ++i) {
    int e = 0;
    const double x = widen(bits(v)[i]);
    if (__builtin_isfinite(x)) __builtin_frexp(x, &e);
    r[i] = e;
  }
  return r;
}

template <uint32_t kShift>
vf32 ubyte(vu32 v) {
  return i32_to_f32(as_i32(v >> kShift & 0xffu));
}

vf32 from_fp8(const float* table, vu32 v) {
  vf32 r;
  for (int i = 0; i < kLanes; ++i) r[i] = table[v[i] & 0xff];
  return r;
}

// The byte or word is chosen by SDWA, which has moved it down by the time it is read here.
template <bool kBf8, int kValues>
const MicroOp* cvt_fp8(Wave& w, const MicroOp* op) {
  if (op->inst->op_sel) return unsupported(w, op, "op_sel on an fp8 source");
  const uint32_t* s[1] = {vector_source(w, op, 0)};
  uint64_t mask = w.exec();
  if (op->flags & kPrepare) mask = prepare(w, op, s, 1);
  const float* table = fp8_table(fp8_format(w, kBf8));
  for (int i = 0; i < kWave; i += kLanes) {
    const vu32 v = load<vu32>(s[0] + i);
    for (int k = 0; k < kValues; ++k) store(w.out[k] + i, from_fp8(table, v >> static_cast<uint32_t>(8 * k)));
  }
  finish(w, op, mask);
  return next(op);
}

// The lambda is named before it becomes a template argument: g++ 12 reads a > inside one as the end of the list.
#define V(name, ...)                \
  do {                              \
    constexpr auto f = __VA_ARGS__; \
    t.set(Op::name, vop<f>);        \
  } while (0)

}  // namespace

void register_vop1(HandlerTable& t) {
  t.set(Op::v_nop, skip);
  t.set(Op::v_clrexcp, skip);
  t.set(Op::v_mov_b32, mov);
  t.set(Op::v_mov_b64, mov64);
  t.set(Op::v_accvgpr_read_b32, mov);
  t.set(Op::v_accvgpr_write_b32, mov);
  t.set(Op::v_accvgpr_mov_b32, mov);
  t.set(Op::v_swap_b32, swap);
  t.set(Op::v_permlane16_swap_b32, permlane_swap<16>);
  t.set(Op::v_permlane32_swap_b32, permlane_swap<32>);
  t.set(Op::v_readfirstlane_b32, readfirstlane);
  t.set(Op::v_readlane_b32, readlane);
  t.set(Op::v_writelane_b32, writelane);

  V(v_not_b32, [](vu32 a) { return ~a; });
  V(v_bfrev_b32, [](vu32 a) { return reverse(a); });
  V(v_ffbh_u32, [](vu32 a) { return ffbh(a); });
  V(v_ffbl_b32, [](vu32 a) { return ffbl(a); });
  V(v_ffbh_i32, [](vi32 a) { return ffbh_signed(a); });
  V(v_prng_b32, [](vu32 a) { return (a << 1) ^ select(as_i32(a) < 0, splat(197u), vu32{}); });
  V(v_sat_pk_u8_i16, [](vu32 a) {
    const vi32 lo = as_i32(a << 16) >> 16;
    const vi32 hi = as_i32(a) >> 16;
    const vu32 l = bits(select(lo < 0, vi32{}, select(lo > 255, splat(255), lo)));
    const vu32 h = bits(select(hi < 0, vi32{}, select(hi > 255, splat(255), hi)));
    return l | h << 8;
  });

  V(v_cvt_f32_i32, [](vi32 a) { return i32_to_f32(a); });
  V(v_cvt_f32_u32, [](vu32 a) { return u32_to_f32(a); });
  V(v_cvt_i32_f32, [](vf32 a) { return f32_to_i32(a); });
  V(v_cvt_u32_f32, [](vf32 a) { return f32_to_u32(a); });
  V(v_cvt_rpi_i32_f32, [](vf32 a) { return f32_to_i32(vfloor(a + 0.5f)); });
  V(v_cvt_flr_i32_f32, [](vf32 a) { return f32_to_i32(vfloor(a)); });
  V(v_cvt_off_f32_i4, [](vu32 a) { return i32_to_f32(as_i32(a << 28) >> 28) * 0.0625f; });
  V(v_cvt_f32_ubyte0, [](vu32 a) { return ubyte<0>(a); });
  V(v_cvt_f32_ubyte1, [](vu32 a) { return ubyte<8>(a); });
  V(v_cvt_f32_ubyte2, [](vu32 a) { return ubyte<16>(a); });
  V(v_cvt_f32_ubyte3, [](vu32 a) { return ubyte<24>(a); });
  V(v_cvt_f32_bf16, [](vu32 a) { return quiet(as_f32(a << 16)); });
  t.set(Op::v_cvt_f32_fp8, cvt_fp8<false, 1>);
  t.set(Op::v_cvt_f32_bf8, cvt_fp8<true, 1>);
  t.set(Op::v_cvt_pk_f32_fp8, cvt_fp8<false, 2>);
  t.set(Op::v_cvt_pk_f32_bf8, cvt_fp8<true, 2>);

  V(v_fract_f32, [](vf32 a) { return with_nan(a - vfloor(a), a); });
  V(v_trunc_f32, [](vf32 a) { return vtrunc(a); });
  V(v_ceil_f32, [](vf32 a) { return vceil(a); });
  V(v_rndne_f32, [](vf32 a) { return vrndne(a); });
  V(v_floor_f32, [](vf32 a) { return vfloor(a); });
  // v_exp_legacy_f32 and v_log_legacy_f32 are missing: what sets them apart is not documented.
  V(v_exp_f32, [](vf32 a) { return vexp2(a); });
  V(v_log_f32, [](vf32 a) { return vlog2(a); });
  V(v_rcp_f32, [](vf32 a) { return vrcp(a); });
  V(v_rcp_iflag_f32, [](vf32 a) { return vrcp(a); });
  V(v_rsq_f32, [](vf32 a) { return vrsq(a); });
  V(v_sqrt_f32, [](vf32 a) { return vsqrt(a); });
  V(v_sin_f32, [](vf32 a) { return revolve(a, false); });
  V(v_cos_f32, [](vf32 a) { return revolve(a, true); });
  V(v_frexp_mant_f32, [](vf32 a) { return frexp_mant(a); });
  V(v_frexp_exp_i32_f32, [](vf32 a) { return frexp_exp(a); });
}

}  // namespace aiterlite::emulator
