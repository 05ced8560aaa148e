// The metadata note: a MessagePack map with one entry a kernel.
#include <aiterlite/emulator/elf.h>
#include <aiterlite/emulator/msgpack.h>

#include <limits>
#include <unordered_map>

namespace aiterlite::emulator {
namespace {

bool u32(Msgpack& in, uint32_t* out) {
  uint64_t v = 0;
  if (!in.unsigned_int(&v) || v > std::numeric_limits<uint32_t>::max()) return false;
  *out = static_cast<uint32_t>(v);
  return true;
}

bool flag(Msgpack& in, bool* out) {
  // Written as a boolean by some producers and as 0 or 1 by others.
  Msgpack copy = in;
  if (in.boolean(out)) return true;
  in = copy;
  uint32_t v = 0;
  if (!u32(in, &v)) return false;
  *out = v != 0;
  return true;
}

bool text(Msgpack& in, std::string* out) {
  std::string_view s;
  if (!in.string(&s)) return false;
  *out = s;
  return true;
}

bool read_arg(Msgpack& in, KernelArg* arg) {
  uint32_t entries = 0;
  if (!in.map(&entries)) return false;
  for (uint32_t i = 0; i < entries; ++i) {
    std::string_view key;
    if (!in.string(&key)) return false;
    const bool ok = key == ".name"            ? text(in, &arg->name)
                    : key == ".value_kind"    ? text(in, &arg->value_kind)
                    : key == ".address_space" ? text(in, &arg->address_space)
                    : key == ".offset"        ? u32(in, &arg->offset)
                    : key == ".size"          ? u32(in, &arg->size)
                                              : in.skip();
    if (!ok) return false;
  }
  return true;
}

bool read_args(Msgpack& in, std::vector<KernelArg>* args) {
  uint32_t count = 0;
  if (!in.array(&count)) return false;
  args->resize(count);
  for (KernelArg& arg : *args) {
    if (!read_arg(in, &arg)) return false;
  }
  return true;
}

bool read_triple(Msgpack& in, uint32_t (*out)[3]) {
  uint32_t count = 0;
  if (!in.array(&count) || count != 3) return false;
  for (uint32_t& v : *out) {
    if (!u32(in, &v)) return false;
  }
  return true;
}

bool read_kernel(Msgpack& in, Kernel* k, std::string* symbol) {
  uint32_t entries = 0;
  if (!in.map(&entries)) return false;
  for (uint32_t i = 0; i < entries; ++i) {
    std::string_view key;
    if (!in.string(&key)) return false;
    const bool ok = key == ".name"                      ? text(in, &k->name)
                    : key == ".symbol"                  ? text(in, symbol)
                    : key == ".args"                    ? read_args(in, &k->args)
                    : key == ".kernarg_segment_size"    ? u32(in, &k->kernarg_segment_size)
                    : key == ".kernarg_segment_align"   ? u32(in, &k->kernarg_segment_align)
                    : key == ".max_flat_workgroup_size" ? u32(in, &k->max_flat_workgroup_size)
                    : key == ".reqd_workgroup_size"     ? read_triple(in, &k->reqd_workgroup_size)
                    : key == ".sgpr_count"              ? u32(in, &k->sgpr_count)
                    : key == ".vgpr_count"              ? u32(in, &k->vgpr_count)
                    : key == ".agpr_count"              ? u32(in, &k->agpr_count)
                    : key == ".sgpr_spill_count"        ? u32(in, &k->sgpr_spill_count)
                    : key == ".vgpr_spill_count"        ? u32(in, &k->vgpr_spill_count)
                    : key == ".wavefront_size"          ? u32(in, &k->wavefront_size)
                    : key == ".uniform_work_group_size" ? flag(in, &k->uniform_work_group_size)
                    : key == ".uses_dynamic_stack"      ? flag(in, &k->uses_dynamic_stack)
                                                        : in.skip();
    if (!ok) return false;
  }
  return true;
}

LoadResult malformed(std::string message) { return {LoadStatus::malformed, std::move(message)}; }

}  // namespace

LoadResult read_metadata(const uint8_t* data, size_t size, CodeObject* object) {
  std::unordered_map<std::string, size_t> by_name;
  for (size_t i = 0; i < object->kernels.size(); ++i) by_name.emplace(object->kernels[i].name, i);
  Msgpack in(data, size);
  uint32_t entries = 0;
  if (!in.map(&entries)) return malformed("the metadata note is not a MessagePack map");
  for (uint32_t i = 0; i < entries; ++i) {
    std::string_view key;
    if (!in.string(&key)) return malformed("the metadata note has a key that is not a string");
    if (key == "amdhsa.target") {
      if (!text(in, &object->target)) return malformed("amdhsa.target of the metadata note is not a string");
      continue;
    }
    if (key != "amdhsa.kernels") {
      if (!in.skip()) return malformed("the metadata note is cut off in " + std::string(key));
      continue;
    }
    uint32_t kernels = 0;
    if (!in.array(&kernels)) return malformed("amdhsa.kernels of the metadata note is not an array");
    for (uint32_t n = 0; n < kernels; ++n) {
      Kernel read;
      std::string symbol;
      if (!read_kernel(in, &read, &symbol)) {
        return malformed("entry " + std::to_string(n) + " of amdhsa.kernels (" + read.name +
                         ") in the metadata note is malformed");
      }
      // .symbol is the descriptor's symbol; older producers leave it out.
      std::string name = symbol.empty() ? read.name : symbol;
      if (name.ends_with(".kd")) name.resize(name.size() - 3);
      for (const KernelArg& arg : read.args) {
        if (uint64_t{arg.offset} + arg.size > kMaxKernarg) {
          return malformed("kernel " + name + ": argument " + arg.name + " at " + std::to_string(arg.offset) + " of " +
                           std::to_string(arg.size) + " bytes ends past the largest kernarg segment, " +
                           std::to_string(kMaxKernarg) + " bytes");
        }
      }
      const auto at = by_name.find(name);
      if (at == by_name.end()) continue;
      Kernel& kernel = object->kernels[at->second];
      read.name = kernel.name;
      read.descriptor = kernel.descriptor;
      read.code_size = kernel.code_size;
      read.has_metadata = true;
      kernel = std::move(read);
    }
  }
  return {};
}

}  // namespace aiterlite::emulator
