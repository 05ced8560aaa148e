// The place of a CUtensorMap in an argument struct: what describes a tensor to sm_90's copy engine. The launch fills it
// in by the driver, so a kernel takes such a struct as a __grid_constant__.
#pragma once
#include <stdint.h>

struct alignas(64) aiterlite_tensor_map {
  uint64_t opaque[16];
};
