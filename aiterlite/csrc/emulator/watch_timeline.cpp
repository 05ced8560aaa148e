// Notes what the waves of one workgroup execute, for the timeline that is played when it has ended.
#include <aiterlite/emulator/counters.h>
#include <aiterlite/emulator/observe.h>
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/timeline.h>
#include <aiterlite/emulator/traits.h>

#include <unordered_set>

namespace aiterlite::emulator {
namespace {

constexpr uint64_t kLine = 128;

class TimelineWatch final : public Watch {
 public:
  explicit TimelineWatch(Launch& launch) : launch_(launch), program_(*launch.program) {}

  void begin(Workgroup& group) override {
    shown_ = static_cast<int64_t>(group.linear) == launch_.options.timeline.group;
    if (shown_) waves_.assign(group.waves.size(), {});
  }

  void before(Wave& w, const MicroOp* op, bool skipped) override {
    if (!shown_) return;
    if (noted_ == launch_.options.timeline.most_noted) {
      complete_ = false;
      return;
    }
    ++noted_;
    // What VSKIP drops takes a slot as a no-op does.
    waves_[w.index].push_back({op, skipped ? nullptr : &program_.effects->of(program_, op), 0, 0});
  }

  void access(Wave& w, const MicroOp* op, const MemoryAccess& a) override {
    if (!shown_ || !complete_ || a.space == Space::scalar) return;
    Executed& noted = waves_[w.index].back();
    if (a.space == Space::lds) {
      // Loads to LDS are of the vector memory.
      if (traits(op->inst->op).lgkm) {
        const LdsGroups groups = lds_groups(program_.arch, op->inst->op, a.size);
        noted.amount +=
            static_cast<uint32_t>(lds_time(groups, a.at, a.mask, a.size, traits(op->inst->op).atomic).cycles);
      }
      return;
    }
    noted.amount += static_cast<uint32_t>(__builtin_popcountll(a.mask)) * a.size;
    if (a.space == Space::scratch) return;
    uint64_t last = ~0ull;
    for (uint64_t m = a.mask; m; m &= m - 1) {
      const uint64_t at = a.at[__builtin_ctzll(m)];
      for (uint64_t line = at / kLine; line <= (at + a.size - 1) / kLine; ++line) {
        if (line != last && lines_.insert(line).second) noted.fresh += kLine;
        last = line;
      }
    }
  }

  void end(Workgroup&) override {
    if (!shown_) return;
    Timeline& made = launch_.observations->timeline();
    made = play(waves_, launch_.options.timeline);
    made.complete = complete_;
    waves_.clear();
    lines_.clear();
  }

 private:
  Launch& launch_;
  const Program& program_;
  bool shown_ = false, complete_ = true;
  uint64_t noted_ = 0;
  std::vector<std::vector<Executed>> waves_;
  std::unordered_set<uint64_t> lines_;
};

}  // namespace

std::unique_ptr<Watch> make_timeline_watch(Launch& launch) { return std::make_unique<TimelineWatch>(launch); }

void write_timeline(JsonWriter& json, const Launch& launch) {
  const Timeline& t = launch.observations->timeline();
  const Program& program = *launch.program;
  json.key("timeline").open('{').field("complete", t.complete).field("cycles", t.cycles);
  json.field("workgroup", launch.options.timeline.group)
      .field("together", launch.options.timeline.together)
      .field("events_until", t.events_until);
  json.key("busy").open('{');
  json.key("matrix").open('[');
  for (const uint64_t cycles : t.matrix_busy) json.value(cycles);
  json.close(']').field("lds", t.lds_busy).field("vector", t.vector_busy).field("memory", t.memory_busy).close('}');
  json.key("issued").open('{');
  for (int i = 0; i < kPorts; ++i) json.field(name(static_cast<Port>(i)), t.issued[i]);
  json.close('}');
  json.key("waves").open('[');
  for (const WaveTimes& w : t.waves) {
    json.open('{').field("simd", w.simd).field("end", w.end).field("instructions", w.instructions);
    json.key("waits").open('{');
    for (int i = 0; i < kWaits; ++i) json.field(name(static_cast<Wait>(i)), w.waits[i]);
    json.close('}').close('}');
  }
  json.close(']');
  std::map<uint64_t, std::string> texts;
  json.key("events").open('[');
  for (const Event& e : t.events) {
    const uint64_t pc = e.op->address - program.base;
    if (!texts.count(pc)) texts[pc] = disassemble(program.arch, *e.op->inst);
    json.open('[').value(e.row).value(e.kind).value(e.at).value(e.cycles).value(pc).close(']');
  }
  json.close(']').key("texts").open('{');
  for (const auto& [pc, text] : texts) json.field(std::to_string(pc), text);
  json.close('}').close('}');
}

}  // namespace aiterlite::emulator
