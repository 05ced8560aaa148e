// What surrounds the arithmetic of a vector instruction: sources that are spread, permuted, selected or negated before
// it, and results that are clamped, scaled, and merged into their register after it.
#include <aiterlite/emulator/float.h>
#include <aiterlite/emulator/lanes.h>
#include <aiterlite/emulator/runtime.h>

namespace aiterlite::emulator {

const MicroOp* fault(Wave& w, const MicroOp* op, Fault f) {
  w.fault = std::move(f);
  return leave(w, op, Stop::fault);
}

const MicroOp* unsupported(Wave& w, const MicroOp* op, const char* detail) {
  Fault f;
  f.kind = FaultKind::unsupported;
  f.detail = detail;
  return fault(w, op, std::move(f));
}

const MicroOp* unallocated(Wave& w, const Unallocated& found, const std::string& how) {
  Fault f;
  f.kind = FaultKind::unallocated;
  f.reg = register_name(found.file, found.number);
  f.detail = how + describe(found, w.launch->reach->allocation());
  return fault(w, found.op, std::move(f));
}

uint64_t special_source(const Wave& w, uint64_t which) {
  switch (which) {
    case shared_base:
      return static_cast<uint64_t>(kSharedAperture) << 32;
    case shared_limit:
      return (static_cast<uint64_t>(kSharedAperture) << 32) | 0xffffffffu;
    case private_base:
      return static_cast<uint64_t>(kPrivateAperture) << 32;
    case private_limit:
      return (static_cast<uint64_t>(kPrivateAperture) << 32) | 0xffffffffu;
    case vccz:
      return w.vcc() == 0;
    case execz:
      return w.exec() == 0;
    case scc:
      return w.scc;
    default:
      return 0;
  }
}

const uint32_t* spread_source(Wave& w, const Source& s, int slot) {
  uint32_t* to = w.tmp[slot][0];
  if (s.ref == Ref::special) {
    const uint64_t v = special_source(w, s.value);
    spread(to, static_cast<uint32_t>(v));
    if (s.dwords > 1) spread(to + kWave, static_cast<uint32_t>(v >> 32));
    return to;
  }
  for (int d = 0; d < s.dwords && d < 4; ++d) spread(to + d * kWave, w.s[s.value + d]);
  return to;
}

int dpp_lane(uint16_t ctrl, int l) {
  const int row = l & ~15;
  const int in_row = l & 15;
  if (ctrl < 0x100) return (l & ~3) + ((ctrl >> (2 * (l & 3))) & 3);                           // quad_perm
  if (ctrl > 0x100 && ctrl <= 0x10f) return in_row + (ctrl & 15) < 16 ? l + (ctrl & 15) : -1;  // row_shl
  if (ctrl > 0x110 && ctrl <= 0x11f) return in_row - (ctrl & 15) >= 0 ? l - (ctrl & 15) : -1;  // row_shr
  if (ctrl > 0x120 && ctrl <= 0x12f) return row + ((in_row - (ctrl & 15)) & 15);               // row_ror
  if (ctrl >= 0x150 && ctrl <= 0x15f) return row + (ctrl & 15);                                // row_newbcast
  switch (ctrl) {
    case 0x130:
      return l < 63 ? l + 1 : -1;  // wave_shl:1
    case 0x134:
      return (l + 1) & 63;  // wave_rol:1
    case 0x138:
      return l > 0 ? l - 1 : -1;  // wave_shr:1
    case 0x13c:
      return (l - 1) & 63;  // wave_ror:1
    case 0x140:
      return row + (15 - in_row);  // row_mirror
    case 0x141:
      return (l & ~7) + (7 - (l & 7));  // row_half_mirror
    case 0x142:
      return l >= 16 ? (l & ~15) - 1 : -1;  // row_bcast:15
    case 0x143:
      return l >= 32 ? 31 : -1;  // row_bcast:31
    default:
      return -1;
  }
}

namespace {

bool is_half(DataType t) {
  return t == DataType::f16 || t == DataType::bf16 || t == DataType::i16 || t == DataType::b16;
}
bool is_packed(DataType t) { return t == DataType::v2f16 || t == DataType::v2bf16 || t == DataType::v2i16; }

// Permutes `dwords` arrays of 64 lanes; returns the lanes that may be written.
uint64_t apply_dpp(const Wave& w, const Dpp& dpp, const uint32_t* from, uint32_t* to, int dwords) {
  uint64_t writable = 0;
  const uint64_t exec = w.exec();
  for (int l = 0; l < kWave; ++l) {
    const bool enabled = (dpp.row_mask >> (l >> 4) & 1) && (dpp.bank_mask >> ((l >> 2) & 3) & 1);
    const int source = dpp_lane(dpp.ctrl, l);
    // A lane that EXEC switches off cannot be read either.
    const bool valid = source >= 0 && (exec >> source & 1);
    for (int d = 0; d < dwords; ++d) to[d * kWave + l] = valid ? from[d * kWave + source] : 0;
    if (enabled && (valid || dpp.bound_ctrl)) writable |= 1ull << l;
  }
  return writable;
}

void apply_sdwa(SdwaSel sel, bool sext, uint32_t* p) {
  if (sel == SdwaSel::dword) return;
  const int s = static_cast<int>(sel);
  const uint32_t shift = s < 4 ? 8 * s : 16 * (s - 4);
  const uint32_t left = s < 4 ? 24 : 16;
  for (int i = 0; i < kWave; i += kLanes) {
    const vu32 v = (load<vu32>(p + i) >> shift) << left;
    store(p + i, sext ? bits(as_i32(v) >> left) : v >> left);
  }
}

void copy(uint32_t* to, const uint32_t* from, int dwords) {
  memcpy(to, from, static_cast<size_t>(dwords) * kRegisterBytes);
}

// The half of each lane that op_sel and op_sel_hi choose for the low and the high result, with their own negations.
void apply_packed(const Inst& inst, int slot, bool is_float, uint32_t* p) {
  const bool lo_from_high = inst.op_sel >> slot & 1;
  const bool hi_from_high = inst.op_sel_hi >> slot & 1;
  uint32_t flip = 0;
  if (is_float) flip = (inst.neg_lo >> slot & 1 ? 0x8000u : 0) | (inst.neg_hi >> slot & 1 ? 0x80000000u : 0);
  for (int i = 0; i < kWave; i += kLanes) {
    const vu32 v = load<vu32>(p + i);
    const vu32 lo = lo_from_high ? v >> 16 : v & 0xffffu;
    const vu32 hi = hi_from_high ? v & 0xffff0000u : v << 16;
    store(p + i, (lo | hi) ^ flip);
  }
}

void apply_packed_f32(const Inst& inst, int slot, uint32_t* p) {
  const bool lo_from_high = inst.op_sel >> slot & 1;
  const bool hi_from_high = inst.op_sel_hi >> slot & 1;
  const uint32_t flip_lo = inst.neg_lo >> slot & 1 ? 0x80000000u : 0;
  const uint32_t flip_hi = inst.neg_hi >> slot & 1 ? 0x80000000u : 0;
  for (int i = 0; i < kWave; i += kLanes) {
    const vu32 a = load<vu32>(p + i);
    const vu32 b = load<vu32>(p + kWave + i);
    store(p + i, (lo_from_high ? b : a) ^ flip_lo);
    store(p + kWave + i, (hi_from_high ? b : a) ^ flip_hi);
  }
}

void apply_sign(DataType type, bool abs, bool neg, int dwords, uint32_t* p) {
  uint32_t sign = 0x80000000u;
  if (type == DataType::f16 || type == DataType::bf16) sign = 0x8000u;
  uint32_t* high = p + (type == DataType::f64 && dwords == 2 ? kWave : 0);
  for (int i = 0; i < kWave; i += kLanes) {
    vu32 v = load<vu32>(high + i);
    if (abs) v &= ~sign;
    if (neg) v ^= sign;
    store(high + i, v);
  }
}

}  // namespace

uint64_t prepare(Wave& w, const MicroOp* op, const uint32_t** sources, int count) {
  const Inst& inst = *op->inst;
  uint64_t mask = w.exec();
  for (int slot = 0; slot < count && slot < 3; ++slot) {
    const Operand& operand = inst.src[slot];
    const bool dpp = slot == 0 && inst.dpp.present;
    const bool sdwa = inst.sdwa.present && slot < 2 && inst.sdwa.src_sel[slot] != SdwaSel::dword;
    const bool sign = (inst.abs | inst.neg) >> slot & 1;
    const bool high = is_half(operand.type) && (inst.op_sel >> slot & 1) && inst.format != Format::VOP3P;
    const bool packed = inst.format == Format::VOP3P && (is_packed(operand.type) || operand.type == DataType::v2f32);
    if (!dpp && !sdwa && !sign && !high && !packed) continue;
    uint32_t* to = w.tmp[slot][0];
    const int dwords = op->src[slot].dwords;
    if (dwords > 4) continue;
    if (dpp) {
      mask &= apply_dpp(w, inst.dpp, sources[slot], to, dwords);
    } else if (sources[slot] != to) {
      copy(to, sources[slot], dwords);
    }
    sources[slot] = to;
    if (sdwa) apply_sdwa(inst.sdwa.src_sel[slot], inst.sdwa.sext >> slot & 1, to);
    if (high) {
      for (int i = 0; i < kWave; i += kLanes) store(to + i, load<vu32>(to + i) >> 16);
    }
    if (packed) {
      if (operand.type == DataType::v2f32) {
        apply_packed_f32(inst, slot, to);
      } else {
        apply_packed(inst, slot, operand.type != DataType::v2i16, to);
      }
    }
    if (sign) apply_sign(operand.type, inst.abs >> slot & 1, inst.neg >> slot & 1, dwords, to);
  }
  return mask;
}

namespace {

// Output multipliers are for the mode without IEEE rules and without denormal results; in another one they are ignored.
bool multiplies(const Wave& w, const Inst& inst, uint32_t denormals) {
  return inst.omod && !(w.mode & kModeIeee) && !(denormals & 2);
}

void modify_f32(const Wave& w, const Inst& inst, uint32_t* p) {
  static constexpr float kScale[4] = {1.0f, 2.0f, 4.0f, 0.5f};
  const bool scales = multiplies(w, inst, mode_denorm_f32(w.mode));
  for (int i = 0; i < kWave; i += kLanes) {
    vf32 v = load<vf32>(p + i);
    if (scales) {
      v = with_nan(flush(v * kScale[inst.omod]), v);
      v = select(v == 0.0f, vf32{}, v);  // no negative zero
    }
    if (inst.clamp) {
      const vf32 low = select(as_i32(bits(v)) > 0, v, vf32{});  // a denormal is above 0 even where inputs are flushed
      const vf32 clamped = select(low < 1.0f, low, splat(1.0f));
      v = select(is_nan(v), w.mode & kModeDx10Clamp ? vf32{} : v, clamped);
    }
    store(p + i, v);
  }
}

void modify_f16(const Wave& w, const Inst& inst, uint32_t* p, int shift) {
  static constexpr float kScale[4] = {1.0f, 2.0f, 4.0f, 0.5f};
  const bool scales = multiplies(w, inst, mode_denorm_f16_f64(w.mode));
  for (int i = 0; i < kWave; i += kLanes) {
    const vu32 raw = load<vu32>(p + i);
    vf32 v = f16_to_f32(raw >> shift);
    if (scales) {
      v = flush_f16(v * kScale[inst.omod]);
      v = select(v == 0.0f, vf32{}, v);
    }
    if (inst.clamp) {
      const vf32 low = select(as_i32(bits(v)) > 0, v, vf32{});
      const vf32 clamped = select(low < 1.0f, low, splat(1.0f));
      v = select(is_nan(v), w.mode & kModeDx10Clamp ? vf32{} : v, clamped);
    }
    const vu32 h = f32_to_f16(v, f16_rounding(w), w.mode & kModeFp16Ovfl);
    store(p + i, (raw & ~(0xffffu << shift)) | (h << shift));
  }
}

void modify_f64(const Wave& w, const Inst& inst, uint32_t* p) {
  static constexpr double kScale[4] = {1.0, 2.0, 4.0, 0.5};
  const bool scales = multiplies(w, inst, mode_denorm_f16_f64(w.mode));
  for (int l = 0; l < kWave; ++l) {
    double v = read_lane<double>(p + l);
    if (scales) {
      v *= kScale[inst.omod];
      if (__builtin_fabs(v) < 0x1p-1022) v = 0.0;
    }
    if (inst.clamp) {
      if (v != v) {
        v = w.mode & kModeDx10Clamp ? 0.0 : v;
      } else {
        v = __builtin_signbit(v) ? 0.0 : (v < 1.0 ? v : 1.0);
      }
    }
    write_lane(p + l, v);
  }
}

// Places the low byte or word of each result where dst_sel says, and fills the rest as dst_unused says.
void place_sdwa(const Sdwa& sdwa, const uint32_t* old, uint32_t* p) {
  const int s = static_cast<int>(sdwa.dst_sel);
  if (sdwa.dst_sel == SdwaSel::dword) return;
  const uint32_t shift = s < 4 ? 8 * s : 16 * (s - 4);
  const uint32_t field = s < 4 ? 0xffu : 0xffffu;
  const uint32_t width = s < 4 ? 8 : 16;
  for (int i = 0; i < kWave; i += kLanes) {
    const vu32 v = load<vu32>(p + i) & field;
    vu32 r = v << shift;
    if (sdwa.dst_unused == SdwaUnused::preserve) {
      r |= load<vu32>(old + i) & ~(field << shift);
    } else if (sdwa.dst_unused == SdwaUnused::sext) {
      const vu32 extended = bits(as_i32(v << (32 - width)) >> (32 - width));
      r = extended << shift;
    }
    store(p + i, r);
  }
}

}  // namespace

void finish(Wave& w, const MicroOp* op, uint64_t mask) {
  uint32_t* dst = w.at(op->dst);
  if (op->flags & kFinish) {
    const Inst& inst = *op->inst;
    const DataType type = inst.dst[0].type;
    uint32_t* p = w.out[0];
    if (inst.clamp || inst.omod) {
      if (type == DataType::f32) modify_f32(w, inst, p);
      if (type == DataType::f16) modify_f16(w, inst, p, 0);
      if (type == DataType::f64) modify_f64(w, inst, p);
      if (type == DataType::v2f16) {
        modify_f16(w, inst, p, 0);
        modify_f16(w, inst, p, 16);
      }
      if (type == DataType::v2f32) {
        modify_f32(w, inst, p);
        modify_f32(w, inst, p + kWave);
      }
    }
    if (inst.sdwa.present) place_sdwa(inst.sdwa, dst, p);
    if ((op->flags & kHalf) && !inst.sdwa.present) {
      const bool high = inst.op_sel >> 3 & 1;
      if (high || (op->flags & kKeepHigh)) {
        for (int i = 0; i < kWave; i += kLanes) {
          const vu32 old = load<vu32>(dst + i);
          const vu32 v = load<vu32>(p + i);
          store(p + i, high ? (old & 0xffffu) | (v << 16) : (old & 0xffff0000u) | (v & 0xffffu));
        }
      }
    }
  }
  for (int d = 0; d < op->dst_dwords; ++d) {
    if (mask == ~0ull) {
      memcpy(dst + d * kWave, w.out[d], kRegisterBytes);
    } else {
      merge(dst + d * kWave, w.out[d], mask);
    }
  }
}

}  // namespace aiterlite::emulator
