"""What `emulate` watches a launch for: its schedule, sanitizers and counters, and how they are shown."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aiterlite.cli.command import UsageError
from aiterlite.target import Persona

if TYPE_CHECKING:
    from aiterlite.emulator import Finding, Schedule


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


def lines(
    args: argparse.Namespace, findings: Iterable[Finding], counters: Iterable[Mapping[str, Any]], persona: Persona
) -> list[str]:
    """What was found and counted, as text."""
    from aiterlite.emulator import counters as tables

    text = [f"  FOUND {finding}" for finding in findings]
    if args.sanitize and not text:
        text.append(f"  nothing found by the sanitizers ({args.sanitize})")
    for counted in counters:
        text += ["  " + line for line in tables.to_text(counted, persona).splitlines()]
    return text
