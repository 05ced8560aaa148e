// SOP1, SOP2, SOPC, SOPK, SOPP and SMEM.
#include <aiterlite/emulator/decoder.h>

namespace aiterlite::emulator {

bool Decoder::sop2() {
  if (!begin(Format::SOP2, 1)) return false;
  const uint32_t w = d_[0];
  const SopRow* row = find_sop2(field(w, 29, 23));
  if (!known(row)) return false;
  inst_.op = row->op;
  if (!source(field(w, 7, 0), row->src[0], true, &inst_.src[0])) return false;
  if (!source(field(w, 15, 8), row->src[1], true, &inst_.src[1])) return false;
  if (row->dst.dwords) return scalar_dst(field(w, 22, 16), row->dst, &inst_.dst[0]);
  return zero(field(w, 22, 16), "sdst of an instruction without destination");
}

bool Decoder::sop1() {
  if (!begin(Format::SOP1, 1)) return false;
  const uint32_t w = d_[0];
  const SopRow* row = find_sop1(field(w, 15, 8));
  if (!known(row)) return false;
  inst_.op = row->op;
  if (row->src[0].dwords) {
    if (!source(field(w, 7, 0), row->src[0], true, &inst_.src[0])) return false;
  } else if (!zero(field(w, 7, 0), "ssrc0 of an instruction without source")) {
    return false;
  }
  if (row->dst.dwords) return scalar_dst(field(w, 22, 16), row->dst, &inst_.dst[0]);
  return zero(field(w, 22, 16), "sdst of an instruction without destination");
}

bool Decoder::sopc() {
  if (!begin(Format::SOPC, 1)) return false;
  const uint32_t w = d_[0];
  const SopRow* row = find_sopc(field(w, 22, 16));
  if (!known(row)) return false;
  inst_.op = row->op;
  if (!source(field(w, 7, 0), row->src[0], true, &inst_.src[0])) return false;
  if (row->flags & kGprIdx) {
    inst_.simm16 = static_cast<uint16_t>(field(w, 15, 8));
    if (!zero(inst_.simm16 >> 4, "a mode past DST")) return false;
    inst_.src[1] = {OperandKind::inline_int, DataType::b32, 1, 0, inst_.simm16};
    return true;
  }
  return source(field(w, 15, 8), row->src[1], true, &inst_.src[1]);
}

bool Decoder::sopk() {
  if (!begin(Format::SOPK, 1)) return false;
  const uint32_t w = d_[0];
  const SopRow* row = find_sopk(field(w, 27, 23));
  if (!known(row)) return false;
  inst_.op = row->op;
  inst_.simm16 = static_cast<uint16_t>(field(w, 15, 0));
  if (row->flags & kImm32) {
    if (!zero(field(w, 22, 16), "sdst of s_setreg_imm32_b32")) return false;
    return literal(slot::B32, &inst_.src[0]);
  }
  if (row->src[0].dwords) return scalar_dst(field(w, 22, 16), row->src[0], &inst_.src[0]);
  return scalar_dst(field(w, 22, 16), row->dst, &inst_.dst[0]);
}

bool Decoder::sopp() {
  if (!begin(Format::SOPP, 1)) return false;
  const uint32_t w = d_[0];
  const SopRow* row = find_sopp(field(w, 22, 16));
  if (!known(row)) return false;
  inst_.op = row->op;
  inst_.simm16 = static_cast<uint16_t>(field(w, 15, 0));
  if ((row->flags & kGprIdx) && !zero(inst_.simm16 >> 4, "a mode past DST")) return false;
  return !(row->flags & kNoImm) || zero(inst_.simm16, "simm16 of an instruction without immediate");
}

bool Decoder::smem() {
  if (!begin(Format::SMEM, 2)) return false;
  const uint32_t w = d_[0];
  const SmemRow* row = find_smem(field(w, 25, 18));
  if (!known(row)) return false;
  inst_.op = row->op;
  const bool imm = field(w, 17, 17), soffset_en = field(w, 14, 14);
  inst_.sc0 = field(w, 16, 16);
  const uint32_t sdata = field(w, 12, 6);
  if (!zero(field(w, 15, 15), "nv") || !zero(field(w, 13, 13), "bit 13")) return false;

  if (row->kind == SmemKind::none || row->kind == SmemKind::time) {
    if (!zero(w & 0x3f, "sbase") || !zero(d_[1], "offset") || !zero(w & 0x34000, "imm, glc and soffset_en"))
      return false;
    if (row->kind == SmemKind::none) return zero(sdata, "sdata");
    return scalar_dst(sdata, slot::B64, &inst_.dst[0]);
  }

  if (!scalar(field(w, 5, 0) << 1, {DataType::b64, row->base, kScalar}, &inst_.src[0])) return false;
  const Slot data{row->data == 1 ? DataType::b32 : DataType::wide, row->data, kScalar};
  if (row->data && sdata >= m0)
    return fail(DecodeStatus::bad_operand, "m0 or exec as data of a scalar memory instruction");
  switch (row->kind) {
    case SmemKind::load:
      if (!scalar_dst(sdata, data, &inst_.dst[0])) return false;
      break;
    case SmemKind::store:
      if (!scalar_dst(sdata, data, &inst_.src[1])) return false;
      break;
    case SmemKind::atomic:
    case SmemKind::cmpswap:
      if (!scalar_dst(sdata, data, &inst_.src[1])) return false;
      if (inst_.sc0) inst_.dst[0] = inst_.src[1];
      if (inst_.sc0 && row->kind == SmemKind::cmpswap) inst_.dst[0].dwords /= 2;
      break;
    case SmemKind::probe:
      inst_.simm16 = static_cast<uint16_t>(sdata);
      break;
    default:
      if (!zero(sdata, "sdata")) return false;
      break;
  }
  if (row->kind >= SmemKind::probe && !zero(inst_.sc0, "glc")) return false;

  const uint32_t soffset = field(d_[1], 31, 25);
  if (imm) {
    inst_.offset = static_cast<int32_t>(d_[1] << 11) >> 11;
    if (row->base == 4 && inst_.offset < 0) return fail(DecodeStatus::bad_operand, "a negative offset into a buffer");
  } else if (!soffset_en) {
    // The older form: the offset field holds the register's number.
    if (!zero(field(d_[1], 20, 7), "offset")) return false;
    if (!scalar_dst(field(d_[1], 6, 0), slot::B32, &inst_.src[2])) return false;
  } else if (!zero(field(d_[1], 20, 0), "offset")) {
    return false;
  }
  if (soffset_en) {
    if (!scalar_dst(soffset, slot::B32, &inst_.src[2])) return false;
  } else if (!zero(soffset, "soffset")) {
    return false;
  }
  return zero(field(d_[1], 24, 21), "bits 53 to 56");
}

}  // namespace aiterlite::emulator
