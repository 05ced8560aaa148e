// Waves whose barriers do not pair up.
//
// The hardware counts arrivals, whatever s_barrier they are at, and takes waves that ended out of the count. So waves
// may end before a barrier at which others meet, and nobody waits for ever. That is legal, and usual for waves that
// have no work. Of one that took part in barriers and then ended while others go on to further ones, the report notes
// it: what it did last is not ordered before what these do next but by its end.
//
// Waves of different roles may pair their barriers at different places on purpose: meeting at two places alone is no
// fault either. It is one when a wave so paired then ends with fewer barriers than the others come to: a barrier was
// skipped, and those behind it were paired with the wrong ones.
#include <aiterlite/emulator/check.h>
#include <aiterlite/emulator/runtime.h>

namespace aiterlite::emulator {
namespace {

// Of all workgroups, one is enough.
void note_once(Launch& launch, const std::string& text) {
  constexpr std::string_view kStart = "barriers: ";
  const std::lock_guard<std::mutex> lock(launch.mutex);
  for (const std::string& n : launch.notes) {
    if (n.starts_with(kStart)) return;
  }
  launch.notes.push_back(std::string(kStart) + text);
}

}  // namespace

void BarrierState::step(const Step& at) {
  Place& place = places_[at.w.index];
  if (at.e.unit == Unit::barrier) {
    place.waits_at = at.op;
    ++place.count;
  }
  if (at.e.unit == Unit::end) place.ended = true;
}

void BarrierState::met(Workgroup& group) {
  const Wave* first = nullptr;
  const Wave* left = nullptr;
  for (const Wave* w : group.waves) {
    const Place& place = places_[w->index];
    if (w->stop == Stop::ended) {
      if (!left && place.ended && place.count) left = w;
    } else if (!first) {
      first = w;
    } else if (!mismatch_.here && place.waits_at != places_[first->index].waits_at) {
      mismatch_ = {places_[first->index].waits_at, place.waits_at, first->index, w->index};
    }
  }
  if (!first || !left) return;
  const auto wave = [](uint32_t index) { return "wave " + std::to_string(index); };
  const auto times = [&](const Wave* w) {
    const uint64_t n = places_[w->index].count;
    return std::to_string(n) + (n == 1 ? " barrier" : " barriers");
  };
  if (!mismatch_.here) {
    note_once(*group.launch, wave(left->index) + " of workgroup " + std::to_string(group.linear) + " ended after " +
                                 times(left) +
                                 " and others went on to further ones, which the hardware allows: it "
                                 "does not count waves that have ended");
    return;
  }
  const Step here{*group.waves[mismatch_.wave], mismatch_.here,
                  group.launch->program->effects->of(*group.launch->program, mismatch_.here)};
  report(here, kCheckBarriers, mismatch_.there,
         wave(mismatch_.wave) + " waited here while " + wave(mismatch_.other) + " waited at another s_barrier, and " +
             wave(left->index) + " then ended after " + times(left) + " while " + wave(first->index) + " came to more",
         "let both come to the same s_barrier, or to as many");
  mismatch_ = {};
}

}  // namespace aiterlite::emulator
