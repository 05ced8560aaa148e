"""Choices on AMD chips that estimates of time made: estimated.json, which benchmarks/estimate_choices.py writes.

The estimates are calibrated on times that AMD published for other kernels; nothing was measured here. The file has a
choice only where the estimates can tell it from what the tables would take without it, and is silent elsewhere. It is
asked for a problem near one that was estimated, and only on a whole chip of that name: neither partitions, nor sizes
beyond the file's, nor other chips are answered. How each choice is asked about:

    mla_splits    pieces of a request of MLA decode that has one tile of rows of q: by type of KV, tokens, requests
    mla_tiles     the back end of MLA decode in bf16 of several tiles of rows of q: by tiles, tokens, requests
    fused_moe     the kind of kernels of the fused mixture of experts, of 8-bit weights in blocks: by layer and tokens

Between numbers of an axis a choice holds only where all neighbours tell one; the nearest's counts, by ratio, and of
equally near ones the lesser's.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aiterlite.target import Persona

SHIPPED = Path(__file__).with_name("estimated.json")
FORMAT = 1
WHY = "estimated from counters, calibrated on published times, not measured"
# How far a layer may be from one that was estimated, in each of its numbers.
_LIKE = 1.25
# What a row of a table gains where the file names it: more than any row's preference.
FAVOUR = 1000


@functools.cache
def shipped() -> Mapping[str, Any]:
    """The file of this package."""
    data: dict[str, Any] = json.loads(SHIPPED.read_text())
    if data.get("format") != FORMAT:
        raise ValueError(f"{SHIPPED} has format {data.get('format')!r}; allowed: {FORMAT}")
    return data


def of_chip(persona: Persona) -> Mapping[str, Any]:
    """What the file says of a chip; nothing of others, and of parts of one."""
    found: Mapping[str, Any] = shipped()["chips"].get(persona.chip, {})
    return found if found and found["compute_units"] == persona.cu_count else {}


def neighbours(axis: Sequence[int], value: int) -> tuple[int, ...]:
    """Where on an ascending axis a number is, or the two about it, the nearest first; none beyond its ends."""
    if not axis or not axis[0] <= value <= axis[-1]:
        return ()
    above = next(i for i, number in enumerate(axis) if number >= value)
    if axis[above] == value:
        return (above,)
    return tuple(sorted((above - 1, above), key=lambda i: round(abs(math.log(axis[i] / value)), 9)))


def _of_grid(grid: Mapping[str, Any], tokens: int, requests: int) -> Any:
    """The choice of a grid, by tokens of a request and number of requests; None where it has none."""
    rows, columns = neighbours(grid["tokens"], tokens), neighbours(grid["requests"], requests)
    found = [grid["choices"][row][column] for row in rows for column in columns]
    return found[0] if found and all(found) else None


@functools.lru_cache(maxsize=4096)
def mla_splits(persona: Persona, kv_dtype: str, context: int, batch: int) -> int:
    """Pieces of each of `batch` requests of `context` tokens; 0 where nothing is told."""
    grid = of_chip(persona).get("mla_splits", {}).get("bf16" if kv_dtype == "bf16" else "fp8")
    return (_of_grid(grid, context, batch) or 0) if grid else 0


@functools.lru_cache(maxsize=4096)
def mla_tiles(persona: Persona, tiles: int, context: int, batch: int) -> str:
    """`asm` or `hip` for requests of several tiles of rows of q; empty where nothing is told."""
    grids = of_chip(persona).get("mla_tiles", {})
    axis = sorted(int(name) for name in grids)
    found = [_of_grid(grids[str(axis[place])], context, batch) for place in neighbours(axis, tiles)]
    return str(found[0]) if found and found.count(found[0]) == len(found) and found[0] else ""


@functools.lru_cache(maxsize=4096)
def fused_moe(persona: Persona, tokens: int, layer: tuple[int, int, int, int]) -> str:
    """The kind of kernels (`gemv`, `two_stage`, `one_stage`) for `layer`, (experts, topk, width, inter); empty where
    nothing is told."""
    for item in of_chip(persona).get("fused_moe", ()):
        if all(max(a / b, b / a) <= _LIKE for a, b in zip(item["layer"], layer, strict=True)):
            found = [item["choices"][place] for place in neighbours(item["tokens"], tokens)]
            return str(found[0]) if found and found.count(found[0]) == len(found) else ""
    return ""
