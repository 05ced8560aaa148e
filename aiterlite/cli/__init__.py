"""The command line.

Every command gathers facts into plain data and renders that data as text, so that `--json` and the text say the same.
Nothing here imports torch or starts a compiler unless the command is one that runs or builds kernels.

    command     what a command is: its parser, its report
    output      tables, sizes, ages
    targets     --target lists, shape words, what the environment wishes
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
    status,
)
from aiterlite.cli.command import UsageError
from aiterlite.errors import AiterliteError

_MODULES = (
    env,
    doctor,
    listing,
    status,
    build,
    maintenance,
    bundles,
    explain,
    demo,
    bench,
    emulate,
    disasm,
    last_launches,
)
_CLOSED_PIPE = 128 + 13
_INTERRUPTED = 128 + 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status: 0, 1 for what failed, 2 for a wrong command line."""
    try:
        with ending.by_signals():
            status = _run(argv)
            sys.stdout.flush()
        return status
    except SystemExit as exit:
        # argparse has printed its message or its help.
        return exit.code if isinstance(exit.code, int) else 2
    except ending.Ended as ended:
        print(f"aiterlite: {ended}", file=sys.stderr)
        return 128 + ended.number
    except KeyboardInterrupt:
        print("aiterlite: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _CLOSED_PIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aiterlite", description="Build, inspect and ship the kernels of aiterlite, and see how it dispatches."
    )
    parser.add_argument("--version", action="version", version=f"aiterlite {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in _MODULES:
        module.add(commands)
    return parser


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if args.rest == "refuse" and rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.words = rest
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            report = args.run(args)
        except UsageError as error:
            args.parser.error(str(error))
        except AiterliteError as error:
            print(f"aiterlite: {error}", file=sys.stderr)
            return 1
    print(json.dumps(report.data, indent=1) if args.json else report.text)
    return 1 if report.failed else 0


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"aiterlite: warning: {message}", file=sys.stderr)
