// The watch behind the sanitizers of registers: waits, hazards, undefined registers, barriers.
#pragma once
#include <aiterlite/emulator/effects.h>
#include <aiterlite/emulator/observe.h>
#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

namespace aiterlite::emulator {

inline constexpr uint32_t kRegisterChecks = kCheckWaits | kCheckHazards | kCheckRegisters | kCheckBarriers;

std::unique_ptr<Watch> make_register_watch(Launch& launch);

// An instruction as a wave is about to execute it.
struct Step {
  Wave& w;
  const MicroOp* op;
  const Effects& e;
};

// "`v_add_f32_e32 v0, v1, v2`"
std::string quoted(const Wave& w, const MicroOp* op);
void report(const Step& at, Check check, const MicroOp* other, std::string what, std::string mend, int lane = -1);

// Memory operations under way, and the registers that they will write.
class WaitsState {
 public:
  void reset() { *this = {}; }
  void step(const Step& at);

 private:
  struct Pending {
    const MicroOp* op = nullptr;
    const Effects* e = nullptr;
    bool settled = false;  // reported: its registers are no longer looked at
  };
  // In the order of issue.
  struct Queue {
    static constexpr uint32_t kRoom = 64;
    Pending at[kRoom];
    uint32_t count = 0;
    void drop(uint32_t n);
    void add(const MicroOp* op, const Effects& e, uint32_t most);
    bool any(Unit unit) const;
    bool only(Unit unit) const;
    int find(const MicroOp* op) const;
  };

  void wait(uint32_t vm, uint32_t lgkm);
  void refresh();
  void check(const Step& at, bool vector, int number, bool read);
  Pending* holder(bool vector, uint32_t number);

  Queue vm_, lgkm_;
  VectorSet vectors_;
  ScalarSet scalars_;
  bool pending_ = false;
};

// The instructions that the wave issued last, as far as wait states reach.
class HazardsState {
 public:
  void reset() { *this = {}; }
  void step(const Step& at);

 private:
  struct Past {
    uint32_t time = 0;
    const MicroOp* op = nullptr;
    const Effects* e = nullptr;
  };
  static constexpr uint32_t kShort = 8, kLong = 32;
  static constexpr uint32_t kShortReach = 6, kLongReach = 22;
  struct Worst {
    int missing = 0, since = 0, need = 0;
    const MicroOp* op = nullptr;
    std::string what;
  };
  void look_back(const Step& at, uint32_t now, Worst* worst) const;
  void look_at_matrices(const Step& at, uint32_t now, Worst* worst) const;

  Past recent_[kShort];
  Past matrix_[kLong];
  uint32_t recent_count_ = 0, matrix_count_ = 0;
  uint32_t clock_ = 1000;     // wait states since the wave started, and something
  uint32_t matrix_free_ = 0;  // when the matrix core takes the next instruction
};

// At which barriers the waves of a workgroup wait, and after how many they ended.
class BarrierState {
 public:
  void start(size_t waves) { *this = BarrierState(waves); }
  void step(const Step& at);
  void met(Workgroup& group);
  BarrierState() = default;

 private:
  struct Place {
    const MicroOp* waits_at = nullptr;
    uint64_t count = 0;  // of barriers that it came to
    bool ended = false;
  };
  // Waves that met at different barriers.
  struct Mismatch {
    const MicroOp* here = nullptr;
    const MicroOp* there = nullptr;
    uint32_t wave = 0, other = 0;
  };
  explicit BarrierState(size_t waves) : places_(waves) {}

  std::vector<Place> places_;
  Mismatch mismatch_;
};

}  // namespace aiterlite::emulator
