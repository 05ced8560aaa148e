"""--target lists, and operators by their names."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from aiterlite import target
from aiterlite.cli.command import UsageError, near
from aiterlite.dispatch import Table
from aiterlite.errors import TargetError
from aiterlite.tables import TABLES
from aiterlite.target import Persona, canonical, launch_target, names, resolve, split

_TARGET_HELP = (
    "gfx942, gfx950, sm_90, cpu, a CPU level such as cpu-x86-64-v3, a chip such as mi308x, or a part of one, such as "
    "mi300x:38 for 38 of its CUs"
)


def add_target_option(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--target", action="append", default=[], metavar="T,T", help=f"{help}: {_TARGET_HELP}")


def named_personas(lists: Sequence[str]) -> dict[str, Persona]:
    """The personas that --target names, by name in its one spelling, in the order of the command line."""
    found = [name for text in lists for name in split(text)]
    if lists and not found:
        raise UsageError(f"--target names no target; known: {', '.join(names())}")
    personas = {}
    for name in found:
        try:
            personas[canonical(name)] = resolve(name)
        except TargetError as error:
            raise UsageError(f"--target: {error}{near(name, names())}") from None
    return personas


def personas(lists: Sequence[str]) -> list[Persona]:
    """The personas that --target names, each once."""
    return list(dict.fromkeys(named_personas(lists).values()))


def personas_or_default(lists: Sequence[str]) -> list[Persona]:
    """The same; without --target, the persona of AITERLITE_TARGET, else this machine's CPU."""
    return personas(lists) if lists else [target.requested() or target.host_persona()]


def target_ids(chosen: Iterable[Persona]) -> set[str]:
    """The targets of the units that personas need: a GPU's kernels come with the library that launches them."""
    ids = set()
    for persona in chosen:
        ids.add(persona.target)
        if persona.family != "cpu":
            ids.add(launch_target())
    return ids


def operator(name: str) -> Table:
    if name not in TABLES:
        raise UsageError(f"no operator {name!r}; there are {', '.join(TABLES)}{near(name, TABLES)}")
    return TABLES[name]
