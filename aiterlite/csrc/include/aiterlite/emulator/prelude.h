// What most of the emulator's sources include, compiled once for all of them (`Unit.prelude`). Each still includes what
// it uses: with a compiler that cannot take the compiled form, and in the tests, it is built without this.
#pragma once
#include <aiterlite/emulator/access.h>
#include <aiterlite/emulator/check.h>
#include <aiterlite/emulator/float.h>
#include <aiterlite/emulator/lanes.h>
#include <aiterlite/emulator/module.h>
#include <aiterlite/emulator/runtime.h>

#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>
