// Who touched each byte of memory last.
//
// A stamp names an access: workgroup, position among the workgroup's memory instructions, wave, instruction, and
// whether it was atomic or a load to LDS that vmcnt counts. Memory has a stamp for its last write and two for its last
// reads by different waves. Lines of 64 bytes have one set of stamps until an access touches a part of one; then each
// dword has its own, and each byte once an access splits a dword.
#pragma once
#include <stdint.h>

#include <memory>
#include <unordered_map>

namespace aiterlite::emulator {

namespace stamp {
inline constexpr int kGroupShift = 44;  // 20 bits; a tag that counts workgroups as they start
inline constexpr int kSeqShift = 20;    // 24 bits
inline constexpr int kWaveShift = 16;   // 4 bits
inline constexpr int kSiteShift = 2;    // 14 bits
inline constexpr uint64_t kDma = 2;
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

// `n` neighbouring elements of `step` bytes each.
struct Stamps {
  uint64_t* written;
  uint64_t* read;     // by the wave that read last
  uint64_t* earlier;  // by another wave that read before
  int n;
  uint32_t step;
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
        f(begin, Stamps{&line.whole.written, &line.whole.read, &line.whole.earlier, 1, kLine});
      } else {
        if (!line.dwords) split(line);
        Set<16>& d = line.dwords->set;
        if (((from | to) & 3) == 0 && !line.dwords->bytes) {
          const uint32_t i = from / 4;
          f(begin, Stamps{d.written + i, d.read + i, d.earlier + i, static_cast<int>((to - from) / 4), 4});
        } else {
          if (!line.dwords->bytes) split_dwords(line);
          Set<64>& b = *line.dwords->bytes;
          f(begin, Stamps{b.written + from, b.read + from, b.earlier + from, static_cast<int>(to - from), 1});
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
