"""Which of wvSplitK, wvSplitKrc and torch serves a skinny GEMM fastest: measured or estimated points, as data.

The data is gemm_crossover.json, which `aiterlite bench --tune` writes (docs/cli.md) and benchmarks/estimate_linear.py
corrects: tables of points, each table for one chip. A point is (m, k) and a token bucket, and says who was fastest
there; a small letter, that something else than the table's source says so. A problem is decided so:

1. Among the tables of its target, the one with the nearest number of compute units counts (by ratio); among equals, the
   one of the chip's name, then the first in the file. So a partition of a chip takes the table of a chip of its size.
2. Its tokens belong to the smallest bucket that holds them.
3. Among the table's points in that bucket, the nearest one decides, by the distance of (log m, log k); among equals,
   the one of the least m, then of the least k. A point that stands on a time that AMD published for its own library
   (`PUBLISHED`) counts for its own (m, k) and its own chip alone: nothing is said of others.

Contenders of equal time at a point: wvSplitK before wvSplitKrc before torch (the order of `CONTENDERS`).
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from aiterlite.tables.measured import choose
from aiterlite.target import Persona

SHIPPED = Path(__file__).with_name("gemm_crossover.json")
FORMAT = 2
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
CONTENDERS = {"K": "wvSplitK", "R": "wvSplitKrc", "T": "torch"}
_LETTERS = {name: letter for letter, name in CONTENDERS.items()}
_NOTHING = "."
MEASURED, ESTIMATED = "measured", "estimated from the cost model, not measured"
# What a point may stand on besides the source of its table.
CALIBRATED = "estimated from counters, calibrated on published times, not measured"
PUBLISHED = "torch at the time that AMD published for its library, the others estimated from counters, not measured"
_SMALL = {"k": ("wvSplitK", CALIBRATED), "r": ("wvSplitKrc", CALIBRATED), "t": ("torch", PUBLISHED)}
_SMALL_LETTERS = {named: letter for letter, named in _SMALL.items()}


class Point(NamedTuple):
    """Who was fastest for weights [m, k] and the tokens of a bucket. `ground`: what says so, where it is not what the
    source of the table says: CALIBRATED or PUBLISHED."""

    m: int
    k: int
    bucket: int
    winner: str
    ground: str = ""


@dataclass(frozen=True)
class CrossoverTable:
    """The points of one chip. `source` is MEASURED or ESTIMATED; `how` says in which run, or by which model."""

    target: str
    chip: str
    compute_units: int
    source: str
    how: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Verdict:
    """The fastest for a problem, and the point that says so, in words."""

    winner: str
    why: str


class CrossoverFormatError(ValueError):
    """A crossover file holds something else than what `bench --tune` writes."""


def bucket_of(n: int) -> int | None:
    """The smallest bucket that holds n tokens; None beyond the largest."""
    return next((bucket for bucket in BUCKETS if n <= bucket), None)


def fastest(times: Mapping[str, float]) -> str:
    """The contender of the least time; of equal ones the first of `CONTENDERS`."""
    return min((name for name in CONTENDERS.values() if name in times), key=lambda name: times[name])


def verdict(persona: Persona, n: int, m: int, k: int) -> Verdict | None:
    """Who the shipped tables say is fastest; None where they hold nothing for the target or the bucket."""
    return _verdict(persona.target, persona.chip, persona.cu_count, bucket_of(n), m, k)


@functools.lru_cache(maxsize=4096)
def _verdict(target: str, chip: str, units: int, bucket: int | None, m: int, k: int) -> Verdict | None:
    table = choose(shipped(target), target, chip, units)
    return None if table is None or bucket is None else decide(table, bucket, m, k, own=(chip, units))


@functools.cache
def shipped(target: str = "") -> tuple[CrossoverTable, ...]:
    """The tables that this package brings, all or those of one target, read once: a first call waits for them."""
    return load(SHIPPED, target)


def decide(table: CrossoverTable, bucket: int, m: int, k: int, own: tuple[str, int] | None = None) -> Verdict | None:
    """The contender that the nearest point of a table's bucket names (rule 3); None where the bucket has no point.

    `own`: the name and compute units of the chip that asks, the table's where they are left out.
    """
    is_own = own in (None, (table.chip, table.compute_units))

    def counts(point: Point) -> bool:
        return point.ground != PUBLISHED or (is_own and (point.m, point.k) == (m, k))

    def distance(point: Point) -> tuple[float, int, int]:
        # Rounded, so that the last bits of the logarithms break no tie.
        return round(math.log(point.m / m) ** 2 + math.log(point.k / k) ** 2, 9), point.m, point.k

    point = min((p for p in table.points if p.bucket == bucket and counts(p)), key=distance, default=None)
    if point is None:
        return None
    where = f"{table.chip} at m {point.m}, k {point.k}, n {point.bucket}, the nearest point"
    return Verdict(point.winner, f"{point.ground or table.source}: {where}")


# The file -------------------------------------------------------------------------------------------------------------


def load(path: Path, target: str = "") -> tuple[CrossoverTable, ...]:
    """The tables of a file, all or those of one target. Raises `CrossoverFormatError` for anything that `dump` does not
    write, `OSError`."""
    try:
        data = json.loads(path.read_text())
        if data["format"] != FORMAT or data["buckets"] != list(BUCKETS) or data["contenders"] != CONTENDERS:
            raise ValueError(f"format, buckets or contenders are not those of this version, {FORMAT}")
        return tuple(_table(item) for item in data["tables"] if target in ("", item["target"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CrossoverFormatError(f"{path} is no crossover file: {type(error).__name__}: {error}") from None


def _table(item: Mapping[str, Any]) -> CrossoverTable:
    points = []
    for shape, letters in item["points"].items():
        m, k = (int(text) for text in shape.split(","))
        if m < 1 or k < 1 or len(letters) != len(BUCKETS):
            raise ValueError(f"{shape}: {letters}")
        for bucket, letter in zip(BUCKETS, letters, strict=True):
            if letter in _SMALL:
                points.append(Point(m, k, bucket, *_SMALL[letter]))
            elif letter != _NOTHING:
                points.append(Point(m, k, bucket, CONTENDERS[letter]))
    texts = [item[name] for name in ("target", "chip", "source", "how")]
    units = item["compute_units"]
    if any(type(text) is not str for text in texts) or type(units) is not int or units < 0:
        raise ValueError(f"target, chip, source, how, compute_units: {texts}, {units}")
    if item["source"] not in (MEASURED, ESTIMATED):
        raise ValueError(f"source {item['source']!r}")
    return CrossoverTable(texts[0], texts[1], units, texts[2], texts[3], tuple(points))


def dump(tables: Iterable[CrossoverTable]) -> str:
    """The text of a file: one line for each (m, k), with a letter for each bucket, `.` where nothing is known, a small
    one where a point has a ground of its own."""
    head = {"format": FORMAT, "buckets": list(BUCKETS), "contenders": CONTENDERS}
    lines = ["{", *(f' "{name}": {json.dumps(value)},' for name, value in head.items()), ' "tables": [']
    blocks = [_block(table) for table in tables]
    return "\n".join([*lines, ",\n".join(blocks), " ]", "}"]) + "\n"


def _block(table: CrossoverTable) -> str:
    letters: dict[tuple[int, int], dict[int, str]] = {}
    for point in table.points:
        small = _SMALL_LETTERS[point.winner, point.ground] if point.ground else ""
        letters.setdefault((point.m, point.k), {})[point.bucket] = small or _LETTERS[point.winner]
    fields = ("target", "chip", "compute_units", "source", "how")
    lines = [f'   "{name}": {json.dumps(getattr(table, name))},' for name in fields]
    shapes = [
        f'    "{m},{k}": "{"".join(found.get(bucket, _NOTHING) for bucket in BUCKETS)}"'
        for (m, k), found in sorted(letters.items())
    ]
    return "\n".join(["  {", *lines, '   "points": {', ",\n".join(shapes), "   }", "  }"])


def merged(tables: Iterable[CrossoverTable], fresh: CrossoverTable) -> tuple[CrossoverTable, ...]:
    """Tables with a fresh one, in place of the one of the same target, chip and size, or behind them."""
    kept = list(tables)
    found = [index for index, table in enumerate(kept) if _same(table, fresh)]
    if not found:
        return (*kept, fresh)
    kept[found[0]] = fresh
    return tuple(kept)


def corrected(fresh: CrossoverTable, tables: Iterable[CrossoverTable]) -> CrossoverTable:
    """A table with the points of its own that stood in `tables` on grounds of their own."""
    points = {point[:3]: point for point in fresh.points}
    for table in tables:
        if _same(table, fresh):
            points |= {point[:3]: point for point in table.points if point.ground}
    return replace(fresh, points=tuple(points[key] for key in sorted(points)))


def _same(a: CrossoverTable, b: CrossoverTable) -> bool:
    return (a.target, a.chip, a.compute_units) == (b.target, b.chip, b.compute_units)
