"""Fits the model of emulator/calibration.py to published times, and says how far it is off on what is left out.

A point is a published time of a kernel, shape and chip, with the emulator's counters of one workgroup of that kernel.
Points are weighed by kernel, so that a thousand shapes of one do not outvote ten of another. The fit is a damped
Gauss-Newton in the logarithm of the times, with Huber's weights against rows that no model explains, and a prior for
each number: about what the published peaks give, so that a family that is left out does not leave a number free.

The centres of the priors were set by their author, who had seen all families. They are no part of the fit, and what is
left out of a fit is not left out of them.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from aiterlite.emulator.calibration import CHIP_FITTED, SHARED_FITTED, ChipNumbers, SharedNumbers, Work, parts
from aiterlite.emulator.estimate import waves_per_simd, work_of
from aiterlite.errors import ArgumentError
from aiterlite.hardware import CHIPS
from aiterlite.target import Persona

# Under this many microseconds a launch is mostly what counters do not show.
SHORT_US = 15.0
# An unpublished clock stands in for a unit of time; the fitted pace takes up what it is off.
_CLOCK_MHZ = {"gfx942": 2100, "gfx950": 2400}

# Number -> centre and spread of its logarithm. Peaks: 1 cycle a cycle of the matrix unit and of an issue slot, 128
# bytes a cycle of LDS. Bandwidth: what read benchmarks reach of the published figure. The rest are guesses: a first
# load from memory and a last store take some 4000 cycles together, a launch 1.5 us, a further kernel half of that; a
# workgroup that waits for another one waits for two ways through memory and back, 2 us, and 0.12 us for each that has
# its turn before it; few workgroups at the end have the caches to themselves; an atomic is a read and a write.
_CHIP = {"pace": (1.0, 0.005), "bandwidth": (0.8, 0.1), "start": (4000.0, 0.15), "launch": (1.5, 0.15)}
_OWN = {"pace": 0.05, "bandwidth": 0.05, "start": 0.05, "launch": 0.1}  # spread of a chip about all chips
_SHARED = {
    "memset": (0.5, 0.15),
    "matrix": (1.0, 0.1),
    "issue": (1.0, 0.05),
    "feed": (1.6, 0.1),
    "lds": (1.0, 0.15),
    "vector": (7.0, 0.15),
    "store": (0.6, 0.15),
    "drain": (0.5, 0.15),
    "atomic": (0.3, 0.2),
    "handoff": (2.0, 0.2),
    "turn": (0.12, 0.2),
    "tail": (0.2, 0.3),
    "overlap": (1.7, 0.15),
}
_PRIOR_POINT = 0.3  # a number at one spread from its centre weighs like a point that is off by this
_HUBER = 0.2
_COUNTERS = ("issue", "valu", "ldsmin", "read", "written", "atom", "vmem", "mfma")


@dataclass(frozen=True)
class Point:
    """A published time, with what one workgroup of the kernel does (cycles on each of the four SIMDs of a CU)."""

    family: str
    chip: str
    kernel: str
    problem: tuple[int, ...]
    split: int
    us: float
    workgroups: float
    bytes: float
    zero: float
    memset: float
    counters: dict[str, float]
    # Waves that a SIMD has at once.
    waves: float = 1.0
    # Whether workgroups wait for others of the launch, where that is known.
    waits: bool | None = None
    # Launches of the same call after this one.
    behind: tuple[Point, ...] = ()


def read(path: Path) -> list[Point]:
    """The points of a CSV file, packed or not, each once. A row of a launch that is not a call's first belongs to the
    point before it."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = list(csv.DictReader(line for line in data.decode().splitlines() if not line.startswith("#")))
    found: dict[tuple[Any, ...], Point] = {}
    key: tuple[Any, ...] = ()
    for row in rows:
        point = _point(row)
        launch = int(row.get("launch") or 1)
        if launch == 1:
            key = (point.family, point.chip, point.kernel, point.problem, point.split, point.us, point.bytes)
            found[key] = point
        else:
            first = found[key]
            found[key] = replace(first, behind=(*first.behind[: launch - 2], point))
    return list(found.values())


# The columns of a file of points.
COLUMNS = (
    *("family", "chip", "kernel", "M", "N", "K", "split", "E", "topk", "us", "wgs", "bytes", "memset"),
    *_COUNTERS,
    *("waves", "waits", "launch"),
)
# Families of points that were timed with this package's kernels begin so. What is shipped is fitted to none of them.
OWN = "aiterlite/"


def own_row(
    op: str, kernel: str, us: float, counted: Mapping[str, Any], persona: Persona, shape: str, launch: int = 1
) -> dict[str, Any]:
    """The row of a file of points for a launch of this package that was timed on a chip and counted in the emulator.

    Workgroups that share a CU count as one. The shape is told by a number: points have no fields for other problems.
    `us` is the time of the whole call, of which this is a launch.
    """
    work, valu = work_of(counted, persona.target, persona.cu_count)
    together = work.full + work.rest if work.full else work.busy / persona.cu_count
    return {
        "family": OWN + op,
        "chip": persona.chip,
        "kernel": kernel,
        **dict.fromkeys(("N", "K", "E", "topk", "memset"), 0),
        "split": round(work.turns),
        "M": zlib.crc32(shape.encode()),
        "us": us,
        "wgs": together * persona.cu_count,
        "bytes": work.bytes,
        "issue": work.issue,
        "valu": valu,
        "ldsmin": work.lds,
        "read": work.read,
        "written": work.written + work.atomic,
        "atom": work.atomic,
        "vmem": work.vector / 4,
        "mfma": work.matrix,
        "waves": waves_per_simd(counted, persona.target, persona.cu_count),
        "waits": int(work.handoffs > 0),
        "launch": launch,
    }


def write(path: Path, rows: Iterable[Mapping[str, Any]], source: str) -> None:
    """A file of points, which begins with where they are from."""
    with path.open("w", newline="") as file:
        file.write("".join(f"# {line}\n" for line in source.splitlines()))
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _point(row: dict[str, str]) -> Point:
    m, n, k, experts, topk = (int(float(row[name] or 0)) for name in ("M", "N", "K", "E", "topk"))
    memset = float(row["memset"])
    columns = k if experts else n  # of the result: what the kernel before this one clears, of 2 bytes each
    return Point(
        row["family"],
        row["chip"],
        row["kernel"],
        (m, n, k, experts, topk),
        int(float(row["split"])),
        float(row["us"]),
        float(row["wgs"]),
        float(row["bytes"]),
        2.0 * m * columns if memset else 0.0,
        memset,
        {name: float(row[name]) for name in _COUNTERS},
        float(row.get("waves") or 1),  # of the study's points: one
        bool(int(row["waits"])) if row.get("waits") else None,
    )


def facts(chip: str) -> tuple[int, float, float]:
    """CUs, MHz and bytes a microsecond of a chip. Raises `ArgumentError` for one that has no facts."""
    row = CHIPS.get(chip)
    if row is None or row.target not in _CLOCK_MHZ or not row.compute_units:
        known = ", ".join(name for name, held in CHIPS.items() if held.target in _CLOCK_MHZ and held.compute_units)
        raise ArgumentError("calibration", "chip", repr(chip), known, "Name the chip that was timed.")
    return row.compute_units, float(row.clock_mhz or _CLOCK_MHZ[row.target]), row.memory_gb_per_s * 1e3


def floor_us(point: Point) -> float:
    """What the counters alone take at the published peaks: the matrix units of the fullest CU, or memory."""
    units, mhz, bandwidth = facts(point.chip)
    return sum(
        max(math.ceil(one.workgroups / units) * one.counters["mfma"] / mhz, one.bytes / bandwidth)
        for one in (point, *point.behind)
    )


def possible(points: Sequence[Point]) -> list[Point]:
    """Without times under the floor of the counters, and times that stand, to the last digit, for several problems."""
    held = defaultdict(set)
    for p in points:
        held[p.family, p.chip, p.us].add(p.problem)
    return [p for p in points if len(held[p.family, p.chip, p.us]) == 1 and floor_us(p) < p.us]


class Batch:
    """Points as float64 columns."""

    def __init__(self, points: Sequence[Point], chips: Sequence[str]) -> None:
        def column(values: Iterable[float]) -> torch.Tensor:
            return torch.tensor(list(values), dtype=torch.float64)

        count = Counter((p.chip, p.kernel) for p in points)
        weight = column(count[p.chip, p.kernel] ** -0.7 for p in points)
        self.weight = weight / weight.mean()
        self.chip = torch.tensor([chips.index(p.chip) for p in points])
        self.us = column(p.us for p in points)
        units, mhz, bandwidth = (column(facts(p.chip)[i] for p in points) for i in range(3))
        self.facts = {"compute_units": units, "clock_mhz": mhz, "bytes_per_us": bandwidth}
        c = {name: column(p.counters[name] for p in points) for name in _COUNTERS}
        groups = column(p.workgroups for p in points)
        full = torch.floor(groups / units)
        # Plain stores and atomics: a workgroup clears a result before others add to it, and they wait for it, unless a
        # point says that they do not.
        inferred = (c["atom"] > 0) & (c["written"] > torch.minimum(c["atom"], c["written"]))
        waits = torch.where(
            torch.tensor([p.waits is None for p in points]), inferred, torch.tensor([bool(p.waits) for p in points])
        )
        atomic = torch.minimum(c["atom"], c["written"])
        self.work = Work(
            full=full,
            rest=torch.where(full > 0, groups / units - full, (groups > 0).double()),
            busy=torch.minimum(groups, units),
            handoffs=waits * torch.minimum(groups / units, torch.ones(1)),
            turns=waits * column(max(p.split, 1) for p in points),
            matrix=c["mfma"],
            issue=c["issue"],
            read=c["read"],
            lds=c["ldsmin"],
            vector=4 * c["vmem"],
            written=c["written"] - atomic,
            atomic=c["atom"],
            bytes=column(p.bytes for p in points),
            zero=column(p.zero for p in points),
            memsets=column(p.memset for p in points),
        )
        # The launches behind those, and the points that they are of.
        later = [(i, one) for i, p in enumerate(points) for one in p.behind]
        self.behind = Batch([one for _, one in later], chips) if later else None
        self.of = torch.tensor([i for i, _ in later])


class Fit:
    """A fitted model: one vector of logarithms, of the numbers that chips have, then of those that they share."""

    def __init__(self, points: Sequence[Point], chips: Sequence[str]) -> None:
        self.chips = tuple(chips)
        each = 1 + len(self.chips)
        centre, spread = [], []
        for name in CHIP_FITTED:
            middle, wide = _CHIP[name]
            centre += [math.log(middle)] + [0.0] * len(self.chips)
            spread += [wide] + [_OWN[name]] * len(self.chips)
        for name in SHARED_FITTED:
            middle, wide = _SHARED[name]
            centre.append(math.log(middle))
            spread.append(wide)
        self._each = each
        self.vector = _fit(self, Batch(points, self.chips), *(torch.tensor(v).double() for v in (centre, spread)))

    def model(self, batch: Batch, vector: torch.Tensor) -> torch.Tensor:
        """Microseconds of each point: of all its launches, of which a further one costs less to launch than a first."""
        found = self._parts(batch, vector)
        us: torch.Tensor = found["us"]
        if batch.behind is not None:
            later = self._parts(batch.behind, vector)
            memset = torch.exp(vector[len(CHIP_FITTED) * self._each + SHARED_FITTED.index("memset")])
            us = us.index_add(0, batch.of, later["us"] - later["launch"] * (1 - memset))
        return us

    def _parts(self, batch: Batch, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        own = {}
        for i, name in enumerate(CHIP_FITTED):
            block = vector[i * self._each : (i + 1) * self._each]
            own[name] = torch.exp(block[0] + block[1:][batch.chip])
        rest = torch.exp(vector[len(CHIP_FITTED) * self._each :])
        shared = SharedNumbers(**dict(zip(SHARED_FITTED, rest, strict=True)))
        found: dict[str, torch.Tensor] = parts(batch.work, ChipNumbers(**batch.facts, **own), shared)
        return found

    def predict(self, points: Sequence[Point]) -> list[float]:
        return [float(us) for us in self.model(Batch(points, self.chips), self.vector)]

    def numbers(self) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        """The numbers of each chip, and those that all share."""
        chips = {}
        for index, chip in enumerate(self.chips):
            units, mhz, bandwidth = facts(chip)
            row: dict[str, float] = {"compute_units": units, "clock_mhz": mhz, "bytes_per_us": bandwidth}
            for i, name in enumerate(CHIP_FITTED):
                both = self.vector[i * self._each] + self.vector[i * self._each + 1 + index]
                row[name] = round(float(torch.exp(both)), 5)
            chips[chip] = row
        rest = torch.exp(self.vector[len(CHIP_FITTED) * self._each :])
        return chips, {name: round(float(x), 5) for name, x in zip(SHARED_FITTED, rest, strict=True)}


def _fit(fit: Fit, batch: Batch, centre: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    logarithm, held = torch.log(batch.us), (_PRIOR_POINT / spread) ** 2

    def off(vector: torch.Tensor) -> torch.Tensor:
        return torch.log(fit.model(batch, vector)) - logarithm

    def cost(residual: torch.Tensor, vector: torch.Tensor) -> float:
        size = residual.abs()
        huber = torch.where(size < _HUBER, size**2 / 2, _HUBER * (size - _HUBER / 2))
        return float((batch.weight * huber).sum() + (held * (vector - centre) ** 2).sum() / 2)

    at, damping, step = centre.clone(), 1e-2, 1e-4
    residual = off(at)
    least = cost(residual, at)
    for _ in range(40):
        moves = step * torch.eye(len(at), dtype=torch.float64)
        slopes = torch.stack([(off(at + move) - residual) / step for move in moves], 1)
        weight = batch.weight * torch.clamp(_HUBER / residual.abs().clamp_min(1e-9), max=1.0)
        curve = slopes.T @ (slopes * weight[:, None]) + torch.diag(held)
        slope = slopes.T @ (weight * residual) + held * (at - centre)
        before = least
        for _ in range(8):
            damped = curve + damping * torch.diag(torch.diag(curve))
            tried = at + torch.linalg.solve(damped, -slope).clamp(-1, 1)
            there = off(tried)
            if cost(there, tried) < least:
                at, residual, least, damping = tried, there, cost(there, tried), max(damping / 4, 1e-6)
                break
            damping *= 5
        if before - least < 1e-5 * before:
            break
    return at
