#pragma once
#include <aiterlite/deep/scale.h>

#ifndef TOY_FACTOR
#define TOY_FACTOR 1
#endif
