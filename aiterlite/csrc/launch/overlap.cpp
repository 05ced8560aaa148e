// Host unit of overlapped launches: a launch of the drivers' usual shape that lets the kernel start while those before
// it on its stream still run. Only for kernels that wait for them themselves (aiterlite/overlap.h).
#include <aiterlite/host_abi.h>

namespace {

// CUlaunchAttribute and CUlaunchConfig of the CUDA driver, which needs no header of CUDA's here.
struct Attribute {
  int32_t id;
  int32_t padding;
  union {
    char bytes[64];
    int32_t number;
  } value;
};
struct Config {
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t shared_bytes;
  void* stream;
  Attribute* attributes;
  uint32_t attribute_count;
};
static_assert(sizeof(Attribute) == 72 && sizeof(Config) == 56, "these are the driver's structs");

constexpr int32_t kAbi = 1;
constexpr int32_t kProgrammaticStreamSerialization = 6;
constexpr int32_t kNotInitialized = 3;  // the driver's own code for it

typedef int32_t (*launch_ex_t)(const Config* config, void* function, void** kernel_params, void** extra);
launch_ex_t launch_ex = nullptr;

}  // namespace

AITERLITE_EXPORT int32_t aiterlite_overlap_abi(void) { return kAbi; }

// Fixes the driver's cuLaunchKernelEx, once, before the first launch.
AITERLITE_EXPORT void aiterlite_overlap_bind(launch_ex_t entry) { launch_ex = entry; }

AITERLITE_EXPORT int32_t aiterlite_launch_overlapped(void* function, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z,
                                                     uint32_t block_x, uint32_t block_y, uint32_t block_z,
                                                     uint32_t shared_bytes, void* stream, void** kernel_params,
                                                     void** extra) {
  if (launch_ex == nullptr) return kNotInitialized;
  Attribute attribute = {kProgrammaticStreamSerialization, 0, {}};
  attribute.value.number = 1;
  const Config config = {
      {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, stream, &attribute, 1,
  };
  return launch_ex(&config, function, kernel_params, extra);
}
