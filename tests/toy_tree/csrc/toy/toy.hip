// The same value as toy.cpp, from one source for AMD and NVIDIA.
#include <aiterlite/kernel.h>
#include <aiterlite/toy.h>

TOY_KERNEL toy(int* out) { out[0] = TOY_SCALE * TOY_FACTOR; }
