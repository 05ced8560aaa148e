// Finds reads of LDS that nothing wrote.
//
// LDS is undefined when a workgroup starts. A read of bytes that no store, atomic or load to LDS of the workgroup has
// touched is a finding, also where the value is thrown away afterwards: neither compilers nor this package's kernels
// read such bytes, so nothing is gained by following what becomes of them.
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/touches.h>
#include <aiterlite/emulator/traits.h>
#include <aiterlite/emulator/watches.h>

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
    bool missing = false;
    if (a.write && !traits(op->inst->op).atomic) {
      for (const Touch& t : *a.touches) written_[t.line] |= t.bytes;
      return;
    }
    for (const Touch& t : *a.touches) missing |= (t.bytes & ~written_[t.line]) != 0;
    if (__builtin_expect(missing, 0)) report(w, op, a);
    if (!a.write) return;
    for (const Touch& t : *a.touches) written_[t.line] |= t.bytes;
  }

 private:
  // Of the first lane that reads such a byte.
  void report(Wave& w, const MicroOp* op, const MemoryAccess& a) {
    uint64_t at = 0;
    int lane = -1;
    for (uint64_t m = a.mask; m && lane < 0; m &= m - 1) {
      const int l = __builtin_ctzll(m);
      for (at = a.at[l]; at < a.at[l] + a.size; ++at) {
        if (written_[at / 64] >> (at % 64) & 1) continue;
        lane = l;
        break;
      }
    }
    Finding f;
    f.check = kCheckLds;
    f.pc = op->address;
    // Findings with the same words are one, so the offset is not among them.
    f.what = "reads LDS that nothing in the workgroup has written";
    f.mend = "write LDS byte " + std::to_string(at) + " first, or leave it out of the read";
    f.group = group_;
    f.wave = w.index;
    f.lane = lane;
    launch_.observations->report(std::move(f));
  }

  Launch& launch_;
  uint64_t group_ = 0;
  std::vector<uint64_t> written_;  // a bit for each byte
};

}  // namespace

std::unique_ptr<Watch> make_lds_watch(Launch& launch) { return std::make_unique<LdsWatch>(launch); }

}  // namespace aiterlite::emulator
