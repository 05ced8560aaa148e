// The bytes that the lanes of an access touch, by lines of 64: each line once, however the lanes are strewn over it.
#pragma once
#include <aiterlite/emulator/runs.h>
#include <string.h>

namespace aiterlite::emulator {

struct Touch {
  uint64_t line;   // its address / 64
  uint64_t bytes;  // a bit for each
};

class Touches {
 public:
  explicit Touches(const MemoryAccess& a) {
    if (is_consecutive(a)) {
      const uint64_t end = a.at[0] + static_cast<uint64_t>(kWave) * a.size;
      for (uint64_t at = a.at[0]; at < end; at = (at | 63) + 1) {
        const uint64_t behind = (at | 63) + 1, bytes = ~0ull << (at % 64);
        touches_[count_++] = {at / 64, behind <= end ? bytes : bytes & ~(~0ull << (end % 64))};
      }
      return;
    }
    const uint64_t ones = a.size == 64 ? ~0ull : (1ull << a.size) - 1;
    memset(slots_, 0, sizeof(slots_));
    // Of the line that the lane before touched, which is most often this one's as well.
    uint64_t line = ~0ull, bytes = 0, twice = 0;
    Touch* touch = nullptr;
    const auto add = [&](uint64_t to, uint64_t more) {
      if (to != line) {
        if (touch) touch->bytes = bytes;
        touch = find(to);
        line = to;
        bytes = touch->bytes;
      }
      twice |= bytes & more;
      bytes |= more;
    };
    for (uint64_t m = a.mask; m; m &= m - 1) {
      const uint64_t at = a.at[__builtin_ctzll(m)], shift = at % 64;
      add(at / 64, ones << shift);
      if (__builtin_expect(shift + a.size > 64, 0)) add(at / 64 + 1, ones >> (64 - shift));
    }
    if (touch) touch->bytes = bytes;
    overlap_ = twice != 0;
  }

  const Touch* begin() const { return touches_; }
  const Touch* end() const { return touches_ + count_; }
  // Two lanes touch a byte.
  bool overlap() const { return overlap_; }

 private:
  Touch* find(uint64_t line) {
    uint32_t at = static_cast<uint32_t>(line * 0x9e3779b97f4a7c15u >> 56);
    for (; slots_[at]; at = (at + 1) % 256) {
      if (touches_[slots_[at] - 1].line == line) return &touches_[slots_[at] - 1];
    }
    touches_[count_] = {line, 0};
    slots_[at] = static_cast<uint8_t>(++count_);
    return &touches_[count_ - 1];
  }

  static constexpr int kMost = 2 * kWave;  // a lane's bytes are two lines' at most
  int count_ = 0;
  bool overlap_ = false;
  Touch touches_[kMost];
  uint8_t slots_[256];  // numbers from 1, by a hash of the line
};

}  // namespace aiterlite::emulator
