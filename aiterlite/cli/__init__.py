"""The command line.

Every command gathers facts into plain data and renders that data as text, so that `--json` and the text say the same.
Nothing here imports torch or starts a compiler unless the command is one that runs or builds kernels.

    command     what a command is: its parser, its report
    ending      what ends a command before it is done
    output      tables, sizes, ages; what a terminal is given
    targets     --target lists, operators by name
    words       shape words
    plan        what `build` builds
    <command>   one module a command, or a small group of them
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence

from aiterlite import __version__
from aiterlite.cli import (
    bench,
    build,
    bundles,
    completion,
    demo,
    disasm,
    doctor,
    emulate,
    ending,
    env,
    explain,
    last_launches,
    listing,
    maintenance,
    replay,
    status,
    vet,
)
from aiterlite.cli.command import Parser, ParserError, UsageError
from aiterlite.cli.output import emit
from aiterlite.errors import AiterliteError

_MODULES = (
    *(env, doctor, listing, status, build, maintenance, bundles, explain, demo, bench, emulate, disasm, last_launches),
    *(replay, vet, completion),
)
# The version of what --json prints. New fields leave it as it is; renaming a field, or changing its meaning, raises it.
SCHEMA = 1
_CLOSED_PIPE = 128 + 13
_INTERRUPTED = 128 + 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status: 0, 1 for what failed, 2 for a wrong command line, 128 plus the number
    of the signal that ended it."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    try:
        with ending.by_signals():
            status = _run(words, as_json)
            sys.stdout.flush()
        return status
    except SystemExit as exit:
        # argparse has printed its help or its version.
        return exit.code if isinstance(exit.code, int) else 2
    except ending.Ended as ended:
        return _fail(as_json, "Ended", str(ended), 128 + ended.number)
    except KeyboardInterrupt:
        return _fail(as_json, "Interrupted", "interrupted", _INTERRUPTED)
    except BrokenPipeError:
        # The reader of the output has enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _CLOSED_PIPE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="aiterlite", description="Build, inspect and ship the kernels of aiterlite, and see how it dispatches."
    )
    parser.add_argument("--version", action="version", version=f"aiterlite {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in _MODULES:
        module.add(commands)
    return parser


def _run(words: Sequence[str], as_json: bool) -> int:
    try:
        args, rest = _parser().parse_known_args(words)
        if args.rest == "refuse" and rest:
            args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
        args.words = rest
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            try:
                report = args.run(args)
            except ParserError:
                raise
            except UsageError as error:
                args.parser.error(str(error))
    except ParserError as refusal:
        emit(refusal.parser.format_usage(), sys.stderr, end="")
        return _fail(as_json, "UsageError", str(refusal), 2, refusal.parser.prog + ": error")
    except AiterliteError as error:
        return _fail(as_json, type(error).__name__, str(error), 1)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(as_json, type(error).__name__, f"{where}{error.strerror or error}", 1)
    emit(json.dumps({"schema": SCHEMA, **report.data}, indent=1) if as_json else report.text, sys.stdout)
    return 1 if report.failed else 0


def _fail(as_json: bool, kind: str, message: str, status: int, who: str = "aiterlite") -> int:
    """Tell an error to people, and to the program that asked for JSON."""
    emit(f"{who}: {message}", sys.stderr)
    if as_json:
        data = {"schema": SCHEMA, "error": {"kind": kind, "message": message, "status": status}}
        emit(json.dumps(data, indent=1), sys.stdout)
        sys.stdout.flush()
    return status


def _show_warning(message: Warning | str, *_: object) -> None:
    emit(f"aiterlite: warning: {message}", sys.stderr)
