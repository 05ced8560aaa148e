// A GPU driver that keeps a record instead of a GPU: the entry points of HIP and CUDA that the launcher opens.
//
// Modules that begin with "bad" are refused (code 200), kernels named "missing" are not found (500), more than 64 KiB
// of dynamic shared memory is too much (1), and so is a grid of more than a million workgroups (9). A grid of 719 is a
// launch that reports the fault of an earlier kernel (719).
//
// As ROCm does from 7.0 on, the HIP one keeps the code of a call that failed until hipGetLastError is called: torch
// reads it after its own launches, and would take it for theirs. As ROCm's runtime does, both keep no copy of an image:
// a launch of a kernel whose image has been freed or overwritten since is refused (98).
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

extern "C" {
struct Record {
  int32_t initialized, loads, attribute, attribute_value, launches;
  uint32_t grid[3], block[3], shared_bytes;
  uint64_t function, stream;
  unsigned char image[16], arguments[512];
  int32_t launch_attribute, launch_attribute_value, encodes, encoded_as[7];
  uint64_t encoded[6];
  uint32_t box[3], cluster[3];
  int32_t last_error, lost_images;
};
Record fake_record;
int fake_driver_version = 70051831;
int fake_initialize_code = 0;
int fake_argument_bytes = 80;
}

namespace {

constexpr int kModules = 4096;
struct Module {
  const void* image;
  unsigned char bytes[16];
} modules[kModules];

/// Whether memory can be read at an address that may have been unmapped.
bool read(const void* from, void* to, size_t size) {
  const iovec local = {to, size}, remote = {const_cast<void*>(from), size};
  return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == static_cast<ssize_t>(size);
}

/// Whether the image that a function was found in is still what was loaded. Handles that `find` did not make pass.
bool image_kept(void* function) {
  const uint64_t number = (reinterpret_cast<uintptr_t>(function) >> 8) - 0x1000;
  if (number == 0 || number > static_cast<uint64_t>(fake_record.loads) || number >= kModules) return true;
  unsigned char now[sizeof(Module::bytes)];
  const Module& module = modules[number];
  return read(module.image, now, sizeof(now)) && memcmp(now, module.bytes, sizeof(now)) == 0;
}

/// The status of a call of the HIP runtime, kept where it is a failure.
[[maybe_unused]] int kept(int code) {
  if (code != 0) fake_record.last_error = code;
  return code;
}

int initialize(unsigned) {
  ++fake_record.initialized;
  return fake_initialize_code;
}

int load(void** module, const void* image) {
  memcpy(fake_record.image, image, sizeof(fake_record.image));
  if (memcmp(image, "bad", 3) == 0) return 200;
  ++fake_record.loads;
  if (fake_record.loads < kModules) {
    modules[fake_record.loads].image = image;
    memcpy(modules[fake_record.loads].bytes, image, sizeof(Module::bytes));
  }
  *module = reinterpret_cast<void*>(0x1000 + fake_record.loads);
  return 0;
}

int find(void** function, void* module, const char* name) {
  if (strcmp(name, "missing") == 0) return 500;
  *function = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(module) << 8 | strlen(name));
  return 0;
}

int set_attribute(void*, int attribute, int value) {
  fake_record.attribute = attribute;
  fake_record.attribute_value = value;
  return value > 65536 ? 1 : 0;
}

int launch(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
           unsigned shared_bytes, void* stream, void** arguments, void** extra) {
  if (gx > 1000000) return 9;
  if (gx == 719) return 719;
  if (extra != nullptr) return 1;
  if (!image_kept(function)) {
    ++fake_record.lost_images;
    return 98;
  }
  ++fake_record.launches;
  const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
  memcpy(fake_record.grid, grid, sizeof(grid));
  memcpy(fake_record.block, block, sizeof(block));
  fake_record.shared_bytes = shared_bytes;
  fake_record.function = reinterpret_cast<uint64_t>(function);
  fake_record.stream = reinterpret_cast<uint64_t>(stream);
  memcpy(fake_record.arguments, arguments[0], fake_argument_bytes);
  return 0;
}

// Stream 0x20 is under no capture, 0x30 not known, and any other under the capture of its own number.
int capture_info(void* stream, int* status, unsigned long long* number) {
  *status = reinterpret_cast<uintptr_t>(stream) != 0x20;
  *number = reinterpret_cast<uintptr_t>(stream);
  return *number == 0x30 ? 9 : 0;
}

int error_text(int code, const char** text) {
  *text = code == 200   ? "invalid image"
          : code == 500 ? "named symbol not found"
          : code == 9   ? "invalid configuration"
          : code == 719 ? "unspecified launch failure"
          : code == 98  ? "invalid device function"
                        : nullptr;
  return *text == nullptr;
}

}  // namespace

extern "C" {
#ifdef FAKE_CUDA
int cuInit(unsigned flags) { return initialize(flags); }
int cuModuleLoadData(void** module, const void* image) { return load(module, image); }
int cuModuleGetFunction(void** function, void* module, const char* name) { return find(function, module, name); }
int cuFuncSetAttribute(void* function, int attribute, int value) { return set_attribute(function, attribute, value); }
int cuDriverGetVersion(int* version) {
  *version = fake_driver_version;
  return 0;
}
int cuGetErrorString(int code, const char** text) { return error_text(code, text); }
int cuStreamGetCaptureInfo_v2(void* stream, int* status, unsigned long long* number, void**, const void**, size_t*) {
  return capture_info(stream, status, number);
}
#ifndef FAKE_OLD
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared_bytes, void* stream, void** arguments, void** extra) {
  return launch(function, gx, gy, gz, bx, by, bz, shared_bytes, stream, arguments, extra);
}

struct LaunchAttribute {
  int id;
  char padding[4];
  int value[16];
};
struct LaunchConfig {
  unsigned grid[3], block[3], shared_bytes;
  void* stream;
  LaunchAttribute* attributes;
  unsigned attribute_count;
};
int cuLaunchKernelEx(const LaunchConfig* config, void* function, void** arguments, void** extra) {
  if (config->attribute_count < 1 || config->attribute_count > 2) return 1;
  for (unsigned i = 0; i < config->attribute_count; ++i) {
    const LaunchAttribute& attribute = config->attributes[i];
    if (attribute.id == 4) {
      memcpy(fake_record.cluster, attribute.value, sizeof(fake_record.cluster));
    } else {
      fake_record.launch_attribute = attribute.id;
      fake_record.launch_attribute_value = attribute.value[0];
    }
  }
  const unsigned* grid = config->grid;
  const unsigned* block = config->block;
  return launch(function, grid[0], grid[1], grid[2], block[0], block[1], block[2], config->shared_bytes, config->stream,
                arguments, extra);
}

// A map is 0x55 throughout. Addresses that are no multiples of 16 are refused.
int cuTensorMapEncodeTiled(void* map, int type, unsigned rank, void* address, const uint64_t* sizes,
                           const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                           int interleave, int swizzle, int promotion, int fill) {
  const auto at = reinterpret_cast<uint64_t>(address);
  if (at % 16 != 0 || rank < 2 || rank > 3 || element_strides[0] != 1 || element_strides[1] != 1) return 1;
  ++fake_record.encodes;
  const int as[7] = {type, static_cast<int>(rank), interleave, swizzle, promotion, fill, 0};
  const bool three = rank == 3;
  const uint64_t encoded[6] = {at, sizes[0], sizes[1], strides[0], three ? sizes[2] : 0, three ? strides[1] : 0};
  memcpy(fake_record.encoded_as, as, sizeof(as));
  memcpy(fake_record.encoded, encoded, sizeof(encoded));
  const uint32_t boxes[3] = {box[0], box[1], three ? box[2] : 0};
  memcpy(fake_record.box, boxes, sizeof(boxes));
  memset(map, 0x55, 128);
  return 0;
}
#endif
#else
int hipInit(unsigned flags) { return kept(initialize(flags)); }
int hipDriverGetVersion(int* version) {
  *version = fake_driver_version;
  return 0;
}
int hipGetLastError() {
  const int code = fake_record.last_error;
  fake_record.last_error = 0;
  return code;
}
int hipPeekAtLastError() { return fake_record.last_error; }
int hipModuleLoadData(void** module, const void* image) { return kept(load(module, image)); }
int hipModuleGetFunction(void** function, void* module, const char* name) { return kept(find(function, module, name)); }
int hipFuncSetAttribute(void* function, int attribute, int value) {
  return kept(set_attribute(function, attribute, value));
}
// A code that it does not know is a failure of its own, and kept like any.
int hipDrvGetErrorString(int code, const char** text) { return kept(error_text(code, text)); }
#ifndef FAKE_OLD
int hipStreamGetCaptureInfo_v2(void* stream, int* status, unsigned long long* number, void**, const void**, size_t*) {
  return kept(capture_info(stream, status, number));
}
#endif
int hipModuleLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared_bytes, void* stream, void** arguments, void** extra) {
  return kept(launch(function, gx, gy, gz, bx, by, bz, shared_bytes, stream, arguments, extra));
}
#endif
}
