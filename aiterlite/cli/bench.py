"""bench: measure an operator family against torch and the read floor."""

from __future__ import annotations

import argparse
import importlib
import json

from aiterlite.cli.command import Commands, Parser, Report, UsageError, command, path
from aiterlite.errors import ArgumentError

_FAMILIES = ("gemm",)


def add(commands: Commands) -> None:
    parser = command(commands, "bench", "measure against torch and the read floor", _run, rest="take")
    parser.add_argument("--output", type=path, metavar="FILE", help="also write the result there as JSON")
    parser.usage = "aiterlite bench [gemm] [--json] [--output FILE] [options of the family]"
    parser.epilog = (
        "The options of gemm: --device, --shape M,K, --tokens N,N, --dtype, --samples; "
        "--tune with --ops linear, --target T,T, --write FILE."
    )


def _run(args: argparse.Namespace) -> Report:
    # The family's options are its own, and its module imports torch, so this parser knows none of them.
    named = args.words[:1] if args.words[:1] and args.words[0] in _FAMILIES else []
    family = named[0] if named else _FAMILIES[0]
    measuring = importlib.import_module(f"aiterlite.benchmark.{family}")
    parser = Parser(prog=f"aiterlite bench {family}", allow_abbrev=False)
    measuring.add_arguments(parser)
    try:
        data = measuring.run(parser.parse_args(args.words[len(named) :]))
    except ArgumentError as error:
        raise UsageError(str(error)) from None
    if args.output:
        args.output.write_text(json.dumps(data, indent=1) + "\n")
    return Report(data, measuring.to_text(data))
