"""--timeline and --report of `emulate`: a run to look at."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiterlite.cli.command import UsageError, path
from aiterlite.target import Persona

if TYPE_CHECKING:
    from aiterlite.emulator import Finding


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeline", type=path, metavar="FILE", help="write what the waves of a workgroup do when, as trace events"
    )
    parser.add_argument("--report", type=path, metavar="FILE", help="write the run as a page: all of it, to look at")
    parser.add_argument(
        "--workgroup", type=int, default=0, metavar="N", help="the one whose timeline is wanted (default 0)"
    )


def check(args: argparse.Namespace, runs: int = 1) -> None:
    """Raises `UsageError` for options that fit no run, or several."""
    if args.workgroup < 0:
        raise UsageError(f"--workgroup is {args.workgroup}; allowed: a number from 0")
    if args.workgroup and workgroup(args) is None:
        raise UsageError("--workgroup is for --timeline and --report")
    for option in ("timeline", "report"):
        if getattr(args, option) and runs > 1:
            raise UsageError(f"--{option} writes one run: name one problem and one target")


def workgroup(args: argparse.Namespace) -> int | None:
    """The workgroup whose timeline is wanted, if any is."""
    return args.workgroup if args.timeline or args.report else None


def counts(args: argparse.Namespace) -> bool:
    """Whether the run keeps counters."""
    return bool(args.counters or args.estimate or args.report)


def write(
    args: argparse.Namespace,
    title: str,
    persona: Persona,
    launches: Sequence[Mapping[str, Any]],
    findings: Sequence[Finding],
) -> list[str]:
    """Write what was asked for, and say so in lines. `launches` are the library's reports."""
    if not args.timeline and not args.report:
        return []
    from aiterlite.emulator import estimate, page, timeline

    shown = [launch for launch in launches if launch.get("timeline")]
    lines = [line for launch in shown for line in timeline.lines(launch["timeline"], persona)]
    if args.timeline:
        names = [launch["kernel"] for launch in shown]
        events = timeline.chrome([launch["timeline"] for launch in shown], persona, names)
        lines.append(_save(args.timeline, json.dumps(events), "timeline"))
    if args.report:
        text = str(estimate.estimate([launch["counters"] for launch in launches], persona))
        made = page.page(title, persona, launches, findings if args.sanitize else None, text)
        lines.append(_save(args.report, made, "report"))
    return lines


def _save(file: Path, text: str, what: str) -> str:
    try:
        file.write_text(text)
    except OSError as error:
        raise UsageError(f"--{what}: {file} cannot be written: {error.strerror}") from None
    return f"{what} written to {file}"
