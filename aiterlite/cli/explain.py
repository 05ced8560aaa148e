"""explain: how a call is dispatched, and why a unit would be built again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

from aiterlite import target
from aiterlite.cli import targets
from aiterlite.cli.command import Commands, Report, UsageError, command, near
from aiterlite.cli.plan import DTYPES
from aiterlite.demo import SHAPES, TOKENS
from aiterlite.dispatch import Decision, decide
from aiterlite.jit import engine
from aiterlite.jit.spec import Unit
from aiterlite.jit.store import Entry, open_store
from aiterlite.tables import TABLES
from aiterlite.target import Persona
from aiterlite.wishes import wishes

# What no operator's table holds: it is built at first use by the emulator and by `bench`.
OTHER_UNITS = ("benchmark", "benchmark/read_floor", "emulator")


def add(commands: Commands) -> None:
    parser = command(
        commands, "explain", "show how a call is dispatched, or why a unit would be built again", _run, rest="take"
    )
    parser.usage = "aiterlite explain [--json] (OP | build NAME) [--target T,T] [n=4 m=256 k=7168 dtype=bf16 bias=1]"
    parser.add_argument("what", nargs="+", help=f"an operator ({', '.join(TABLES)}), or `build` and a unit's name")
    targets.add_target_option(parser, "decide for these (default: AITERLITE_TARGET, else this CPU)")


def _run(args: argparse.Namespace) -> Report:
    words = [*args.what, *args.words]
    options = [word for word in words if word.startswith("-")]
    if options:
        raise UsageError(f"unrecognized arguments: {' '.join(options)}")
    subjects = [word for word in words if "=" not in word]
    shape = [word for word in words if "=" in word]
    if len(subjects) == 2 and subjects[0] == "build":
        return _explain_build(subjects[1], args.target, shape)
    if len(subjects) != 1 or subjects == ["build"]:
        raise UsageError("give one operator, or `build` and the name of a unit")
    decisions = [
        decide(table, targets.parse_words(table, shape), persona, wishes())
        for table in (targets.operator(subjects[0]),)
        for persona in targets.personas_or_default(args.target)
    ]
    data = {"decisions": [decision.to_json() for decision in decisions]}
    return Report(data, "\n".join(map(str, decisions)))


def _explain_build(name: str, lists: list[str], shape: list[str]) -> Report:
    known = known_units()
    store = open_store()
    wanted = {name} if name not in TABLES else known[name]
    if shape:
        units = _units_of_calls(name, targets.personas_or_default(lists), shape)
    else:
        limit = targets.target_ids(targets.personas(lists)) if lists else None
        entries = [entry for _, _, entry in store.survey() if isinstance(entry, Entry)]
        units = _units_of_artifacts(entries, wanted, limit)
    names = set().union(OTHER_UNITS, *known.values(), (unit.name for unit in units))
    if not wanted & names:
        there = sorted({*names, *TABLES})
        raise UsageError(f"no unit {name!r}; there are {', '.join(there)}{near(name, there)}")
    reports = [engine.why_rebuild(unit, store) for unit in units]
    data = {"name": name, "units": reports}
    text = "\n".join(map(_render, reports))
    return Report(data, text or f"no artifact of {name} in any layer: every call would build one")


def known_units() -> dict[str, set[str]]:
    """The names of the units of each operator, over the default shapes and every target."""
    known: dict[str, set[str]] = {}
    for table in TABLES.values():
        found = known.setdefault(table.op, set())
        for persona in map(target.resolve, target.names()):
            for decision in _default_decisions(table, persona):
                found.update(unit.name for unit in decision.units)
    return known


def _default_decisions(table: Any, persona: Persona) -> Iterable[Decision]:
    for m, k in SHAPES:
        for n in TOKENS:
            for dtype in DTYPES:
                problem = targets.problem(table, {"n": n, "m": m, "k": k, "dtype": dtype})
                yield decide(table, problem, persona, wishes(building=True))


def _units_of_calls(name: str, personas: Iterable[Persona], shape: list[str]) -> list[Unit]:
    """What a call compiles: of one operator all of it, of a unit's name that unit, whichever operator calls it."""
    units: dict[Unit, None] = {}
    for persona in personas:
        for table in [TABLES[name]] if name in TABLES else TABLES.values():
            problem = targets.parse_words(table, shape)
            decision = decide(table, problem, persona, wishes(building=True))
            units.update((unit, None) for unit in decision.units if name in (table.op, unit.name))
    return list(units)


def _units_of_artifacts(entries: Iterable[Entry], names: set[str], limit: set[str] | None) -> list[Unit]:
    units: dict[str, Unit] = {}
    for entry in entries:
        data = entry.meta["unit"]
        if data["name"] in names and (limit is None or data["target"] in limit):
            units[json.dumps(data, sort_keys=True)] = Unit.from_json(data)
    return sorted(units.values(), key=lambda unit: unit.label)


def _render(report: dict[str, Any]) -> str:
    if report["hit"]:
        return f"{report['unit']}: hit\n  artifact: {report['artifact']}\n  built by: {report['toolchain']}"
    lines = [f"{report['unit']}: would be built"]
    lines += [f"  because: {reason}" for reason in report["reasons"]]
    if report.get("nearest"):
        lines.append(f"  nearest: {report['nearest']}")
    lines += [f"    {difference}" for difference in report["difference"]]
    return "\n".join(lines)
