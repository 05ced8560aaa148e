// What host units exchange with Python: plain C, looked up by name.
#pragma once
#include <stdint.h>

#define AITERLITE_EXPORT extern "C" __attribute__((visibility("default")))

// torch_parallel_for: calls fn on parts of [begin, end) in torch's own thread pool. Returns 0, or what went wrong.
typedef int32_t (*parallel_for_t)(int64_t begin, int64_t end, int64_t grain, void (*fn)(int64_t, int64_t, void*),
                                  void* ctx);

// A CPU kernel has the argument struct that its GPU siblings take, and the threads that it may use:
//   int32_t kernel(const Args* args, parallel_for_t parallel_for, int32_t num_threads)
// It returns 0, kNoMemory, or what parallel_for returned.
enum { kNoMemory = -2 };
