"""What `emulate` watches a launch for: its schedule, sanitizers and counters, and how they are shown."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aiterlite.cli.command import UsageError, path
from aiterlite.target import Persona

# Lines of findings: what is read in a minute.
_ROOM = 38
_NOTES = 10

if TYPE_CHECKING:
    from aiterlite.emulator import Finding, Schedule
    from aiterlite.emulator.baseline import Split


def schedule(args: argparse.Namespace) -> Schedule:
    from aiterlite.emulator import Schedule

    if args.quantum < 1 or args.seed < 0:
        raise UsageError("--quantum must be at least 1, and --seed at least 0")
    return Schedule(quantum=args.quantum, seed=args.seed)


def checks(args: argparse.Namespace) -> bool | list[str]:
    """The sanitizers that --sanitize names; True for all of them."""
    from aiterlite.emulator import CHECKS

    if args.sanitize is None:
        return False
    if args.sanitize == "all":
        return True
    names = [name for name in args.sanitize.split(",") if name]
    if not names or not set(names) <= set(CHECKS):
        raise UsageError(f"--sanitize is {args.sanitize!r}; allowed: all, or some of {','.join(CHECKS)}")
    return names


def add_baseline_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--baseline", type=path, metavar="FILE", help="findings that are known: only others are told")
    parser.add_argument("--write-baseline", type=path, metavar="FILE", help="write all findings there as known")


def judge(args: argparse.Namespace, findings: Iterable[Finding]) -> Split:
    """The findings held against the known ones. All of them are known once they were written down."""
    from aiterlite.emulator import baseline, grouping

    found = grouping.merged(findings)
    if args.write_baseline:
        baseline.write(args.write_baseline, found)
        return baseline.Split((), tuple(found), ())
    return baseline.split(found, baseline.read(args.baseline) if args.baseline else {})


def data(found: Split) -> dict[str, Any]:
    from aiterlite.emulator import grouping

    return {
        "kinds": grouping.data(found.new),
        "findings": [asdict(finding) for finding in found.new],
        "known": [asdict(finding) for finding in found.known],
    }


def lines(
    args: argparse.Namespace,
    found: Split,
    counters: Iterable[Mapping[str, Any]],
    persona: Persona,
    notes: Iterable[str] = (),
) -> list[str]:
    """What was found, noted and counted, as text."""
    from aiterlite.emulator import counters as tables
    from aiterlite.emulator import grouping

    text = [f"  FOUND {grouping.summary(found.new)}"] if found.new else []
    text += ["  " + line for line in grouping.lines(found.new, _ROOM, grouping.WIDTH - 2)]
    if found.known:
        text.append(f"  known: {grouping.summary(found.known)}")
    if args.sanitize and not text:
        text.append(f"  nothing found by the sanitizers ({args.sanitize})")
    text += [f"  NOTE {note}" for note in grouping.notes(notes, _NOTES)]
    for counted in counters:
        text += ["  " + line for line in tables.to_text(counted, persona).splitlines()]
    return text
