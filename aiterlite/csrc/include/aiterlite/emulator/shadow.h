// Who touched each byte of memory last.
//
// Memory has a stamp for its last write and two for its last reads by different waves; readers before these are kept
// aside, by line. Lines of 64 bytes have one set of stamps until an access touches a part of one; then each 16 bytes
// have their own, each dword once an access splits these, and each byte once one splits a dword.
#pragma once
#include <aiterlite/emulator/stamps.h>
#include <stdint.h>

#include <algorithm>
#include <memory>
#include <unordered_map>
#include <vector>

namespace aiterlite::emulator {

// Reads of bytes of a line that a write must be ordered behind as well, besides the two that each byte remembers.
class Readers {
 public:
  static constexpr size_t kRoom = 64;
  struct Reader {
    uint64_t stamp;
    uint64_t bytes;  // of the line, a bit for each
  };

  void add(uint64_t stamp, uint64_t bytes) {
    bool known = false, emptied = false;
    for (Reader& r : readers_) {
      if (r.stamp == stamp) {
        r.bytes |= bytes;
        known = true;
      } else if (((r.stamp ^ stamp) & stamp::kWho) == 0) {
        // A wave's newer read stands for its older ones.
        r.bytes &= ~bytes;
        emptied |= !r.bytes;
      }
    }
    if (emptied) drop_empty();
    if (known) return;
    if (readers_.size() < kRoom) {
      readers_.push_back({stamp, bytes});
    } else {
      lost_ |= bytes;
    }
  }
  // Takes `bytes` from those that `which` names.
  template <class F>
  void forget(F&& which, uint64_t bytes) {
    for (Reader& r : readers_) {
      if (which(r)) r.bytes &= ~bytes;
    }
    drop_empty();
  }
  // Bytes of which there were more readers than there is room for; asking forgets them.
  bool take_lost(uint64_t bytes) {
    const bool any = has_lost(bytes);
    lost_ &= ~bytes;
    return any;
  }
  bool has_lost(uint64_t bytes) const { return (lost_ & bytes) != 0; }
  bool empty() const { return readers_.empty() && !lost_; }
  bool full() const { return readers_.size() >= kRoom; }
  const std::vector<Reader>& all() const { return readers_; }

 private:
  void drop_empty() {
    readers_.erase(std::remove_if(readers_.begin(), readers_.end(), [](const Reader& r) { return !r.bytes; }),
                   readers_.end());
  }

  std::vector<Reader> readers_;
  uint64_t lost_ = 0;
};

class Shadow {
 public:
  static constexpr uint64_t kLine = 64;

  struct Line {
    // Of the whole line, while it has no groups.
    uint64_t written = 0, read = 0, earlier = 0;
    std::unique_ptr<Stamps[]> groups;
    std::unique_ptr<Readers> readers;  // null where there never were any
    uint32_t step = kLine;             // bytes an element: 64, 16, 4 or 1
  };

  // The stamps of some bytes of a line. An element holds no other byte of the line's 64.
  class View {
   public:
    View(Shadow& shadow, uint64_t number, uint64_t bytes) : line_(shadow.line(number)), bytes_(bytes) {
      if (__builtin_expect(!fits(bytes, line_.step), 0)) split(line_, fits(bytes, 16) ? 16 : fits(bytes, 4) ? 4 : 1);
      if (line_.groups) {
        elements_ = compress(bytes, line_.step);
        groups_ = line_.groups.get();
        return;
      }
      whole_.written[0] = line_.written;
      whole_.read[0] = line_.read;
      whole_.earlier[0] = line_.earlier;
      groups_ = &whole_;
      elements_ = 1;
    }
    View(const View&) = delete;
    View& operator=(const View&) = delete;

    uint32_t step() const { return line_.step; }
    uint64_t bytes() const { return bytes_; }
    std::unique_ptr<Readers>& readers() const { return line_.readers; }
    // A bit for each element.
    uint64_t elements() const { return elements_; }
    // Those of which element `i` is, as number i % 4.
    Stamps& group(int i) const { return groups_[i / 4]; }
    uint64_t bytes_of(int i) const { return (~0ull >> (64 - line_.step)) << (static_cast<uint32_t>(i) * line_.step); }
    // Calls f(Stamps&, bits of the elements that are meant).
    template <class F>
    void each_group(F&& f) const {
      Stamps* at = groups_;
      for (uint64_t left = elements_; left; left >>= 4, ++at) {
        if (left & 15) f(*at, static_cast<uint32_t>(left & 15));
      }
    }
    // Behind changes.
    void keep() const {
      if (groups_ != &whole_) return;
      line_.written = whole_.written[0];
      line_.read = whole_.read[0];
      line_.earlier = whole_.earlier[0];
    }

   private:
    Line& line_;
    uint64_t bytes_;
    uint64_t elements_;
    Stamps* groups_;
    Stamps whole_;
  };

  void clear();

 private:
  static constexpr uint64_t kPageBits = 12;
  struct Page {
    Line lines[(1 << kPageBits) / kLine];
  };

  // Elements of `step` bytes hold these bytes and no others.
  static bool fits(uint64_t bytes, uint32_t step) {
    const uint64_t first4 = bytes & 0x1111111111111111u, first16 = bytes & 0x0001000100010001u;
    if (step == 4) return (first4 << 4) - first4 == bytes;
    if (step == 16) return (first16 << 16) - first16 == bytes;
    return step == 1 || bytes == ~0ull;
  }
  // A bit for each element of `step` bytes.
  static uint64_t compress(uint64_t bytes, uint32_t step) {
    if (step == 1) return bytes;
    uint64_t x = bytes & 0x1111111111111111u;
    if (step == 16) {
      x &= 0x0001000100010001u;
      return (x | x >> 15 | x >> 30 | x >> 45) & 15;
    }
    x = (x | x >> 3) & 0x0303030303030303u;
    x = (x | x >> 6) & 0x000f000f000f000fu;
    x = (x | x >> 12) & 0x000000ff000000ffu;
    return (x | x >> 24) & 0xffff;
  }

  Line& line(uint64_t line) {
    constexpr uint64_t kLines = sizeof(Page::lines) / sizeof(Line);
    const uint64_t number = line / kLines;
    Recent& r = recent_[number % kRecent];
    if (__builtin_expect(r.number != number, 0)) {
      r.number = number;
      r.page = find_page(number);
    }
    return r.page->lines[line % kLines];
  }
  Page* find_page(uint64_t number);
  static void split(Line& line, uint32_t step);

  struct Recent {
    uint64_t number = ~0ull;
    Page* page = nullptr;
  };
  static constexpr uint64_t kRecent = 256;
  Recent recent_[kRecent];
  std::unordered_map<uint64_t, std::unique_ptr<Page>> pages_;
};

}  // namespace aiterlite::emulator
