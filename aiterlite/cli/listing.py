"""list: the operators, and what each of their rows needs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from functools import singledispatch
from typing import Any

from aiterlite import dispatch
from aiterlite.cli.command import Commands, Report, command
from aiterlite.cli.targets import usage
from aiterlite.tables import TABLES, gemm_fp8, linear


def add(commands: Commands) -> None:
    command(commands, "list", "list the operators and the rows of their dispatch tables", _run)


def _run(args: argparse.Namespace) -> Report:
    data = gather()
    return Report(data, render(data))


@singledispatch
def describe(requirement: Any) -> str:
    """A requirement in words."""
    values = asdict(requirement) if is_dataclass(requirement) and not isinstance(requirement, type) else {}
    words = ", ".join(f"{name} {value}" for name, value in values.items())
    return f"{type(requirement).__name__.lower()} {words}".strip()


@describe.register
def _(requirement: dispatch.Targets) -> str:
    return f"target {' or '.join(requirement.names)}"


@describe.register
def _(requirement: dispatch.ComputeUnits) -> str:
    return f"{requirement.low} to {requirement.high} CUs"


@describe.register
def _(requirement: dispatch.OneOf) -> str:
    return f"{requirement.name} {' or '.join(map(str, requirement.values))}"


@describe.register
def _(requirement: dispatch.Between) -> str:
    return f"{requirement.name} {requirement.low} to {requirement.high}"


@describe.register
def _(requirement: dispatch.Holds) -> str:
    return requirement.name if requirement.value else f"not {requirement.name}"


@describe.register
def _(requirement: linear.Fastest) -> str:
    if requirement.operator == linear.TORCH:
        return "no batch_invariant to keep"
    return f"{requirement.operator} the fastest, or asked for"


@describe.register
def _(requirement: gemm_fp8.MatrixUnitTakes) -> str:
    return "the fp8 of the target's matrix unit"


def gather() -> dict[str, Any]:
    operators = []
    for table in TABLES.values():
        rows = []
        for row in table.rows:
            targets = [name for need in row.requires if isinstance(need, dispatch.Targets) for name in need.names]
            rows.append(
                {
                    "name": row.name,
                    "backend": row.backend,
                    "targets": targets or ["any"],
                    "requires": [describe(need) for need in row.requires if not isinstance(need, dispatch.Targets)],
                    "preference": row.preference,
                    "vskip": row.vskip,
                    "fallback": row.fallback,
                    "compiled": row.units is not None,
                }
            )
        operators.append({"op": table.op, "shape": usage(table), "rows": rows})
    return {"operators": operators}


def render(data: Mapping[str, Any]) -> str:
    lines = []
    for operator in data["operators"]:
        lines.append(f"{operator['op']}  {operator['shape']}")
        for row in operator["rows"]:
            marks = [name for name in ("vskip", "fallback") if row[name]]
            lines.append(f"  {row['name']}: {', '.join([row['backend'], *marks])}")
            lines.append(f"      targets: {', '.join(row['targets'])}")
            lines.append(f"      needs: {', '.join(row['requires']) or 'nothing'}")
    return "\n".join(lines)
