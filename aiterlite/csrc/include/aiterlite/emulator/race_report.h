// The words of the race detector: what its findings and notes say, and the values that stores carry.
#pragma once
#include <aiterlite/emulator/clocks.h>
#include <aiterlite/emulator/runtime.h>

#include <string>

namespace aiterlite::emulator {

enum class Conflict : uint8_t { read_write, write_write, write_read, lanes, stale, same_value };

// An access that is being compared with those before it.
struct Current {
  Wave* wave;
  const MicroOp* op;
  const MemoryAccess* access;
  WaveClock* clock;
  uint64_t stamp;
  // Stamps from `first` on, `span` of them, are of no interest: those of the workgroup are ordered before whatever it
  // does now, and older workgroups are long gone from LDS. Neither is zero, no stamp at all.
  uint64_t first, span;
  bool lds;
  bool scalar;
  uint64_t loose = 0;  // kLoose where the wave's earlier accesses need not be done
  bool reported = false;
};

class RaceReport {
 protected:
  RaceReport(Launch& launch, LaunchClocks* clocks) : launch_(launch), clocks_(clocks) {}

  // The instruction of a stamp; null where it is one of too many.
  const Inst* instruction(uint64_t s) const;
  // There are too many.
  void note_sites();
  void note_same_value(const Current& c, uint64_t s, uint64_t at);
  // The bytes that a lane of a plain store writes; false where they are not in its registers.
  static bool stored(const Current& c, int lane, uint8_t (&bytes)[16]);
  // Memory holds already what the lanes that touch [at, at + step) store there.
  static bool writes_the_same(const Current& c, uint64_t at, uint32_t step);
  // Two lanes of the store meet in [at, at + step): a finding if they disagree.
  void lanes_overlap(Current& c, uint64_t at, uint32_t step);
  std::string place(const Wave& w, bool lds, uint64_t at) const;
  std::string whose(uint64_t s) const;
  std::string mend(const Current& c, uint64_t s) const;
  static uint64_t text_key(uint64_t s, uint64_t other, Conflict kind) {
    return static_cast<uint64_t>(stamp::site(s)) << 32 | stamp::site(other) << 4 | static_cast<uint32_t>(kind);
  }
  // `what` keeps the words of the first time, so that repetitions are counted as one finding.
  void report(Current& c, uint64_t s, uint64_t at, Conflict kind, int lane = -1, int other_lane = -1);

  Launch& launch_;
  LaunchClocks* clocks_;
  Workgroup* group_ = nullptr;
  uint32_t tag_ = 0;  // 0: the workgroup's races are not looked for
  uint32_t barrier_seq_ = 0;

 private:
  bool sites_noted_ = false;
};

}  // namespace aiterlite::emulator
