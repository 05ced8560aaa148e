"""emulate: run a kernel of this package or of any code object on the host, every memory access checked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path

from aiterlite import envs
from aiterlite.cli import emulate_file, emulate_op, estimates, launch_words, output, targets, words
from aiterlite.cli import emulate_show as show
from aiterlite.cli import emulate_watch as watch
from aiterlite.cli.command import Commands, Report, UsageError, command, path
from aiterlite.cli.emulate_file import read
from aiterlite.tables import TABLES


def add(commands: Commands) -> None:
    parser = command(
        commands, "emulate", "run gfx942 and gfx950 code on this CPU, every memory access checked", _run, rest="take"
    )
    parser.usage = (
        f"aiterlite emulate OP [{words.HELP}]... [--target T,T] [options]\n"
        "       aiterlite emulate FILE --kernel NAME --grid X[,Y,Z] --block X[,Y,Z] [--arg NAME=VALUE]... [options]\n"
        "       aiterlite emulate --coverage FILE..."
    )
    parser.add_argument("what", nargs="+", help=f"an operator ({', '.join(TABLES)}), or a code object's file")
    targets.add_target_option(parser, "run as on these (default: mi300x, or the chip that the file is for)")
    parser.add_argument("--coverage", action="store_true", help="list the instruction forms of FILEs that cannot run")
    parser.add_argument(
        "--sanitize",
        nargs="?",
        const="all",
        metavar="NAMES",
        help="watch for what hardware hides: all (default), or some of waits,hazards,registers,barriers,races,lds",
    )
    parser.add_argument("--counters", action="store_true", help="count instructions, cycles, bytes, bank conflicts")
    estimates.add_options(parser)
    show.add_options(parser)
    parser.add_argument("--races", action="store_true", help="run under several schedules and compare bit for bit")
    parser.add_argument("--quantum", type=int, default=1, help="instructions of a wave before the next one's turn")
    parser.add_argument("--seed", type=int, default=0, help="draw the order of waves and workgroups from this")
    launch_words.add_options(parser)
    parser.add_argument(
        "--dump-kernarg", type=path, metavar="FILE", help="write the launch, to be replayed by --kernarg"
    )
    parser.add_argument(
        "--save", action="append", default=[], metavar="NAME=FILE", help="write a tensor as it is after"
    )
    watch.add_baseline_options(parser)
    parser.add_argument("--trace", metavar="GROUP,WAVE", help="print what a wave executes, and what it writes")
    parser.add_argument("--trace-lines", type=int, default=1000, metavar="N", help="at most so many (default 1000)")
    parser.add_argument(
        "--max-instructions",
        type=int,
        metavar="N",
        help="end a launch that executes more, 0 for none that does (default: AITERLITE_MAX_INSTRUCTIONS)",
    )


def _run(args: argparse.Namespace) -> Report:
    given = [*args.what, *args.words]
    options = [word for word in given if word.startswith("-")]
    if options:
        raise UsageError(f"unrecognized arguments: {' '.join(options)}")
    estimates.check(args)
    show.check(args)
    if args.coverage:
        return _coverage(given)
    with _limit(args.max_instructions):
        if given[0] in TABLES and not Path(given[0]).is_file():
            return emulate_op.run(args, given[0], given[1:])
        if len(given) != 1:
            raise UsageError(f"give one file, or one operator ({', '.join(TABLES)}) with its shape words")
        return emulate_file.run(args, Path(given[0]))


def _limit(instructions: int | None) -> AbstractContextManager[None]:
    """Every launch of the command goes by the environment's limit."""
    if instructions is None:
        return nullcontext()
    if not 0 <= instructions < 1 << 64:
        raise UsageError(f"--max-instructions is {instructions}; allowed: a number from 0 (no limit)")
    return envs.override(AITERLITE_MAX_INSTRUCTIONS=str(instructions))


def _coverage(files: Sequence[str]) -> Report:
    from aiterlite.emulator import coverage

    found = {file: coverage(read(Path(file))) for file in files}
    data = {
        "files": {
            file: {**asdict(item), "unknown": [list(place) for place in item.unknown], "complete": item.complete}
            for file, item in found.items()
        }
    }
    lines = []
    for file, item in found.items():
        lines.append(
            f"{file}: {item.target}, {output.plural(item.functions, 'function')}, "
            f"{output.plural(item.instructions, 'instruction')} in {output.plural(len(item.forms), 'form')}; "
            + ("all supported" if item.complete else f"{len(item.refused)} forms refused, {len(item.unknown)} unknown")
        )
        lines += [
            f"  refused: {form.op} {form.encoding}, {form.count} times, as `{form.example}`: {form.refusal}"
            for form in item.refused
        ]
        lines += [
            f"  unknown: {function} at {listed:#x} (pc {listed - item.code_base:#x}): {reason}"
            for function, listed, reason in item.unknown
        ]
    return Report(data, "\n".join(lines), failed=not all(item.complete for item in found.values()))
