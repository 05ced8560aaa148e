// What the code of an object shows without being run.
#pragma once
#include <aiterlite/emulator/module.h>

namespace aiterlite::emulator {

// JSON: for each kernel its occupancy, at its largest workgroup and without dynamic LDS, and the findings in the
// straight lines of its code.
std::string inspect(Module& module);

}  // namespace aiterlite::emulator
