// Reading gfx942 and gfx950 code objects: the ELF container, kernel descriptors and the metadata note.
//
// Every offset and size in the file is checked before it is used; a file that breaks a rule is refused with a message
// that names the field, what it holds and what it may hold. Sources: the AMDGPU chapter of the LLVM documentation (code
// object V4 to V6) and the ELF specification.
#pragma once
#include <aiterlite/emulator/inst.h>
#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

namespace aiterlite::emulator {

enum class LoadStatus : uint8_t {
  ok,
  truncated,     // the file ends inside something it announces
  not_elf,       // no ELF file, or not a little-endian 64-bit one
  wrong_target,  // an ELF file for something else than gfx942 or gfx950
  malformed,     // a field contradicts another, or the format
  unsupported,   // legal, but not handled: unknown relocations, undefined symbols, images past kMaxImage
};

enum class FeatureMode : uint8_t { unsupported, any, off, on };  // of xnack and sramecc, as in e_flags

// Memory that loading the object takes, at most.
inline constexpr uint64_t kMaxImage = uint64_t{256} << 20;

// Kernel arguments end before this.
inline constexpr uint32_t kMaxKernarg = 65536;

struct Segment {
  uint64_t vaddr = 0;
  uint64_t memory_size = 0;
  uint64_t file_offset = 0;
  uint64_t file_size = 0;
  bool readable = false, writable = false, executable = false;
};

struct Symbol {
  std::string name;
  uint64_t vaddr = 0;
  uint64_t size = 0;
  bool function = false;
  bool label = false;  // an untyped symbol in a section, as assembly labels are
  bool defined = false;
  bool weak = false;
};

struct Relocation {
  uint64_t vaddr = 0;     // where
  uint32_t type = 0;      // R_AMDGPU_*
  uint64_t value = 0;     // symbol value + addend, relative to the load address
  bool relative = false;  // add the load address
};

// One entry of a kernel's .args.
struct KernelArg {
  std::string name;
  std::string value_kind;     // by_value, global_buffer, dynamic_shared_pointer, hidden_block_count_x, ...
  std::string address_space;  // empty if not given
  uint32_t offset = 0;
  uint32_t size = 0;

  bool hidden() const { return value_kind.starts_with("hidden_"); }
};

// What the hardware is told of a kernel. User SGPR numbers are -1 where the kernel does not ask for the value.
struct KernelDescriptor {
  uint32_t group_segment_size = 0;    // LDS bytes, static part
  uint32_t private_segment_size = 0;  // scratch bytes a work item
  uint32_t kernarg_size = 0;
  uint64_t entry = 0;  // virtual address of the first instruction
  uint32_t rsrc1 = 0, rsrc2 = 0, rsrc3 = 0;
  uint16_t properties = 0;

  uint32_t vgprs = 0;         // allocated, VGPRs and AGPRs together
  uint32_t accum_offset = 0;  // first AGPR's place in them
  uint32_t sgprs = 0;
  uint8_t round_mode_32 = 0, round_mode_16_64 = 0;    // 0 even, 1 up, 2 down, 3 to zero
  uint8_t denorm_mode_32 = 0, denorm_mode_16_64 = 0;  // bit 0: keep inputs, bit 1: keep results
  bool dx10_clamp = false, ieee_mode = false, fp16_overflow = false, tg_split = false;

  uint32_t user_sgprs = 0;
  int8_t sgpr_private_segment_buffer = -1, sgpr_dispatch_ptr = -1, sgpr_queue_ptr = -1, sgpr_kernarg_ptr = -1,
         sgpr_dispatch_id = -1, sgpr_flat_scratch_init = -1, sgpr_private_segment_size = -1;
  // Kernel arguments preloaded into SGPRs: `kernarg_preload_length` dwords from dword `kernarg_preload_offset` on, into
  // the user SGPRs from sgpr_preload on. Firmware that does so enters such a kernel 256 bytes after `entry`; the code
  // at `entry` loads the same values itself.
  uint8_t kernarg_preload_length = 0, kernarg_preload_offset = 0;
  int8_t sgpr_preload = -1;
  // System SGPRs follow the user SGPRs in this order.
  bool workgroup_id_x = false, workgroup_id_y = false, workgroup_id_z = false, workgroup_info = false;
  bool scratch_enabled = false;
  uint8_t workitem_id = 0;  // 0: x only, 1: x and y, 2: x, y and z; packed in v0, 10 bits each
  bool uses_dynamic_stack = false;
};

struct Kernel {
  std::string name;
  KernelDescriptor descriptor;
  uint64_t code_size = 0;  // bytes of its function symbol; 0 if it has none

  // From the metadata note; has_metadata is false for an object without one.
  bool has_metadata = false;
  uint32_t kernarg_segment_size = 0, kernarg_segment_align = 0;
  uint32_t max_flat_workgroup_size = 0, wavefront_size = 0;
  uint32_t reqd_workgroup_size[3] = {0, 0, 0};  // 0 if not given
  uint32_t sgpr_count = 0, vgpr_count = 0, agpr_count = 0, sgpr_spill_count = 0, vgpr_spill_count = 0;
  bool uniform_work_group_size = false, uses_dynamic_stack = false;
  std::vector<KernelArg> args;

  // Bytes of the kernarg segment. Vendor objects exist whose last argument ends past the size they state.
  uint32_t kernarg_bytes() const;
};

struct CodeObject {
  Arch arch = Arch::gfx942;
  uint8_t abi_version = 0;
  FeatureMode xnack = FeatureMode::unsupported, sramecc = FeatureMode::unsupported;
  uint64_t image_size = 0;  // from address 0 to the end of the last segment
  std::vector<Segment> segments;
  std::vector<Symbol> symbols;
  std::vector<Relocation> relocations;
  std::vector<Kernel> kernels;
  std::string target;  // amdhsa.target of the metadata, empty without

  const Kernel* find_kernel(std::string_view name) const;
  // Virtual address of the first executable byte, from which reports count `pc`; 0 if there is none.
  uint64_t code_base() const;
};

struct LoadResult {
  LoadStatus status = LoadStatus::ok;
  std::string message;

  explicit operator bool() const { return status == LoadStatus::ok; }
};

// Reads the object in data[0, size). *out is meaningful only on success.
LoadResult load_code_object(const uint8_t* data, size_t size, CodeObject* out);

// Fills image[0, object.image_size) with what the object looks like when loaded at `base`.
void build_image(const CodeObject& object, const uint8_t* data, uint64_t base, uint8_t* image);

// The 64 bytes at a .kd symbol, which is at `vaddr`.
LoadResult decode_kernel_descriptor(const uint8_t (&bytes)[64], uint64_t vaddr, KernelDescriptor* out);

// The payload of the NT_AMDGPU_METADATA note; adds to the kernels in object->kernels that it names.
LoadResult read_metadata(const uint8_t* data, size_t size, CodeObject* object);

}  // namespace aiterlite::emulator
