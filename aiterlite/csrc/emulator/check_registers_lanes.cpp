// How undefined bytes move between lanes: to scalar registers and back, by comparison, and through the matrix core.
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/undefined.h>

#include <algorithm>

namespace aiterlite::emulator {

// Instructions that move values between lanes or between vector and scalar registers.
bool UndefinedState::move_lanes(const Step& at) {
  const Inst& inst = *at.op->inst;
  const uint64_t exec = at.w.exec();
  const auto to_scalar = [&](int lane) {
    const Bytes x = raw(inst.src[0], 0);
    uint32_t bits = 0;
    for (int i = 0; i < 4; ++i) bits |= x.b[i] >> lane & 1 ? 0xffu << (8 * i) : 0;
    if (bits && at.op->sdst == exec_lo) sink_vector(at, at.e.source[0], 0, 4, 1ull << lane, "of which EXEC is made");
    put_scalar(at.op->sdst, bits);
  };
  switch (inst.op) {
    case Op::v_readfirstlane_b32:
      to_scalar(exec ? __builtin_ctzll(exec) : 0);
      return true;
    case Op::v_readlane_b32:
      if (scalar_bits(inst.src[1]) & 63) {
        put_scalar(at.op->sdst, ~0u);
      } else {
        to_scalar(static_cast<int>(scalar32(at.w, at.op->src[1]) & 63));
      }
      return true;
    case Op::v_writelane_b32: {
      const uint64_t bad = scalar_bits(inst.src[0]);
      const uint64_t lane = 1ull << (scalar32(at.w, at.op->src[1]) & 63);
      Bytes x;
      // Lane masks are spilled so, with undefined bits for lanes that are off: a byte of which any bit is defined
      // counts as defined.
      for (int i = 0; i < 4; ++i) x.b[i] = (bad >> (8 * i) & 0xff) == 0xff ? lane : 0;
      put(at.e.result.first, lane, x);
      return true;
    }
    case Op::v_swap_b32: {
      const Bytes a = v_[at.e.result.first], b = v_[at.e.source[0].first];
      put(at.e.result.first, exec, b);
      put(at.e.source[0].first, exec, a);
      return true;
    }
    case Op::v_permlane16_swap_b32:
    case Op::v_permlane32_swap_b32: {
      const bool half = inst.op == Op::v_permlane32_swap_b32;
      const int by = half ? 32 : 16;
      const uint64_t low = half ? 0xffffffffull : 0x0000ffff0000ffffull;
      const Bytes d = v_[at.e.result.first], s = v_[at.e.source[0].first];
      Bytes to_d, to_s;
      for (int i = 0; i < 4; ++i) {
        to_s.b[i] = d.b[i] >> by;
        to_d.b[i] = s.b[i] << by;
      }
      put(at.e.source[0].first, exec & low, to_s);
      put(at.e.result.first, exec & ~low, to_d);
      return true;
    }
    default:
      return false;
  }
}

// The active lanes where one side of an unsigned comparison decides it in all of them: nothing is below zero or above
// all ones.
uint64_t UndefinedState::settled_lanes(const Step& at) const {
  const std::string_view n = name(at.op->inst->op);
  if (!n.ends_with("_u32") || at.op->flags & kPrepare || at.op->inst->dpp.present) return 0;
  const uint64_t exec = at.w.exec();
  const auto all = [&](int slot, uint32_t wanted) {
    return (known_lanes(at, slot, wanted, ~0u) & exec) == exec ? exec : 0;
  };
  const auto is = [&](std::string_view relation) { return n.find(relation) != std::string_view::npos; };
  if (is("_lt_") || is("_ge_")) return all(1, 0) | all(0, ~0u);
  if (is("_gt_") || is("_le_")) return all(0, 0) | all(1, ~0u);
  return 0;
}

void UndefinedState::compare(const Step& at) {
  const Inst& inst = *at.op->inst;
  uint64_t mask = at.w.exec();
  uint64_t bad = 0;
  for (int slot = 0; slot < 2 && !is_moot(inst); ++slot) {
    for (int d = 0; d < std::max<int>(1, inst.src[slot].dwords); ++d) bad |= source(at, slot, d, &mask).any();
  }
  bad &= at.w.exec() & ~settled_lanes(at);
  if (at.e.scalar_writes.has(exec_lo) && bad) {
    const int v = at.e.source[0].count ? at.e.source[0].first : at.e.source[1].first;
    if (dirty_.has(static_cast<uint32_t>(v))) {
      sink(at, static_cast<uint16_t>(v), "on which EXEC depends", __builtin_ctzll(bad));
      put(static_cast<uint32_t>(v), bad, {});
    }
    bad = 0;
  }
  put_scalar(at.op->sdst, static_cast<uint32_t>(bad));
  put_scalar(at.op->sdst + 1u, static_cast<uint32_t>(bad >> 32));
}

// A row of D is undefined where the row of A is, a column where the column of B is. EXEC plays no part.
void UndefinedState::matrix(const Step& at) {
  const Inst& inst = *at.op->inst;
  const std::string_view n = name(inst.op);
  const auto has = [&](std::string_view part) { return n.find(part) != std::string_view::npos; };
  const int size = has("4x4x") && !has("16x16x4") ? 4 : has("32x32") ? 32 : 16;
  const int blocks = has("_16b_") ? 16 : has("_4b_") ? 4 : has("_2b_") ? 2 : 1;
  const bool wide = at.e.unit == Unit::dmatrix;
  uint64_t a = 0, b = 0;
  for (int i = 0; i < std::max<int>(1, inst.src[0].dwords); ++i) a |= raw(inst.src[0], i).any();
  for (int i = 0; i < std::max<int>(1, inst.src[1].dwords); ++i) b |= raw(inst.src[1], i).any();
  if (n.starts_with("v_smfmac_")) a |= raw(inst.src[2], 0).any();
  if (inst.scale[0].present()) a |= raw(inst.scale[0], 0).any();
  if (inst.scale[1].present()) b |= raw(inst.scale[1], 0).any();
  // Broadcasts and permutations: every lane may get what any lane has.
  if (!has("f8f6f4") && !n.starts_with("v_smfmac_")) {
    if (inst.cbsz && a) a = ~0ull;
    if (inst.blgp && !wide && b) b = ~0ull;
  }
  // Row (or column) i of a block.
  uint32_t rows[16] = {}, columns[16] = {};
  for (int l = 0; l < kWave; ++l) {
    const int block = l / size % blocks;
    if (a >> l & 1) rows[block] |= 1u << (l % size);
    if (b >> l & 1) columns[block] |= 1u << (l % size);
  }
  const int words = wide ? 2 : 1;
  const int results = at.e.result.count / words;
  const int per_block = size == 4 ? results : results / (wide ? 1 : blocks);
  for (int r = 0; r < results; ++r) {
    uint64_t bad = 0;
    for (int l = 0; l < kWave; ++l) {
      int block, row;
      if (wide) {
        block = l / size % blocks;
        row = kWave / (size * blocks) * r + l / (size * blocks);
      } else if (size == 4) {
        block = l / 4;
        row = r;
      } else {
        block = r / per_block;
        const int k = r % per_block;
        row = size == 16 ? 4 * (l / 16) + k : 8 * (k / 4) + 4 * (l / 32) + k % 4;
      }
      if ((rows[block] >> row & 1) || (columns[block] >> (l % size) & 1)) bad |= 1ull << l;
    }
    for (int word = 0; word < words; ++word) {
      const int dword = r * words + word;
      Bytes c;
      if (at.e.accumulator.count) c = v_[at.e.accumulator.first + dword];
      put(at.e.result.first + static_cast<uint32_t>(dword), ~0ull, Bytes::all(bad | c.any()));
    }
  }
}

}  // namespace aiterlite::emulator
