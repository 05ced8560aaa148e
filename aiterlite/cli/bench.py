"""bench: measure an operator against torch and the memory's bandwidth, or a family as it measures itself."""

from __future__ import annotations

import argparse
import importlib
import json
from typing import Any

from aiterlite.cli import words
from aiterlite.cli.command import Commands, Parser, Report, UsageError, command, near, path
from aiterlite.errors import ArgumentError
from aiterlite.tables import FAMILIES, TABLES

_GENERIC = "aiterlite.benchmark.operator"


def add(commands: Commands) -> None:
    parser = command(commands, "bench", "measure against torch and the memory's bandwidth", _run, rest="take")
    parser.add_argument("--output", type=path, metavar="FILE", help="also write the result there as JSON")
    parser.usage = (
        f"aiterlite bench OP [{words.HELP}]... [--device D] [--samples N] [--export-points FILE] [--json]\n"
        "       aiterlite bench [FAMILY] [--json] [--output FILE] [options of the family]"
    )
    own = ", ".join(name for name, family in FAMILIES.items() if family.bench)
    parser.epilog = (
        f"Operators: {', '.join(TABLES)}. Families: {', '.join(FAMILIES)}; those with options of their own: {own}."
    )


def _run(args: argparse.Namespace) -> Report:
    # Benchmarks import torch and a family's options are its own, so this parser knows none of them.
    first = args.words[:1]
    named = [word for word in first if not word.startswith("-") and "=" not in word]
    subject = named[0] if named else next(iter(FAMILIES))
    if subject not in FAMILIES and subject not in TABLES:
        there = (*TABLES, *FAMILIES)
        raise UsageError(f"no operator or family {subject!r}; there are {', '.join(there)}{near(subject, there)}")
    parser = Parser(prog=f"aiterlite bench {subject}", allow_abbrev=False)
    own = FAMILIES[subject].bench if subject in FAMILIES else ""
    measuring = importlib.import_module(own or _GENERIC)
    measuring.add_arguments(parser)
    if args.output and (args.output.is_dir() or not args.output.parent.is_dir()):
        raise UsageError(f"--output {args.output} is no file in a folder that exists; nothing was measured")
    try:
        data = _measure(measuring, parser, subject, args.words[len(named) :], bool(own))
    except ArgumentError as error:
        raise UsageError(str(error)) from None
    if args.output:
        args.output.write_text(json.dumps(data, indent=1) + "\n")
    return Report(data, measuring.to_text(data))


def _measure(measuring: Any, parser: argparse.ArgumentParser, subject: str, rest: list[str], own: bool) -> Any:
    if own:
        return measuring.run(parser.parse_args(rest))
    parser.usage = f"{parser.prog} [{words.HELP}]... [--device D] [--samples N]"
    parser.add_argument("words", nargs="*")
    arguments = parser.parse_intermixed_args(rest)
    tables = [TABLES[subject]] if subject in TABLES else list(FAMILIES[subject].tables)
    found = words.problems_of_all(tables, words.read(arguments.words), named=True)
    return measuring.run(found, arguments.device, arguments.samples, arguments.export_points)
