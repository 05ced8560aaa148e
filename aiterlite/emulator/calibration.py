"""What an estimate of time is made of: counters of a workgroup, and numbers that were fitted to published times.

The model. A CU works on the workgroups that it holds at once, a round after the other. In a round its parts (matrix
units, issue slots, the way from the caches, LDS, the addresses of vector memory) overlap as waves that wait for each
other let them: the root of the sum of their squares. A round also starts, and ends with its stores and atomics. Memory
works beside the rounds: both overlap by one exponent. The launch comes on top. `parts` is the formula, and the fit
(aiterlite/benchmark/calibration.py) is of exactly this code: it takes numbers and float64 tensors alike.

The numbers are in amd_calibration.json, with where they are from. Nothing in it was measured by this project.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).with_name("amd_calibration.json")
FORMAT = 1
# Wherever an estimate is shown, this is shown with it.
LABEL = "estimate, calibrated on published times, not measured here"
# What lanes of vector memory bring in a cycle at the best, and what LDS serves; the fitted numbers are relative to it.
_FEED_BYTES = 64


@dataclass(frozen=True)
class Work:
    """What a launch does. Cycles are those of one workgroup spread over the four SIMDs of a CU, bytes its own.

    `bytes` is what the launch reads and writes of memory, each byte once, `zero` what a kernel before it clears, of
    which there are `memsets`. Every CU takes workgroups `full` times, then a share `rest` of the CUs once more; `rest`
    is 1 where there is no full round. `busy` is how many CUs have any. `handoffs` is 0 where no workgroup waits for
    others, else the share of the CUs that have any; `turns` is how many workgroups then take turns at one result.
    """

    full: Any
    rest: Any
    busy: Any
    handoffs: Any
    turns: Any
    matrix: Any
    issue: Any
    read: Any
    lds: Any
    vector: Any  # instructions of vector memory
    written: Any  # by plain stores
    atomic: Any  # by atomics
    bytes: Any
    zero: Any
    memsets: Any


@dataclass(frozen=True)
class ChipNumbers:
    """Numbers of a chip: facts that scale the model, then what was fitted.

    `clock_mhz` is a unit of time only. `pace` says how many of its cycles a cycle of the model takes, `bandwidth` what
    share of the published bandwidth memory gives, `start` the cycles of a round before and after its work, `launch` the
    microseconds of a launch.
    """

    compute_units: Any
    clock_mhz: Any
    bytes_per_us: Any
    pace: Any
    bandwidth: Any
    start: Any
    launch: Any


@dataclass(frozen=True)
class SharedNumbers:
    """Numbers that all chips share: what a cycle or byte of each part costs, in cycles, and how parts overlap."""

    memset: Any  # a further kernel of a call, in launches
    matrix: Any
    issue: Any
    feed: Any  # 64 bytes from the caches
    lds: Any
    vector: Any  # an instruction of vector memory
    store: Any  # share of the published bandwidth at which a round's stores end
    drain: Any  # share of 64 bytes a cycle at which a CU gives its stores away
    atomic: Any  # share of the published bandwidth at which its atomics end
    handoff: Any  # microseconds that workgroups on all CUs wait for others, through memory
    turn: Any  # microseconds of each turn
    tail: Any  # a last round of a share of the CUs takes that share, to this power, of a full one
    overlap: Any  # exponent with which memory and the rounds overlap


CHIP_FITTED = ("pace", "bandwidth", "start", "launch")
SHARED_FITTED = tuple(field.name for field in fields(SharedNumbers))


def parts(w: Work, chip: ChipNumbers, shared: SharedNumbers) -> dict[str, Any]:
    """Microseconds of each part of a launch, and what they make together under `us`."""
    mhz = chip.clock_mhz
    cycles = {
        "matrix": w.matrix * shared.matrix,
        "issue": w.issue * shared.issue,
        "caches": w.read / _FEED_BYTES * shared.feed,
        "LDS": w.lds * shared.lds,
        "vector memory": w.vector * shared.vector,
    }
    loop = sum(part**2 for part in cycles.values()) ** 0.5 * chip.pace / mhz
    end = w.written / (_FEED_BYTES * shared.drain) / mhz
    end = end + (w.written / shared.store + w.atomic / shared.atomic) * w.busy / chip.bytes_per_us
    start = chip.start / mhz
    times = w.full + w.rest**shared.tail
    waiting = w.handoffs * shared.handoff + w.turns * shared.turn
    rounds = times * (loop + start + end) + waiting
    memory = (w.bytes + w.zero) / (chip.bytes_per_us * chip.bandwidth)
    launch = chip.launch * (1 + w.memsets * shared.memset)
    us = launch + (memory**shared.overlap + rounds**shared.overlap) ** (1 / shared.overlap)
    return {
        **{name: times * part * chip.pace / mhz for name, part in cycles.items()},
        "latency": times * start + waiting,
        "stores": times * end,
        "bytes": memory,
        "launch": launch,
        "us": us,
    }


@dataclass(frozen=True)
class Calibration:
    """The numbers, what they were fitted to, and how far they were off on what was left out."""

    chips: Mapping[str, ChipNumbers]
    shared: SharedNumbers
    # Class of an estimate -> what 80 % of the published times lie between, as factors.
    intervals: Mapping[str, tuple[float, float]]
    # Two estimates that differ by less than this factor are not told apart.
    apart: float
    # Share of a part in a workgroup's cycles -> least and most that was seen.
    seen: Mapping[str, tuple[float, float]]
    short_us: float
    data: Mapping[str, Any]


def from_data(data: Mapping[str, Any]) -> Calibration:
    if data.get("format") != FORMAT:
        raise ValueError(f"a calibration of format {data.get('format')!r}; allowed: {FORMAT}; refit it")
    return Calibration(
        {name: ChipNumbers(**row) for name, row in data["chips"].items()},
        SharedNumbers(**data["shared"]),
        {name: (row[0], row[1]) for name, row in data["intervals"].items()},
        data["apart"],
        {name: (row[0], row[1]) for name, row in data["seen"].items()},
        data["short_us"],
        data,
    )


@functools.cache
def shipped() -> Calibration:
    """The calibration of this package."""
    return from_data(json.loads(SHIPPED.read_text()))
