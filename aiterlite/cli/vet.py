"""vet: everything that the emulator can say of a code object, on one page."""

from __future__ import annotations

import argparse
from dataclasses import replace

from aiterlite import target
from aiterlite.cli import emulate_watch as watch
from aiterlite.cli import launch_words, targets
from aiterlite.cli.command import Commands, Report, UsageError, command, path
from aiterlite.cli.emulate_file import read
from aiterlite.target import Persona


def add(commands: Commands) -> None:
    parser = command(commands, "vet", "check a gfx942 or gfx950 code object, and a launch of it, on one page", _run)
    parser.add_argument("file", type=path, help="the code object")
    targets.add_target_option(parser, "run as on this (default: the first chip that the file is for)")
    launch_words.add_options(parser)
    parser.add_argument(
        "--max-instructions", type=int, metavar="N", help="end a run that executes more, 0 for none that does"
    )
    watch.add_baseline_options(parser)


def _run(args: argparse.Namespace) -> Report:
    from aiterlite.emulator import baseline
    from aiterlite.emulator.vet import vet

    image = read(args.file)
    named = targets.named_personas(args.target)
    if len(named) > 1:
        raise UsageError("--target: a file runs on one chip")
    if args.max_instructions is not None and args.max_instructions < 0:
        raise UsageError("--max-instructions must be at least 0")
    chip = next(iter(named.values()), None)
    runs = args.arg or args.kernarg or args.tensor or args.grid or args.block
    launch = _launch(args, image, chip) if runs else None
    known = args.baseline if not args.write_baseline else None
    if launch is None:
        found = vet(image, args.kernel, chip=chip, baseline=known)
    else:
        found = vet(
            image,
            launch.kernel,
            launch.grid,
            launch.block,
            launch.args,
            launch.lds,
            chip=chip,
            extra=launch.extra,
            reached=launch.reached,
            max_instructions=args.max_instructions,
            baseline=known,
        )
    if args.write_baseline:
        baseline.write(args.write_baseline, found.findings)
        found = replace(found, findings=(), known=found.findings)
    found = replace(found, name=str(args.file))
    return Report(found.data(), found.page(), failed=not found.ok)


def _launch(args: argparse.Namespace, image: bytes, chip: Persona | None) -> launch_words.Launch | None:
    """The launch that the words describe; None where the object cannot be loaded, of which the page says why."""
    from aiterlite.emulator import CodeObjectError, Device, describe

    try:
        module = Device(chip or target.resolve(describe(image)["arch"])).load(image)
    except CodeObjectError:
        return None
    return launch_words.launch(args, module)
