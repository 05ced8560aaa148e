// Lookup by opcode in the decoder's constant tables.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <array>

namespace aiterlite::emulator {

inline constexpr uint8_t kNoRow = 0xff;

// Row numbers by opcode, for tables of up to 255 rows.
template <size_t kOpcodes, typename Row, size_t kRows>
constexpr std::array<uint8_t, kOpcodes> index_by_opcode(const Row (&rows)[kRows]) {
  static_assert(kRows < kNoRow);
  std::array<uint8_t, kOpcodes> index{};
  for (auto& entry : index) entry = kNoRow;
  for (size_t i = 0; i < kRows; ++i) {
    if (index[rows[i].opcode] != kNoRow) throw "two rows have the same opcode";
    index[rows[i].opcode] = static_cast<uint8_t>(i);
  }
  return index;
}

template <typename Row, size_t kRows, size_t kOpcodes>
constexpr const Row* lookup(const Row (&rows)[kRows], const std::array<uint8_t, kOpcodes>& index, uint32_t opcode) {
  if (opcode >= kOpcodes || index[opcode] == kNoRow) return nullptr;
  return &rows[index[opcode]];
}

}  // namespace aiterlite::emulator
