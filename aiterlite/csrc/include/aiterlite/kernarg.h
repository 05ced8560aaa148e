// The layout of a kernel's argument struct as data: assembly kernels spell its offsets, and a host unit that fills the
// struct exports this table, so that what was declared for them can be held against what the host's compiler laid out.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct aiterlite_kernarg_field {
  const char* name;
  uint32_t offset;
  uint32_t size;
  uint32_t pointer;  // 1 for an address in global memory
};

namespace aiterlite {

template <class T>
constexpr uint32_t is_pointer = 0;
template <class T>
constexpr uint32_t is_pointer<T*> = 1;

// Whether a table's fields follow each other without a gap, from 0 to the size in its first row: none was forgotten.
template <size_t kRows>
constexpr bool covers_struct(const aiterlite_kernarg_field (&table)[kRows]) {
  uint32_t end = 0;
  for (size_t i = 1; i + 1 < kRows; ++i) {
    if (table[i].offset != end) return false;
    end += table[i].size;
  }
  return end == table[0].size;
}

}  // namespace aiterlite

// A table is the struct, its fields in order, and the end.
#define AITERLITE_KERNARG_STRUCT(type) {#type, 0, sizeof(type), 0}
#define AITERLITE_KERNARG_FIELD(type, field) \
  {#field, offsetof(type, field), sizeof(type::field), aiterlite::is_pointer<decltype(type::field)>}
#define AITERLITE_KERNARG_END {nullptr, 0, 0, 0}
