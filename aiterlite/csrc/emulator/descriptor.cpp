// The kernel descriptor: what the packet processor reads to start a kernel.
#include <aiterlite/emulator/elf.h>

#include <algorithm>

namespace aiterlite::emulator {
namespace {

uint64_t little_endian(const uint8_t* p, int bytes) {
  uint64_t v = 0;
  for (int i = bytes - 1; i >= 0; --i) v = v << 8 | p[i];
  return v;
}

constexpr uint32_t bits(uint32_t v, int hi, int lo) { return (v >> lo) & ((2u << (hi - lo)) - 1); }

}  // namespace

LoadResult decode_kernel_descriptor(const uint8_t (&bytes)[64], uint64_t vaddr, KernelDescriptor* out) {
  KernelDescriptor d;
  d.group_segment_size = static_cast<uint32_t>(little_endian(bytes, 4));
  d.private_segment_size = static_cast<uint32_t>(little_endian(bytes + 4, 4));
  d.kernarg_size = static_cast<uint32_t>(little_endian(bytes + 8, 4));
  d.entry = vaddr + little_endian(bytes + 16, 8);
  d.rsrc3 = static_cast<uint32_t>(little_endian(bytes + 44, 4));
  d.rsrc1 = static_cast<uint32_t>(little_endian(bytes + 48, 4));
  d.rsrc2 = static_cast<uint32_t>(little_endian(bytes + 52, 4));
  d.properties = static_cast<uint16_t>(little_endian(bytes + 56, 2));
  const auto preload = static_cast<uint32_t>(little_endian(bytes + 58, 2));

  d.vgprs = 8 * (bits(d.rsrc1, 5, 0) + 1);
  d.sgprs = 16 * (bits(d.rsrc1, 9, 6) / 2 + 1);
  d.round_mode_32 = static_cast<uint8_t>(bits(d.rsrc1, 13, 12));
  d.round_mode_16_64 = static_cast<uint8_t>(bits(d.rsrc1, 15, 14));
  d.denorm_mode_32 = static_cast<uint8_t>(bits(d.rsrc1, 17, 16));
  d.denorm_mode_16_64 = static_cast<uint8_t>(bits(d.rsrc1, 19, 18));
  d.dx10_clamp = bits(d.rsrc1, 21, 21);
  d.ieee_mode = bits(d.rsrc1, 23, 23);
  d.fp16_overflow = bits(d.rsrc1, 26, 26);

  d.scratch_enabled = bits(d.rsrc2, 0, 0);
  d.user_sgprs = bits(d.rsrc2, 5, 1);
  d.workgroup_id_x = bits(d.rsrc2, 7, 7);
  d.workgroup_id_y = bits(d.rsrc2, 8, 8);
  d.workgroup_id_z = bits(d.rsrc2, 9, 9);
  d.workgroup_info = bits(d.rsrc2, 10, 10);
  d.workitem_id = static_cast<uint8_t>(bits(d.rsrc2, 12, 11));

  d.accum_offset = 4 * (bits(d.rsrc3, 5, 0) + 1);
  d.tg_split = bits(d.rsrc3, 16, 16);

  d.uses_dynamic_stack = bits(d.properties, 11, 11);
  struct Part {
    int bit;
    int sgprs;
    int8_t* at;
  };
  const Part parts[] = {{0, 4, &d.sgpr_private_segment_buffer},
                        {1, 2, &d.sgpr_dispatch_ptr},
                        {2, 2, &d.sgpr_queue_ptr},
                        {3, 2, &d.sgpr_kernarg_ptr},
                        {4, 2, &d.sgpr_dispatch_id},
                        {5, 2, &d.sgpr_flat_scratch_init},
                        {6, 1, &d.sgpr_private_segment_size}};
  int next = 0;
  for (const Part& part : parts) {
    if (!(d.properties >> part.bit & 1)) continue;
    *part.at = static_cast<int8_t>(next);
    next += part.sgprs;
  }
  d.kernarg_preload_length = static_cast<uint8_t>(bits(preload, 6, 0));
  d.kernarg_preload_offset = static_cast<uint8_t>(std::min(bits(preload, 15, 7), 255u));
  if (d.kernarg_preload_length) {
    d.sgpr_preload = static_cast<int8_t>(next);
    next += d.kernarg_preload_length;
  }
  *out = d;

  const auto refuse = [](LoadStatus status, std::string message) { return LoadResult{status, std::move(message)}; };
  if (bits(d.properties, 10, 10)) return refuse(LoadStatus::unsupported, "the kernel is for waves of 32 lanes");
  if (d.workitem_id > 2) return refuse(LoadStatus::malformed, "ENABLE_VGPR_WORKITEM_ID of the kernel descriptor is 3");
  if (d.entry % 4) {
    return refuse(LoadStatus::malformed, "the entry point of the kernel descriptor is not a multiple of 4");
  }
  if (static_cast<uint32_t>(next) > d.user_sgprs) {
    return refuse(LoadStatus::malformed, "the kernel descriptor enables " + std::to_string(next) +
                                             " user SGPRs and USER_SGPR_COUNT is " + std::to_string(d.user_sgprs));
  }
  return {};
}

}  // namespace aiterlite::emulator
