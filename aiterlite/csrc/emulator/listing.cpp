#include <aiterlite/emulator/decoder.h>
#include <aiterlite/emulator/listing.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <utility>

namespace aiterlite::emulator {

bool is_direct_branch(Op op) {
  switch (op) {
    case Op::s_branch:
    case Op::s_cbranch_scc0:
    case Op::s_cbranch_scc1:
    case Op::s_cbranch_vccz:
    case Op::s_cbranch_vccnz:
    case Op::s_cbranch_execz:
    case Op::s_cbranch_execnz:
    case Op::s_cbranch_cdbgsys:
    case Op::s_cbranch_cdbguser:
    case Op::s_cbranch_cdbgsys_or_user:
    case Op::s_cbranch_cdbgsys_and_user:
    case Op::s_cbranch_i_fork:
    case Op::s_call_b64:
      return true;
    default:
      return false;
  }
}

namespace {

// Fill behind code: zeros, s_nop, s_code_end.
bool is_padding(uint32_t dword) { return dword == 0 || dword == 0xbf800000 || dword == 0xbf9f0000; }

std::string format(const char* pattern, unsigned long long value) {
  char buffer[32];
  snprintf(buffer, sizeof buffer, pattern, value);
  return buffer;
}

// Calls visit(pc, decoded, inst) for every instruction of a range; undecodable dwords are visited one at a time.
template <typename Visit>
void walk(Arch arch, const CodeRange& range, Visit visit) {
  for (uint64_t at = 0; at + 4 <= range.end - range.begin;) {
    Inst inst;
    const Decoded d = decode(arch, range.bytes + at, range.end - range.begin - at, &inst);
    visit(range.begin + at, d, inst);
    at += d ? d.size : 4;
  }
}

}  // namespace

std::vector<CodeRange> code_ranges(const CodeObject& object, const uint8_t* data) {
  struct Start {
    std::string name;
    uint64_t size;
    bool kernel;
  };
  std::map<uint64_t, Start> starts;
  for (const Symbol& s : object.symbols) {
    if (s.function && s.defined) starts.try_emplace(s.vaddr, Start{s.name, s.size, false});
  }
  for (const Kernel& k : object.kernels) {
    Start& start = starts.try_emplace(k.descriptor.entry, Start{k.name, k.code_size, true}).first->second;
    start.kernel = true;
    start.name = k.name;
  }
  std::vector<CodeRange> ranges;
  for (auto it = starts.begin(); it != starts.end(); ++it) {
    const uint64_t begin = it->first;
    const auto segment = std::find_if(object.segments.begin(), object.segments.end(), [&](const Segment& s) {
      return s.executable && begin >= s.vaddr && begin - s.vaddr < s.file_size;
    });
    if (segment == object.segments.end()) continue;
    const uint8_t* bytes = data + segment->file_offset + (begin - segment->vaddr);
    uint64_t limit = segment->vaddr + segment->file_size;
    if (const auto next = std::next(it); next != starts.end()) limit = std::min(limit, next->first);
    uint64_t size = std::min(it->second.size, limit - begin);
    if (it->second.size == 0) {
      // Assembly often leaves the size out: the code reaches to the next symbol, less what pads it.
      size = (limit - begin) / 4 * 4;
      while (size > 0 && is_padding(read_dword(bytes + size - 4))) size -= 4;
    }
    ranges.push_back({it->second.name, begin, begin + size, bytes, it->second.kernel});
  }
  return ranges;
}

std::string list_object(const CodeObject& object, const uint8_t* data) {
  constexpr size_t kCommentColumn = 60;
  const std::vector<CodeRange> ranges = code_ranges(object, data);
  // Of labels at one address the first by name counts, as in objdump.
  std::map<uint64_t, std::string_view> labels, places;
  for (const Symbol& s : object.symbols) {
    if (!s.label) continue;
    const auto [at, added] = labels.try_emplace(s.vaddr, s.name);
    if (!added) at->second = std::min(at->second, std::string_view(s.name));
  }
  places = labels;
  for (const CodeRange& r : ranges) places[r.begin] = r.name;
  const auto place = [&](uint64_t address) {
    const auto after = places.upper_bound(address);
    if (after == places.begin()) return std::string();
    const auto& [start, label] = *std::prev(after);
    return " <" + std::string(label) + (address > start ? format("+0x%llx", address - start) : "") + '>';
  };
  std::string out;
  for (const CodeRange& range : ranges) {
    out += (out.empty() ? "" : "\n") + format("%016llx", range.begin) + " <" + range.name + ">:\n";
    walk(object.arch, range, [&](uint64_t pc, const Decoded& d, const Inst& inst) {
      const int dwords = d ? inst.num_dwords : 1;
      std::string line = d ? disassemble(object.arch, inst) : ".long " + format("0x%08llx", d.raw[0]);
      std::string target;
      if (d && is_direct_branch(inst.op)) {
        const uint64_t to = branch_target(inst, pc);
        const auto label = labels.find(to);
        if (label == labels.end()) {
          target = place(to);
        } else {
          line.replace(line.rfind(' ') + 1, std::string::npos, label->second);
        }
      }
      if (line.size() < kCommentColumn - 1) line.resize(kCommentColumn - 1, ' ');
      line += "// " + format("%012llX", pc) + ':';
      for (int i = 0; i < dwords; ++i) line += format(" %08llX", d.raw[i]);
      line += target;
      if (!d) line += " " + describe(object.arch, d);
      out += '\t' + line + '\n';
    });
  }
  return out;
}

std::vector<FunctionCoverage> cover_object(const CodeObject& object, const uint8_t* data) {
  std::vector<FunctionCoverage> result;
  for (const CodeRange& range : code_ranges(object, data)) {
    FunctionCoverage f;
    f.name = range.name;
    f.kernel = range.kernel;
    std::map<std::pair<std::string, std::string>, FormUse> uses;
    walk(object.arch, range, [&](uint64_t pc, const Decoded& d, const Inst& inst) {
      if (!d) {
        f.unknown.push_back({pc, describe(object.arch, d)});
        return;
      }
      ++f.instructions;
      FormUse& use = uses[{name(inst.op), form(inst)}];
      if (use.count++ == 0) {
        use.first = inst;
        use.first_pc = pc;
      }
    });
    for (auto& [key, use] : uses) f.forms.push_back(use);
    result.push_back(std::move(f));
  }
  return result;
}

}  // namespace aiterlite::emulator
