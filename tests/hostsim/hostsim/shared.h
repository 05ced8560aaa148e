// Shared memory: isa/ptx_shared.h, or of isa/amdgcn_lds.h what both AMD targets have. Included by hostsim/isa.h.
//
// Asynchronous copies happen when they are waited for, and not before: what is read too early is poison.
#pragma once

namespace aiterlite {

template <class T>
T load_shared(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) hostsim::fail("an access to shared memory is not aligned");
  T value;
  memcpy(&value, p, sizeof value);
  return value;
}
inline Vector16 load_shared_16(const void* p) { return load_shared<Vector16>(p); }
inline Vector8 load_shared_8(const void* p) { return load_shared<Vector8>(p); }
inline void store_shared_16(void* p, const Vector16& v) { memcpy(p, &v, sizeof v); }
inline void store_shared_8(void* p, const Vector8& v) { memcpy(p, &v, sizeof v); }

template <uint32_t pending>
void await_copies_to_shared() {
  auto& copies = scheduler.current().copies;
  while (copies.size() > pending) {
    for (const hostsim::Copy& copy : copies.front()) {
      if (copy.from) {
        memcpy(copy.to, copy.from, copy.bytes);
      } else {
        memset(copy.to, 0, copy.bytes);
      }
    }
    copies.pop_front();
  }
}

#if AITERLITE_NVIDIA

// The matrix that eight lanes' addresses name: row r, element e.
struct MatrixOperands {
  uint32_t* r;
  char* row;
};
template <uint32_t kCount, bool kTransposed, bool kStore>
void move_matrices(uint32_t* r, const void* row) {
  MatrixOperands operands{r, static_cast<char*>(const_cast<void*>(row))};
  wave_meeting("matrices", operands, [](const auto& lane) {
    for (uint32_t i = 0; i < kCount; ++i) {
      for (uint32_t l = 0; l < 32; ++l) {
        for (uint32_t e = 0; e < 2; ++e) {
          const uint32_t row = kTransposed ? l % 4 * 2 + e : l / 4, column = kTransposed ? l / 4 : l % 4 * 2 + e;
          char* from = lane(8 * i + row).row;
          if (reinterpret_cast<uintptr_t>(from) % 16 != 0) hostsim::fail("a row of a matrix is not aligned");
          char* reg = reinterpret_cast<char*>(lane(l).r + i) + 2 * e;
          if (kStore) {
            memcpy(from + 2 * column, reg, 2);
          } else {
            memcpy(reg, from + 2 * column, 2);
          }
        }
      }
    }
  });
}
inline void load_matrices(uint32_t (&r)[2], const void* row) { move_matrices<2, false, false>(r, row); }
inline void load_matrices(uint32_t (&r)[4], const void* row) { move_matrices<4, false, false>(r, row); }
inline void load_matrices_transposed(uint32_t (&r)[2], const void* row) { move_matrices<2, true, false>(r, row); }
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) { move_matrices<4, true, false>(r, row); }
inline void store_matrices(void* row, const uint32_t (&r)[4]) {
  move_matrices<4, false, true>(const_cast<uint32_t*>(r), row);
}
inline void store_matrices_transposed(void* row, const uint32_t (&r)[4]) {
  move_matrices<4, true, true>(const_cast<uint32_t*>(r), row);
}

inline void copy_async(void* to, const void* from, bool wanted = true) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || (wanted && reinterpret_cast<uintptr_t>(from) % 16 != 0)) {
    hostsim::fail("copy_async: an address is not a multiple of 16");
  }
  scheduler.current().open_copies.push_back({to, wanted ? from : nullptr, 16});
}
inline void commit_copies() {
  hostsim::Thread& thread = scheduler.current();
  thread.copies.push_back(std::move(thread.open_copies));
  thread.open_copies.clear();
}
template <uint32_t pending>
void await_copies() {
  await_copies_to_shared<pending>();
}

#else

inline constexpr uint32_t kLoadToLdsBytes = AITERLITE_HOST_SIM == 950 ? 16 : 4;
template <uint32_t kBytes = kLoadToLdsBytes>
void load_to_lds(const void* from, void* to) {
  static_assert(kBytes == 4 || kBytes == kLoadToLdsBytes, "load_to_lds: 4 bytes, or 16 on gfx950");
  char* place = static_cast<char*>(to) + thread_id() % kWaveSize * kBytes;
  scheduler.current().copies.push_back({{place, from, kBytes}});
}
template <uint32_t pending>
void await_loads() {
  await_copies_to_shared<pending>();
}

#endif

}  // namespace aiterlite
