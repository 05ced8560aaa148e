"""How long a launch takes on an AMD chip, from its counters: a range, what it is limited by, and how far to trust it.

Nothing here was measured by this project: calibration.py has the model and the numbers, which were fitted to times that
AMD published for other kernels. An estimate is of one of three classes:

    calibrated     the chip, the waves a SIMD and the mix of work are like those of the published kernels
    extrapolated   the chip is, the kernel is not: more waves a SIMD, an unseen mix, uneven workgroups, under 15 us
    uncalibrated   no published times of this chip: the numbers of another one of its architecture, scaled

The interval of a calibrated estimate holds four of five published times of families that were left out. Nobody can say
that of the others: theirs is that interval two and three times over, but for launches that are only short.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiterlite.emulator.calibration import LABEL, Calibration, ChipNumbers, Work, parts, shipped
from aiterlite.errors import ArgumentError
from aiterlite.hardware import CHIPS, architecture
from aiterlite.target import Persona

CALIBRATED, EXTRAPOLATED, UNCALIBRATED = "calibrated", "extrapolated", "uncalibrated"
CANNOT_TELL = "cannot tell"
# How often the interval is multiplied with itself, where nothing published says how wide it must be.
_WIDER = {CALIBRATED: 1, EXTRAPOLATED: 2, UNCALIBRATED: 3}
# The fit took an average workgroup, also where split-K leaves one a little more than others: up to here they are alike.
_ALIKE = 1.25


@dataclass(frozen=True)
class Estimate:
    """Microseconds of a call: `low` to `high` holds four of five, as far as its class goes. `why` gives the class."""

    us: float
    low: float
    high: float
    limit: str
    parts: Mapping[str, float]
    kind: str
    why: tuple[str, ...]
    chip: str
    # By what the interval was widened: two estimates are told apart only beyond it.
    apart: float

    def __str__(self) -> str:
        because = f" ({', '.join(self.why)})" if self.why else ""
        return (
            f"{_us(self.us)} us, 80 %: {_us(self.low)} to {_us(self.high)}; limited by {self.limit}; "
            f"{self.kind}{because}; on {self.chip}; {LABEL}"
        )

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "parts": dict(self.parts), "label": LABEL}


def from_json(data: Mapping[str, Any]) -> Estimate:
    """An estimate that `to_json` wrote. Raises `KeyError` where it did not."""
    values = {field.name: data[field.name] for field in dataclasses.fields(Estimate)}
    return Estimate(**{**values, "why": tuple(values["why"])})


def _us(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


def estimate(
    counters: Sequence[Mapping[str, Any]], persona: Persona, calibration: Calibration | None = None
) -> Estimate:
    """The estimate of a call of one or more launches (`Report.counters` of each, in their order) on a chip."""
    calibration = calibration or shipped()
    if not counters:
        raise ArgumentError("estimate", "counters", "empty", "the counters of at least one launch", "Count a launch.")
    chip, why = _numbers(persona, calibration)
    kind = UNCALIBRATED if why else CALIBRATED
    total: dict[str, float] = {}
    unlike: list[str] = []
    for index, counted in enumerate(counters):
        work, valu = work_of(counted, persona.target, chip.compute_units)
        strange = _unlike(counted, persona.target, chip.compute_units, calibration)
        strange += _strange_mix(work, valu, calibration)
        unlike += [reason for reason in strange if reason not in unlike]
        found = parts(work, chip, calibration.shared)
        # A kernel behind another one costs less than a first one: as a memset before a kernel does.
        launch = found["launch"] if index == 0 else found["launch"] * calibration.shared.memset
        found |= {"us": found["us"] - found["launch"] + launch, "launch": launch}
        for name, us in found.items():
            total[name] = total.get(name, 0.0) + float(us)
    us = total.pop("us")
    is_short = us < calibration.short_us
    low, high = calibration.intervals["short" if is_short else "calibrated"]
    if unlike and kind == CALIBRATED:
        kind = EXTRAPOLATED
    power = _WIDER[kind]
    if is_short:
        unlike.append(f"under {calibration.short_us:g} us")
        kind = EXTRAPOLATED if kind == CALIBRATED else kind
    low, high = low**power, high**power
    unlike += [
        f"from {c['workgroups']} of {_launched(c)} workgroups" for c in counters if _launched(c) != c["workgroups"]
    ]
    limit = max(total, key=lambda name: total[name])
    apart = calibration.apart**power
    return Estimate(us, us * low, us * high, limit, total, kind, (*why, *unlike), persona.chip, apart)


def faster(a: Estimate, b: Estimate) -> str:
    """Which of two takes less time: "A", "B", or "cannot tell"."""
    if max(a.us, b.us) < max(a.apart, b.apart) * min(a.us, b.us):
        return CANNOT_TELL
    return "A" if a.us < b.us else "B"


def floor_us(counters: Sequence[Mapping[str, Any]], persona: Persona) -> tuple[float, str]:
    """Microseconds that no chip of this kind beats, and of what: published peaks, whatever a clock really does.

    Memory moves each byte once at the published bandwidth. The fullest CU's matrix units work at the published clock;
    where no clock is published, at the highest of the architecture's. Launches follow each other.
    """
    peak = persona.clock_mhz or max(chip.clock_mhz for chip in CHIPS.values() if chip.target == persona.target)
    simds, sums = architecture(persona.target).simds, {"bytes": 0.0, "matrix": 0.0}
    total = 0.0
    for counted in counters:
        groups, ran = _launched(counted), counted["workgroups"]
        moved = _unique_bytes(counted) / (persona.memory_gb_per_s * 1e3)
        # Workgroups that are alike: one CU has as many of them as fit the others, rounded up. Else as if spread evenly.
        alike = counted["matrix_cycles"] % ran == 0
        fullest = math.ceil(groups / persona.cu_count) / groups if alike else 1 / persona.cu_count
        matrix = counted["matrix_cycles"] * groups / ran * fullest / simds / peak
        total += max(moved, matrix)
        sums["matrix" if matrix > moved else "bytes"] += max(moved, matrix)
    return total, max(sums, key=lambda name: sums[name])


def impossible(counters: Sequence[Mapping[str, Any]], persona: Persona, published_us: float) -> str:
    """What is wrong with a published time that the counters' floor exceeds; empty where nothing is."""
    floor, limit = floor_us(counters, persona)
    if floor <= published_us:
        return ""
    return (
        f"{published_us:g} us cannot be: what the launch does takes {floor:.1f} us at the least on {persona.chip} "
        f"({limit} at the published peaks); the time, the shape or the kernel is another one"
    )


def _numbers(persona: Persona, calibration: Calibration) -> tuple[ChipNumbers, list[str]]:
    """The numbers of a chip, and why they are not its own."""
    own = calibration.chips.get(persona.chip)
    if own is not None and own.compute_units == persona.cu_count:
        return own, []
    like = [name for name, row in CHIPS.items() if row.target == persona.target and name in calibration.chips]
    if not like or not persona.cu_count or not persona.memory_gb_per_s:
        raise ArgumentError(
            "estimate",
            "persona",
            persona,
            f"a chip with known CUs and bandwidth, of the targets of {', '.join(calibration.chips)}",
            "Name one, such as mi300x.",
        )
    # The chip of the same name, else the one with the nearest number of CUs.
    nearest = min(like, key=lambda name: (name != persona.chip, abs(CHIPS[name].compute_units - persona.cu_count)))
    numbers = calibration.chips[nearest]
    scaled = dataclasses.replace(
        numbers,
        compute_units=persona.cu_count,
        clock_mhz=float(persona.clock_mhz or numbers.clock_mhz),
        bytes_per_us=persona.memory_gb_per_s * 1e3,
    )
    return scaled, [f"numbers of {nearest} scaled to {persona.cu_count} CUs"]


def _sharing(counted: Mapping[str, Any]) -> int:
    """Workgroups that write to one result: how often, on average, the argument that is written most often is."""
    found = [held["written"] / max(held["unique_written"], 1) for held in counted["arguments"].values()]
    return max(1, *(round(often) for often in found)) if found else 1


def _launched(counted: Mapping[str, Any]) -> int:
    """The workgroups of the launch; those that were counted may be the first of them only."""
    return int(counted.get("launched", counted["workgroups"]))


def _unique_bytes(counted: Mapping[str, Any]) -> float:
    """Bytes that the launch reads and writes of memory, each once.

    Where some workgroups ran, each argument's grow with the workgroups up to its size.
    """
    traffic, launched, ran = counted["bytes"]["global"], _launched(counted), counted["workgroups"]
    if launched == ran:
        return float(traffic["unique_read"] + traffic["unique_written"])
    found = 0.0
    for held in counted["arguments"].values():
        found += sum(min(held[name] * launched / ran, held["size"]) for name in ("unique_read", "unique_written"))
    return found


def _together(counted: Mapping[str, Any], compute_units: int) -> int:
    """Workgroups that a CU has at once, as they are dealt to all CUs first."""
    room = max(1, counted["occupancy"]["workgroups_per_cu"])
    return int(min(room, math.ceil(_launched(counted) / compute_units)))


def _largest(counted: Mapping[str, Any]) -> float:
    """How many times the average the largest workgroup executes; 1 where they are alike."""
    average = counted["instructions"]["total"] / counted["workgroups"]
    ratio = float(counted["largest_workgroup"] / average)
    return ratio if ratio > _ALIKE else 1.0


def work_of(counted: Mapping[str, Any], target: str, compute_units: int) -> tuple[Work, float]:
    """The work of a launch, and its cycles of the vector ALU. Workgroups that a CU has at once share it: they count as
    one. Where each has a CU to itself and they differ, the launch takes as long as the largest."""
    ran, groups, simds = counted["workgroups"], _launched(counted), architecture(target).simds
    together = _together(counted, compute_units)
    share = _largest(counted) if groups <= compute_units else 1.0
    each = together / min(simds, counted["waves"] / ran * together) * share
    slots = compute_units * together
    full = groups // slots
    issue = counted["issue_cycles"]
    traffic, lds = counted["bytes"]["global"], counted["lds"]["cycles"]
    if target == "gfx950":
        # Fitted counters took 128 bytes a cycle for all of LDS; this chip's wide reads are counted at twice that.
        lds += counted["bytes"]["lds"]["read"] / 256
    atomic = counted["coalescing"]["atomic"]["segments64"] * 64
    plain = max(0, traffic["written"] - atomic)
    vector = sum(counted["instructions"][f"vmem_{kind}"] for kind in ("load", "store", "atomic"))
    busy = min(groups, compute_units)
    waits = bool(atomic and plain)
    work = Work(
        full=full,
        rest=groups / slots - full if full else 1.0,
        busy=busy,
        handoffs=waits * busy / compute_units,
        turns=waits * _sharing(counted),
        matrix=counted["matrix_cycles"] / ran * each,
        issue=issue["total"] / ran * each,
        read=traffic["read"] / ran * together * share,
        lds=lds / ran * together * share,
        vector=vector / ran * together * share,
        written=plain / ran * together,
        atomic=atomic / ran * together,
        bytes=_unique_bytes(counted),
        zero=0.0,
        memsets=0,
    )
    return work, issue["valu"] / ran * each


def waves_per_simd(counted: Mapping[str, Any], target: str, compute_units: int) -> float:
    """Waves that a SIMD has at once; where a workgroup leaves SIMDs without one, 1."""
    waves = counted["waves"] / counted["workgroups"] * _together(counted, compute_units)
    return max(1.0, float(waves / architecture(target).simds))


def _unlike(counted: Mapping[str, Any], target: str, compute_units: int, calibration: Calibration) -> list[str]:
    """In what the shape of a launch is unlike that of published times."""
    simds, on_simd = architecture(target).simds, waves_per_simd(counted, target, compute_units)
    waves = counted["waves"] / counted["workgroups"]
    unlike = []
    if on_simd > calibration.seen["waves"][1]:
        unlike.append(f"{on_simd:g} waves a SIMD")
    if waves < simds:
        unlike.append(f"workgroups of {waves:g} waves")
    if _largest(counted) > 1:
        unlike.append(f"the largest workgroup executes {_largest(counted):.1f} times the average")
    if counted["bytes"]["scratch"]["read"]:
        unlike.append("scratch")
    return unlike


# How the parts of a mix are called.
_NAMES = {
    "mfma": "matrix work",
    "valu": "vector ALU work",
    "ldsmin": "LDS",
    "read": "bytes read",
    "vmem": "vector memory",
}


def _strange_mix(work: Work, valu: float, calibration: Calibration) -> list[str]:
    issue = max(work.issue, 1.0)
    mix = {"mfma": work.matrix, "valu": valu, "ldsmin": work.lds, "read": work.read, "vmem": work.vector / 4}
    strange = []
    for name, amount in mix.items():
        least, most = calibration.seen[name]
        if not least <= amount / issue <= most:
            strange.append(f"{'more' if amount / issue > most else 'less'} {_NAMES[name]} than seen")
    return strange
