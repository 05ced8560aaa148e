"""What a command is: a parser that carries a function from arguments to a report."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class UsageError(Exception):
    """The command line itself is wrong: printed with the command's usage, exit status 2."""


@dataclass(frozen=True)
class Report:
    """What a command found: plain data for --json, the same as text, and whether the exit status is 1."""

    data: dict[str, Any]
    text: str
    failed: bool = False


def command(
    commands: Commands, name: str, help: str, run: Callable[[argparse.Namespace], Report], rest: str = "refuse"
) -> argparse.ArgumentParser:
    """Add a command. With `rest` "take", words that its parser does not know reach it as `args.words`."""
    parser = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run, rest=rest, parser=parser)
    return parser
