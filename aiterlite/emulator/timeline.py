"""What the waves of a workgroup do when, in a model of one compute unit: lanes of waves, rows of units, waits by cause.

    report = module.launch("scale", grid=4, block=256, args=args, timeline=0)
    json.dump(chrome([report.timeline], persona), file)   # Perfetto and chrome://tracing open it

The model is csrc/include/aiterlite/emulator/timeline.h. It was compared with nothing: no time of a wave is published.
Where its constants are from:

    issue slots of 4 cycles, 16 lanes a cycle           CDNA3 instruction set reference guide
    passes of matrix instructions                       LLVM's scheduling model (csrc/emulator/traits.cpp)
    cycles of LDS accesses                              csrc/emulator/lds_banks.cpp
    rate of the caches, of memory, latency of memory    the fit to published times (amd_calibration.json): bytes a cycle
                                                        that a CU is given; its share of the bandwidth; half of the
                                                        cycles that a round takes besides its work
    latency of LDS, of caches, of scalar loads,         assumptions of this project
    branches, length of the queue of vector memory
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiterlite.emulator.calibration import shipped
from aiterlite.hardware import CHIPS
from aiterlite.target import Persona

if TYPE_CHECKING:
    from aiterlite.emulator.library import Options

# Wherever a timeline is shown, this is shown with it.
LABEL = "a model of one compute unit, some of its rates fitted to published times, not measured here"
# Cycles: assumptions.
SCALAR_LATENCY, LDS_LATENCY, CACHE_LATENCY = 200.0, 64.0, 300.0
# What a viewer still opens, and a page still draws.
MOST_EVENTS = 200_000
# Instructions of the workgroup, of all its waves together: 24 bytes each.
MOST_NOTED = 8 << 20
# The kinds of events, in the order of csrc/include/aiterlite/emulator/timeline.h: what issues, then what is waited for.
ISSUES = ("vector ALU", "scalar ALU", "matrix", "LDS", "vector memory", "scalar memory", "other")
WAITS = {
    "unit": "another wave has the unit",
    "matrix": "the matrix unit is busy",
    "queue": "a queue is full",
    "vmcnt": "vector memory (vmcnt)",
    "lgkmcnt": "LDS or scalar memory (lgkmcnt)",
    "barrier": "barrier",
    "nops": "no-ops and sleep",
}
KINDS = (*ISSUES, *(f"wait: {text}" for text in WAITS.values()))
UNITS = (*(f"matrix unit {simd}" for simd in range(4)), "LDS", "vector memory", "memory")


def ask(options: Options, persona: Persona, workgroup: int) -> None:
    """Set a launch's options to show a workgroup, of the last one where there are fewer."""
    options.timeline, options.timeline_group = 1, workgroup
    options.timeline_together = 0
    options.timeline_noted, options.timeline_events = MOST_NOTED, MOST_EVENTS
    options.timings = type(options.timings)(*timings(persona))


def clock_mhz(persona: Persona) -> float:
    """The published peak clock, or the unit of time of the calibration where none is published."""
    known = shipped().chips
    return float(persona.clock_mhz or known[_nearest(persona)].clock_mhz)


def timings(persona: Persona) -> tuple[float, ...]:
    """The constants of the model on a chip: four latencies in cycles, then bytes a cycle that the caches give
    a CU, and that memory gives all of them."""
    fitted, shared = shipped().chips[_nearest(persona)], shipped().shared
    bandwidth = persona.memory_gb_per_s * 1e3 * fitted.bandwidth or fitted.bytes_per_us * fitted.bandwidth
    memory_bytes = bandwidth / clock_mhz(persona)
    return SCALAR_LATENCY, LDS_LATENCY, CACHE_LATENCY, fitted.start / 2, 64 / shared.feed, memory_bytes


def _nearest(persona: Persona) -> str:
    """The calibrated chip whose numbers are taken."""
    chips = shipped().chips
    if persona.chip in chips:
        return persona.chip
    like = [name for name in chips if CHIPS[name].target == persona.target] or list(chips)
    return min(like, key=lambda name: abs(chips[name].compute_units - persona.cu_count))


def row_names(timeline: Mapping[str, Any]) -> list[str]:
    """The rows of a timeline: its waves, with the SIMD of each, then the units."""
    waves = timeline["waves"]
    each = len(waves) // max(timeline["together"], 1)
    rows = []
    for index, wave in enumerate(waves):
        twin = f" of twin {index // each}" if index >= each else ""
        rows.append(f"wave {index % each}{twin} (SIMD {wave['simd']})")
    return [*rows, *UNITS]


def chrome(timelines: Sequence[Mapping[str, Any]], persona: Persona, names: Sequence[str] = ()) -> dict[str, Any]:
    """Launches as Chrome trace events: a process a launch, a thread a row, microseconds at the published clock."""
    events: list[dict[str, Any]] = []
    mhz = clock_mhz(persona)
    for pid, timeline in enumerate(timelines):
        name = names[pid] if pid < len(names) else f"launch {pid}"
        title = f"{name}, workgroup {timeline['workgroup']} on {persona.chip} (model)"
        events.append({"ph": "M", "pid": pid, "name": "process_name", "args": {"name": title}})
        for tid, row in enumerate(row_names(timeline)):
            events.append({"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": row}})
            events.append({"ph": "M", "pid": pid, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}})
        texts = timeline["texts"]
        for row, kind, at, cycles, pc in timeline["events"]:
            text = texts[str(pc)]
            is_wait = kind >= len(ISSUES)
            events.append(
                {
                    "ph": "X",
                    "pid": pid,
                    "tid": row,
                    "ts": at / mhz,
                    "dur": cycles / mhz,
                    "name": KINDS[kind] if is_wait else text,
                    "cat": "wait" if is_wait else ISSUES[kind],
                    "args": {"instruction": text, "pc": f"{pc:#x}", "cycle": at, "cycles": cycles},
                }
            )
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": {"model": LABEL}}


def lines(timeline: Mapping[str, Any], persona: Persona) -> list[str]:
    """A timeline in a few lines: how long, how busy each unit is, what the waves wait for."""
    cycles = max(timeline["cycles"], 1)
    together = timeline["together"]
    many = f", {together} workgroups like it at once" if together > 1 else ""
    us = cycles / clock_mhz(persona)
    text = [
        f"timeline of workgroup {timeline['workgroup']}{many}: {cycles:,} cycles, {us:.1f} us at the published clock, "
        f"in {LABEL}"
    ]
    busy = timeline["busy"]
    units = {
        "matrix units": sum(busy["matrix"]) / len(busy["matrix"]),
        "LDS": busy["lds"],
        "vector memory": busy["vector"],
        "memory": busy["memory"],
    }
    text.append("  busy: " + ", ".join(f"{name} {part / cycles:.0%}" for name, part in units.items()))
    waits = _sum(wave["waits"] for wave in timeline["waves"])
    all_waves = cycles * max(len(timeline["waves"]), 1)
    found = sorted(
        ((WAITS[name], part) for name, part in waits.items() if part > all_waves / 200), key=lambda item: -item[1]
    )
    text.append("  waves wait: " + (", ".join(f"{name} {part / all_waves:.0%}" for name, part in found) or "never"))
    if not timeline["complete"]:
        text.append("  the workgroup executes more than a timeline holds: its end is missing")
    if timeline["events_until"] < timeline["cycles"]:
        text.append(f"  {MOST_EVENTS:,} events are shown, up to cycle {timeline['events_until']:,}")
    return text


def _sum(items: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for item in items:
        for name, part in item.items():
            total[name] = total.get(name, 0) + part
    return total
