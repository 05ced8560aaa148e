#pragma once
#if defined(__AMDGCN__)
#define TOY_KERNEL extern "C" __attribute__((global, visibility("default"), amdgpu_flat_work_group_size(64, 64))) void
#elif defined(__CUDACC__)
#define TOY_KERNEL extern "C" __global__ void
#endif
