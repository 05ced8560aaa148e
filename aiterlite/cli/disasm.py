"""disasm: the listing of a code object."""

from __future__ import annotations

import argparse

from aiterlite.cli.command import Commands, Report, command, path
from aiterlite.cli.emulate_file import read


def add(commands: Commands) -> None:
    parser = command(commands, "disasm", "list the instructions of a gfx942 or gfx950 code object", _run)
    parser.add_argument("file", type=path, help="the code object")


def _run(args: argparse.Namespace) -> Report:
    from aiterlite.emulator import describe, disassemble

    image = read(args.file)
    text, base = disassemble(image), describe(image)["code_base"]
    data = {"file": str(args.file), "code_base": base, "listing": text.splitlines()}
    return Report(data, f"code at {base:#x}, from which reports count pc\n\n" + text.rstrip("\n"))
