// How vector ALU instructions move undefined bytes. What is not told apart here makes all of its result undefined in a
// lane where any of its sources is.
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/undefined.h>

#include <algorithm>

namespace aiterlite::emulator {
namespace {

bool is_half(DataType t) {
  return t == DataType::f16 || t == DataType::bf16 || t == DataType::i16 || t == DataType::b16;
}
bool is_packed_half(DataType t) { return t == DataType::v2f16 || t == DataType::v2bf16 || t == DataType::v2i16; }

Bytes low_half(const Bytes& x, bool high) {
  return high ? Bytes{{x.b[2], x.b[3], 0, 0}} : Bytes{{x.b[0], x.b[1], 0, 0}};
}
Bytes join_halves(uint64_t low, uint64_t high) { return {{low, low, high, high}}; }

// Sums and products: a bit of the result depends on the bits of the sources below it.
Bytes upward(const Bytes& x) {
  Bytes r = x;
  for (int i = 1; i < 4; ++i) r.b[i] |= r.b[i - 1];
  return r;
}

// Bits [at, at + 8 * count) of a string of `from` bytes, as `count` bytes; what lies outside is defined.
template <int kFrom, int kTo>
void shift_bytes(const uint64_t (&from)[kFrom], int at, uint64_t (&to)[kTo]) {
  for (int i = 0; i < kTo; ++i) {
    const int first = 8 * i + at, last = first + 7;
    to[i] = 0;
    for (int b = first >> 3; b <= last >> 3; ++b) {
      if (b >= 0 && b < kFrom) to[i] |= from[b];
    }
  }
}

Bytes shifted_left(const Bytes& x, int by) {
  Bytes r;
  shift_bytes(x.b, -by, r.b);
  return r;
}
Bytes shifted_right(const Bytes& x, int by, bool arithmetic) {
  Bytes r;
  shift_bytes(x.b, by, r.b);
  if (arithmetic) {
    for (int i = 3; i >= 0 && 8 * i + 7 + by > 31; --i) r.b[i] |= x.b[3];
  }
  return r;
}

// Lanes in which a byte of a register is `value`.
uint64_t lanes_equal(const uint32_t* p, int byte, uint32_t value) {
  uint64_t lanes = 0;
  for (int l = 0; l < kWave; ++l) lanes |= static_cast<uint64_t>((p[l] >> (8 * byte) & 0xff) == value) << l;
  return lanes;
}

// A bit of a conjunction is defined where either side is a defined zero.
Bytes of_and(const Bytes& a, const uint32_t* va, const Bytes& b, const uint32_t* vb) {
  Bytes r = a | b;
  for (int i = 0; i < 4; ++i) {
    if (!r.b[i]) continue;
    r.b[i] &= ~(lanes_equal(va, i, 0) & ~a.b[i]) & ~(lanes_equal(vb, i, 0) & ~b.b[i]);
  }
  return r;
}
// Likewise of a disjunction, a defined byte of ones.
Bytes of_or(const Bytes& a, const uint32_t* va, const Bytes& b, const uint32_t* vb) {
  Bytes r = a | b;
  for (int i = 0; i < 4; ++i) {
    if (!r.b[i]) continue;
    r.b[i] &= ~(lanes_equal(va, i, 0xff) & ~a.b[i]) & ~(lanes_equal(vb, i, 0xff) & ~b.b[i]);
  }
  return r;
}

// Integer instructions whose result is the same for any value of a register that is both of their sources.
bool cancels_itself(Op op) {
  switch (op) {
    case Op::v_xor_b32:
    case Op::v_xnor_b32:
    case Op::v_sub_u32:
    case Op::v_subrev_u32:
    case Op::v_sub_co_u32:
    case Op::v_subrev_co_u32:
    case Op::v_subb_co_u32:  // leaves the borrow alone
    case Op::v_subbrev_co_u32:
    case Op::v_sub_u16:
    case Op::v_subrev_u16:
    case Op::v_sub_i16:
    case Op::v_sub_i32:
    case Op::v_pk_sub_u16:
    case Op::v_pk_sub_i16:
    case Op::v_sad_u32:  // adds nothing to the third
    case Op::v_xad_u32:
      return true;
    default:
      return false;
  }
}

// Integers are equal to themselves; a NaN is not.
bool compares_integers(std::string_view n) {
  return n.ends_with("_i16") || n.ends_with("_u16") || n.ends_with("_i32") || n.ends_with("_u32") ||
         n.ends_with("_i64") || n.ends_with("_u64");
}
bool is_always_or_never(std::string_view n) {
  return n.starts_with("v_cmp_f_") || n.starts_with("v_cmpx_f_") || n.starts_with("v_cmp_t_") ||
         n.starts_with("v_cmpx_t_") || n.starts_with("v_cmp_tru_") || n.starts_with("v_cmpx_tru_");
}

bool is_same_register(const Operand& a, const Operand& b) {
  return a.kind == b.kind && a.index == b.index && a.dwords == b.dwords &&
         (a.kind == OperandKind::vgpr || a.kind == OperandKind::agpr || a.is_scalar_register());
}

// The sources on which a table of three bits depends; a register that is several of them is one variable.
uint32_t sources_of_table(const Inst& inst) {
  uint32_t depends = 0;
  for (int k = 0; k < 3; ++k) {
    uint32_t alike = 0;
    for (int i = 0; i < 3; ++i) {
      if (i == k || is_same_register(inst.src[i], inst.src[k])) alike |= 4u >> i;
    }
    for (uint32_t m = 0; m < 8; ++m) {
      const uint32_t set = m & alike;
      if (set && set != alike) continue;
      if ((inst.bitop >> m & 1) != (inst.bitop >> (m ^ alike) & 1)) depends |= 1u << k;
    }
  }
  return depends;
}

}  // namespace

// True where the result is the same whatever the first two sources hold: they are one register, read in the same way,
// or the comparison asks for neither.
bool UndefinedState::is_moot(const Inst& inst) {
  if (group(inst.op) == OpGroup::VOPC && is_always_or_never(name(inst.op))) return true;
  const Operand &a = inst.src[0], &b = inst.src[1];
  if (!is_same_register(a, b) || inst.dpp.present || inst.neg || inst.abs) return false;
  const auto alike = [](uint32_t bits) { return (bits & 1) == (bits >> 1 & 1); };
  if (!alike(inst.op_sel) || !alike(inst.op_sel_hi) || !alike(inst.neg_hi)) return false;
  if (inst.sdwa.present && (inst.sdwa.src_sel[0] != inst.sdwa.src_sel[1] || !alike(inst.sdwa.sext))) return false;
  if (group(inst.op) == OpGroup::VOPC) return compares_integers(name(inst.op));
  return cancels_itself(inst.op);
}

// The undefined bytes of a dword of an operand, as the register has them.
Bytes UndefinedState::raw(const Operand& o, int dword) const {
  if (o.kind == OperandKind::vgpr) return v_[o.index + dword];
  if (o.kind == OperandKind::agpr) return v_[kVgprs + o.index + dword];
  Bytes r;
  uint32_t bits = 0;
  if (o.is_scalar_register()) {
    bits = s_[std::min(o.index + dword, 127)];
  } else if (o.kind == OperandKind::special) {
    bits = static_cast<uint32_t>(scalar_bits(o));
  }
  for (int i = 0; i < 4; ++i) r.b[i] = bits >> (8 * i) & 0xff ? ~0ull : 0;
  return r;
}

// The same behind DPP, SDWA and op_sel. `writable` loses the lanes that DPP leaves unwritten.
Bytes UndefinedState::source(const Step& at, int slot, int dword, uint64_t* writable) const {
  const Inst& inst = *at.op->inst;
  const Operand& o = inst.src[slot];
  if (!o.present()) return {};
  Bytes x = raw(o, dword);
  if (slot == 0 && inst.dpp.present) {
    const uint64_t exec = at.w.exec();
    Bytes moved;
    uint64_t written = 0;
    for (int l = 0; l < kWave; ++l) {
      const int from = dpp_lane(inst.dpp.ctrl, l);
      const bool valid = from >= 0 && (exec >> from & 1);
      const bool enabled = (inst.dpp.row_mask >> (l >> 4) & 1) && (inst.dpp.bank_mask >> ((l >> 2) & 3) & 1);
      if (enabled && (valid || inst.dpp.bound_ctrl)) written |= 1ull << l;
      for (int i = 0; valid && i < 4; ++i) moved.b[i] |= (x.b[i] >> from & 1) << l;
    }
    x = moved;
    *writable &= written;
  }
  if (inst.sdwa.present && slot < 2) {
    const int sel = static_cast<int>(inst.sdwa.src_sel[slot]);
    const bool sext = inst.sdwa.sext >> slot & 1;
    if (sel < 4) {
      x = {{x.b[sel], sext ? x.b[sel] : 0, sext ? x.b[sel] : 0, sext ? x.b[sel] : 0}};
    } else if (sel < 6) {
      const uint64_t low = x.b[2 * (sel - 4)], high = x.b[2 * (sel - 4) + 1];
      x = {{low, high, sext ? high : 0, sext ? high : 0}};
    }
    return x;
  }
  if (is_half(o.type) && inst.format != Format::VOP3P) return low_half(x, inst.op_sel >> slot & 1);
  return x;
}

// Lanes in which a source without modifiers is defined and equals `wanted`, as far as `bits` reach.
uint64_t UndefinedState::known_lanes(const Step& at, int slot, uint32_t wanted, uint32_t bits) const {
  if (!at.op->inst->src[slot].present()) return 0;
  const uint32_t* v = vector_source(at.w, at.op, slot);
  const Bytes x = raw(at.op->inst->src[slot], 0);
  uint64_t lanes = 0;
  for (int l = 0; l < kWave; ++l) lanes |= static_cast<uint64_t>(((v[l] ^ wanted) & bits) == 0) << l;
  for (int i = 0; i < 4; ++i) {
    if (bits >> (8 * i) & 0xff) lanes &= ~x.b[i];
  }
  return lanes;
}

// Lanes whose bit in a mask operand is undefined.
uint64_t UndefinedState::mask_source(const Operand& o) const {
  return o.is_scalar_register() ? s_[o.index] | static_cast<uint64_t>(s_[std::min(o.index + 1, 127)]) << 32 : 0;
}

// Instructions whose 32-bit or 64-bit results are told apart by byte; false for any other.
bool UndefinedState::whole_dwords(const Step& at, uint64_t mask, Bytes* out) {
  const Inst& inst = *at.op->inst;
  if (inst.dpp.present && inst.src[0].dwords > 1) return false;
  uint64_t unused = mask;
  const auto src = [&](int slot, int dword = 0) { return source(at, slot, dword, &unused); };
  // Values as the registers have them: with modifiers, only what is undefined is known of a source.
  const bool plain = !(at.op->flags & kPrepare);
  const auto value = [&](int slot) { return vector_source(at.w, at.op, slot); };
  const auto uniform = [&](int slot, uint32_t* v) {
    const Operand& o = inst.src[slot];
    if (!plain || o.kind == OperandKind::vgpr || o.kind == OperandKind::agpr || scalar_bits(o)) return false;
    *v = value(slot)[0];
    return true;
  };
  const auto mix = [&](int slot) { return src(slot).any(); };
  const auto without = [](Bytes x, uint64_t lanes) {
    for (uint64_t& b : x.b) b &= ~lanes;
    return x;
  };
  // Lanes in which a source is known to be `wanted`, as far as `bits` reach.
  const auto lanes_of = [&](int slot, uint32_t wanted, uint32_t bits) {
    return plain ? known_lanes(at, slot, wanted, bits) : 0;
  };
  // A zero in some lanes is the data's; one in all of them is the code's.
  const auto in_all = [&](int slot, uint32_t wanted, uint32_t bits) {
    const uint64_t exec = at.w.exec();
    return (lanes_of(slot, wanted, bits) & exec) == exec ? ~0ull : 0;
  };
  const auto zero_factor = [&](uint32_t bits = ~0u) { return in_all(0, 0, bits) | in_all(1, 0, bits); };
  uint32_t by = 0;
  switch (inst.op) {
    case Op::v_mov_b32:
    case Op::v_accvgpr_read_b32:
    case Op::v_accvgpr_write_b32:
    case Op::v_accvgpr_mov_b32:
    case Op::v_not_b32:
      out[0] = src(0);
      return true;
    case Op::v_mov_b64:
      out[0] = src(0);
      out[1] = src(0, 1);
      return true;
    case Op::v_or_b32:
      out[0] = plain ? of_or(src(0), value(0), src(1), value(1)) : src(0) | src(1);
      return true;
    case Op::v_xor_b32:
    case Op::v_xnor_b32:
      out[0] = src(0) | src(1);
      return true;
    case Op::v_or3_b32:
      out[0] = without(src(0) | src(1) | src(2), lanes_of(0, ~0u, ~0u) | lanes_of(1, ~0u, ~0u) | lanes_of(2, ~0u, ~0u));
      return true;
    case Op::v_bitop3_b32: {
      const uint32_t depends = sources_of_table(inst);
      for (int i = 0; i < 3; ++i) {
        if (depends >> i & 1) out[0] = out[0] | src(i);
      }
      return true;
    }
    case Op::v_and_b32:
      out[0] = plain ? of_and(src(0), value(0), src(1), value(1)) : src(0) | src(1);
      return true;
    case Op::v_and_or_b32:
      out[0] = without((plain ? of_and(src(0), value(0), src(1), value(1)) : src(0) | src(1)) | src(2),
                       lanes_of(2, ~0u, ~0u));
      return true;
    case Op::v_bfi_b32: {
      const Bytes m = src(0), a = src(1), b = src(2);
      for (int i = 0; i < 4; ++i) {
        const uint64_t ones = plain ? lanes_equal(value(0), i, 0xff) : 0;
        const uint64_t zeros = plain ? lanes_equal(value(0), i, 0) : 0;
        out[0].b[i] = m.b[i] | (a.b[i] & ~zeros) | (b.b[i] & ~ones);
      }
      return true;
    }
    case Op::v_cndmask_b32: {
      const uint64_t bad = mask_source(inst.src[2]);
      const uint64_t chosen = at.w.pair(static_cast<uint32_t>(at.op->src[2].value));
      const Bytes a = src(0), b = src(1);
      for (int i = 0; i < 4; ++i) out[0].b[i] = (a.b[i] & ~chosen) | (b.b[i] & chosen) | bad;
      // Where both sides are the same, which one is taken plays no part.
      if (bad && plain) {
        const bool same = is_same_register(inst.src[0], inst.src[1]);
        const uint32_t *va = value(0), *vb = value(1);
        for (uint64_t m = bad; m; m &= m - 1) {
          const int l = __builtin_ctzll(m);
          for (int i = 0; i < 4; ++i) {
            const uint64_t either = (a.b[i] | b.b[i]) & 1ull << l;
            const bool equal = same || (!either && (va[l] >> (8 * i) & 0xff) == (vb[l] >> (8 * i) & 0xff));
            if (equal) out[0].b[i] = (out[0].b[i] & ~(1ull << l)) | either;
          }
        }
      }
      return true;
    }
    case Op::v_add_u32:
    case Op::v_sub_u32:
    case Op::v_subrev_u32:
    case Op::v_add_co_u32:
    case Op::v_sub_co_u32:
    case Op::v_subrev_co_u32:
      out[0] = upward(src(0) | src(1));
      return true;
    case Op::v_mul_lo_u32:
      out[0] = without(upward(src(0) | src(1)), zero_factor());
      return true;
    case Op::v_mul_hi_u32:
    case Op::v_mul_hi_i32:
    case Op::v_min_u32:
      out[0] = Bytes::all((mix(0) | mix(1)) & ~zero_factor());
      return true;
    case Op::v_mul_hi_u32_u24:
    case Op::v_mul_hi_i32_i24:
      out[0] = Bytes::all((mix(0) | mix(1)) & ~zero_factor(0xffffff));
      return true;
    case Op::v_max_u32:
      out[0] = Bytes::all((mix(0) | mix(1)) & ~(in_all(0, ~0u, ~0u) | in_all(1, ~0u, ~0u)));
      return true;
    case Op::v_mul_legacy_f32:  // zero times anything is zero
      out[0] = Bytes::all((mix(0) | mix(1)) & ~zero_factor(0x7fffffff));
      return true;
    case Op::v_addc_co_u32:
    case Op::v_subb_co_u32:
    case Op::v_subbrev_co_u32:
      out[0] = upward(src(0) | src(1) | Bytes::all(mask_source(inst.src[2])));
      return true;
    case Op::v_add3_u32:
    case Op::v_xad_u32:
      out[0] = upward(src(0) | src(1) | src(2));
      return true;
    case Op::v_mul_u32_u24:
    case Op::v_mad_u32_u24:
    case Op::v_mul_i32_i24:
    case Op::v_mad_i32_i24: {
      Bytes factors = src(0) | src(1);
      factors.b[3] = 0;
      out[0] = upward(without(factors, zero_factor(0xffffff)) | src(2));
      return true;
    }
    case Op::v_lshlrev_b32:
    case Op::v_lshrrev_b32:
    case Op::v_ashrrev_i32:
      if (!uniform(0, &by)) return false;
      by &= 31;
      out[0] = inst.op == Op::v_lshlrev_b32 ? shifted_left(src(1), static_cast<int>(by))
                                            : shifted_right(src(1), static_cast<int>(by), inst.op == Op::v_ashrrev_i32);
      return true;
    case Op::v_lshl_or_b32:
    case Op::v_lshl_add_u32: {
      if (!uniform(1, &by)) return false;
      const Bytes x = shifted_left(src(0), static_cast<int>(by & 31)) | src(2);
      out[0] = inst.op == Op::v_lshl_or_b32 ? x : upward(x);
      return true;
    }
    case Op::v_add_lshl_u32:
      if (!uniform(2, &by)) return false;
      out[0] = shifted_left(upward(src(0) | src(1)), static_cast<int>(by & 31));
      return true;
    case Op::v_bfe_u32:
    case Op::v_bfe_i32: {
      uint32_t width = 0;
      if (!uniform(2, &width)) return false;
      width &= 31;
      if (!width) return true;
      if (!uniform(1, &by)) return false;
      by &= 31;
      const Bytes x = shifted_right(src(0), static_cast<int>(by), false);
      uint64_t bad = 0;
      for (uint32_t i = 0; 8 * i < width; ++i) bad |= x.b[i];
      for (uint32_t i = 0; i < 4; ++i) out[0].b[i] = inst.op == Op::v_bfe_i32 || 8 * i < width ? bad : 0;
      return true;
    }
    case Op::v_alignbit_b32:
    case Op::v_alignbyte_b32: {
      if (!uniform(2, &by)) return false;
      const Bytes high = src(0), low = src(1);
      const uint64_t both[8] = {low.b[0], low.b[1], low.b[2], low.b[3], high.b[0], high.b[1], high.b[2], high.b[3]};
      shift_bytes(both, static_cast<int>(inst.op == Op::v_alignbit_b32 ? by & 31 : 8 * (by & 3)), out[0].b);
      return true;
    }
    case Op::v_perm_b32: {
      if (!uniform(2, &by)) return false;
      const Bytes high = src(0), low = src(1);
      for (int i = 0; i < 4; ++i) {
        const uint32_t sel = by >> (8 * i) & 0xff;
        if (sel < 8) out[0].b[i] = sel < 4 ? low.b[sel] : high.b[sel - 4];
        if (sel >= 8 && sel < 12) out[0].b[i] = (sel < 10 ? low : high).b[sel & 1 ? 3 : 1];
      }
      return true;
    }
    case Op::v_cvt_f32_ubyte0:
    case Op::v_cvt_f32_ubyte1:
    case Op::v_cvt_f32_ubyte2:
    case Op::v_cvt_f32_ubyte3:
      out[0] = Bytes::all(src(0).b[static_cast<int>(inst.op) - static_cast<int>(Op::v_cvt_f32_ubyte0)]);
      return true;
    case Op::v_pack_b32_f16: {
      const Bytes a = src(0), b = src(1);
      out[0] = {{a.b[0], a.b[1], b.b[0], b.b[1]}};
      return true;
    }
    case Op::v_cvt_pkrtz_f16_f32:
    case Op::v_cvt_pk_f16_f32:
    case Op::v_cvt_pk_bf16_f32:
    case Op::v_cvt_pknorm_i16_f32:
    case Op::v_cvt_pknorm_u16_f32:
    case Op::v_cvt_pk_u16_u32:
    case Op::v_cvt_pk_i16_i32:
      out[0] = join_halves(mix(0), mix(1));
      return true;
    case Op::v_lshlrev_b64:
    case Op::v_lshrrev_b64: {
      if (!uniform(0, &by)) return false;
      const Bytes low = src(1), high = src(1, 1);
      const uint64_t both[8] = {low.b[0], low.b[1], low.b[2], low.b[3], high.b[0], high.b[1], high.b[2], high.b[3]};
      uint64_t r[8];
      const int shift = static_cast<int>(by & 63);
      shift_bytes(both, inst.op == Op::v_lshlrev_b64 ? -shift : shift, r);
      std::copy(r, r + 4, out[0].b);
      std::copy(r + 4, r + 8, out[1].b);
      return true;
    }
    case Op::v_lshl_add_u64: {
      const uint64_t low = mix(0) | mix(1) | mix(2);
      out[0] = Bytes::all(low);
      out[1] = Bytes::all(low | src(0, 1).any() | src(2, 1).any());
      return true;
    }
    case Op::v_mad_u64_u32:
    case Op::v_mad_i64_i32: {
      const uint64_t low = ((mix(0) | mix(1)) & ~zero_factor()) | mix(2);
      out[0] = Bytes::all(low);
      out[1] = Bytes::all(low | src(2, 1).any());
      return true;
    }
    default:
      return false;
  }
}

// VOP3P but for matrix instructions.
void UndefinedState::packed(const Step& at, Bytes* out) const {
  const Inst& inst = *at.op->inst;
  uint64_t low = 0, high = 0;
  const DataType type = inst.dst[0].type;
  const bool pairs = type == DataType::v2f32 || inst.op == Op::v_pk_mov_b32;
  const bool mixes = inst.op == Op::v_fma_mix_f32 || inst.op == Op::v_fma_mixlo_f16 || inst.op == Op::v_fma_mixhi_f16;
  for (int i = 0; i < 3; ++i) {
    const Operand& o = inst.src[i];
    if (!o.present()) continue;
    const bool sel = inst.op_sel >> i & 1, sel_hi = inst.op_sel_hi >> i & 1;
    if (pairs) {
      const uint64_t dword[2] = {raw(o, 0).any(), o.dwords > 1 ? raw(o, 1).any() : raw(o, 0).any()};
      if (inst.op != Op::v_pk_mov_b32 || i == 0) low |= dword[sel];
      if (inst.op != Op::v_pk_mov_b32) high |= dword[sel_hi];
      if (inst.op == Op::v_pk_mov_b32 && i == 1) high |= dword[sel];
    } else if (mixes) {
      const Bytes x = raw(o, 0);
      low |= sel_hi ? low_half(x, sel).any() : x.any();
    } else if (is_packed_half(o.type) && is_packed_half(type)) {
      const Bytes x = raw(o, 0);
      low |= low_half(x, sel).any();
      high |= low_half(x, sel_hi).any();
    } else {
      low |= raw(o, 0).any();
    }
  }
  if (inst.op == Op::v_pk_mov_b32 || pairs) {
    out[0] = Bytes::all(low);
    out[1] = Bytes::all(high);
  } else if (is_packed_half(type)) {
    out[0] = join_halves(low, high);
  } else if (inst.op == Op::v_fma_mixlo_f16 || inst.op == Op::v_fma_mixhi_f16) {
    const Bytes old = v_[at.e.result.first];
    out[0] =
        inst.op == Op::v_fma_mixlo_f16 ? Bytes{{low, low, old.b[2], old.b[3]}} : Bytes{{old.b[0], old.b[1], low, low}};
  } else {
    out[0] = Bytes::all(low);
  }
}

void UndefinedState::vector_alu(const Step& at) {
  const Inst& inst = *at.op->inst;
  if (group(inst.op) == OpGroup::VOPC) return compare(at);
  if (move_lanes(at)) return;
  uint64_t mask = at.w.exec();
  Bytes out[32];
  const uint32_t count = std::min<uint32_t>(at.e.result.count, 32);
  const uint32_t first = at.e.result.first;
  const bool moot = is_moot(inst);
  bool exact = true;
  if (moot) {
    exact = false;
  } else if (inst.format == Format::VOP3P) {
    packed(at, out);
  } else if (!whole_dwords(at, mask, out)) {
    exact = false;
  }
  // What DPP leaves unwritten, and what any source brings in.
  uint64_t bad = 0;
  for (int slot = moot ? 2 : 0; slot < 3; ++slot) {
    for (int d = 0; d < std::max<int>(1, inst.src[slot].dwords); ++d) bad |= source(at, slot, d, &mask).any();
  }
  if (at.e.reads_result) {
    const bool half = at.op->flags & kHalf;
    for (uint32_t r = 0; r < count; ++r) bad |= half ? low_half(v_[first], false).any() : v_[first + r].any();
  }
  if (inst.op == Op::v_div_fmas_f32 || inst.op == Op::v_div_fmas_f64)
    bad |= s_[vcc_lo] | static_cast<uint64_t>(s_[vcc_hi]) << 32;
  if (inst.op == Op::v_addc_co_u32 || inst.op == Op::v_subb_co_u32 || inst.op == Op::v_subbrev_co_u32)
    bad = (moot ? 0 : source(at, 0, 0, &mask).any() | source(at, 1, 0, &mask).any()) | mask_source(inst.src[2]);
  if (inst.op == Op::v_mad_u64_u32 || inst.op == Op::v_mad_i64_i32) bad = out[0].any() | out[1].any();
  if (!exact) {
    for (uint32_t r = 0; r < count; ++r) out[r] = Bytes::all(bad);
    const Bytes old = v_[first];
    const std::string_view n = name(inst.op);
    const bool eight = n.starts_with("v_cvt_sr_fp8") || n.starts_with("v_cvt_sr_bf8") ||
                       n.starts_with("v_cvt_scalef32_sr_fp8") || n.starts_with("v_cvt_scalef32_sr_bf8") ||
                       n.find("pk_fp4_") != std::string_view::npos;
    if (at.e.partial && eight) {
      out[0] = old;
      out[0].b[inst.op_sel >> 2 & 3] = bad;
    } else if (at.e.partial && !inst.sdwa.present) {
      out[0] = inst.op_sel & 8 ? Bytes{{old.b[0], old.b[1], bad, bad}} : Bytes{{bad, bad, old.b[2], old.b[3]}};
    } else if ((at.op->flags & kHalf) && !inst.sdwa.present) {
      out[0] = join_halves(bad, 0);
    }
  }
  if (inst.sdwa.present && inst.sdwa.dst_sel != SdwaSel::dword) {
    const int sel = static_cast<int>(inst.sdwa.dst_sel);
    const Bytes old = v_[first];
    const Bytes x = out[0];
    const bool preserve = inst.sdwa.dst_unused == SdwaUnused::preserve;
    const int from = sel < 4 ? sel : 2 * (sel - 4), bytes = sel < 4 ? 1 : 2;
    for (int i = 0; i < 4; ++i) {
      const bool inside = i >= from && i < from + bytes;
      const bool extends = inst.sdwa.dst_unused == SdwaUnused::sext && i >= from + bytes;
      out[0].b[i] = inside ? x.b[i - from] : preserve ? old.b[i] : extends ? x.b[bytes - 1] : 0;
    }
  }
  for (uint32_t r = 0; r < count; ++r) put(first + r, mask, out[r]);
  if (inst.dst[1].is_scalar_register()) {
    const uint64_t carry = bad & at.w.exec();
    put_scalar(inst.dst[1].index, static_cast<uint32_t>(carry));
    put_scalar(inst.dst[1].index + 1u, static_cast<uint32_t>(carry >> 32));
  }
}

}  // namespace aiterlite::emulator
