// The launch of every GPU kernel of the package, whatever its family, driver or target: one call launches the kernels
// of an operator one after the other on a stream.
//
// What does not change between calls is a program of 64-bit words, made once (aiterlite/launch/program.py writes it);
// what changes is the argument structs, which follow each other in `arguments`. Nothing here is state: the program and
// the arguments belong to the caller, and both are only read.
//
//   launch                 hipModuleLaunchKernel, cuLaunchKernel, or the emulator's call of the same shape
//   launch_ex              cuLaunchKernelEx; 0 for other drivers
//   encode                 cuTensorMapEncodeTiled; 0 for other drivers
//   kernels                how many follow
//   of each kernel:
//     function             the driver's handle
//     grid x, y, z; block x, y, z; bytes of dynamic shared memory
//     overlapped           1 where it may start before those ahead of it on the stream have ended
//     cluster              workgroups of a cluster along x; 1 for none
//     offset, bytes        where its struct lies in `arguments`
//     fields, maps         how many follow
//     of each field: its offset in the struct
//     of each map: its offset in the struct; the offset of the field that holds the address of what it describes; type,
//       rank, swizzle; sizes[rank], innermost first; strides[rank - 1] in bytes; box[rank]
//
// To a driver a compiled kernel has one argument, the struct, and an assembly kernel one for each field. The driver
// reads as many addresses as the kernel has arguments, and the first field's address is the struct's, so one list
// serves both.
#include <aiterlite/host_abi.h>
#include <stddef.h>
#include <string.h>

namespace {

typedef int32_t (*launch_t)(void* function, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z, uint32_t block_x,
                            uint32_t block_y, uint32_t block_z, uint32_t shared_bytes, void* stream,
                            void** kernel_params, void** extra);

// CUlaunchAttribute and CUlaunchConfig, whose layout the driver's ABI fixes.
struct Attribute {
  int32_t id;
  int32_t padding;
  union {
    char bytes[64];
    int32_t number;
    uint32_t dimensions[3];
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
typedef int32_t (*launch_ex_t)(const Config* config, void* function, void** kernel_params, void** extra);
typedef int32_t (*encode_t)(void* map, int32_t type, uint32_t rank, void* address, const uint64_t* sizes,
                            const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                            int32_t interleave, int32_t swizzle, int32_t promotion, int32_t fill);

constexpr int32_t kClusterDimension = 4, kProgrammaticStreamSerialization = 6;
constexpr int32_t kNoInterleave = 0, kPromoteTo128Bytes = 2, kFillWithZeros = 0;
constexpr int64_t kMostFields = 64, kMostBytes = 4096;
constexpr uint32_t kMostRank = 5;

template <class T>
T as(int64_t word) {
  return reinterpret_cast<T>(static_cast<uintptr_t>(word));
}

// Reads a program word by word.
struct Reader {
  const int64_t* at;
  int64_t next() { return *at++; }
  void next_three(uint32_t (&out)[3]) {
    for (uint32_t& value : out) value = static_cast<uint32_t>(next());
  }
};

// Fills in one tensor map of a struct.
int32_t encode_map(encode_t encode, Reader& program, char* arguments) {
  char* map = arguments + program.next();
  void* address;
  memcpy(&address, arguments + program.next(), sizeof(address));
  const auto type = static_cast<int32_t>(program.next());
  const auto rank = static_cast<uint32_t>(program.next());
  const auto swizzle = static_cast<int32_t>(program.next());
  uint64_t sizes[kMostRank], strides[kMostRank];
  uint32_t box[kMostRank], element_strides[kMostRank];
  for (uint32_t i = 0; i < rank; ++i) sizes[i] = static_cast<uint64_t>(program.next());
  for (uint32_t i = 0; i + 1 < rank; ++i) strides[i] = static_cast<uint64_t>(program.next());
  for (uint32_t i = 0; i < rank; ++i) box[i] = static_cast<uint32_t>(program.next());
  for (uint32_t& stride : element_strides) stride = 1;
  return encode(map, type, rank, address, sizes, strides, box, element_strides, kNoInterleave, swizzle,
                kPromoteTo128Bytes, kFillWithZeros);
}

// Launches with the attributes that only cuLaunchKernelEx takes.
int32_t launch_with(launch_ex_t launch_ex, bool overlapped, uint32_t cluster, Config& config, void* function,
                    void** parameters) {
  Attribute attributes[2] = {};
  uint32_t count = 0;
  if (overlapped) {
    attributes[count].id = kProgrammaticStreamSerialization;
    attributes[count++].value.number = 1;
  }
  if (cluster > 1) {
    attributes[count].id = kClusterDimension;
    attributes[count].value.dimensions[0] = cluster;
    attributes[count].value.dimensions[1] = 1;
    attributes[count++].value.dimensions[2] = 1;
  }
  config.attributes = attributes;
  config.attribute_count = count;
  return launch_ex(&config, function, parameters, nullptr);
}

}  // namespace

// Returns 0, or, of the first kernel that was not launched, its number in the upper half and the driver's status in the
// lower one.
AITERLITE_EXPORT int64_t aiterlite_launch(const int64_t* words, void* stream, const char* arguments) {
  Reader program = {words};
  const auto launch = as<launch_t>(program.next());
  const auto launch_ex = as<launch_ex_t>(program.next());
  const auto encode = as<encode_t>(program.next());
  const int64_t kernels = program.next();
  for (int64_t kernel = 0; kernel < kernels; ++kernel) {
    void* function = as<void*>(program.next());
    Config config = {};
    program.next_three(config.grid);
    program.next_three(config.block);
    config.shared_bytes = static_cast<uint32_t>(program.next());
    config.stream = stream;
    const bool overlapped = program.next() != 0;
    const auto cluster = static_cast<uint32_t>(program.next());
    // The driver copies what the addresses point to; it does not write there.
    char* own = const_cast<char*>(arguments) + program.next();
    const int64_t bytes = program.next(), fields = program.next(), maps = program.next();
    const int64_t* offsets = program.at;
    program.at += fields;

    int32_t status = 0;
    alignas(64) char copy[kMostBytes];
    if (maps > 0) own = static_cast<char*>(memcpy(copy, own, static_cast<size_t>(bytes)));
    for (int64_t map = 0; map < maps && status == 0; ++map) status = encode_map(encode, program, own);
    void* parameters[kMostFields];
    for (int64_t i = 0; i < fields; ++i) parameters[i] = own + offsets[i];
    if (status == 0 && (overlapped || cluster > 1)) {
      status = launch_with(launch_ex, overlapped, cluster, config, function, parameters);
    } else if (status == 0) {
      status = launch(function, config.grid[0], config.grid[1], config.grid[2], config.block[0], config.block[1],
                      config.block[2], config.shared_bytes, stream, parameters, nullptr);
    }
    if (status != 0) return kernel << 32 | static_cast<uint32_t>(status);
  }
  return 0;
}
