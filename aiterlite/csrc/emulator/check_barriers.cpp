// Waves that end while others of their workgroup wait at a barrier, and where their ways parted.
//
// The hardware counts arrivals, whatever s_barrier they are at, and takes waves that ended out of the count. Waves of
// different roles may so pair their barriers on purpose: meeting at two places alone is no fault. It is what went wrong
// first when a wave then ends without coming to a barrier at which others wait.
#include <aiterlite/emulator/check.h>
#include <aiterlite/emulator/runtime.h>

namespace aiterlite::emulator {

void BarrierState::step(const Step& at) {
  if (at.e.unit == Unit::barrier) places_[at.w.index].waits_at = at.op;
  if (at.e.unit == Unit::end) places_[at.w.index].ended_at = at.op;
}

void BarrierState::met(Workgroup& group) {
  const Wave* first = nullptr;
  const Wave* ended = nullptr;
  for (const Wave* w : group.waves) {
    const Place& place = places_[w->index];
    if (w->stop == Stop::ended) {
      if (!ended && place.ended_at) ended = w;
    } else if (!first) {
      first = w;
    } else if (!mismatch_.here && place.waits_at != places_[first->index].waits_at) {
      mismatch_ = {places_[first->index].waits_at, place.waits_at, first->index, w->index};
    }
  }
  if (!first || !ended) return;
  const auto wave = [](uint32_t index) { return "wave " + std::to_string(index); };
  const auto at = [&](const MicroOp* op, uint32_t index) {
    return Step{*group.waves[index], op, group.launch->program->effects->of(*group.launch->program, op)};
  };
  const MicroOp* here = places_[first->index].waits_at;
  report(at(here, first->index), kCheckBarriers, places_[ended->index].ended_at,
         wave(first->index) + " waits here, and " + wave(ended->index) + " ended without coming",
         "let " + wave(ended->index) + " come to this s_barrier before its s_endpgm");
  if (!mismatch_.here) return;
  report(at(mismatch_.here, mismatch_.wave), kCheckBarriers, mismatch_.there,
         wave(mismatch_.wave) + " waited here while " + wave(mismatch_.other) + " waited at another s_barrier",
         "let both come to the same s_barrier, or to as many");
  mismatch_ = {};
}

}  // namespace aiterlite::emulator
