"""`emulate OP`: an operator of this package through its real dispatch, plan, host code and machine code."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from aiterlite import envs, target
from aiterlite.cli import emulate_show as show
from aiterlite.cli import emulate_watch as watch
from aiterlite.cli import estimates, targets, words
from aiterlite.cli.command import Report, UsageError
from aiterlite.dispatch import Table, decide
from aiterlite.tables import TABLES
from aiterlite.target import Persona
from aiterlite.wishes import wishes

_DEFAULT_CHIP = "mi300x"


def run(args: argparse.Namespace, name: str, given: Sequence[str]) -> Report:
    """Run what dispatch chooses for problems on each target, on random operands."""
    table = TABLES[name]
    problems = words.problems_of(table, words.read(given))
    named = targets.named_personas(args.target) if args.target else {_DEFAULT_CHIP: target.resolve(_DEFAULT_CHIP)}
    for chip, persona in named.items():
        if persona.family != "amd":
            amd = [name for name in target.names() if target.resolve(name).family == "amd"]
            raise UsageError(f"--target: {chip} is no AMD target; allowed: {', '.join(amd)}")
    for option in ("kernarg", "dump_kernarg", "save", "arg", "tensor", "only"):
        if getattr(args, option):
            raise UsageError(f"--{option.replace('_', '-')} is for a FILE; {name} makes its own operands")
    if args.write_baseline and len(problems) * len(named) > 1:
        raise UsageError("--write-baseline takes the findings of one run: name one problem and one target")
    show.check(args, len(problems) * len(named))
    runs = [_run_operator(args, table, problem, *item) for problem in problems for item in named.items()]
    failed = any(not run.data["of_bound"] <= 1 or run.data["races"] or run.data["findings"] for run in runs)
    data = {"op": name, "runs": [run.data for run in runs]}
    return Report(data, "\n".join(run.text for run in runs), failed)


def _run_operator(args: argparse.Namespace, table: Table, problem: Any, chip: str, persona: Persona) -> Report:
    from aiterlite import emulator
    from aiterlite.ops.samples import sample

    decision = decide(table, problem, persona, wishes())
    if decision.row is None or not decision.kernels:
        raise UsageError(f"no kernel of this package serves this problem on {chip}:\n{decision}")
    made = sample(table.op, problem, args.data_seed)
    with envs.override(AITERLITE_TARGET=chip):
        how = (watch.checks(args), show.counts(args), watch.schedule(args), show.workgroup(args))
        with emulator.watching(*how) as seen:
            outputs = made.run()
        races = []
        for schedule in emulator.SCHEDULES if args.races else ():
            with emulator.watching(sanitize=False, schedule=schedule):
                if not _same_bits(outputs, made.run()):
                    races.append(str(schedule))
    found = watch.judge(args, seen.findings)
    estimate, told = estimates.of_run(args, seen.counters, persona)
    told += show.write(args, f"{table.op}: {problem}", persona, seen.launches, seen.findings)
    if args.estimate:
        estimates.remember(decision, persona, seen.counters)
    data = {
        "target": chip,
        "problem": asdict(problem),
        "row": decision.row.name,
        "units": [unit.label for unit in decision.units],
        "kernels": [kernel.symbol for kernel in decision.kernels],
        "instructions": sum(report["instructions"] for report in seen.launches),
        "error": made.error(outputs),
        "of_bound": made.of_bound(outputs),
        "outputs": {
            name: {
                "kind": type(wanted).__name__.lower(),
                "error": wanted.error(outputs[name]),
                "of_bound": wanted.of_bound(outputs[name]),
            }
            for name, wanted in made.outputs.items()
        },
        **watch.data(found),
        "notes": seen.notes,
        "counters": seen.counters,
        "estimate": estimate,
        "races": races,
        "schedules": len(emulator.SCHEDULES) + 1 if args.races else 1,
    }
    lines = watch.lines(args, found, seen.counters if args.counters else [], persona, seen.notes)
    return Report(data, "\n".join([*_lines(data), *(f"  {line}" for line in told), *lines]))


def _same_bits(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether every output has the same bits in both runs."""
    from aiterlite.emulator.arguments import raw_bytes

    return all(raw_bytes(a[name]) == raw_bytes(b[name]) for name in a)


def _lines(run: dict[str, Any]) -> list[str]:
    verdict = "within" if run["of_bound"] <= 1 else "NOT WITHIN"
    shape = ", ".join(f"{name}={value}" for name, value in run["problem"].items())
    lines = [
        f"{run['target']}: {run['row']} ({run['units'][0]})",
        f"  {shape}",
        f"  {run['instructions']} wave-instructions, every memory access inside the operands",
        f"  largest error {run['error']:.2e}, {verdict} the bound ({run['of_bound']:.2f} of it)",
    ]
    if len(run["outputs"]) > 1:
        lines += [f"    {name}: {_verdict(output)}" for name, output in run["outputs"].items()]
    if run["schedules"] > 1:
        same = "the same bits under each" if not run["races"] else "OTHER BITS under " + "; ".join(run["races"])
        lines.append(f"  {run['schedules']} schedules: {same}")
    return lines


def _verdict(output: Mapping[str, Any]) -> str:
    if output["kind"] == "exact":
        return f"{output['error']:.0f} elements differ" if output["error"] else "every bit right"
    return f"largest error {output['error']:.2e}, {output['of_bound']:.2f} of its bound"
