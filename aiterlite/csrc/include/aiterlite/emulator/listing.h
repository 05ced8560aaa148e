// Walking the code of a whole object: its listing, and which instruction forms it uses.
#pragma once
#include <aiterlite/emulator/elf.h>
#include <stdint.h>

#include <string>
#include <vector>

namespace aiterlite::emulator {

// The instructions of one function. Padding between functions belongs to none.
struct CodeRange {
  std::string name;
  uint64_t begin = 0, end = 0;  // virtual addresses
  const uint8_t* bytes = nullptr;
  bool kernel = false;
};

// In address order. `data` is the file that `object` was read from.
std::vector<CodeRange> code_ranges(const CodeObject& object, const uint8_t* data);

// llvm-objdump's layout: "name:" lines, then instruction, address, dwords, and the target of branches, which replaces
// their distance where it has a label. What cannot be decoded is listed as .long with the reason.
std::string list_object(const CodeObject& object, const uint8_t* data);

struct FormUse {
  Inst first;  // the first instruction of the form
  uint64_t first_pc = 0;
  uint64_t count = 0;
};

struct UnknownCode {
  uint64_t pc = 0;
  std::string reason;
};

struct FunctionCoverage {
  std::string name;
  bool kernel = false;
  uint64_t instructions = 0;
  std::vector<FormUse> forms;  // by mnemonic, then encoding
  std::vector<UnknownCode> unknown;
};

std::vector<FunctionCoverage> cover_object(const CodeObject& object, const uint8_t* data);

}  // namespace aiterlite::emulator
