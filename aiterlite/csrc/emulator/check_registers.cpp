// Undefined registers: where they start, and the uses that are faults.
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/undefined.h>

namespace aiterlite::emulator {

void UndefinedState::start(const Wave& w) {
  const KernelDescriptor& d = w.launch->descriptor;
  const uint64_t exec = w.exec();
  dirty_ = {};
  for (uint32_t r = 0; r < 512; ++r) v_[r] = Bytes::all(r ? ~0ull : ~exec);
  dirty_.add(0, 512);
  if (exec == ~0ull) dirty_.remove(0, 1);
  scalar_dirty_ = {};
  for (uint32_t r = 0; r < 128; ++r) s_[r] = 0;
  const auto undefined = [&](uint32_t first, uint32_t count) {
    for (uint32_t r = first; r < first + count; ++r) s_[r] = ~0u;
    scalar_dirty_.add(first, count);
  };
  undefined(0, 102);
  undefined(vcc_lo, 2);
  undefined(m0, 1);
  if (!d.scratch_enabled) undefined(flat_scratch_lo, 2);
  const auto defined = [&](int at, int count) {
    for (int r = at; at >= 0 && r < at + count; ++r) put_scalar(static_cast<uint32_t>(r), 0);
  };
  defined(d.sgpr_private_segment_buffer, 4);
  defined(d.sgpr_dispatch_ptr, 2);
  defined(d.sgpr_queue_ptr, 2);
  defined(d.sgpr_kernarg_ptr, 2);
  defined(d.sgpr_dispatch_id, 2);
  defined(d.sgpr_flat_scratch_init, 2);
  defined(d.sgpr_private_segment_size, 1);
  defined(d.sgpr_preload, d.kernarg_preload_length);
  defined(static_cast<int>(d.user_sgprs), d.workgroup_id_x + d.workgroup_id_y + d.workgroup_id_z + d.workgroup_info);
  scc_ = true;
  for (uint16_t i = 0; i < 641; ++i) origin_[i] = {i, nullptr};
}

void UndefinedState::put(uint32_t reg, uint64_t mask, const Bytes& bytes) {
  Bytes& to = v_[reg];
  for (int i = 0; i < 4; ++i) to.b[i] = (to.b[i] & ~mask) | (bytes.b[i] & mask);
  if (to.any()) {
    dirty_.add(reg, 1);
  } else {
    dirty_.remove(reg, 1);
  }
}

void UndefinedState::put_scalar(uint32_t reg, uint32_t bits) {
  s_[reg] = bits;
  if (bits) {
    scalar_dirty_.add(reg, 1);
  } else {
    scalar_dirty_.remove(reg);
  }
}

// The undefined bits of a scalar operand of up to two dwords.
uint64_t UndefinedState::scalar_bits(const Operand& o) const {
  if (o.is_scalar_register())
    return o.dwords > 1 ? s_[o.index] | static_cast<uint64_t>(s_[o.index + 1]) << 32 : s_[o.index];
  if (o.is(scc)) return scc_;
  if (o.is(vccz)) return (s_[vcc_lo] | s_[vcc_hi]) != 0;
  return 0;
}

// Results inherit the origin of the first undefined source.
void UndefinedState::take_origin(const Step& at) {
  Origin from;
  if (const int r = at.e.reads.first_common(dirty_); r >= 0) {
    from = origin_[r];
  } else if (const int r2 = at.e.scalar_reads.first_common(scalar_dirty_); r2 >= 0) {
    from = origin_[kScalarOrigin + r2];
  } else if (at.e.reads_scc && scc_) {
    from = origin_[kSccOrigin];
  } else {
    return;
  }
  // GPR indexing executes copies of instructions, which do not last.
  if (!from.op) from.op = at.w.launch->program->at(at.op->address);
  for (int word = 0; word < 8; ++word) {
    for (uint64_t m = at.e.writes.word[word]; m; m &= m - 1) origin_[64 * word + __builtin_ctzll(m)] = from;
  }
  for (int word = 0; word < 2; ++word) {
    for (uint64_t m = at.e.scalar_writes.word[word]; m; m &= m - 1)
      origin_[kScalarOrigin + 64 * word + __builtin_ctzll(m)] = from;
  }
  if (at.e.writes_scc) origin_[kSccOrigin] = from;
}

void UndefinedState::sink(const Step& at, uint16_t number, const std::string& use, int lane) {
  const auto name_of = [](uint16_t n) {
    return n < kScalarOrigin ? vector_name(n) : n == kSccOrigin ? "scc" : scalar_name(n - kScalarOrigin);
  };
  const Origin from = origin_[number];
  const std::string used = name_of(number);
  const std::string source = from.number == kNone ? used : name_of(from.number);
  const MicroOp* first = from.op && from.op->address != at.op->address ? from.op : nullptr;
  if (from.number == kArgumentOrigin) {
    const std::string declared = std::to_string(at.w.launch->kernarg_bytes);
    report(at, kCheckRegisters, from.op,
           used + ", " + use + ", is undefined: " + quoted(at.w, from.op) + " reads behind the " + declared +
               " bytes of arguments that the kernel declares",
           "declare all of them (kernarg_segment_size), or leave out what is none", lane);
    return;
  }
  std::string what = used + ", " + use + ", is undefined";
  what += first ? ": it comes from " + source + ", which nothing had written when " + quoted(at.w, first) + " read it"
                : ": nothing has written " + source;
  if (lane >= 0) what += first ? " (for a lane)" : " for a lane that uses it";
  report(at, kCheckRegisters, first, std::move(what),
         "write " + source + " before " + (first ? quoted(at.w, first) : std::string("it")), lane);
}

void UndefinedState::load_argument(const Wave& w, const MicroOp* op, uint64_t address, uint32_t bytes, int lane) {
  const uint64_t end = w.launch->kernarg + w.launch->kernarg_bytes;
  const MicroOp* original = w.launch->program->at(op->address);
  const Operand& to = op->inst->dst[0];
  for (uint32_t i = address < end ? static_cast<uint32_t>(end - address) : 0; i < bytes; ++i) {
    const uint32_t dword = i / 4, byte = i % 4;
    if (lane < 0) {
      const uint32_t reg = op->sdst + dword;
      if (reg >= 128) return;
      put_scalar(reg, s_[reg] | 0xffu << (8 * byte));
      origin_[kScalarOrigin + reg] = {kArgumentOrigin, original};
    } else if (to.kind == OperandKind::vgpr || to.kind == OperandKind::agpr) {
      const uint32_t reg = to.index + dword + (to.kind == OperandKind::agpr ? static_cast<uint32_t>(kVgprs) : 0);
      Bytes x = v_[reg];
      // A byte or short is extended to its register, or put into a half of it.
      for (uint32_t b = bytes < 4 ? 0 : byte; b < (bytes < 4 ? 4 : byte + 1); ++b) x.b[b] |= 1ull << lane;
      put(reg, 1ull << lane, x);
      origin_[reg] = {kArgumentOrigin, original};
    }
  }
}

// Bytes [from_byte, from_byte + bytes) of each register of `span` must be defined in `lanes`.
void UndefinedState::sink_vector(const Step& at, const Span& span, int from_byte, int bytes, uint64_t lanes,
                                 const char* use) {
  for (uint32_t r = span.first; r < static_cast<uint32_t>(span.first) + span.count; ++r) {
    uint64_t bad = 0;
    for (int i = from_byte; i < from_byte + bytes; ++i) bad |= v_[r].b[i];
    bad &= lanes;
    if (!bad) continue;
    sink(at, static_cast<uint16_t>(r), use, __builtin_ctzll(bad));
    put(r, bad, {});
    return;
  }
}

void UndefinedState::sink_scalar(const Step& at, uint32_t first, uint32_t count, const char* use) {
  for (uint32_t r = first; r < first + count && r < 128; ++r) {
    if (!s_[r]) continue;
    sink(at, static_cast<uint16_t>(kScalarOrigin + r), use, -1);
    for (uint32_t i = first; i < first + count && i < 128; ++i) put_scalar(i, 0);
    return;
  }
}

void UndefinedState::branch(const Step& at) {
  switch (at.op->inst->op) {
    case Op::s_cbranch_scc0:
    case Op::s_cbranch_scc1:
      if (!scc_) return;
      sink(at, kSccOrigin, "on which the branch depends", -1);
      scc_ = false;
      return;
    case Op::s_cbranch_vccz:
    case Op::s_cbranch_vccnz: {
      const uint64_t bad = s_[vcc_lo] | static_cast<uint64_t>(s_[vcc_hi]) << 32;
      // One bit that is known to be set decides.
      if (bad && !(at.w.vcc() & ~bad)) sink_scalar(at, vcc_lo, 2, "on which the branch depends");
      return;
    }
    default:
      return;
  }
}

void UndefinedState::scalar_memory(const Step& at) {
  const Inst& inst = *at.op->inst;
  const Operand& base = inst.src[0];
  if (base.is_scalar_register()) sink_scalar(at, base.index, base.dwords, "an address");
  const Operand& offset = inst.src[2];
  if (offset.is_scalar_register()) sink_scalar(at, offset.index, 1, "an address");
  const Operand& data = inst.src[1];
  if (data.is_scalar_register()) sink_scalar(at, data.index, data.dwords, "stored data");
  for (uint32_t r = 0; r < 128; ++r) {
    if (at.e.scalar_writes.has(r)) put_scalar(r, 0);
  }
}

void UndefinedState::vector_memory(const Step& at) {
  const Inst& inst = *at.op->inst;
  const std::string_view n = name(inst.op);
  const auto has = [&](std::string_view part) { return n.find(part) != std::string_view::npos; };
  const uint64_t exec = at.w.exec();
  if (exec) {
    sink_vector(at, at.e.source[0], 0, 4, exec, "an address");
    for (int i = 2; i < 4; ++i) {
      const Operand& o = inst.src[i];
      if (o.is_scalar_register()) sink_scalar(at, o.index, o.dwords ? o.dwords : 1, "an address");
    }
    if (at.e.scalar_reads.has(m0)) sink_scalar(at, m0, 1, "an address");
  }
  // Scratch holds what registers are spilled to; that may be undefined.
  uint64_t stored = inst.format == Format::SCRATCH ? 0 : exec;
  if (inst.format == Format::FLAT) {
    const uint32_t* high = at.w.at(at.op->src[0].value) + kWave;
    for (int l = 0; l < kWave; ++l) {
      if (high[l] == kPrivateAperture) stored &= ~(1ull << l);
    }
  }
  const bool writes = at.e.is_store || (inst.format == Format::DS && inst.src[1].present());
  if (writes && stored) {
    const bool high = has("_d16_hi");
    const bool byte = has("_byte") || has("_b8");
    const bool half = has("_short") || has("_b16");
    sink_vector(at, at.e.source[1], high ? 2 : 0, byte ? 1 : half || high ? 2 : 4, stored, "stored data");
    if (inst.format == Format::DS) sink_vector(at, at.e.source[2], 0, 4, stored, "stored data");
  }
  if (!at.e.loads) return;
  const bool partial = at.e.partial;
  const bool high = has("_d16_hi");
  for (uint32_t r = 0; r < at.e.result.count; ++r) {
    Bytes kept;
    if (partial) {
      kept = v_[at.e.result.first + r];
      kept.b[high ? 2 : 0] = kept.b[high ? 3 : 1] = 0;
    }
    put(at.e.result.first + r, exec, kept);
  }
}

// ds_swizzle, ds_permute, ds_bpermute: registers to registers.
void UndefinedState::lds_exchange(const Step& at) {
  const uint64_t exec = at.w.exec();
  const uint32_t result = at.e.result.first;
  if (at.op->inst->op == Op::ds_swizzle_b32) {
    // Which lane reads which depends on the pattern: undefined only where every lane is.
    const uint64_t bad = v_[at.e.source[0].first].any();
    put(result, exec, (exec & ~bad) ? Bytes{} : Bytes::all(bad));
    return;
  }
  const Bytes& index = v_[at.e.source[0].first];
  const Bytes data = v_[at.e.source[1].first];
  const uint32_t* lanes = at.w.at(at.op->src[0].value);
  const uint32_t offset = static_cast<uint32_t>(at.op->inst->offset);
  Bytes out = Bytes::all(index.any());
  for (uint64_t m = exec; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    const uint32_t other = ((lanes[l] + offset) >> 2) & 63;
    const bool pulls = at.op->inst->op == Op::ds_bpermute_b32;
    const uint32_t from = pulls ? other : static_cast<uint32_t>(l);
    const uint32_t to = pulls ? static_cast<uint32_t>(l) : other;
    if (!(exec >> from & 1)) continue;
    for (int i = 0; i < 4; ++i) out.b[i] |= (data.b[i] >> from & 1) << to;
  }
  put(result, exec, out);
}

void UndefinedState::follow(const Step& at) {
  const Inst& inst = *at.op->inst;
  take_origin(at);
  switch (at.e.unit) {
    case Unit::branch:
      branch(at);
      break;
    case Unit::salu:
      scalar_alu(at);
      break;
    case Unit::smem:
      scalar_memory(at);
      break;
    case Unit::lds:
      if (inst.op == Op::ds_swizzle_b32 || inst.op == Op::ds_permute_b32 || inst.op == Op::ds_bpermute_b32) {
        lds_exchange(at);
        break;
      }
      [[fallthrough]];
    case Unit::vmem:
    case Unit::flat:
      vector_memory(at);
      break;
    case Unit::xdl:
    case Unit::smatrix:
    case Unit::dmatrix:
      matrix(at);
      break;
    case Unit::valu:
    case Unit::trans:
    case Unit::dot:
      vector_alu(at);
      break;
    default:
      break;
  }
}

}  // namespace aiterlite::emulator
