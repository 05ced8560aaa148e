"""What a command is: a parser that carries a function from arguments to a report."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from aiterlite import envs

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
_UNKNOWN = "unrecognized arguments: "


class UsageError(Exception):
    """The command line itself is wrong: printed with the command's usage, exit status 2."""


class ParserError(UsageError):
    """What a parser says of a wrong command line, and that parser."""

    def __init__(self, parser: argparse.ArgumentParser, message: str) -> None:
        self.parser = parser
        super().__init__(message)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are raised, so that they can be told as JSON, and name what may have been meant."""

    def error(self, message: str) -> NoReturn:
        raise ParserError(self, message + self._advice(message))

    def _advice(self, message: str) -> str:
        if message.startswith(_UNKNOWN):
            options = [text for action in self._actions for text in action.option_strings]
            word = message.removeprefix(_UNKNOWN).split()[0].partition("=")[0]
            return near(word, options) if word.startswith("-") else ""
        wrong = re.search(r"invalid choice: '?([^'\s]*)'? \(choose from (.*)\)$", message)
        return near(wrong.group(1), re.findall(r"[\w.-]+", wrong.group(2))) if wrong else ""


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
    parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        # An epilog is printed as it is written.
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run, rest=rest, parser=parser)
    return parser


def near(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` where there is an X like the word."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def path(text: str) -> Path:
    """A path of the command line. A shell fills in `~` at the start of a word, and so not in `--output=~/x`."""
    if not text.startswith("~"):
        return Path(text)
    try:
        return Path(envs.absolute(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
