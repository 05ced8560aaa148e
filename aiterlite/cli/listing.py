"""list: the operators, and what each of their rows needs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from aiterlite import dispatch
from aiterlite.cli.command import Commands, Report, command
from aiterlite.cli.words import usage
from aiterlite.tables import TABLES


def add(commands: Commands) -> None:
    command(commands, "list", "list the operators and the rows of their dispatch tables", _run)


def _run(args: argparse.Namespace) -> Report:
    data = gather()
    return Report(data, render(data))


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
                    "requires": [str(need) for need in row.requires if not isinstance(need, dispatch.Targets)],
                    "preference": row.preference,
                    "vskip": row.vskip,
                    "fallback": row.fallback,
                    "compiled": row.kernels is not None,
                }
            )
        sweep = [
            {"fields": list(axis.fields), "values": [list(value) for value in axis.values]} for axis in table.sweep
        ]
        operators.append({"op": table.op, "shape": usage(table), "sweep": sweep, "rows": rows})
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
