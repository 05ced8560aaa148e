// What is said about a run: the text of a failure, and everything as JSON.
#pragma once
#include <aiterlite/emulator/module.h>

namespace aiterlite::emulator {

std::string failure_text(const Launch& launch, const std::string& kernel);
std::string run_json(const Launch& launch, const std::string& kernel, Status status, const std::string& message);
std::string refusal_json(Status status, const std::string& message);

// A kernel that is not run because its code names registers that it does not have.
std::string unallocated_text(const Program& program, const ReadyKernel& kernel);
std::string unallocated_json(const Program& program, const ReadyKernel& kernel, const std::string& message);

// JSON: for each kernel of the object and each kind of register, what its code names past the end of its allocation.
std::string list_unallocated(Module& module);

}  // namespace aiterlite::emulator
