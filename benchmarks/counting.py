"""What the benchmarks that count GEMMs of AMD targets share: a part of a problem by the plan of the whole, run with all
sanitizers, and its counters as cells of a Markdown table. No time is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from aiterlite import emulator, envs
from aiterlite.dispatch import Decision
from aiterlite.launch import calls as launches

Counters = Sequence[Mapping[str, Any]]


def part_of(whole: Decision, rows: int) -> Decision:
    """The first `rows` rows of weights by the plan of all of them."""
    plan, m = whole.plan, whole.problem.m
    part = dataclasses.replace(plan, grid=plan.grid // -(-m // plan.rows) * -(-rows // plan.rows))
    return dataclasses.replace(whole, problem=dataclasses.replace(whole.problem, m=rows), plan=part)


def shares(whole: Decision, part: Decision) -> list[float]:
    """How many times the workgroups of a part each launch of the whole has."""
    return [a.grid[0] / b.grid[0] for a, b in zip(whole.kernels, part.kernels, strict=True) if a.grid and b.grid]


def run(
    decision: Decision, operands: Mapping[str, Tensor | None], sizes: Mapping[str, int | float], sanitize: bool = True
) -> Any:
    """A decision's launches on these operands, those that are None absent: what was seen, which no sanitizer objects
    to. Raises `SystemExit` where one does."""
    absent = [name for name, value in operands.items() if value is None]
    watched = emulator.watching(sanitize=sanitize, counters=True)
    with envs.override(AITERLITE_TARGET=decision.persona.chip), watched as seen:
        one = next(value for value in operands.values() if value is not None)
        launches.prepare(decision, one.device, list(operands), sizes, absent)(*operands.values())
    if seen.findings:
        raise SystemExit("\n".join(map(str, seen.findings)))
    return seen.counters


def check(y: Tensor, exact: Tensor, bound: Tensor) -> None:
    if not bool(((y.double() - exact).abs() <= bound).all()):
        raise SystemExit("the result is wrong")


def moved(counters: Counters, only: str = "") -> int:
    """Bytes that waves ask for and write, of all arguments or of one."""
    return sum(
        value["read"] + value["written"]
        for one in counters
        for name, value in one["arguments"].items()
        if only in ("", name)
    )


def total(counters: Counters, *path: str, by: Sequence[float] = ()) -> int:
    """A counter's sum over launches, each times its share of `by`."""
    found = 0.0
    for index, one in enumerate(counters):
        value: Any = one
        for name in path:
            value = value[name]
        found += value * (by[index] if by else 1)
    return round(found)


def waves(counted: Mapping[str, Any]) -> int:
    """Of a workgroup."""
    return int(counted["waves"] // counted["workgroups"])


def registers(counted: Mapping[str, Any]) -> str:
    return f"{counted['occupancy']['vgprs']} + {counted['occupancy']['agprs']}"


def line(cells: Iterable[Any]) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def head(names: Sequence[str]) -> None:
    line(names)
    print(f"|{' --- |' * len(names)}")
