"""`emulate OP`: an operator of this package through its real dispatch, plan, host code and machine code."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from aiterlite import envs, target
from aiterlite.cli import emulate_watch as watch
from aiterlite.cli import targets
from aiterlite.cli.command import Report, UsageError
from aiterlite.dispatch import decide
from aiterlite.tables import TABLES
from aiterlite.wishes import wishes


def run(args: argparse.Namespace, name: str, words: Sequence[str]) -> Report:
    """Run what dispatch chooses for a problem on each target, on random operands."""
    table = TABLES[name]
    problem = targets.parse_words(table, words)
    named = targets.named_personas(args.target) if args.target else {"mi300x": target.resolve("mi300x")}
    for chip, persona in named.items():
        if persona.family != "amd":
            raise UsageError(f"--target: {chip} is no AMD target; allowed: gfx942, gfx950, mi300x, mi308x, mi355x")
    runs = [_run_operator(args, table, problem, chip, persona) for chip, persona in named.items()]
    failed = any(not run.data["of_bound"] <= 1 or run.data["races"] or run.data["findings"] for run in runs)
    data = {"op": name, "problem": asdict(problem), "runs": [run.data for run in runs]}
    return Report(data, "\n".join(run.text for run in runs), failed)


def _run_operator(args: argparse.Namespace, table: Any, problem: Any, chip: str, persona: Any) -> Report:
    from aiterlite import emulator
    from aiterlite.ops.samples import sample

    decision = decide(table, problem, persona, wishes())
    if decision.row is None or decision.row.backend == "torch":
        raise UsageError(f"no kernel of this package serves this problem on {chip}:\n{decision}")
    made = sample(table.op, problem, args.data_seed)
    with envs.override(AITERLITE_TARGET=chip):
        with emulator.watching(watch.checks(args), args.counters, watch.schedule(args)) as seen:
            y = made.call()
        races = []
        for schedule in emulator.SCHEDULES if args.races else ():
            with emulator.watching(sanitize=False, schedule=schedule):
                if not _same_bits(y, made.call()):
                    races.append(str(schedule))
    data = {
        "target": chip,
        "row": decision.row.name,
        "units": [unit.label for unit in decision.units],
        "instructions": sum(report["instructions"] for report in seen.launches),
        "error": made.error(y),
        "of_bound": made.of_bound(y),
        "findings": [asdict(finding) for finding in seen.findings],
        "counters": seen.counters,
        "races": races,
        "schedules": len(emulator.SCHEDULES) + 1 if args.races else 1,
    }
    return Report(data, "\n".join([*_lines(data), *watch.lines(args, seen.findings, seen.counters, persona)]))


def _same_bits(a: Any, b: Any) -> bool:
    from aiterlite.emulator.arguments import raw_bytes

    return raw_bytes(a) == raw_bytes(b)


def _lines(run: dict[str, Any]) -> list[str]:
    verdict = "within" if run["of_bound"] <= 1 else "NOT WITHIN"
    lines = [
        f"{run['target']}: {run['row']} ({run['units'][0]})",
        f"  {run['instructions']} wave-instructions, every memory access inside the operands",
        f"  largest error {run['error']:.2e}, {verdict} the bound ({run['of_bound']:.2f} of it)",
    ]
    if run["schedules"] > 1:
        same = "the same bits under each" if not run["races"] else "OTHER BITS under " + "; ".join(run["races"])
        lines.append(f"  {run['schedules']} schedules: {same}")
    return lines
