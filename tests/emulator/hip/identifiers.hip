// Every work-item's ids in three dimensions, and the sizes of the launch from the implicit kernel arguments.
//
// out[item] = thread x, y, z, workgroup x, y, z, block size as 10000 x + 100 y + z, number of workgroups. The workgroup
// size is not fixed at compile time. Items are numbered as memory is: x fastest, then y and z, then the workgroup's.
#include <device.h>

extern "C" __attribute__((global, amdgpu_flat_work_group_size(1, 512))) void identifiers(uint32_t* out) {
  const auto* groups = (const uint32_t*)__builtin_amdgcn_implicitarg_ptr();
  const auto* sizes = reinterpret_cast<const uint16_t*>(groups + 3);
  const uint32_t dx = sizes[0], dy = sizes[1], dz = sizes[2];
  const uint32_t group = (group_z() * groups[1] + group_y()) * groups[0] + group_x();
  uint32_t* o = out + 8 * (((group * dz + thread_z()) * dy + thread_y()) * dx + thread_x());
  o[0] = thread_x();
  o[1] = thread_y();
  o[2] = thread_z();
  o[3] = group_x();
  o[4] = group_y();
  o[5] = group_z();
  o[6] = dx * 10000 + dy * 100 + dz;
  o[7] = groups[0] * groups[1] * groups[2];
}
