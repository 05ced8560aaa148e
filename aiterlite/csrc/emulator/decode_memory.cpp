// DS, FLAT, GLOBAL, SCRATCH, MUBUF and MTBUF.
#include <aiterlite/emulator/decoder.h>

namespace aiterlite::emulator {
namespace {

constexpr uint32_t kNoSaddr = 0x7f;

Slot data_slot(uint8_t dwords) { return {dwords == 1 ? DataType::b32 : DataType::wide, dwords, kVgpr}; }

}  // namespace

bool Decoder::ds() {
  if (!begin(Format::DS, 2)) return false;
  const uint32_t w = d_[0], v = d_[1];
  const DsRow* row = find_ds(field(w, 24, 17));
  if (!known(row)) return false;
  inst_.op = row->op;
  if (!on_arch(row->arch)) return false;
  const bool acc = field(w, 25, 25);
  inst_.gds = field(w, 16, 16);
  if (row->flags & kBareDs) return zero((w & 0x201ffff) | v, "a field of ds_nop");
  if ((row->flags & kNoGds) && !zero(inst_.gds, "gds")) return false;
  if ((row->flags & kGdsOnly) && !inst_.gds) return fail(DecodeStatus::reserved_bits, "gds must be set");
  if (row->flags & kTwoOffsets) {
    inst_.offset0 = static_cast<uint8_t>(field(w, 7, 0));
    inst_.offset1 = static_cast<uint8_t>(field(w, 15, 8));
  } else {
    inst_.offset = static_cast<int32_t>(field(w, 15, 0));
  }
  const uint32_t addr = field(v, 7, 0), data0 = field(v, 15, 8), data1 = field(v, 23, 16), vdst = field(v, 31, 24);
  const bool gws_data = (row->flags & kGdsOnly) && !(row->flags & kNoAddress);
  if (!row->dst && !row->data0 && !gws_data && !zero(acc, "acc")) return false;
  const auto part = [&](uint32_t index, uint8_t dwords, bool agpr, Operand* out) {
    if (row->flags & kAnyStart && index % 2 && dwords > 1) {
      // Check the range with the even start below.
      if (!vgpr(index - 1, data_slot(static_cast<uint8_t>(dwords + 1)), agpr, out)) return false;
      out->index = static_cast<uint16_t>(index);
      out->dwords = dwords;
      return true;
    }
    return dwords ? vgpr(index, data_slot(dwords), agpr, out) : zero(index, "a register field that is not used");
  };
  return part(addr, row->flags & kNoAddress ? 0 : 1, gws_data && acc, &inst_.src[0]) &&
         part(data0, row->data0, acc, &inst_.src[1]) && part(data1, row->data1, acc, &inst_.src[2]) &&
         part(vdst, row->dst, acc, &inst_.dst[0]);
}

bool Decoder::flat() {
  const uint32_t segment = field(d_[0], 15, 14);
  constexpr Format kSegments[4] = {Format::FLAT, Format::SCRATCH, Format::GLOBAL, Format::FLAT};
  if (!begin(kSegments[segment], 2)) return false;
  if (segment == 3) return fail(DecodeStatus::unknown_encoding, "segment 3");
  const uint32_t w = d_[0], v = d_[1];
  const FlatRow* row = find_flat(field(w, 24, 18));
  if (!known(row)) return false;
  const Op op = segment == 0 ? row->flat : segment == 1 ? row->scratch : row->global;
  if (!known(op == kNoOp ? nullptr : row)) return false;
  inst_.op = op;
  if (!on_arch(row->arch)) return false;

  inst_.sc0 = field(w, 16, 16);
  inst_.nt = field(w, 17, 17);
  inst_.sc1 = field(w, 25, 25);
  inst_.offset = static_cast<int32_t>(field(w, 12, 0));
  const uint32_t addr = field(v, 7, 0), data = field(v, 15, 8), saddr = field(v, 22, 16), vdst = field(v, 31, 24);
  const bool bit13 = field(w, 13, 13), acc = field(v, 23, 23);
  if (segment == 0) {
    if (!zero(field(w, 13, 12), "offset bits past 11, and bit 13")) return false;
    if (!zero(saddr, "saddr of a flat instruction")) return false;
  } else {
    inst_.offset = inst_.offset << 19 >> 19;
    if (segment == 2 && saddr == exec_lo) return fail(DecodeStatus::bad_operand, "exec as a base address");
    if (saddr != kNoSaddr && !scalar_dst(saddr, segment == 2 ? slot::B64 : slot::B32, &inst_.src[2])) return false;
  }
  if (segment == 1) {
    // Bit 13 tells whether there is a vector address.
    if (bit13 ? !vgpr(addr, slot::B32, false, &inst_.src[0]) : !zero(addr, "vaddr")) return false;
  } else {
    if (!zero(bit13, "bit 13")) return false;
    const bool wide = segment == 0 || saddr == kNoSaddr;
    if (!vgpr(addr, wide ? slot::B64 : slot::B32, false, &inst_.src[0])) return false;
  }
  const bool returns = row->dst && (!(row->flags & kAtomic) || inst_.sc0);
  if (!returns && !row->data && !zero(acc, "acc")) return false;
  if (row->data ? !vgpr(data, data_slot(row->data), acc, &inst_.src[1]) : !zero(data, "data")) return false;
  return returns ? vgpr(vdst, data_slot(row->dst), acc, &inst_.dst[0]) : zero(vdst, "vdst");
}

// What MUBUF and MTBUF have in common: data, vaddr, resource and soffset.
bool Decoder::buffer(const MubufRow& row) {
  const uint32_t w = d_[0], v = d_[1];
  inst_.offset = static_cast<int32_t>(field(w, 11, 0));
  inst_.offen = field(w, 12, 12);
  inst_.idxen = field(w, 13, 13);
  inst_.sc0 = field(w, 14, 14);
  const uint32_t vaddr = field(v, 7, 0), vdata = field(v, 15, 8), srsrc = field(v, 20, 16), soffset = field(v, 31, 24);
  const bool acc = field(v, 23, 23);
  if (row.flags & kMubufNoOperands) {
    return zero((w & 0x23fff) | v, "an operand field of an instruction without operands");
  }
  const uint8_t address_dwords = static_cast<uint8_t>(inst_.offen + inst_.idxen);
  if (address_dwords == 0) {
    if (!zero(vaddr, "vaddr without offen and idxen")) return false;
  } else if (!vgpr(vaddr, {address_dwords == 1 ? DataType::b32 : DataType::b64, address_dwords, kVgpr}, false,
                   &inst_.src[0])) {
    return false;
  }
  if (inst_.lds) {
    if (!zero(vdata | acc, "vdata of a load to LDS")) return false;
  } else {
    const Slot slot = data_slot(row.data);
    const bool reads = row.flags & (kMubufStore | kMubufAtomic);
    if (!vgpr(vdata, slot, acc, reads ? &inst_.src[1] : &inst_.dst[0])) return false;
    if ((row.flags & kMubufAtomic) && inst_.sc0) inst_.dst[0] = inst_.src[1];
    if ((row.flags & kMubufCmpswap) && inst_.sc0) inst_.dst[0].dwords /= 2;
  }
  return scalar(srsrc << 2, {DataType::wide, 4, kScalar}, &inst_.src[2]) &&
         source(soffset, slot::SLane, false, &inst_.src[3]);
}

bool Decoder::mubuf() {
  if (!begin(Format::MUBUF, 2)) return false;
  const uint32_t w = d_[0];
  const MubufRow* row = find_mubuf(field(w, 24, 18));
  if (!known(row)) return false;
  inst_.op = row->op;
  if (!on_arch(row->arch)) return false;
  inst_.sc1 = field(w, 15, 15);
  inst_.lds = field(w, 16, 16);
  inst_.nt = field(w, 17, 17);
  if (inst_.lds) {
    if (!(row->flags & (kMubufLds | kMubufLds950)))
      return fail(DecodeStatus::bad_operand, "no form of it loads to LDS");
    if ((row->flags & kMubufLds950) && !on_arch(kGfx950)) return false;
  }
  return zero(field(w, 25, 25), "bit 25") && zero(field(d_[1], 22, 21), "bits 53 and 54") && buffer(*row);
}

bool Decoder::mtbuf() {
  if (!begin(Format::MTBUF, 2)) return false;
  const uint32_t w = d_[0];
  const MubufRow* row = find_mtbuf(field(w, 18, 15));
  if (!known(row)) return false;
  inst_.op = row->op;
  inst_.dfmt = static_cast<uint8_t>(field(w, 22, 19));
  inst_.nfmt = static_cast<uint8_t>(field(w, 25, 23));
  inst_.sc1 = field(d_[1], 21, 21);
  inst_.nt = field(d_[1], 22, 22);
  return buffer(*row);
}

}  // namespace aiterlite::emulator
