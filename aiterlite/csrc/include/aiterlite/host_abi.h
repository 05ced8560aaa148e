// What host units exchange with Python: plain C, looked up by name.
#pragma once
#include <stdint.h>

#define AITERLITE_EXPORT extern "C" __attribute__((visibility("default")))

// torch_parallel_for: calls fn on parts of [begin, end) in torch's own thread pool. Returns 0, or what went wrong.
typedef int32_t (*parallel_for_t)(int64_t begin, int64_t end, int64_t grain, void (*fn)(int64_t, int64_t, void*),
                                  void* ctx);
// hipModuleLaunchKernel, cuLaunchKernel, and the emulator's call of the same shape.
typedef int32_t (*launch_t)(void* function, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z, uint32_t block_x,
                            uint32_t block_y, uint32_t block_z, uint32_t shared_bytes, void* stream,
                            void** kernel_params, void** extra);
