// Tables in the code object's own memory: constants, initialised variables, and a table of pointers, which needs
// relocations.
//
// integers[i] = primes[i % 16] + tables[i % 2][i % 8]; floats[i] = weights[i % 8].
#include <device.h>

#if defined(CORPUS_HOST)
#define DEVICE_VARIABLE static
#else
#define DEVICE_VARIABLE __attribute__((device))
#endif

DEVICE_VARIABLE int32_t primes[16] = {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53};
CONSTANT float weights[8] = {0.5f, 1.5f, -2.5f, 3.5f, 4.25f, -5.125f, 6.0f, 7.75f};
DEVICE_VARIABLE int32_t* const volatile tables[2] = {primes, primes + 8};

KERNEL(64) globals(int32_t* integers, float* floats, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  integers[i] = primes[i % 16] + tables[i % 2][i % 8];
  floats[i] = weights[i % 8];
}
