"""The toy family's table: what a call is, and which kernels serve it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Axis, Between, Refusal, Row, Table, Targets, Wishes, one_axis
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import WORKSPACE, Kernel, Operand, Workspace
from aiterlite.tables.family import Family
from aiterlite.target import Persona

_HEADER = "aiterlite/toy_rows_args.h"
PARTS_ARGS = ArgumentStruct("aiterlite_toy_parts_args", _HEADER)
JOIN_ARGS = ArgumentStruct("aiterlite_toy_join_args", _HEADER)
ROWS_ARGS = ArgumentStruct("aiterlite_toy_rows_args", _HEADER)
PARTS, JOIN, CPU = "aiterlite_toy_parts", "aiterlite_toy_join", "aiterlite_toy_rows_cpu"
TILE, _MOST_PARTS = 256, 64


@dataclass(frozen=True)
class RowsProblem:
    """x[batch, heads, width]. `whole`: rows are a number of whole tiles. `order`, which only names things, shows that a
    field may be text."""

    batch: int
    heads: int
    width: int
    whole: bool = True
    order: str = "first"


@dataclass(frozen=True)
class RowsPlan:
    parts: int


@dataclass(frozen=True)
class FewParts:
    """A row is of so few parts that one wave joins them."""

    most: int

    def refuse(self, problem: RowsProblem, persona: Persona, wishes: Wishes) -> Refusal | None:
        if -(-problem.width // TILE) <= self.most:
            return None
        return Refusal(f"width must be at most {self.most * TILE}, it is {problem.width}", "split the rows")

    def __str__(self) -> str:
        return f"rows of at most {self.most} parts"


def plan(problem: RowsProblem, persona: Persona) -> RowsPlan:
    return RowsPlan(-(-problem.width // TILE))


def workspace(problem: RowsProblem, persona: Persona, plan: RowsPlan) -> Workspace:
    return Workspace("toy parts", 0, 8 * problem.batch * problem.heads * plan.parts)


def kernels(problem: RowsProblem, persona: Persona, plan: RowsPlan) -> tuple[Kernel, ...]:
    defines = (("TOY_TILE", str(TILE)), ("TOY_WHOLE", str(int(problem.whole))))
    unit = Unit("toy_rows/rows", ("csrc/toy_rows/toy_rows.hip",), persona.target, defines, symbols=(PARTS, JOIN))
    between = {
        "sums": Operand(WORKSPACE),
        "tops": Operand(WORKSPACE, 4 * problem.batch * problem.heads * plan.parts),
    }
    parts, join = (plan.parts, problem.heads, problem.batch), (1, problem.heads, problem.batch)
    return (
        Kernel(unit, PARTS, PARTS_ARGS, parts, (64, 1, 1), args={**between, "parts": plan.parts}),
        Kernel(unit, JOIN, JOIN_ARGS, join, (64, 1, 1), args={**between, "parts": plan.parts}),
    )


def cpu_kernels(problem: RowsProblem, persona: Persona, plan: None) -> tuple[Kernel, ...]:
    unit = Unit("toy_rows", ("csrc/toy_rows/toy_rows.cpp",), persona.target, symbols=(CPU,))
    return (Kernel(unit, CPU, ROWS_ARGS),)


def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"whole": values["width"] % TILE == 0, **values}


_SIZES = (Between("batch", 1, 65535), Between("heads", 1, 65535), Between("width", 1, 2**30))
_ROWS = (
    Row("cpu", "host", (Targets(("cpu-*",)), *_SIZES), kernels=cpu_kernels),
    Row("waves", "hip", (Targets(("gfx942", "gfx950")), *_SIZES, FewParts(_MOST_PARTS)), 0, plan, kernels, workspace),
)
_SWEEP = (Axis(("heads", "width"), ((3, 256), (2, 300))), one_axis("batch", 1, 2))
TABLE = Table("toy_rows", RowsProblem, _ROWS, _SWEEP, derive)
FAMILY = Family("toy", (TABLE,), ops=("toy_family.ops",), samples="toy_family.samples")
