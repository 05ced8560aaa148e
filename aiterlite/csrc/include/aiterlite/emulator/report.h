// What is said about a run: the text of a failure, and everything as JSON.
#pragma once
#include <aiterlite/emulator/module.h>

namespace aiterlite::emulator {

std::string failure_text(const Launch& launch, const std::string& kernel);
std::string run_json(const Launch& launch, const std::string& kernel, Status status, const std::string& message);
std::string refusal_json(Status status, const std::string& message);

}  // namespace aiterlite::emulator
