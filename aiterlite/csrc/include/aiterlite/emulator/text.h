// Pieces of the disassembler. Private to disasm*.cpp.
#pragma once
#include <aiterlite/emulator/inst.h>

#include <string>

namespace aiterlite::emulator::text {

std::string hex(uint32_t value);
std::string immediate(int32_t value);  // as an inline constant where there is one, else hexadecimal
std::string operand(const Inst& inst, const Operand& op);
std::string list(const char* name, uint32_t bits, int count);  // " name:[b0,b1,...]"

std::string wait_counts(uint16_t simm);
std::string hardware_register(uint16_t simm);
std::string message(uint16_t simm);
std::string gpr_index_modes(uint16_t simm);
std::string swizzle(uint32_t offset);
std::string buffer_format(const Inst& inst);
std::string dpp_ctrl(uint32_t ctrl);

std::string scalar_operands(const Inst& inst);
std::string vector_operands(const Inst& inst);
std::string memory_operands(const Inst& inst);

}  // namespace aiterlite::emulator::text
