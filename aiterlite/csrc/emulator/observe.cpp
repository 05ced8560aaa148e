// What the watches of a launch have in common.
#include <aiterlite/emulator/check.h>
#include <aiterlite/emulator/clocks.h>
#include <aiterlite/emulator/counters.h>
#include <aiterlite/emulator/observe.h>
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/timeline.h>
#include <aiterlite/emulator/touches.h>
#include <aiterlite/emulator/watches.h>

#include <algorithm>

namespace aiterlite::emulator {

const char* name(Check check) {
  switch (check) {
    case kCheckWaits:
      return "waits";
    case kCheckHazards:
      return "hazards";
    case kCheckRegisters:
      return "registers";
    case kCheckBarriers:
      return "barriers";
    case kCheckRaces:
      return "races";
    case kCheckLds:
      return "lds";
  }
  return "";
}

void note(Launch& launch, std::string text) {
  const std::lock_guard<std::mutex> lock(launch.mutex);
  if (std::find(launch.notes.begin(), launch.notes.end(), text) == launch.notes.end())
    launch.notes.push_back(std::move(text));
}

Observations::Observations() = default;
Observations::~Observations() = default;

void Observations::report(Finding finding) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Key key{finding.check, finding.pc, finding.other_pc, finding.what};
  const auto [at, is_new] = found_.try_emplace(key, std::move(finding));
  if (!is_new) ++at->second.count;
}

std::vector<Finding> Observations::findings() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Finding> all;
  all.reserve(found_.size());
  for (const auto& [key, finding] : found_) all.push_back(finding);
  return all;
}

void observe_access(Wave& w, const MicroOp* op, const MemoryAccess& access) {
  const uint32_t by_line = access.space == Space::scratch ? 0u
                           : access.space == Space::lds   ? kCheckLds | kCheckRaces
                                                          : kCheckRaces;
  if (!(w.launch->options.sanitize & by_line)) {
    for (Watch* watch : w.group->watches) watch->access(w, op, access);
    return;
  }
  const Touches touches(access);
  MemoryAccess told = access;
  told.touches = &touches;
  for (Watch* watch : w.group->watches) watch->access(w, op, told);
}

std::vector<std::unique_ptr<Watch>> make_watches(Launch& launch) {
  const LaunchOptions& options = launch.options;
  std::vector<std::unique_ptr<Watch>> watches;
  if (options.sanitize & kRegisterChecks) watches.push_back(make_register_watch(launch));
  if (options.sanitize & kCheckRaces) watches.push_back(make_race_watch(launch));
  if (options.sanitize & kCheckLds) watches.push_back(make_lds_watch(launch));
  if (options.count) watches.push_back(make_counter_watch(launch));
  if (options.timeline.group >= 0) watches.push_back(make_timeline_watch(launch));
  return watches;
}

Counters* Observations::counters(const Launch& launch) {
  if (!counters_) counters_ = std::make_unique<Counters>(launch);
  return counters_.get();
}

LaunchClocks* Observations::clocks(const Launch& launch) {
  if (!clocks_) clocks_ = std::make_unique<LaunchClocks>(launch);
  return clocks_.get();
}

Timeline& Observations::timeline() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!timeline_) timeline_ = std::make_unique<Timeline>();
  return *timeline_;
}

bool needs_one_thread(const Launch& launch) { return launch.options.count || launch.options.sanitize & kCheckRaces; }

namespace {

std::string text_at(const Launch& launch, uint64_t pc) {
  const MicroOp* op = launch.program->at(pc);
  return op && op->inst ? disassemble(launch.program->arch, *op->inst) : "";
}

}  // namespace

void write_findings(JsonWriter& json, const Launch& launch) {
  json.key("findings").open('[');
  for (const Finding& f : launch.observations->findings()) {
    json.open('{');
    json.field("check", name(f.check)).field("pc", f.pc - launch.program->base);
    json.field("listed", listed(*launch.program, f.pc));
    json.field("instruction", text_at(launch, f.pc));
    json.field("other_pc", f.other_pc ? static_cast<int64_t>(f.other_pc - launch.program->base) : int64_t{-1});
    json.field("other_listed", f.other_pc ? static_cast<int64_t>(listed(*launch.program, f.other_pc)) : int64_t{-1});
    json.field("other_instruction", f.other_pc ? text_at(launch, f.other_pc) : "");
    json.field("what", f.what).field("mend", f.mend);
    json.key("workgroup").open('[');
    json.value(f.group % launch.grid[0]).value(f.group / launch.grid[0] % launch.grid[1]);
    json.value(f.group / launch.grid[0] / launch.grid[1]).close(']');
    json.field("wave", f.wave).field("lane", f.lane).field("count", f.count);
    json.close('}');
  }
  json.close(']');
}

}  // namespace aiterlite::emulator
