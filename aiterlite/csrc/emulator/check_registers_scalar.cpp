// How scalar instructions move undefined bits.
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/undefined.h>

namespace aiterlite::emulator {
namespace {

uint64_t upward(uint64_t bits) { return bits ? ~((bits & -bits) - 1) : 0; }

struct Known {
  uint64_t value;
  uint64_t bad;
};

// A bit of a conjunction is known where either side is a known zero.
uint64_t of_and(Known a, Known b) { return (a.bad & (b.bad | b.value)) | (b.bad & (a.bad | a.value)); }
uint64_t of_or(Known a, Known b) { return of_and({~a.value, a.bad}, {~b.value, b.bad}); }

bool is_zero(Known k) { return !k.bad && !k.value; }
// The low bits that are known to be zero.
int known_zeros(Known k) {
  const uint64_t other = k.value | k.bad;
  return other ? __builtin_ctzll(other) : 64;
}
// Bits of a product below the lowest one that an undefined bit reaches are known; times zero is zero.
uint64_t of_product(Known a, Known b) {
  const int from_a = a.bad ? __builtin_ctzll(a.bad) + known_zeros(b) : 64;
  const int from_b = b.bad ? __builtin_ctzll(b.bad) + known_zeros(a) : 64;
  const int lowest = from_a < from_b ? from_a : from_b;
  return lowest < 64 ? ~0ull << lowest : 0;
}

// Instructions whose result is the same for any value of a register that is both of their sources.
bool cancels_itself(Op op) {
  switch (op) {
    case Op::s_xor_b32:
    case Op::s_xor_b64:
    case Op::s_xnor_b32:
    case Op::s_xnor_b64:
    case Op::s_sub_u32:
    case Op::s_sub_i32:
    case Op::s_absdiff_i32:
    case Op::s_andn2_b32:
    case Op::s_andn2_b64:
    case Op::s_orn2_b32:
    case Op::s_orn2_b64:
    case Op::s_subb_u32:  // leaves SCC alone
    case Op::s_cmp_eq_i32:
    case Op::s_cmp_lg_i32:
    case Op::s_cmp_gt_i32:
    case Op::s_cmp_ge_i32:
    case Op::s_cmp_lt_i32:
    case Op::s_cmp_le_i32:
    case Op::s_cmp_eq_u32:
    case Op::s_cmp_lg_u32:
    case Op::s_cmp_gt_u32:
    case Op::s_cmp_ge_u32:
    case Op::s_cmp_lt_u32:
    case Op::s_cmp_le_u32:
    case Op::s_cmp_eq_u64:
    case Op::s_cmp_lg_u64:
      return true;
    default:
      return false;
  }
}

// Comparisons that only one side decides: nothing is below zero or above all ones.
bool is_settled(Op op, Known a, Known b) {
  const bool a_most = !a.bad && static_cast<uint32_t>(a.value) == ~0u;
  const bool b_most = !b.bad && static_cast<uint32_t>(b.value) == ~0u;
  switch (op) {
    case Op::s_cmp_lt_u32:
    case Op::s_cmp_ge_u32:
      return is_zero(b) || a_most;
    case Op::s_cmp_gt_u32:
    case Op::s_cmp_le_u32:
      return is_zero(a) || b_most;
    default:
      return false;
  }
}

}  // namespace

void UndefinedState::scalar_alu(const Step& at) {
  const Inst& inst = *at.op->inst;
  const Wave& w = at.w;
  const int width = inst.dst[0].dwords > 1 ? 64 : 32;
  const auto known = [&](int i) {
    const Source& s = at.op->src[i];
    const bool wide = inst.src[i].dwords > 1;
    if (s.ref == Ref::none) return Known{0, 0};
    return Known{wide ? scalar64(w, s) : scalar32(w, s), scalar_bits(inst.src[i])};
  };
  Known a = known(0);
  Known b = known(1);
  const bool same =
      inst.src[0].is_scalar_register() && inst.src[1].is_scalar_register() && inst.src[0].index == inst.src[1].index;
  if (same && cancels_itself(inst.op)) a.bad = b.bad = 0;
  const uint64_t exec = w.exec();
  const uint64_t any = a.bad | b.bad;
  const uint64_t all = any ? ~0ull : 0;
  const uint32_t shift = static_cast<uint32_t>(b.value) & static_cast<uint32_t>(width - 1);
  const uint64_t shift_bad = b.bad & static_cast<uint64_t>(width - 1);
  const bool has_result = inst.dst[0].is_scalar_register() && inst.format != Format::SOPC;
  const Operand& d = inst.dst[0];
  uint64_t out = all;
  uint64_t value = 0;       // of the result where a bit of it may decide SCC
  bool logical = false;     // SCC is set when the result is not zero, and `value` is known
  bool scc_bad = any != 0;  // of anything else that writes SCC

  switch (inst.op) {
    case Op::s_mov_b32:
    case Op::s_mov_b64:
      out = a.bad;
      break;
    case Op::s_not_b32:
    case Op::s_not_b64:
      out = a.bad;
      value = ~a.value;
      logical = true;
      break;
    case Op::s_cmov_b32:
    case Op::s_cmov_b64:
    case Op::s_cmovk_i32:
      out = scc_ ? ~0ull : w.scc ? a.bad : scalar_bits(d);
      break;
    case Op::s_cselect_b32:
    case Op::s_cselect_b64:
      out = scc_ && !same ? (a.value ^ b.value) | any : w.scc ? a.bad : b.bad;
      break;
    case Op::s_and_b32:
    case Op::s_and_b64:
      out = of_and(a, b);
      value = a.value & b.value;
      logical = true;
      break;
    case Op::s_andn2_b32:
    case Op::s_andn2_b64:
      out = of_and(a, {~b.value, b.bad});
      value = a.value & ~b.value;
      logical = true;
      break;
    case Op::s_or_b32:
    case Op::s_or_b64:
      out = of_or(a, b);
      value = a.value | b.value;
      logical = true;
      break;
    case Op::s_orn2_b32:
    case Op::s_orn2_b64:
      out = of_or(a, {~b.value, b.bad});
      value = a.value | ~b.value;
      logical = true;
      break;
    case Op::s_nand_b32:
    case Op::s_nand_b64:
      out = of_and(a, b);
      value = ~(a.value & b.value);
      logical = true;
      break;
    case Op::s_nor_b32:
    case Op::s_nor_b64:
      out = of_or(a, b);
      value = ~(a.value | b.value);
      logical = true;
      break;
    case Op::s_xor_b32:
    case Op::s_xor_b64:
      out = any;
      value = a.value ^ b.value;
      logical = true;
      break;
    case Op::s_xnor_b32:
    case Op::s_xnor_b64:
      out = any;
      value = ~(a.value ^ b.value);
      logical = true;
      break;
    case Op::s_lshl_b32:
    case Op::s_lshl_b64:
      out = is_zero(a) ? 0 : shift_bad ? ~0ull : a.bad << shift;
      value = a.value << shift;
      logical = true;
      break;
    case Op::s_lshr_b32:
    case Op::s_lshr_b64:
      out = is_zero(a) ? 0 : shift_bad ? ~0ull : a.bad >> shift;
      value = a.value >> shift;
      logical = true;
      break;
    case Op::s_ashr_i32:
      out = is_zero(a) ? 0 : shift_bad ? ~0ull : static_cast<uint64_t>(static_cast<int32_t>(a.bad) >> shift);
      scc_bad = out != 0;
      break;
    case Op::s_ashr_i64:
      out = is_zero(a) ? 0 : shift_bad ? ~0ull : static_cast<uint64_t>(static_cast<int64_t>(a.bad) >> shift);
      scc_bad = out != 0;
      break;
    case Op::s_bfe_u32:
    case Op::s_bfe_i32:
    case Op::s_bfe_u64:
    case Op::s_bfe_i64: {
      const uint32_t offset = static_cast<uint32_t>(b.value) & static_cast<uint32_t>(width - 1);
      const uint32_t size = static_cast<uint32_t>(b.value) >> 16 & 127;
      const uint64_t field = size >= 64 ? ~0ull : (1ull << size) - 1;
      const uint64_t bits = a.bad >> offset & field;
      const bool is_signed = inst.op == Op::s_bfe_i32 || inst.op == Op::s_bfe_i64;
      // Only the offset's and the width's own bits count; a field without bits, or of zeros, is zero.
      const uint64_t control = b.bad & (0x7f0000 | static_cast<uint64_t>(width - 1));
      const bool empty = is_zero(a) || (!(b.bad & 0x7f0000) && !size);
      out = empty ? 0 : control ? ~0ull : is_signed && size && (bits >> (size - 1) & 1) ? bits | ~field : bits;
      scc_bad = out != 0;
      break;
    }
    case Op::s_sext_i32_i8:
      out = static_cast<uint64_t>(static_cast<int64_t>(static_cast<int8_t>(a.bad)));
      break;
    case Op::s_sext_i32_i16:
      out = static_cast<uint64_t>(static_cast<int64_t>(static_cast<int16_t>(a.bad)));
      break;
    case Op::s_pack_ll_b32_b16:
      out = (a.bad & 0xffff) | b.bad << 16;
      break;
    case Op::s_pack_lh_b32_b16:
      out = (a.bad & 0xffff) | (b.bad & 0xffff0000);
      break;
    case Op::s_pack_hh_b32_b16:
      out = a.bad >> 16 | (b.bad & 0xffff0000);
      break;
    case Op::s_add_u32:
    case Op::s_add_i32:
    case Op::s_sub_u32:
    case Op::s_sub_i32:
      out = upward(any);
      scc_bad = out != 0;
      break;
    case Op::s_absdiff_i32:
      out = all;
      scc_bad = out != 0;
      break;
    case Op::s_mul_i32:
      out = of_product(a, b);
      break;
    case Op::s_mul_hi_u32:
    case Op::s_mul_hi_i32:
      out = is_zero(a) || is_zero(b) ? 0 : all;
      break;
    case Op::s_min_u32:  // SCC says which of the two it is
      out = is_zero(a) || is_zero(b) ? 0 : all;
      break;
    case Op::s_max_u32:
      out = (!a.bad && static_cast<uint32_t>(a.value) == ~0u) || (!b.bad && static_cast<uint32_t>(b.value) == ~0u)
                ? 0
                : all;
      break;
    case Op::s_addc_u32:
    case Op::s_subb_u32:
      out = scc_ ? ~0ull : upward(any);
      scc_bad = scc_ || any;
      break;
    case Op::s_mulk_i32:
      out = inst.simm16 ? upward(scalar_bits(d)) : 0;
      break;
    case Op::s_addk_i32:
      out = upward(scalar_bits(d));
      scc_bad = out != 0;
      break;
    case Op::s_bitset0_b32:
    case Op::s_bitset1_b32:
    case Op::s_bitset0_b64:
    case Op::s_bitset1_b64:
      out = a.bad ? ~0ull : scalar_bits(d) & ~(1ull << (a.value & static_cast<uint64_t>(width - 1)));
      break;
    case Op::s_cmp_eq_u32:
    case Op::s_cmp_lg_u32:
    case Op::s_cmp_eq_i32:
    case Op::s_cmp_lg_i32:
    case Op::s_cmp_eq_u64:
    case Op::s_cmp_lg_u64:
      scc_bad = any && !((a.value ^ b.value) & ~any);
      break;
    case Op::s_cmp_lt_u32:
    case Op::s_cmp_le_u32:
    case Op::s_cmp_gt_u32:
    case Op::s_cmp_ge_u32:
    case Op::s_cmp_lt_i32:
    case Op::s_cmp_le_i32:
    case Op::s_cmp_gt_i32:
    case Op::s_cmp_ge_i32:
      scc_bad = any && !is_settled(inst.op, a, b);
      break;
    case Op::s_bitcmp0_b32:
    case Op::s_bitcmp1_b32:
      scc_bad = b.bad || (a.bad >> (b.value & 31) & 1);
      break;
    case Op::s_bitcmp0_b64:
    case Op::s_bitcmp1_b64:
      scc_bad = b.bad || (a.bad >> (b.value & 63) & 1);
      break;
    case Op::s_and_saveexec_b64:
    case Op::s_or_saveexec_b64:
    case Op::s_xor_saveexec_b64:
    case Op::s_andn2_saveexec_b64:
    case Op::s_orn2_saveexec_b64:
    case Op::s_nand_saveexec_b64:
    case Op::s_nor_saveexec_b64:
    case Op::s_xnor_saveexec_b64:
    case Op::s_andn1_saveexec_b64:
    case Op::s_orn1_saveexec_b64:
    case Op::s_andn1_wrexec_b64:
    case Op::s_andn2_wrexec_b64: {
      // Bits that the other side does not decide.
      uint64_t bad = a.bad;
      switch (inst.op) {
        case Op::s_and_saveexec_b64:
        case Op::s_nand_saveexec_b64:
        case Op::s_andn1_saveexec_b64:
        case Op::s_andn1_wrexec_b64:
          bad &= exec;
          break;
        case Op::s_or_saveexec_b64:
        case Op::s_nor_saveexec_b64:
        case Op::s_orn1_saveexec_b64:
          bad &= ~exec;
          break;
        case Op::s_andn2_saveexec_b64:  // source and not EXEC
        case Op::s_andn2_wrexec_b64:
          bad &= ~exec;
          break;
        case Op::s_orn2_saveexec_b64:
          bad &= exec;
          break;
        default:
          break;
      }
      if (bad && inst.src[0].is_scalar_register()) {
        sink_scalar(at, inst.src[0].index, 2, "of which EXEC is made");
      }
      out = 0;
      scc_bad = false;
      break;
    }
    case Op::s_movrels_b32:
      out = s_[(inst.src[0].index + w.s[m0]) & 127];
      break;
    case Op::s_movreld_b32:
      put_scalar((d.index + w.s[m0]) & 127, static_cast<uint32_t>(a.bad));
      return;
    case Op::s_movrels_b64:
    case Op::s_movreld_b64:
      // Not followed: what they move counts as defined.
      for (uint32_t r = 0; r < 102 && inst.op == Op::s_movreld_b64; ++r) put_scalar(r, 0);
      out = 0;
      break;
    case Op::s_setreg_b32:
      if (a.bad && inst.src[0].is_scalar_register())
        sink_scalar(at, inst.src[0].index, 1, "written to a hardware register");
      return;
    case Op::s_setpc_b64:
    case Op::s_swappc_b64:
      if (a.bad && inst.src[0].is_scalar_register()) sink_scalar(at, inst.src[0].index, 2, "an address");
      out = 0;
      break;
    default:
      break;
  }
  if (has_result) {
    const uint64_t mask = width == 64 ? ~0ull : 0xffffffffu;
    out &= mask;
    const bool to_exec = d.index == exec_lo || d.index == exec_hi;
    if (out && to_exec) {
      for (const Operand& o : inst.src) {
        if (o.is_scalar_register() && scalar_bits(o)) {
          sink_scalar(at, o.index, o.dwords, "of which EXEC is made");
          out = 0;
          break;
        }
      }
      out = 0;
    }
    put_scalar(d.index, static_cast<uint32_t>(out));
    if (width == 64 && d.index < 127) put_scalar(d.index + 1u, static_cast<uint32_t>(out >> 32));
    if (logical) scc_bad = out && !(value & mask & ~out);
  }
  if (inst.op == Op::s_set_gpr_idx_on) put_scalar(m0, 0);
  if (at.e.writes_scc) scc_ = scc_bad;
}

}  // namespace aiterlite::emulator
