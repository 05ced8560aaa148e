"""Which kernels serve the fused mixture of experts fastest, by tokens: measured points, as data.

The data is fused_moe_crossover.json, which `aiterlite bench --tune --ops fused_moe` writes (docs/cli.md): tables of
points, each table for one chip. A point is a layer (experts, topk, width, inter, and how its weights are quantised) and
a bucket of tokens, and names the row of the table that was fastest there. A call is decided so:

1. Among the tables of its target, the one with the nearest number of compute units counts (by ratio); among equals, the
   one of the chip's name, then the first in the file.
2. Its tokens belong to the smallest bucket that holds them.
3. Among the points of that bucket whose layers have its weights' kind, and each of its numbers within a quarter, the
   nearest one decides, by the sum of the squared logarithms of ratios; among equals, the one of the least numbers.

Where there is none, nothing is told, and the rows' own order decides. Nothing is told of calls with a mask of experts.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from aiterlite.tables.fused_moe_problem import QUANTS, MoeProblem
from aiterlite.tables.measured import choose
from aiterlite.target import Persona

SHIPPED = Path(__file__).with_name("fused_moe_crossover.json")
FORMAT = 1
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
WHY = "measured (fused_moe_crossover.json)"
# What a row of the table gains where a point names it: more than where an estimate does.
FAVOUR = 2000
# How far a layer may be from one that was measured, in each of its numbers.
_LIKE = 1.25


class Layer(NamedTuple):
    experts: int
    topk: int
    width: int
    inter: int
    quant: str = "block"


class Point(NamedTuple):
    """The row that was fastest for a layer and the tokens of a bucket."""

    layer: Layer
    bucket: int
    row: str


@dataclass(frozen=True)
class MoeCrossover:
    """The points of one chip. `how` says in which run."""

    target: str
    chip: str
    compute_units: int
    how: str
    points: tuple[Point, ...]


class MoeCrossoverFormatError(ValueError):
    """A crossover file holds something else than what `bench --tune --ops fused_moe` writes."""


def layer_of(problem: MoeProblem) -> Layer:
    return Layer(problem.experts, problem.topk, problem.width, problem.inter, problem.quant)


def bucket_of(tokens: int) -> int | None:
    """The smallest bucket that holds so many; None beyond the largest."""
    return next((bucket for bucket in BUCKETS if tokens <= bucket), None)


def fastest_row(problem: MoeProblem, persona: Persona) -> str:
    """The row that the shipped tables name for a call; empty where they name none."""
    if problem.masked:
        return ""
    return _fastest(persona.target, persona.chip, persona.cu_count, bucket_of(problem.tokens), layer_of(problem))


@functools.lru_cache(maxsize=4096)
def _fastest(target: str, chip: str, units: int, bucket: int | None, layer: Layer) -> str:
    table = choose(shipped(), target, chip, units)
    return "" if table is None or bucket is None else decide(table, bucket, layer)


@functools.cache
def shipped() -> tuple[MoeCrossover, ...]:
    """The tables that this package brings."""
    return load(SHIPPED)


def decide(table: MoeCrossover, bucket: int, layer: Layer) -> str:
    """The row that the nearest point names (rule 3); empty where no layer is near."""

    def near(point: Point) -> bool:
        ratios = [max(a / b, b / a) for a, b in zip(point.layer[:4], layer[:4], strict=True)]
        return point.bucket == bucket and point.layer.quant == layer.quant and max(ratios) <= _LIKE

    def distance(point: Point) -> tuple[float, Layer]:
        # Rounded, so that the last bits of the logarithms break no tie.
        squares = [math.log(a / b) ** 2 for a, b in zip(point.layer[:4], layer[:4], strict=True)]
        return round(sum(squares), 9), point.layer

    point = min(filter(near, table.points), key=distance, default=None)
    return "" if point is None else point.row


# The file -------------------------------------------------------------------------------------------------------------


def load(path: Path) -> tuple[MoeCrossover, ...]:
    """The tables of a file. Raises `MoeCrossoverFormatError` for anything that `dump` does not write, `OSError`."""
    try:
        data = json.loads(path.read_text())
        if data["format"] != FORMAT or data["buckets"] != list(BUCKETS):
            raise ValueError(f"format or buckets are not those of this version, {FORMAT}")
        return tuple(_table(item) for item in data["tables"])
    except (KeyError, TypeError, ValueError) as error:
        raise MoeCrossoverFormatError(f"{path} is no crossover file: {type(error).__name__}: {error}") from None


def _table(item: Mapping[str, Any]) -> MoeCrossover:
    points = []
    for name, rows in item["layers"].items():
        *numbers, quant = name.split(",")
        experts, topk, width, inter = map(int, numbers)
        layer = Layer(experts, topk, width, inter, quant)
        if min(layer[:4]) < 1 or quant not in QUANTS:
            raise ValueError(f"layer {name}")
        for bucket, row in rows.items():
            if int(bucket) not in BUCKETS or type(row) is not str or not row:
                raise ValueError(f"{name}: {bucket}: {row}")
            points.append(Point(layer, int(bucket), row))
    texts, units = [item[name] for name in ("target", "chip", "how")], item["compute_units"]
    if any(type(text) is not str for text in texts) or type(units) is not int or units < 0:
        raise ValueError(f"target, chip, how, compute_units: {texts}, {units}")
    return MoeCrossover(texts[0], texts[1], units, texts[2], tuple(points))


def dump(tables: Iterable[MoeCrossover]) -> str:
    """The text of a file: a line for each layer."""
    head = f'{{\n "format": {FORMAT},\n "buckets": {json.dumps(list(BUCKETS))},\n "tables": ['
    return head + "\n" + ",\n".join(_block(table) for table in tables) + "\n ]\n}\n"


def _block(table: MoeCrossover) -> str:
    rows: dict[Layer, dict[str, str]] = {}
    for point in sorted(table.points):
        rows.setdefault(point.layer, {})[str(point.bucket)] = point.row
    fields = ("target", "chip", "compute_units", "how")
    lines = [f'   "{name}": {json.dumps(getattr(table, name))},' for name in fields]
    layers = [f'    "{",".join(map(str, layer))}": {json.dumps(found)}' for layer, found in rows.items()]
    return "\n".join(["  {", *lines, '   "layers": {', ",\n".join(layers), "   }", "  }"])


def merged(tables: Iterable[MoeCrossover], fresh: MoeCrossover) -> tuple[MoeCrossover, ...]:
    """Tables with the points of a fresh one: in place of those of the same chip, layer and bucket, or behind them."""
    kept, found = [], False
    for table in tables:
        if (table.target, table.chip, table.compute_units) == (fresh.target, fresh.chip, fresh.compute_units):
            points = {point[:2]: point for point in (*table.points, *fresh.points)}
            table, found = (
                MoeCrossover(fresh.target, fresh.chip, fresh.compute_units, fresh.how, tuple(sorted(points.values()))),
                True,
            )
        kept.append(table)
    return tuple(kept) if found else (*kept, fresh)
