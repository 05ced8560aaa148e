// What the race detector says.
#include <aiterlite/emulator/race_report.h>
#include <aiterlite/emulator/runs.h>
#include <aiterlite/emulator/traits.h>

#include <algorithm>

namespace aiterlite::emulator {

const Inst* RaceReport::instruction(uint64_t s) const {
  const MicroOp* op = launch_.program->at(clocks_->address(stamp::site(s)));
  return op ? op->inst : nullptr;
}

void RaceReport::note_sites() {
  if (sites_noted_) return;
  sites_noted_ = true;
  note(launch_, "races: the kernel has more than " + std::to_string(stamp::kMaxSite) +
                    " memory instructions; a race with one of the others is found, but that one is not named");
}

void RaceReport::note_same_value(const Current& c, uint64_t s, uint64_t at) {
  bool is_new;
  clocks_->text(text_key(c.stamp, s, Conflict::same_value), &is_new);
  const Inst* before = instruction(s);
  if (!is_new || !before) return;
  const Arch arch = launch_.program->arch;
  note(launch_, "races: `" + disassemble(arch, *c.op->inst) + "` of wave " + std::to_string(c.wave->index) +
                    " stores to " + place(*c.wave, c.lds, at) + " what `" + disassemble(arch, *before) + "` of " +
                    whose(s) +
                    " has stored there with nothing between them: a race, unless both always store the "
                    "same value; run it with other data");
}

bool RaceReport::stored(const Current& c, int lane, uint8_t (&bytes)[16]) {
  const Inst& inst = *c.op->inst;
  const OpTraits& t = traits(inst.op);
  if (t.atomic || t.kind == Kind::smem || c.stamp & stamp::kLoose) return false;
  const int slot = t.pair && c.clock->accesses ? 2 : 1;
  if (!inst.src[slot].present()) return false;
  const uint32_t* data = vector_source(*c.wave, c.op, slot) + lane;
  for (uint32_t d = 0; d < (c.access->size + 3) / 4; ++d) {
    uint32_t v = data[d * kWave];
    if (c.access->size < 4 && std::string_view(name(inst.op)).ends_with("_d16_hi")) v >>= 16;
    memcpy(bytes + 4 * d, &v, 4);
  }
  return true;
}

bool RaceReport::writes_the_same(const Current& c, uint64_t at, uint32_t step) {
  const uint32_t size = c.access->size;
  for (uint64_t m = c.access->mask; m; m &= m - 1) {
    const int l = __builtin_ctzll(m);
    const uint64_t lane = c.access->at[l];
    if (lane >= at + step || lane + size <= at) continue;
    uint8_t bytes[16];
    if (!stored(c, l, bytes)) return false;
    const uint8_t* memory = c.lds ? c.wave->lds + lane : reinterpret_cast<const uint8_t*>(lane);
    const uint64_t from = std::max(at, lane), to = std::min(at + step, lane + size);
    if (memcmp(bytes + (from - lane), memory + (from - lane), to - from) != 0) return false;
  }
  return true;
}

void RaceReport::lanes_overlap(Current& c, uint64_t at, uint32_t step) {
  if (c.stamp & stamp::kAtomic) return;
  const uint32_t size = c.access->size;
  for (uint64_t byte = at; byte < at + step; ++byte) {
    int first = -1;
    uint8_t value = 0;
    for (uint64_t m = c.access->mask; m; m &= m - 1) {
      const int l = __builtin_ctzll(m);
      const uint64_t lane = c.access->at[l];
      uint8_t bytes[16];
      if (byte < lane || byte >= lane + size || !stored(c, l, bytes)) continue;
      if (first >= 0 && value != bytes[byte - lane]) {
        report(c, c.stamp, byte, Conflict::lanes, first, l);
        return;
      }
      if (first < 0) first = l;
      value = bytes[byte - lane];
    }
  }
}

std::string RaceReport::place(const Wave& w, bool lds, uint64_t at) const {
  if (lds) return "LDS byte " + std::to_string(at);
  int64_t distance;
  const Range* r = w.launch->memory->nearest(at, &distance);
  return r ? "byte " + std::to_string(at - r->base) + " of `" + r->name + "`" : "memory";
}

std::string RaceReport::whose(uint64_t s) const {
  std::string text = "wave " + std::to_string(stamp::wave(s));
  if (stamp::group(s) == tag_) return text;
  const uint64_t linear = clocks_->linear(stamp::group(s));
  const uint64_t x = launch_.grid[0], y = launch_.grid[1];
  return text + " of workgroup (" + std::to_string(linear % x) + ", " + std::to_string(linear / x % y) + ", " +
         std::to_string(linear / x / y) + ")";
}

std::string RaceReport::mend(const Current& c, uint64_t s) const {
  if (stamp::group(s) != tag_) {
    const Inst* before = instruction(s);
    if (!c.lds && before && is_coherent(*before) && is_coherent(*c.op->inst))
      return "set sc1 in both: sc0 alone reaches no further than the workgroup's own cache";
    return "give each workgroup bytes of its own, or make both accesses atomic, or wait (s_waitcnt vmcnt(0)), then "
           "set "
           "a flag by an atomic operation that the other workgroup reads";
  }
  const bool scalar_before = !c.lds && s & stamp::kLoose;
  const char* wait = scalar_before       ? "s_waitcnt lgkmcnt(0)"
                     : !c.lds            ? "s_waitcnt vmcnt(0)"
                     : s & stamp::kLoose ? "s_waitcnt vmcnt(0)"
                                         : "s_waitcnt lgkmcnt(0)";
  if (stamp::wave(s) == c.wave->index) return std::string("put ") + wait + " between them";
  if (stamp::seq(s) <= barrier_seq_) return std::string("put ") + wait + " before the s_barrier between them";
  return std::string("put ") + wait + " and s_barrier between them";
}

void RaceReport::report(Current& c, uint64_t s, uint64_t at, Conflict kind, int lane, int other_lane) {
  c.reported = true;
  const uint32_t other = stamp::site(s);
  bool is_new;
  std::string* what = clocks_->text(text_key(c.stamp, s, kind), &is_new);
  if (is_new) {
    const std::string here = place(*c.wave, c.lds, at);
    const std::string late = stamp::group(s) != tag_ || stamp::wave(s) != c.wave->index ? ""
                             : c.lds                                                    ? ", which may land later"
                                                                                        : ", which may not be done yet";
    const std::string between =
        stamp::group(s) == tag_ && stamp::wave(s) != c.wave->index && stamp::seq(s) <= barrier_seq_
            ? "; it was not waited for before the barrier"
            : late;
    switch (kind) {
      case Conflict::read_write:
        *what = "reads " + here + ", which " + whose(s) + " writes" + between;
        break;
      case Conflict::write_write:
        *what = "overwrites " + here + ", which " + whose(s) + " writes" + between;
        break;
      case Conflict::write_read:
        *what = "overwrites " + here + ", which " + whose(s) + " reads" + between;
        break;
      case Conflict::stale:
        *what =
            "reads " + here + " through the scalar cache, which may hold what it was before " + whose(s) + " wrote it";
        break;
      default:
        *what = "lanes " + std::to_string(lane) + " and " + std::to_string(other_lane) + " write different values to " +
                here;
        break;
    }
  }
  Finding f;
  f.check = kCheckRaces;
  f.pc = c.op->address;
  f.what = *what;
  if (kind == Conflict::lanes) {
    f.mend = "let one lane write it, by EXEC";
  } else {
    f.other_pc = clocks_->address(other);
    f.mend = kind == Conflict::stale ? "put s_dcache_inv between them, behind the wait for the store" : mend(c, s);
    lane = lane_at(*c.access, at);
  }
  f.group = group_->linear;
  f.wave = c.wave->index;
  f.lane = lane;
  launch_.observations->report(std::move(f));
}

}  // namespace aiterlite::emulator
