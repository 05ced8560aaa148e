// NVIDIA: shared memory. 16-byte accesses, 8 x 8 matrices to and from registers, and copies from memory that need no
// register. sm_90's copy engine: tile/sm90_copy.h.
#pragma once
#include <aiterlite/isa/ptx_core.h>

namespace aiterlite {

AITERLITE_DEVICE Vector16 load_shared_16(const void* p) { return *static_cast<const Vector16*>(p); }
// Sets bits of a word; what it held before.
AITERLITE_DEVICE uint32_t set_bits_shared(uint32_t* p, uint32_t bits) {
  uint32_t before;
  asm volatile("atom.shared.or.b32 %0, [%1], %2;" : "=r"(before) : "r"(shared_address(p)), "r"(bits) : "memory");
  return before;
}
AITERLITE_DEVICE Vector8 load_shared_8(const void* p) { return *static_cast<const Vector8*>(p); }
AITERLITE_DEVICE void store_shared_16(void* p, const Vector16& v) { *static_cast<Vector16*>(p) = v; }
AITERLITE_DEVICE void store_shared_8(void* p, const Vector8& v) { *static_cast<Vector8*>(p) = v; }

// Matrices of 8 rows of 16 bytes, at the addresses that lanes 8 i to 8 i + 7 give for matrix i. In r[i] lane l gets two
// elements of matrix i, 16 bits each: 2 * (l % 4) and the next of row l / 4; transposed, of column l / 4.
AITERLITE_DEVICE void load_matrices(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
AITERLITE_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
AITERLITE_DEVICE void load_matrices_transposed(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
AITERLITE_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// The reverse, sm_90.
AITERLITE_DEVICE void store_matrices(void* row, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}
AITERLITE_DEVICE void store_matrices_transposed(void* row, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

// 16 bytes from memory to shared memory; nothing waits. Where it is not wanted, it writes zeros and reads nothing.
AITERLITE_DEVICE void copy_async(void* to, const void* from, bool wanted = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(wanted ? 16 : 0)
               : "memory");
}
// The same of 4 bytes.
AITERLITE_DEVICE void copy_word_async(void* to, const void* from, bool wanted = true) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(wanted ? 4 : 0)
               : "memory");
}
// Closes a group of this thread's copies; await_copies returns when at most `pending` groups are on their way.
AITERLITE_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <uint32_t pending>
AITERLITE_DEVICE void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

AITERLITE_ABSENT_FOR(uint32_t kBytes = 16, load_to_lds, "NVIDIA copies 16 bytes to any place: copy_async, tile/copy.h")
AITERLITE_ABSENT(load_transposed_16bit, "NVIDIA transposes in load_matrices_transposed: fragment/mma_sync.h")
AITERLITE_ABSENT(load_transposed_8bit, "NVIDIA has no transposing read of bytes: fragment/transpose.h")

}  // namespace aiterlite
