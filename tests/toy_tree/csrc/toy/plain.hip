// Shares one header with toy.hip, and not the nested one.
#include <aiterlite/kernel.h>
#include <aiterlite/plain.h>

TOY_KERNEL plain(int* out) { out[0] = PLAIN_VALUE; }
