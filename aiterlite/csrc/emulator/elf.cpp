// The ELF container: headers, segments, symbols, relocations and notes.
#include <aiterlite/emulator/elf.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

namespace aiterlite::emulator {
namespace {

constexpr uint16_t kMachineAmdgpu = 224;
constexpr uint8_t kOsAbiHsa = 64;
constexpr uint16_t kTypeShared = 3;
constexpr uint32_t kMachGfx942 = 0x4c, kMachGfx950 = 0x4f;
constexpr uint32_t kPtLoad = 1, kPtDynamic = 2, kPtNote = 4;
constexpr uint32_t kShtSymtab = 2;
constexpr uint64_t kDtHash = 4, kDtStrtab = 5, kDtSymtab = 6, kDtRela = 7, kDtRelasz = 8, kDtRelaent = 9, kDtStrsz = 10,
                   kDtSyment = 11, kDtRel = 17, kDtPltrelsz = 2;
// Real objects have about ten. It bounds the work of looking through overlapping segments.
constexpr uint16_t kMaxProgramHeaders = 64;
constexpr uint16_t kFirstReservedSection = 0xff00;
constexpr uint32_t kNoteMetadata = 32;
constexpr uint32_t kRelNone = 0, kRelAbs32Lo = 1, kRelAbs32Hi = 2, kRelAbs64 = 3, kRelAbs32 = 6, kRelRelative64 = 13;
constexpr size_t kSymbolBytes = 24, kRelaBytes = 24, kDynamicBytes = 16, kProgramHeaderBytes = 56,
                 kSectionHeaderBytes = 64, kHeaderBytes = 64, kDescriptorBytes = 64;

LoadResult refuse(LoadStatus status, std::string message) { return {status, std::move(message)}; }

std::string number(uint64_t v) { return std::to_string(v); }

// The file. Every read is checked against its end.
class File {
 public:
  File(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  bool holds(uint64_t offset, uint64_t bytes) const { return offset <= size_ && bytes <= size_ - offset; }
  size_t size() const { return size_; }
  const uint8_t* at(uint64_t offset) const { return data_ + offset; }

  // Callers have asked holds() for the range.
  uint64_t get(uint64_t offset, int bytes) const {
    uint64_t v = 0;
    for (int i = bytes - 1; i >= 0; --i) v = v << 8 | data_[offset + static_cast<uint64_t>(i)];
    return v;
  }
  uint16_t u16(uint64_t offset) const { return static_cast<uint16_t>(get(offset, 2)); }
  uint32_t u32(uint64_t offset) const { return static_cast<uint32_t>(get(offset, 4)); }
  uint64_t u64(uint64_t offset) const { return get(offset, 8); }

 private:
  const uint8_t* data_;
  size_t size_;
};

struct ProgramHeader {
  uint32_t type, flags;
  uint64_t offset, vaddr, file_size, memory_size, align;
};

class Loader {
 public:
  Loader(const uint8_t* data, size_t size, CodeObject* out) : file_(data, size), out_(out) {}

  LoadResult run() {
    *out_ = {};
    LoadResult r;
    if (!(r = header()) || !(r = program_headers()) || !(r = dynamic()) || !(r = static_symbols()) ||
        !(r = kernels()) || !(r = notes())) {
      return r;
    }
    return {};
  }

 private:
  LoadResult header();
  LoadResult program_headers();
  LoadResult dynamic();
  LoadResult static_symbols();
  LoadResult read_symbols(uint64_t offset, uint64_t count, uint64_t strings, uint64_t string_bytes, const char* table,
                          std::vector<Symbol>* out);
  LoadResult read_relocations(uint64_t offset, uint64_t count);
  LoadResult kernels();
  LoadResult notes();
  LoadResult note(uint64_t offset, uint64_t size, uint64_t align);

  // File offset of `bytes` bytes at a virtual address, all inside one segment's file part.
  bool map(uint64_t vaddr, uint64_t bytes, uint64_t* offset) const;
  // Whether the range lies in one segment's memory.
  bool mapped(uint64_t vaddr, uint64_t bytes) const;

  File file_;
  CodeObject* out_;
  std::vector<ProgramHeader> headers_;
  std::vector<Symbol> dynamic_;
  bool has_metadata_ = false;
};

LoadResult Loader::header() {
  if (file_.size() < kHeaderBytes) {
    return refuse(LoadStatus::truncated, "the file has " + number(file_.size()) + " bytes, an ELF header has 64");
  }
  const uint8_t* ident = file_.at(0);
  if (std::memcmp(ident,
                  "\x7f"
                  "ELF",
                  4) != 0)
    return refuse(LoadStatus::not_elf, "the file does not start with the ELF magic");
  if (ident[4] != 2 || ident[5] != 1)
    return refuse(LoadStatus::not_elf, "the file is not a little-endian 64-bit ELF file");
  if (file_.u16(18) != kMachineAmdgpu) {
    return refuse(LoadStatus::wrong_target,
                  "e_machine is " + number(file_.u16(18)) + ", AMDGPU code objects have " + number(kMachineAmdgpu));
  }
  if (ident[7] != kOsAbiHsa) {
    return refuse(LoadStatus::wrong_target, "EI_OSABI is " + number(ident[7]) + ", code objects for HSA have 64");
  }
  out_->abi_version = ident[8];
  if (out_->abi_version < 2 || out_->abi_version > 4) {
    return refuse(LoadStatus::unsupported,
                  "EI_ABIVERSION is " + number(out_->abi_version) + "; 2 to 4 (code object V4 to V6) are read");
  }
  if (file_.u16(16) != kTypeShared) {
    return refuse(LoadStatus::malformed,
                  "e_type is " + number(file_.u16(16)) + ", a linked code object has 3 (link it with ld.lld -shared)");
  }
  const uint32_t flags = file_.u32(48);
  const uint32_t mach = flags & 0xff;
  if (mach != kMachGfx942 && mach != kMachGfx950) {
    return refuse(LoadStatus::wrong_target, "the code object is for target " + number(mach) +
                                                " of EF_AMDGPU_MACH; gfx942 (76) and gfx950 (79) can be read");
  }
  out_->arch = mach == kMachGfx942 ? Arch::gfx942 : Arch::gfx950;
  out_->xnack = static_cast<FeatureMode>(flags >> 8 & 3);
  out_->sramecc = static_cast<FeatureMode>(flags >> 10 & 3);
  return {};
}

LoadResult Loader::program_headers() {
  const uint64_t at = file_.u64(32);
  const uint16_t count = file_.u16(56);
  if (count > kMaxProgramHeaders) {
    return refuse(LoadStatus::unsupported,
                  "e_phnum is " + number(count) + "; at most " + number(kMaxProgramHeaders) + " are read");
  }
  if (count && file_.u16(54) != kProgramHeaderBytes) {
    return refuse(LoadStatus::malformed, "e_phentsize is " + number(file_.u16(54)) + ", it must be 56");
  }
  if (!file_.holds(at, uint64_t{count} * kProgramHeaderBytes)) {
    return refuse(LoadStatus::truncated, "the program headers end past the end of the file");
  }
  for (uint16_t i = 0; i < count; ++i) {
    const uint64_t h = at + uint64_t{i} * kProgramHeaderBytes;
    const ProgramHeader p{file_.u32(h),      file_.u32(h + 4),  file_.u64(h + 8), file_.u64(h + 16),
                          file_.u64(h + 32), file_.u64(h + 40), file_.u64(h + 48)};
    const std::string which = "program header " + number(i);
    if ((p.type == kPtLoad || p.type == kPtDynamic || p.type == kPtNote) && !file_.holds(p.offset, p.file_size)) {
      return refuse(LoadStatus::truncated, which + " covers bytes past the end of the file");
    }
    headers_.push_back(p);
    if (p.type != kPtLoad) continue;
    if (p.memory_size < p.file_size) {
      return refuse(LoadStatus::malformed, which + ": p_memsz is smaller than p_filesz");
    }
    if (p.vaddr > kMaxImage || p.memory_size > kMaxImage - p.vaddr) {
      return refuse(LoadStatus::unsupported,
                    which + " reaches past the largest image that is loaded, " + number(kMaxImage) + " bytes");
    }
    out_->image_size = std::max(out_->image_size, p.vaddr + p.memory_size);
    out_->segments.push_back(
        {p.vaddr, p.memory_size, p.offset, p.file_size, (p.flags & 4) != 0, (p.flags & 2) != 0, (p.flags & 1) != 0});
  }
  auto sorted = out_->segments;
  std::sort(sorted.begin(), sorted.end(), [](const Segment& a, const Segment& b) { return a.vaddr < b.vaddr; });
  for (size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i - 1].vaddr + sorted[i - 1].memory_size > sorted[i].vaddr) {
      return refuse(LoadStatus::malformed, "two PT_LOAD segments overlap at address " + number(sorted[i].vaddr));
    }
  }
  if (sorted.empty()) return refuse(LoadStatus::malformed, "the file has no PT_LOAD segment");
  return {};
}

bool Loader::map(uint64_t vaddr, uint64_t bytes, uint64_t* offset) const {
  for (const Segment& s : out_->segments) {
    if (vaddr < s.vaddr) continue;
    const uint64_t into = vaddr - s.vaddr;
    if (into > s.file_size || bytes > s.file_size - into) continue;
    *offset = s.file_offset + into;
    return true;
  }
  return false;
}

bool Loader::mapped(uint64_t vaddr, uint64_t bytes) const {
  return std::any_of(out_->segments.begin(), out_->segments.end(), [&](const Segment& s) {
    return vaddr >= s.vaddr && vaddr - s.vaddr <= s.memory_size && bytes <= s.memory_size - (vaddr - s.vaddr);
  });
}

LoadResult Loader::read_symbols(uint64_t offset, uint64_t count, uint64_t strings, uint64_t string_bytes,
                                const char* table, std::vector<Symbol>* out) {
  // A name is copied once a symbol: without a bound, many symbols with one long name would fill the memory.
  uint64_t name_budget = 4 * file_.size();
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t at = offset + i * kSymbolBytes;
    const uint32_t name = file_.u32(at);
    const std::string which = std::string("symbol ") + number(i) + " of " + table;
    if (name >= string_bytes) return refuse(LoadStatus::malformed, which + ": its name is outside the string table");
    const char* start = reinterpret_cast<const char*>(file_.at(strings + name));
    const size_t length = strnlen(start, string_bytes - name);
    if (length == string_bytes - name) return refuse(LoadStatus::malformed, which + ": its name does not end");
    if (length > name_budget) return refuse(LoadStatus::malformed, which + ": the names overlap too often");
    name_budget -= length;
    const uint8_t info = file_.at(at)[4];
    const uint16_t section = file_.u16(at + 6);
    Symbol s;
    s.name.assign(start, length);
    s.vaddr = file_.u64(at + 8);
    s.size = file_.u64(at + 16);
    s.function = (info & 0xf) == 2;
    s.label = (info & 0xf) == 0 && section != 0 && section < kFirstReservedSection;
    s.weak = info >> 4 == 2;
    s.defined = section != 0;
    out->push_back(std::move(s));
  }
  return {};
}

LoadResult Loader::dynamic() {
  uint64_t hash = 0, strtab = 0, symtab = 0, rela = 0, rela_bytes = 0, string_bytes = 0;
  bool has_symbols = false, has_hash = false;
  for (const ProgramHeader& p : headers_) {
    if (p.type != kPtDynamic) continue;
    for (uint64_t i = 0; i + kDynamicBytes <= p.file_size; i += kDynamicBytes) {
      const uint64_t tag = file_.u64(p.offset + i), value = file_.u64(p.offset + i + 8);
      if (tag == 0) break;
      switch (tag) {
        case kDtHash:
          hash = value;
          has_hash = true;
          break;
        case kDtStrtab:
          strtab = value;
          break;
        case kDtSymtab:
          symtab = value;
          has_symbols = true;
          break;
        case kDtStrsz:
          string_bytes = value;
          break;
        case kDtRela:
          rela = value;
          break;
        case kDtRelasz:
          rela_bytes = value;
          break;
        case kDtSyment:
        case kDtRelaent:
          if (value != kSymbolBytes) return refuse(LoadStatus::malformed, "DT_SYMENT or DT_RELAENT is not 24");
          break;
        case kDtRel:
        case kDtPltrelsz:
          return refuse(LoadStatus::unsupported, "the object has DT_REL or PLT relocations");
        default:
          break;
      }
    }
  }
  if (!has_symbols) return refuse(LoadStatus::malformed, "the object has no dynamic symbol table");
  if (!has_hash)
    return refuse(LoadStatus::unsupported, "the object has no DT_HASH, which tells how many symbols it has");
  uint64_t hash_at, strings_at, symbols_at;
  if (!map(hash, 8, &hash_at)) return refuse(LoadStatus::malformed, "DT_HASH is outside the segments");
  const uint64_t count = file_.u32(hash_at + 4);
  if (!map(strtab, string_bytes, &strings_at))
    return refuse(LoadStatus::malformed, "DT_STRTAB is outside the segments");
  if (!map(symtab, count * kSymbolBytes, &symbols_at)) {
    return refuse(LoadStatus::malformed, "the dynamic symbol table is outside the segments");
  }
  if (LoadResult r = read_symbols(symbols_at, count, strings_at, string_bytes, ".dynsym", &dynamic_); !r) return r;
  if (rela_bytes == 0) return {};
  uint64_t rela_at;
  if (rela_bytes % kRelaBytes || !map(rela, rela_bytes, &rela_at)) {
    return refuse(LoadStatus::malformed, "DT_RELA and DT_RELASZ are outside the segments, or not whole entries");
  }
  return read_relocations(rela_at, rela_bytes / kRelaBytes);
}

LoadResult Loader::read_relocations(uint64_t offset, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t at = offset + i * kRelaBytes;
    const std::string which = "relocation " + number(i);
    Relocation r;
    r.vaddr = file_.u64(at);
    r.type = file_.u32(at + 8);
    const uint32_t symbol = file_.u32(at + 12);
    r.value = file_.u64(at + 16);
    if (r.type == kRelNone) continue;
    const bool wide = r.type == kRelAbs64 || r.type == kRelRelative64;
    if (!wide && r.type != kRelAbs32Lo && r.type != kRelAbs32Hi && r.type != kRelAbs32) {
      return refuse(LoadStatus::unsupported, which + " is of type " + number(r.type) + ", which is not handled");
    }
    if (!mapped(r.vaddr, wide ? 8 : 4)) {
      return refuse(LoadStatus::malformed, which + " changes address " + number(r.vaddr) + ", outside the segments");
    }
    r.relative = true;
    if (r.type != kRelRelative64) {
      if (symbol >= dynamic_.size()) return refuse(LoadStatus::malformed, which + " names a symbol that is not there");
      const Symbol& s = dynamic_[symbol];
      if (!s.defined && !s.weak && symbol != 0) {
        return refuse(LoadStatus::unsupported, which + " needs the undefined symbol " + s.name);
      }
      // An undefined weak symbol is address 0, wherever the object is loaded.
      r.relative = s.defined;
      r.value += s.vaddr;
    }
    out_->relocations.push_back(r);
  }
  return {};
}

// .symtab has the local functions too, for naming addresses. Without sections, the dynamic symbols have to do.
LoadResult Loader::static_symbols() {
  const uint64_t at = file_.u64(40);
  const uint16_t count = file_.u16(60);
  out_->symbols = dynamic_;
  if (count == 0 || at == 0) return {};
  if (file_.u16(58) != kSectionHeaderBytes) {
    return refuse(LoadStatus::malformed, "e_shentsize is " + number(file_.u16(58)) + ", it must be 64");
  }
  if (!file_.holds(at, uint64_t{count} * kSectionHeaderBytes)) {
    return refuse(LoadStatus::truncated, "the section headers end past the end of the file");
  }
  for (uint16_t i = 0; i < count; ++i) {
    const uint64_t h = at + uint64_t{i} * kSectionHeaderBytes;
    if (file_.u32(h + 4) != kShtSymtab) continue;
    const uint64_t offset = file_.u64(h + 24), bytes = file_.u64(h + 32);
    const uint32_t link = file_.u32(h + 40);
    if (link >= count) return refuse(LoadStatus::malformed, "sh_link of .symtab names no section");
    const uint64_t s = at + uint64_t{link} * kSectionHeaderBytes;
    const uint64_t strings = file_.u64(s + 24), string_bytes = file_.u64(s + 32);
    if (bytes % kSymbolBytes || !file_.holds(offset, bytes) || !file_.holds(strings, string_bytes)) {
      return refuse(LoadStatus::truncated, ".symtab or its strings end past the end of the file");
    }
    out_->symbols.clear();
    return read_symbols(offset, bytes / kSymbolBytes, strings, string_bytes, ".symtab", &out_->symbols);
  }
  return {};
}

LoadResult Loader::kernels() {
  std::unordered_map<std::string_view, const Symbol*> functions;
  for (const Symbol& s : dynamic_) {
    if (s.function && s.defined) functions.emplace(s.name, &s);
  }
  std::unordered_set<std::string_view> seen;
  for (const Symbol& s : dynamic_) {
    if (!s.defined || s.name.size() <= 3 || !s.name.ends_with(".kd")) continue;
    Kernel k;
    k.name = s.name.substr(0, s.name.size() - 3);
    if (!seen.insert(s.name).second) return refuse(LoadStatus::malformed, "two kernel descriptors are named " + s.name);
    if (s.size != kDescriptorBytes) {
      return refuse(LoadStatus::malformed, "kernel descriptor " + s.name + " has " + number(s.size) + " bytes, not 64");
    }
    uint64_t at;
    if (!map(s.vaddr, kDescriptorBytes, &at)) {
      return refuse(LoadStatus::malformed, "kernel descriptor " + s.name + " is outside the segments");
    }
    uint8_t bytes[kDescriptorBytes];
    std::memcpy(bytes, file_.at(at), kDescriptorBytes);
    if (LoadResult r = decode_kernel_descriptor(bytes, s.vaddr, &k.descriptor); !r) {
      r.message = "kernel " + k.name + ": " + r.message;
      return r;
    }
    const uint64_t entry = k.descriptor.entry;
    const bool code = std::any_of(out_->segments.begin(), out_->segments.end(), [&](const Segment& segment) {
      return segment.executable && entry >= segment.vaddr && entry - segment.vaddr < segment.file_size;
    });
    if (!code)
      return refuse(LoadStatus::malformed, "kernel " + k.name + ": its entry point is not in executable memory");
    const auto f = functions.find(k.name);
    if (f != functions.end() && f->second->vaddr == entry && mapped(entry, f->second->size)) {
      k.code_size = f->second->size;
    }
    out_->kernels.push_back(std::move(k));
  }
  return {};
}

LoadResult Loader::notes() {
  for (const ProgramHeader& p : headers_) {
    if (p.type != kPtNote) continue;
    if (LoadResult r = note(p.offset, p.file_size, p.align == 8 ? 8 : 4); !r) return r;
  }
  return {};
}

LoadResult Loader::note(uint64_t offset, uint64_t size, uint64_t align) {
  const auto padded = [align](uint64_t n) { return (n + align - 1) / align * align; };
  const uint64_t end = offset + size;
  while (end - offset >= 12) {
    const uint64_t name_bytes = file_.u32(offset), bytes = file_.u32(offset + 4);
    const uint32_t type = file_.u32(offset + 8);
    const uint64_t name = offset + 12, data = name + padded(name_bytes);
    if (data > end || bytes > end - data) return refuse(LoadStatus::truncated, "a note ends past its segment");
    if (type == kNoteMetadata && name_bytes == 7 && std::memcmp(file_.at(name), "AMDGPU", 7) == 0) {
      if (has_metadata_) return refuse(LoadStatus::malformed, "the object has two metadata notes");
      has_metadata_ = true;
      if (LoadResult r = read_metadata(file_.at(data), bytes, out_); !r) return r;
    }
    offset = std::min(end, data + padded(bytes));
  }
  return {};
}

}  // namespace

uint32_t Kernel::kernarg_bytes() const {
  uint32_t bytes = std::max(descriptor.kernarg_size, kernarg_segment_size);
  for (const KernelArg& arg : args) bytes = std::max(bytes, arg.offset + arg.size);
  return bytes;
}

const Kernel* CodeObject::find_kernel(std::string_view name) const {
  for (const Kernel& k : kernels) {
    if (k.name == name) return &k;
  }
  return nullptr;
}

uint64_t CodeObject::code_base() const {
  uint64_t first = ~0ull;
  for (const Segment& s : segments) {
    if (s.executable && s.memory_size) first = std::min(first, s.vaddr);
  }
  return first == ~0ull ? 0 : first;
}

LoadResult load_code_object(const uint8_t* data, size_t size, CodeObject* out) { return Loader(data, size, out).run(); }

void build_image(const CodeObject& object, const uint8_t* data, uint64_t base, uint8_t* image) {
  std::memset(image, 0, object.image_size);
  for (const Segment& s : object.segments) std::memcpy(image + s.vaddr, data + s.file_offset, s.file_size);
  for (const Relocation& r : object.relocations) {
    uint64_t v = r.value + (r.relative ? base : 0);
    if (r.type == kRelAbs32Hi) v >>= 32;
    const bool wide = r.type == kRelAbs64 || r.type == kRelRelative64;
    for (int i = 0; i < (wide ? 8 : 4); ++i)
      image[r.vaddr + static_cast<uint64_t>(i)] = static_cast<uint8_t>(v >> 8 * i);
  }
}

}  // namespace aiterlite::emulator
