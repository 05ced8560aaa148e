// Finds reads of LDS that nothing wrote.
//
// LDS is undefined when a workgroup starts. A read of bytes that no store, atomic or load to LDS of the workgroup has
// touched is a finding, also where the value is thrown away afterwards: neither compilers nor this package's kernels
// read such bytes, so nothing is gained by following what becomes of them.
#include <aiterlite/emulator/runs.h>
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/traits.h>
#include <aiterlite/emulator/watches.h>

#include <algorithm>

namespace aiterlite::emulator {
namespace {

class LdsWatch final : public Watch {
 public:
  explicit LdsWatch(Launch& launch) : launch_(launch) {}

  void begin(Workgroup& g) override {
    group_ = g.linear;
    written_.assign(launch_.lds_bytes / 64 + 1, 0);
  }

  void before(Wave&, const MicroOp*, bool) override {}

  void access(Wave& w, const MicroOp* op, const MemoryAccess& a) override {
    if (a.space != Space::lds) return;
    const bool atomic = traits(op->inst->op).atomic;
    Run runs[kWave];
    const int count = make_runs(a, true, runs);
    bool reported = false;
    for (int i = 0; i < count; ++i) {
      for (uint64_t at = runs[i].begin; at < runs[i].end;) {
        const uint64_t bit = at % 64, n = std::min(64 - bit, runs[i].end - at);
        const uint64_t bits = (n == 64 ? ~0ull : (1ull << n) - 1) << bit;
        uint64_t& word = written_[at / 64];
        if ((!a.write || atomic) && (word & bits) != bits && !reported) {
          report(w, op, a, at - bit + static_cast<uint64_t>(__builtin_ctzll(bits & ~word)));
          reported = true;
        }
        if (a.write) word |= bits;
        at += n;
      }
    }
  }

 private:
  void report(Wave& w, const MicroOp* op, const MemoryAccess& a, uint64_t at) {
    Finding f;
    f.check = kCheckLds;
    f.pc = op->address;
    // Findings with the same words are one, so the offset is not among them.
    f.what = "reads LDS that nothing in the workgroup has written";
    f.mend = "write LDS byte " + std::to_string(at) + " first, or leave it out of the read";
    f.group = group_;
    f.wave = w.index;
    f.lane = lane_at(a, at);
    launch_.observations->report(std::move(f));
  }

  Launch& launch_;
  uint64_t group_ = 0;
  std::vector<uint64_t> written_;  // a bit for each byte
};

}  // namespace

std::unique_ptr<Watch> make_lds_watch(Launch& launch) { return std::make_unique<LdsWatch>(launch); }

}  // namespace aiterlite::emulator
