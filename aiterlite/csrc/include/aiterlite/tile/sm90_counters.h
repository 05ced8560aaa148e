// Counters in memory by which workgroups of one launch tell each other how far they are, and what goes with them on
// sm_90: stores that the L2 keeps, lines that it forgets, a number that a workgroup's warps look at.
#pragma once
#include <aiterlite/tile/sm90_copy.h>

namespace aiterlite {

// What a counter said, which says one more then.
AITERLITE_DEVICE uint32_t take_number(uint32_t* p) {
  uint32_t before;
  asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(p) : "memory");
  return before;
}
// Adds one; what this thread wrote before, and those that it met in a barrier, is there for who sees it and accepts.
AITERLITE_DEVICE void release_count(uint32_t* p) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(p) : "memory");
}
// Adds one, and says nothing of what was written.
AITERLITE_DEVICE void count_one(uint32_t* p) {
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(p) : "memory");
}
// Between looks at a counter.
AITERLITE_DEVICE void pause(uint32_t nanoseconds) { __nanosleep(nanoseconds); }
// Between seeing what others wrote and a copy that the copy engine makes of it.
AITERLITE_DEVICE void accept_for_engine() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

// Of a number in shared memory: who sees what a thread has set also sees what that thread saw.
AITERLITE_DEVICE void set_shared(uint32_t* p, uint32_t value) {
  asm volatile("st.release.cta.shared::cta.u32 [%0], %1;" ::"r"(shared_address(p)), "r"(value) : "memory");
}
AITERLITE_DEVICE uint32_t look_at_shared(const uint32_t* p) {
  uint32_t value;
  asm volatile("ld.acquire.cta.shared::cta.u32 %0, [%1];" : "=r"(value) : "r"(shared_address(p)) : "memory");
  return value;
}

// Tells the L2 that a line is not read any more before it is written: it need not go to memory.
AITERLITE_DEVICE void discard_line(void* p) { asm volatile("discard.global.L2 [%0], 128;" ::"l"(p) : "memory"); }
AITERLITE_DEVICE void store_keeping(void* p, const Vector16& v, uint64_t policy) {
  asm volatile("st.global.L2::cache_hint.v4.b32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(p), "r"(v.word[0]), "r"(v.word[1]),
               "r"(v.word[2]), "r"(v.word[3]), "l"(policy)
               : "memory");
}

}  // namespace aiterlite
