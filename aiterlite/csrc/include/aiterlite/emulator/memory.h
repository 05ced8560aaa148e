// The address ranges that a launch may touch, and what is said about an access that leaves them.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

namespace aiterlite::emulator {

struct Range {
  uint64_t base = 0;
  uint64_t end = 0;  // one past the last byte
  bool writable = false;
  std::string name;
  // A bit for each byte that may be touched, lowest first; null where that is all of them. Views whose rows do not lie
  // side by side have padding between them.
  std::shared_ptr<const std::vector<uint8_t>> elements{};

  // Whether all of [address, address + size) may be touched.
  bool covers(uint64_t address, uint64_t size) const;
  // Bytes of padding that lie before `address`, back to the last byte that may be touched.
  uint64_t padding_before(uint64_t address) const;
};

enum class Space : uint8_t { global, buffer, flat, scratch, lds, scalar };

enum class FaultKind : uint8_t {
  none,
  out_of_range,  // outside every registered range (or outside LDS, or outside the lane's scratch)
  read_only,     // a store to a range registered without write permission
  misaligned,    // an atomic whose address, in LDS as in global memory, is not a multiple of its size
  unsupported,   // an instruction or a form of one that the executor does not have
  unallocated,   // a register past the end of what the kernel descriptor allocates
  bad_jump,      // control left the decoded code
  limit,         // the launch's instruction limit was reached
  deadlock,      // every live wave waits and none can continue
  trap,          // s_trap
};

struct Fault {
  FaultKind kind = FaultKind::none;
  Space space = Space::global;
  bool write = false;
  uint8_t lane = 0xff;  // 0xff: not of one lane (scalar memory)
  uint32_t size = 0;
  uint64_t address = 0;  // LDS and scratch: the offset
  uint64_t limit = 0;    // LDS and scratch: bytes allocated
  std::string detail;
  std::string reg;  // the register that is not allocated
};

// Registered ranges, sorted by base. They may touch but not overlap.
class MemoryMap {
 public:
  // False if the range is empty, wraps, or overlaps one already there.
  bool add(Range range);
  // The range that contains `address`, or null.
  const Range* find(uint64_t address) const;
  // The range nearest to `address`, or null when there is none; *distance is the bytes between them: negative when the
  // address lies before the range, positive (1 = one past the last byte) when behind it.
  const Range* nearest(uint64_t address, int64_t* distance) const;
  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  std::vector<Range> ranges_;
};

}  // namespace aiterlite::emulator
