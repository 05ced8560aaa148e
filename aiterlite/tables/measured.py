"""Which table of measured points counts for a chip."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol, TypeVar


class Measured(Protocol):
    @property
    def target(self) -> str: ...
    @property
    def chip(self) -> str: ...
    @property
    def compute_units(self) -> int: ...


Found = TypeVar("Found", bound=Measured)


def choose(tables: Iterable[Found], target: str, chip: str, units: int) -> Found | None:
    """Among a target's tables the one with the nearest number of compute units, by ratio; among equals the one of the
    chip's name, then the first. None where the target has none."""

    def distance(table: Found) -> tuple[float, bool]:
        # CPUs have no compute units.
        return abs(math.log(max(1, table.compute_units) / max(1, units))), table.chip != chip

    return min((table for table in tables if table.target == target), key=distance, default=None)
