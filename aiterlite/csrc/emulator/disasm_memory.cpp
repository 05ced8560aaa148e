// Text of DS, FLAT, GLOBAL, SCRATCH, MUBUF and MTBUF, and of DPP controls.
#include <aiterlite/emulator/isa.h>
#include <aiterlite/emulator/text.h>

#include <bit>

namespace aiterlite::emulator::text {
namespace {

std::string call(const char* name, std::initializer_list<uint32_t> args) {
  std::string s = std::string("swizzle(") + name;
  for (const uint32_t a : args) s += ',' + std::to_string(a);
  return s + ')';
}

// The five mask bits, each as what it does to the same bit of a lane number: keep, invert, or force.
std::string bitmask_pattern(uint32_t and_mask, uint32_t or_mask, uint32_t xor_mask) {
  std::string s;
  for (int bit = 4; bit >= 0; --bit) {
    const uint32_t a = and_mask >> bit & 1, o = or_mask >> bit & 1, x = xor_mask >> bit & 1;
    const uint32_t of_zero = o ^ x, of_one = (a | o) ^ x;
    s += of_zero == of_one ? (of_zero ? '1' : '0') : (of_one ? 'p' : 'i');
  }
  return s;
}

std::string cache_policy(const Inst& inst) {
  std::string s;
  if (inst.sc0) s += " sc0";
  if (inst.nt) s += " nt";
  if (inst.sc1) s += " sc1";
  return s;
}

}  // namespace

std::string swizzle(uint32_t offset) {
  if (offset >= 0xe000) return call("FFT", {offset & 0x1f});
  if ((offset & 0xff00) == 0x8000) {
    return call("QUAD_PERM", {offset & 3, offset >> 2 & 3, offset >> 4 & 3, offset >> 6 & 3});
  }
  if ((offset & 0xe000) == 0xc000) return call("ROTATE", {offset >> 10 & 1, offset >> 5 & 0x1f});
  if (offset & 0x8000) return std::to_string(offset);
  const uint32_t and_mask = offset & 0x1f, or_mask = offset >> 5 & 0x1f, xor_mask = offset >> 10 & 0x1f;
  if (and_mask == 31 && or_mask == 0) {
    if (std::popcount(xor_mask) == 1) return call("SWAP", {xor_mask});
    if (xor_mask && std::has_single_bit(xor_mask + 1)) return call("REVERSE", {xor_mask + 1});
  }
  const uint32_t group = 32 - and_mask;
  if (group > 1 && std::has_single_bit(group) && or_mask < group && xor_mask == 0) {
    return call("BROADCAST", {group, or_mask});
  }
  return "swizzle(BITMASK_PERM,\"" + bitmask_pattern(and_mask, or_mask, xor_mask) + "\")";
}

std::string buffer_format(const Inst& inst) {
  constexpr const char* kData[] = {"INVALID",     "8",        "16",          "8_8",        "32",      "16_16",
                                   "10_11_11",    "11_11_10", "10_10_10_2",  "2_10_10_10", "8_8_8_8", "32_32",
                                   "16_16_16_16", "32_32_32", "32_32_32_32", "RESERVED_15"};
  constexpr const char* kNumber[] = {"UNORM", "SNORM", "USCALED", "SSCALED", "UINT", "SINT", "RESERVED_6", "FLOAT"};
  std::string s;
  if (inst.dfmt != 1) s += std::string("BUF_DATA_FORMAT_") + kData[inst.dfmt];
  if (inst.nfmt != 0) s += (s.empty() ? "" : ",") + std::string("BUF_NUM_FORMAT_") + kNumber[inst.nfmt];
  return s.empty() ? s : " format:[" + s + ']';
}

std::string dpp_ctrl(uint32_t ctrl) {
  if (ctrl <= 0xff) {
    std::string s = "quad_perm:[";
    for (int i = 0; i < 4; ++i) s += std::string(i ? "," : "") + std::to_string(ctrl >> 2 * i & 3);
    return s + ']';
  }
  const std::string n = std::to_string(ctrl & 0xf);
  switch (ctrl >> 4) {
    case 0x10:
      return "row_shl:" + n;
    case 0x11:
      return "row_shr:" + n;
    case 0x12:
      return "row_ror:" + n;
    case 0x15:
      return "row_newbcast:" + n;
    default:
      break;
  }
  switch (ctrl) {
    case 0x130:
      return "wave_shl:1";
    case 0x134:
      return "wave_rol:1";
    case 0x138:
      return "wave_shr:1";
    case 0x13c:
      return "wave_ror:1";
    case 0x140:
      return "row_mirror";
    case 0x141:
      return "row_half_mirror";
    case 0x142:
      return "row_bcast:15";
    default:
      return "row_bcast:31";
  }
}

std::string memory_operands(const Inst& inst) {
  std::string s;
  const auto add = [&](const Operand& op) { s += (s.empty() ? " " : ", ") + operand(inst, op); };
  const auto offset = [&] { return inst.offset ? " offset:" + std::to_string(inst.offset) : std::string(); };

  if (inst.format == Format::DS) {
    if (inst.dst[0].present()) add(inst.dst[0]);
    for (int i = 0; i < 3; ++i) {
      if (inst.src[i].present()) add(inst.src[i]);
    }
    if (inst.offset0) s += " offset0:" + std::to_string(inst.offset0);
    if (inst.offset1) s += " offset1:" + std::to_string(inst.offset1);
    if (inst.op == Op::ds_swizzle_b32) {
      if (inst.offset) s += " offset:" + swizzle(static_cast<uint32_t>(inst.offset));
    } else {
      s += offset();
    }
    return inst.gds ? s + " gds" : s;
  }

  if (inst.format == Format::MUBUF || inst.format == Format::MTBUF) {
    if (!inst.src[2].present()) return cache_policy(inst);
    if (!inst.lds) add(inst.src[1].present() ? inst.src[1] : inst.dst[0]);
    add(inst.src[0]);
    add(inst.src[2]);
    add(inst.src[3]);
    if (inst.format == Format::MTBUF) s += buffer_format(inst);
    if (inst.idxen) s += " idxen";
    if (inst.offen) s += " offen";
    s += offset() + cache_policy(inst);
    return inst.lds ? s + " lds" : s;
  }

  if (inst.dst[0].present()) add(inst.dst[0]);
  add(inst.src[0]);
  if (inst.src[1].present()) add(inst.src[1]);
  if (inst.format != Format::FLAT) add(inst.src[2]);
  return s + offset() + cache_policy(inst);
}

}  // namespace aiterlite::emulator::text
