"""Estimates of time on the command line: of a launch that was counted, or of a call that was counted before."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiterlite.cli.command import UsageError, path
from aiterlite.dispatch import Decision
from aiterlite.errors import ArgumentError
from aiterlite.jit import engine
from aiterlite.jit.key import digest_json
from aiterlite.jit.store import open_store
from aiterlite.target import Persona

if TYPE_CHECKING:
    from aiterlite.emulator.estimate import Estimate

HELP = "estimate the time on the chip, from numbers fitted to published times"
# What a file of counters holds; another form of them is counted again.
_FORM = 2


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--estimate", action="store_true", help=HELP)
    parser.add_argument(
        "--only", type=int, default=0, metavar="N", help="with a file: run N workgroups, enough to estimate all of them"
    )
    parser.add_argument(
        "--published", type=float, metavar="US", help="with --estimate: say whether the counters allow this time"
    )
    parser.add_argument(
        "--against",
        type=path,
        metavar="FILE",
        help="with --estimate: which is faster, this (A) or that run's --json (B)",
    )


def check(args: argparse.Namespace) -> None:
    """Raises `UsageError` where options of --estimate stand alone or say nothing."""
    for option in ("published", "against"):
        if getattr(args, option) is not None and not args.estimate:
            raise UsageError(f"--{option} is for --estimate")
    if args.only < 0:
        raise UsageError(f"--only is {args.only}; allowed: a number of workgroups, 0 for all")
    if args.published is not None and not 0 < args.published < float("inf"):
        raise UsageError(f"--published is {args.published}; allowed: microseconds above 0")


def of_run(
    args: argparse.Namespace, counters: Sequence[Mapping[str, Any]], persona: Persona
) -> tuple[dict[str, Any] | None, list[str]]:
    """What --estimate, --published and --against say of the launches of a run: as data, and in lines."""
    if not args.estimate:
        return None, []
    from aiterlite.emulator import estimate as estimating
    from aiterlite.emulator.calibration import LABEL

    made = _made(counters, persona)
    data, lines = made.to_json(), [str(made)]
    if args.published is not None:
        wrong = estimating.impossible(counters, persona, args.published)
        floor, limit = estimating.floor_us(counters, persona)
        data["published"] = {"us": args.published, "floor_us": floor, "of": limit, "impossible": bool(wrong)}
        possible = f"{args.published:g} us is possible: the floor of the counters is {floor:.1f} us ({limit})"
        lines.append(f"IMPOSSIBLE {wrong}" if wrong else possible)
    if args.against:
        other = _read(args.against, persona.chip)
        answer = estimating.faster(made, other)
        data["against"] = {"file": str(args.against), "faster": answer}
        said = answer if answer == estimating.CANNOT_TELL else f"{answer} is faster"
        lines.append(f"A (this) or B ({args.against}, {other.us:.1f} us): {said}; {LABEL}")
    return data, lines


def _made(counters: Sequence[Mapping[str, Any]], persona: Persona) -> Estimate:
    from aiterlite.emulator import estimate as estimating

    try:
        return estimating.estimate(counters, persona)
    except ArgumentError as error:
        raise UsageError(str(error)) from None


def _read(file: Path, chip: str) -> Estimate:
    """The estimate in the JSON of an earlier run, for a chip. Raises `UsageError`."""
    from aiterlite.emulator import estimate as estimating

    try:
        data = json.loads(file.read_text())
        found = [run["estimate"] for run in data.get("runs", [data]) if run.get("estimate")]
        there = [estimating.from_json(item) for item in found if item["chip"] == chip]
    except OSError as error:
        raise UsageError(f"--against: {file} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"--against: {file} is no output of `aiterlite emulate --estimate --json`: {error!r}"
        ) from None
    if len(there) != 1:
        raise UsageError(f"--against: {file} holds {len(there)} estimates for {chip}; allowed: one")
    return there[0]


def _place(decision: Decision, persona: Persona) -> Path:
    """Where the counters of a call are kept: another source, problem or chip is another file."""
    units = [[unit.to_json(), engine.wanted(unit).key] for unit in decision.units]
    call: dict[str, Any] = {"form": _FORM, "problem": asdict(decision.problem), "units": units, "chip": str(persona)}
    call["kernels"] = [kernel.to_json() for kernel in decision.kernels]
    return open_store().writable.root / "counters" / f"{digest_json(call)}.json"


def remember(decision: Decision, persona: Persona, counters: Sequence[Mapping[str, Any]]) -> None:
    """Keep the counters of a call for `explain --estimate`."""
    place = _place(decision, persona)
    root = open_store().prepare()
    place.parent.mkdir(exist_ok=True, mode=0o755)
    handle, staged = tempfile.mkstemp(dir=root / "tmp")
    with os.fdopen(handle, "w") as file:
        json.dump(list(counters), file)
    os.replace(staged, place)


def of_decision(decision: Decision, persona: Persona) -> tuple[dict[str, Any] | None, str]:
    """The estimate of a call that was counted before, without running it; else how to count it."""
    if persona.family != "amd":
        return None, f"estimate: none for {persona.chip}; there are estimates for AMD chips"
    if decision.row is None or not decision.kernels:
        return None, "estimate: none, no kernel of this package serves the call"
    place = _place(decision, persona)
    try:
        counters = json.loads(place.read_text())
    except OSError:
        words = " ".join(
            f"{name}={int(v) if v is True or v is False else v}" for name, v in asdict(decision.problem).items()
        )
        how = f"aiterlite emulate {decision.op} {words} --target {persona.chip} --estimate"
        return None, f"estimate: the counters of this call are not known; `{how}` counts them"
    made = _made(counters, persona)
    return made.to_json(), f"estimate: {made}"
