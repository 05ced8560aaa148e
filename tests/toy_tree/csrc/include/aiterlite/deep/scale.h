#pragma once
#define TOY_SCALE 3
