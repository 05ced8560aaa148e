// The watches there are.
#pragma once
#include <aiterlite/emulator/observe.h>

namespace aiterlite::emulator {

std::unique_ptr<Watch> make_race_watch(Launch& launch);     // kCheckRaces
std::unique_ptr<Watch> make_lds_watch(Launch& launch);      // kCheckLds
std::unique_ptr<Watch> make_counter_watch(Launch& launch);  // LaunchOptions::count

}  // namespace aiterlite::emulator
