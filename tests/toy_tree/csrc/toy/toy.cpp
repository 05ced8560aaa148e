// Includes a nested header, and exports one function with a C ABI.
#include <aiterlite/toy.h>

extern "C" __attribute__((visibility("default"))) int toy_scale(int x) { return x * TOY_SCALE * TOY_FACTOR; }
