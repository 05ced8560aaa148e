"""demo: two projections of DeepSeek-R1, built cold, loaded warm, run and checked."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from aiterlite import demo
from aiterlite.cli import output
from aiterlite.cli.command import Commands, Report, command

_MEASURED = ("cold", "warm", "run time", "error", "of bound")


def add(commands: Commands) -> None:
    command(commands, "demo", "build and run DeepSeek-R1's router and q_a/kv_a projections", _run)


def _run(args: argparse.Namespace) -> Report:
    data = demo.run()
    return Report(data, render(data), failed=not data["ok"])


def render(data: Mapping[str, Any]) -> str:
    rows = [_row(item, data["fields"]) for item in data["rows"]]
    shape = [name.upper() for name in data["fields"]]
    lines = [output.pretty_table(("target", *shape, "variant", *_MEASURED), rows, right=(*shape, *_MEASURED))]
    lines += [
        "cold: compiling into an empty cache; warm: finding, verifying and loading it in a new process. Rows of the",
        "same variant share one build. error: the largest difference from the float32 reference; of bound: the largest",
        "share of the error bound, against float64, that an output uses. emulated: the gfx942 machine code ran on this",
        "CPU, every memory access checked; how long that takes says nothing of a GPU.",
    ]
    lines += [
        f"launching library of the GPU rows ({item['unit']}): {_seconds(item['cold_s'])}" for item in data["shared"]
    ]
    lines += [f"FAILED: {error}" for error in data["errors"]]
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _run_time(item: Mapping[str, Any]) -> str:
    if item["run_s"] is not None:
        return f"{item['run_s'] * 1e6:.0f} us"
    return "compiled only" if item["state"] == "compiled" else str(item["state"])


def _row(item: Mapping[str, Any], shape: Sequence[str]) -> tuple[str, ...]:
    return (
        item["target"],
        *(str(item[name]) for name in shape),
        item["variant"],
        _seconds(item["cold_s"]),
        "-" if item["warm_s"] is None else f"{item['warm_s'] * 1e3:.2f} ms",
        _run_time(item),
        "-" if item["error"] is None else f"{item['error']:.2e}",
        "-" if item["of_bound"] is None else f"{item['of_bound']:.2f}",
    )
