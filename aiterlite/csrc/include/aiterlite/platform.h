// Selects the instruction set of the compile and gives every kernel the same small vocabulary.
//
// A kernel source is compiled once per target: AMDGPU clang in HIP mode without HIP's headers, or nvcc. Everything that
// is one instruction, or a short fixed sequence of them, lives in the isa_*.h header chosen here; all other headers
// are plain C++ on top of it. AITERLITE_HOST_SIM replaces that one header by a simulation (tests/hostsim).
#pragma once
#include <stdint.h>

#if defined(AITERLITE_HOST_SIM)
#include <hostsim/isa.h>
#elif defined(__AMDGCN__) || defined(__HIP__)
#define AITERLITE_AMD 1
#define AITERLITE_NVIDIA 0
#include <aiterlite/isa_amdgcn.h>
#elif defined(__CUDACC__)
#define AITERLITE_AMD 0
#define AITERLITE_NVIDIA 1
#include <aiterlite/isa_ptx.h>
#else
#error "aiterlite device code is compiled by AMDGPU clang (-x hip) or by nvcc (-x cu)"
#endif

namespace aiterlite {

// Kernels use one-dimensional workgroups whose size is a multiple of the wave.
AITERLITE_DEVICE uint32_t lane_id() { return thread_id() % kWaveSize; }

// The same in every lane of a wave, and the compiler knows it: what depends on it stays scalar.
AITERLITE_DEVICE uint32_t wave_id() { return uniform(thread_id() / kWaveSize); }

}  // namespace aiterlite
