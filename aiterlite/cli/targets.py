"""--target lists, shape words, and what the environment wishes of dispatch."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from aiterlite import dispatch, envs, target
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
    try:
        return {canonical(name): resolve(name) for name in found}
    except TargetError as error:
        raise UsageError(f"--target: {error}") from None


def personas(lists: Sequence[str]) -> list[Persona]:
    """The personas that --target names, each once."""
    return list(dict.fromkeys(named_personas(lists).values()))


def personas_or_default(lists: Sequence[str]) -> list[Persona]:
    """The same, and where --target is not given that of AITERLITE_TARGET, else this machine's CPU."""
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


def problem(table: Table, values: dict[str, Any]) -> Any:
    """A problem from plain data. Raises `ValueError`.

    `aligned`, where it is not given, is what contiguous operands have: rows of a multiple of 16 bytes, which are
    8 elements unless the type of problem says otherwise. `reduction`, where it is not given, is what a call that does
    not say takes: AITERLITE_GEMM_REDUCTION.
    """
    types = get_type_hints(table.problem)
    for name, value in values.items():
        if name in types and type(value) is not types[name]:
            raise ValueError(f"{table.op}: {name} is {value!r}, not of type {types[name].__name__}")
    missing = [field.name for field in fields(table.problem) if field.default is MISSING and field.name not in values]
    if missing:
        raise ValueError(f"{table.op} needs {', '.join(missing)}")
    if "aligned" in types and "aligned" not in values and "k" in values:
        values = {**values, "aligned": values["k"] % getattr(table.problem, "LOAD_ELEMENTS", 8) == 0}
    if "reduction" in types and "reduction" not in values:
        values = {**values, "reduction": envs.GEMM_REDUCTION.get()}
    return dispatch.problem_from(table, values)


def parse_words(table: Table, words: Iterable[str]) -> Any:
    """A problem from words such as `n=4 m=256 dtype=bf16 bias=1`."""
    types = get_type_hints(table.problem)
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in types or name in values:
            advice = near(name, types) if name not in types else ""
            raise UsageError(
                f"shape word {word!r} is not taken; the shape words of {table.op} are {usage(table)}{advice}"
            )
        values[name] = _parse(name, text, types[name])
    try:
        return problem(table, values)
    except ValueError as error:
        raise UsageError(f"{error}; the shape words are {usage(table)}") from None


def usage(table: Table) -> str:
    """The shape words of an operator: `n=... m=... [bias=0]`."""
    words = []
    for field in fields(table.problem):
        if field.default is MISSING:
            words.append(f"{field.name}=...")
        else:
            default = int(field.default) if isinstance(field.default, bool) else field.default
            words.append(f"[{field.name}={default}]")
    return " ".join(words)


def _parse(name: str, text: str, kind: Any) -> Any:
    if kind is bool:
        flags = {"1": True, "true": True, "0": False, "false": False}
        if text.lower() not in flags:
            raise UsageError(f"{name} is {text!r}; allowed: 0, 1, false, true")
        return flags[text.lower()]
    if kind is int:
        if not text.isdecimal():
            raise UsageError(f"{name} is {text!r}; allowed: a whole number of at least 0")
        return int(text)
    return text
