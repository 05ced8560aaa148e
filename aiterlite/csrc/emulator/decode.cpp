// Recognising the encoding, reporting errors, and decoding operand fields.
#include <aiterlite/emulator/decoder.h>

#include <cstdio>

namespace aiterlite::emulator {
namespace {

constexpr uint32_t kLiteralCode = 255;
constexpr uint32_t kVgprCode = 256;

// Source codes 240..248 in each float format.
constexpr uint16_t kInlineF16[] = {0x3800, 0xb800, 0x3c00, 0xbc00, 0x4000, 0xc000, 0x4400, 0xc400, 0x3118};
constexpr uint16_t kInlineBf16[] = {0x3f00, 0xbf00, 0x3f80, 0xbf80, 0x4000, 0xc000, 0x4080, 0xc080, 0x3e22};
constexpr uint32_t kInlineF32[] = {0x3f000000, 0xbf000000, 0x3f800000, 0xbf800000, 0x40000000,
                                   0xc0000000, 0x40800000, 0xc0800000, 0x3e22f983};
constexpr uint64_t kInlineF64[] = {0x3fe0000000000000, 0xbfe0000000000000, 0x3ff0000000000000,
                                   0xbff0000000000000, 0x4000000000000000, 0xc000000000000000,
                                   0x4010000000000000, 0xc010000000000000, 0x3fc45f306dc9c882};

uint64_t inline_float_bits(uint32_t code, DataType type) {
  const uint32_t i = code - 240;
  switch (type) {
    case DataType::b16:
    case DataType::i16:
    case DataType::f16:
    case DataType::v2f16:
      return kInlineF16[i];
    case DataType::bf16:
    case DataType::v2bf16:
      return kInlineBf16[i];
    case DataType::b64:
    case DataType::i64:
    case DataType::f64:
      return kInlineF64[i];
    default:
      return kInlineF32[i];
  }
}

uint64_t inline_int_bits(int64_t v, DataType type) {
  switch (type) {
    case DataType::b16:
    case DataType::i16:
    case DataType::f16:
    case DataType::bf16:
      return static_cast<uint16_t>(v);
    case DataType::b64:
    case DataType::i64:
    case DataType::f64:
      return static_cast<uint64_t>(v);
    default:
      return static_cast<uint32_t>(v);
  }
}

uint64_t literal_bits(uint32_t v, DataType type) {
  switch (type) {
    case DataType::b16:
    case DataType::i16:
    case DataType::f16:
    case DataType::bf16:
      return v & 0xffff;
    case DataType::i64:
      return static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(v)));
    case DataType::f64:
      return static_cast<uint64_t>(v) << 32;
    default:
      return v;
  }
}

bool read_only_special(uint32_t code) {
  return (code >= shared_base && code <= pops_exiting_wave_id) || (code >= vccz && code <= scc);
}

}  // namespace

Decoded decode(Arch arch, const uint8_t* p, size_t available, Inst* inst) {
  return Decoder(arch, p, available).run(inst);
}

Decoded Decoder::run(Inst* out) {
  const bool ok = fetch(1) && dispatch();
  result_.num_dwords = static_cast<uint8_t>(fetched_);
  for (int i = 0; i < fetched_; ++i) result_.raw[i] = d_[i];
  if (!ok) return result_;
  inst_.num_dwords = static_cast<uint8_t>(fetched_);
  inst_.size = static_cast<uint8_t>(4 * fetched_);
  for (int i = 0; i < fetched_; ++i) inst_.raw[i] = d_[i];
  result_.size = inst_.size;
  *out = inst_;
  return result_;
}

bool Decoder::fail(DecodeStatus status, const char* reason) {
  result_.status = status;
  result_.reason = reason;
  return false;
}

bool Decoder::fetch(int dwords) {
  while (fetched_ < dwords) {
    if (available_ < 4 * static_cast<size_t>(fetched_ + 1)) {
      return fail(DecodeStatus::truncated, "the code ends inside the instruction");
    }
    d_[fetched_] = read_dword(p_ + 4 * fetched_);
    ++fetched_;
  }
  return true;
}

bool Decoder::begin(Format format, int dwords) {
  inst_.format = format;
  result_.format = format;
  return fetch(dwords);
}

bool Decoder::known(const void* row) {
  return row != nullptr || fail(DecodeStatus::unknown_opcode, "no instruction of this target has this opcode");
}

bool Decoder::on_arch(uint8_t mask) {
  if (has_arch(mask, arch_)) return true;
  return fail(DecodeStatus::other_arch,
              arch_ == Arch::gfx942 ? "the opcode exists on gfx950 only" : "the opcode exists on gfx942 only");
}

bool Decoder::zero(uint32_t bits, const char* what) { return bits == 0 || fail(DecodeStatus::reserved_bits, what); }

bool Decoder::dispatch() {
  const uint32_t w = d_[0];
  if (!(w >> 31)) {
    if (field(w, 30, 25) == 0x3f) return vop1();
    if (field(w, 30, 25) == 0x3e) return vopc();
    return vop2();
  }
  if (field(w, 31, 30) == 2) {
    if (field(w, 31, 23) == 0x17d) return sop1();
    if (field(w, 31, 23) == 0x17e) return sopc();
    if (field(w, 31, 23) == 0x17f) return sopp();
    if (field(w, 31, 28) == 0xb) return sopk();
    return sop2();
  }
  switch (field(w, 31, 26)) {
    case 0x30:
      return smem();
    case 0x34:
      return field(w, 25, 23) == 7 ? vop3p() : vop3();
    case 0x36:
      return ds();
    case 0x37:
      return flat();
    case 0x38:
      return mubuf();
    case 0x3a:
      return mtbuf();
    default:
      return fail(DecodeStatus::unknown_encoding, "no format of this target has these leading bits");
  }
}

bool Decoder::constant(uint32_t code, DataType type, Operand* out) {
  out->type = type;
  out->index = static_cast<uint16_t>(code);
  if (code <= 208) {
    out->kind = OperandKind::inline_int;
    out->value = inline_int_bits(code <= 192 ? static_cast<int>(code) - 128 : 192 - static_cast<int>(code), type);
  } else {
    out->kind = OperandKind::inline_float;
    out->value = inline_float_bits(code, type);
  }
  return true;
}

bool Decoder::literal(Slot slot, Operand* out) {
  if (!fetch(2)) return false;
  *out = {OperandKind::literal, slot.type, slot.dwords, kLiteralCode, literal_bits(d_[1], slot.type)};
  return true;
}

bool Decoder::vgpr(uint32_t index, Slot slot, bool agpr, Operand* out) {
  if (index + slot.dwords > 256) return fail(DecodeStatus::bad_operand, "a register tuple goes past v255 or a255");
  if (slot.dwords > 1 && index % 2)
    return fail(DecodeStatus::bad_operand, "a register tuple starts at an odd register");
  *out = {agpr ? OperandKind::agpr : OperandKind::vgpr, slot.type, slot.dwords, static_cast<uint16_t>(index), 0};
  return true;
}

// Scalar registers are read in groups that start at a multiple of their size, up to 4, and do not cross into the next
// kind of register.
bool Decoder::scalar(uint32_t code, Slot slot, Operand* out) {
  const uint32_t n = slot.dwords;
  const bool sgpr = code <= 101;
  *out = {sgpr ? OperandKind::sgpr : OperandKind::special, slot.type, slot.dwords, static_cast<uint16_t>(code), 0};
  if (read_only_special(code)) {
    if (n > 2) return fail(DecodeStatus::bad_operand, "a tuple of scalar registers starts at a read-only source");
    return true;
  }
  if (code > 127 || code == 125) return fail(DecodeStatus::bad_operand, "no scalar register has this number");
  if (n == 1) return true;
  const uint32_t align = n == 2 ? 2 : 4;
  const uint32_t first = sgpr ? 0 : ttmp0;
  if (code >= ttmp0 || sgpr ? (code - first) % align : code % 2) {
    return fail(DecodeStatus::bad_operand, "a tuple of scalar registers is not aligned");
  }
  if (sgpr) return code + n <= 102 || fail(DecodeStatus::bad_operand, "a tuple of scalar registers goes past s101");
  if (code >= ttmp0 && code <= ttmp15) {
    return code + n <= ttmp15 + 1 || fail(DecodeStatus::bad_operand, "a tuple of scalar registers goes past ttmp15");
  }
  if (n > 2 || code == m0) return fail(DecodeStatus::bad_operand, "the special registers do not form this tuple");
  return true;
}

bool Decoder::scalar_dst(uint32_t code, Slot slot, Operand* out) {
  if (code > 127) return fail(DecodeStatus::bad_operand, "a destination is not a scalar register");
  return scalar(code, slot, out);
}

bool Decoder::source(uint32_t code, Slot slot, bool allow_literal, Operand* out) {
  if (code >= kVgprCode) {
    if (slot.kinds & kAgpr) return vgpr(code - kVgprCode, slot, true, out);
    if (!(slot.kinds & kVgpr)) return fail(DecodeStatus::bad_operand, "a scalar operand names a vector register");
    return vgpr(code - kVgprCode, slot, false, out);
  }
  const bool inline_constant = (code >= 128 && code <= 208) || (code >= 240 && code <= 248);
  if (inline_constant) {
    if (!(slot.kinds & kConstant)) return fail(DecodeStatus::bad_operand, "a register operand names a constant");
    out->dwords = slot.dwords;
    return constant(code, slot.type, out);
  }
  if (code == kLiteralCode) {
    if (!(slot.kinds & kConstant) || !allow_literal) {
      return fail(DecodeStatus::bad_operand, "a literal where the encoding has no room for one");
    }
    return literal(slot, out);
  }
  if (!(slot.kinds & kScalar)) return fail(DecodeStatus::bad_operand, "a vector operand names a scalar register");
  return scalar(code, slot, out);
}

std::string describe(Arch arch, const Decoded& decoded) {
  std::string text = name(arch);
  text += ' ';
  text += name(decoded.format);
  text += " encoding";
  for (int i = 0; i < decoded.num_dwords; ++i) {
    char hex[16];
    snprintf(hex, sizeof hex, " %08x", decoded.raw[i]);
    text += hex;
  }
  text += ": ";
  text += decoded.status == DecodeStatus::ok ? "valid" : decoded.reason;
  return text;
}

}  // namespace aiterlite::emulator
