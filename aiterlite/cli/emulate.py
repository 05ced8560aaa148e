"""emulate: run a kernel of this package or of any code object on the host, every memory access checked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from aiterlite.cli import emulate_file, emulate_op, kernel_args, output, targets, words
from aiterlite.cli.command import Commands, Report, UsageError, command
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
    parser.add_argument("--races", action="store_true", help="run under several schedules and compare bit for bit")
    parser.add_argument("--quantum", type=int, default=1, help="instructions of a wave before the next one's turn")
    parser.add_argument("--seed", type=int, default=0, help="draw the order of waves and workgroups from this")
    parser.add_argument("--data-seed", type=int, default=0, help="draw the contents of tensors from this")
    parser.add_argument("--kernel", metavar="NAME", help="the kernel of FILE; not needed where there is one")
    parser.add_argument("--grid", metavar="X,Y,Z", default="1", help="workgroups")
    parser.add_argument("--block", metavar="X,Y,Z", default="64", help="work-items of a workgroup")
    parser.add_argument("--lds", type=int, default=0, metavar="BYTES", help="dynamic LDS")
    parser.add_argument("--tensor", action="append", default=[], metavar="NAME=SPEC", help="make a tensor for a struct")
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="an argument of the kernel")
    parser.add_argument("--trace", metavar="GROUP,WAVE", help="print what a wave executes, and what it writes")
    parser.add_argument("--trace-lines", type=int, default=1000, metavar="N", help="at most so many (default 1000)")
    parser.epilog = kernel_args.__doc__


def _run(args: argparse.Namespace) -> Report:
    given = [*args.what, *args.words]
    options = [word for word in given if word.startswith("-")]
    if options:
        raise UsageError(f"unrecognized arguments: {' '.join(options)}")
    if args.coverage:
        return _coverage(given)
    if given[0] in TABLES and not Path(given[0]).is_file():
        return emulate_op.run(args, given[0], given[1:])
    if len(given) != 1:
        raise UsageError(f"give one file, or one operator ({', '.join(TABLES)}) with its shape words")
    return emulate_file.run(args, Path(given[0]))


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
        lines += [f"  unknown: {function} at {pc:#x}: {reason}" for function, pc, reason in item.unknown]
    return Report(data, "\n".join(lines), failed=not all(item.complete for item in found.values()))
