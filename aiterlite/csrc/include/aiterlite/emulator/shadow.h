// Who touched each byte of memory last.
//
// A stamp names an access: workgroup, position among the workgroup's memory instructions, wave, instruction, and
// whether it was atomic, and whether program order says nothing of when it lands. Memory has a stamp for its last write
// and two for its last reads by different waves; readers before these are kept aside, by line. Lines of 64 bytes have
// one set of stamps until an access touches a part of one; then each dword has its own, and each byte once an access
// splits a dword.
#pragma once
#include <stdint.h>

#include <algorithm>
#include <memory>
#include <unordered_map>
#include <vector>

namespace aiterlite::emulator {

namespace stamp {
inline constexpr int kGroupShift = 44;  // 20 bits; a tag that counts workgroups as they start
inline constexpr int kSeqShift = 20;    // 24 bits
inline constexpr int kWaveShift = 16;   // 4 bits
inline constexpr int kSiteShift = 2;    // 14 bits
inline constexpr uint64_t kLoose = 2;   // not in program order: a load to LDS, or scalar memory
inline constexpr uint64_t kAtomic = 1;
inline constexpr uint32_t kMaxGroup = (1u << 20) - 1;
inline constexpr uint32_t kMaxSeq = (1u << 24) - 1;
inline constexpr uint32_t kMaxSite = (1u << 14) - 1;
inline constexpr uint64_t kWho = static_cast<uint64_t>(kMaxGroup) << kGroupShift | 15ull << kWaveShift;

constexpr uint32_t group(uint64_t s) { return static_cast<uint32_t>(s >> kGroupShift); }
constexpr uint32_t seq(uint64_t s) { return static_cast<uint32_t>(s >> kSeqShift) & kMaxSeq; }
constexpr uint32_t wave(uint64_t s) { return static_cast<uint32_t>(s >> kWaveShift) & 15; }
constexpr uint32_t site(uint64_t s) { return static_cast<uint32_t>(s >> kSiteShift) & kMaxSite; }
}  // namespace stamp

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
    const bool any = (lost_ & bytes) != 0;
    lost_ &= ~bytes;
    return any;
  }
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

// `n` neighbouring elements of `step` bytes each.
struct Stamps {
  uint64_t* written;
  uint64_t* read;     // by the wave that read last
  uint64_t* earlier;  // by another wave that read before
  int n;
  uint32_t step;
  std::unique_ptr<Readers>* readers;  // of the line; null where there are none

  // The bytes of the line that element `i`, and `count` of them, are; `at` is the first one's address.
  uint64_t bytes(uint64_t at, int i, int count) const {
    const uint64_t size = static_cast<uint64_t>(count) * step;
    return (size == 64 ? ~0ull : (1ull << size) - 1) << ((at + static_cast<uint64_t>(i) * step) % 64);
  }
};

class Shadow {
 public:
  static constexpr uint64_t kLine = 64;

  // Calls visit(address, Stamps) for the elements that cover [begin, end).
  template <class F>
  void visit(uint64_t begin, uint64_t end, F&& f) {
    while (begin < end) {
      Line& line = line_at(begin);
      const uint64_t base = begin & ~(kLine - 1);
      const uint64_t stop = end < base + kLine ? end : base + kLine;
      const uint32_t from = static_cast<uint32_t>(begin - base), to = static_cast<uint32_t>(stop - base);
      if (to - from == kLine && !line.dwords) {
        f(begin, Stamps{&line.whole.written, &line.whole.read, &line.whole.earlier, 1, kLine, &line.readers});
      } else {
        if (!line.dwords) split(line);
        Set<16>& d = line.dwords->set;
        if (((from | to) & 3) == 0 && !line.dwords->bytes) {
          const uint32_t i = from / 4;
          f(begin,
            Stamps{d.written + i, d.read + i, d.earlier + i, static_cast<int>((to - from) / 4), 4, &line.readers});
        } else {
          if (!line.dwords->bytes) split_dwords(line);
          Set<64>& b = *line.dwords->bytes;
          f(begin,
            Stamps{b.written + from, b.read + from, b.earlier + from, static_cast<int>(to - from), 1, &line.readers});
        }
      }
      begin = stop;
    }
  }
  void clear();

 private:
  template <int N>
  struct Set {
    uint64_t written[N] = {};
    uint64_t read[N] = {};
    uint64_t earlier[N] = {};
  };
  struct Dwords {
    Set<16> set;
    std::unique_ptr<Set<64>> bytes;
  };
  struct One {
    uint64_t written = 0, read = 0, earlier = 0;
  };
  struct Line {
    One whole;
    std::unique_ptr<Dwords> dwords;
    std::unique_ptr<Readers> readers;
  };
  static constexpr uint64_t kPageBits = 12;
  struct Page {
    Line lines[(1 << kPageBits) / kLine];
  };

  Line& line_at(uint64_t address) {
    const uint64_t number = address >> kPageBits;
    Recent& r = recent_[number % kRecent];
    if (__builtin_expect(r.number != number, 0)) {
      r.number = number;
      r.page = find_page(number);
    }
    return r.page->lines[address / kLine % (sizeof(Page::lines) / sizeof(Line))];
  }
  Page* find_page(uint64_t number);
  static void split(Line& line);
  static void split_dwords(Line& line);

  struct Recent {
    uint64_t number = ~0ull;
    Page* page = nullptr;
  };
  static constexpr uint64_t kRecent = 256;
  Recent recent_[kRecent];
  std::unordered_map<uint64_t, std::unique_ptr<Page>> pages_;
};

}  // namespace aiterlite::emulator
