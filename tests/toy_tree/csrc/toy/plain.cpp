// Includes none of the headers of toy.cpp.
#include <aiterlite/plain.h>

extern "C" __attribute__((visibility("default"))) int plain_value() { return PLAIN_VALUE; }
