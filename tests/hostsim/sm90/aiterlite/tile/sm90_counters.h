// tile/sm90_counters.h on the host: workgroups that run together are a cluster's. A line that is discarded is poison.
// Found before the header of that name.
#pragma once
#include <aiterlite/tile/sm90_copy.h>

namespace aiterlite {

inline uint32_t take_number(uint32_t* p) {
  scheduler.touch();
  return (*p)++;
}
inline void release_count(uint32_t* p) { take_number(p); }
inline void count_one(uint32_t* p) { take_number(p); }
inline void pause(uint32_t) {
  bool first = true;
  scheduler.wait([&] { return !std::exchange(first, false); });
}
inline void accept_for_engine() {
  if (!scheduler.current().accepted) hostsim::fail("the copy engine was told of what nobody had accepted");
}
inline void set_shared(uint32_t* p, uint32_t value) {
  *p = value;
  scheduler.touch();
}
inline uint32_t look_at_shared(const uint32_t* p) { return *p; }
inline void discard_line(void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 128 != 0) hostsim::fail("discard_line: not the begin of a line");
  memset(p, 0xff, 128);
}
inline void store_keeping(void* p, const Vector16& v, uint64_t) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) hostsim::fail("a 16-byte store is not aligned");
  memcpy(p, &v, sizeof v);
}

}  // namespace aiterlite
