"""explain: how a call is dispatched, and why a unit would be built again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from typing import Any

from aiterlite import target
from aiterlite.cli import estimates, model, targets, words
from aiterlite.cli.command import Commands, Report, UsageError, command, near
from aiterlite.cli.words import Word
from aiterlite.dispatch import decide
from aiterlite.jit import engine
from aiterlite.jit.spec import Unit
from aiterlite.jit.store import Entry, open_store
from aiterlite.tables import TABLES
from aiterlite.target import Persona
from aiterlite.wishes import wishes

# Units that no operator's table holds: the emulator and `bench` build them at first use.
OTHER_UNITS = ("benchmark", "benchmark/read_floor", "emulator")


def add(commands: Commands) -> None:
    parser = command(
        commands, "explain", "show how a call is dispatched, or why a unit would be built again", _run, rest="take"
    )
    parser.usage = (
        f"aiterlite explain [--json] (OP | build NAME) [--target T,T] [{words.HELP}]...\n"
        f"       aiterlite explain [--json] --model FILE {model.STEP} [--target T,T]"
    )
    parser.add_argument("what", nargs="*", help=f"an operator ({', '.join(TABLES)}), or `build` and a unit's name")
    parser.add_argument(
        "--estimate", action="store_true", help=f"{estimates.HELP}, where `emulate --estimate` has counted the call"
    )
    model.add_options(parser, step=True)
    targets.add_target_option(parser, "decide for these (default: AITERLITE_TARGET, else this CPU)")


def _run(args: argparse.Namespace) -> Report:
    given = [*args.what, *args.words]
    if args.model:
        if given:
            raise UsageError(f"--model explains all that a layer calls: leave out {given[0]!r}")
        return model.explain(args)
    if alone := model.given(args):
        raise UsageError(f"{alone[0]} is of a model: give --model")
    shape = words.read(word for word in given if "=" in word or word.startswith("-"))
    subjects = [word for word in given if "=" not in word]
    if len(subjects) == 2 and subjects[0] == "build":
        return _explain_build(subjects[1], args.target, shape)
    if len(subjects) != 1 or subjects == ["build"]:
        raise UsageError("give one operator, or `build` and the name of a unit")
    table = targets.operator(subjects[0])
    decisions = [
        decide(table, problem, persona, wishes())
        for problem in words.problems_of(table, shape)
        for persona in targets.personas_or_default(args.target)
    ]
    data: dict[str, Any] = {"decisions": [decision.to_json() for decision in decisions]}
    lines = list(map(str, decisions))
    if args.estimate:
        told = [estimates.of_decision(decision, decision.persona) for decision in decisions]
        data["estimates"] = [estimate for estimate, _ in told]
        lines = [f"{line}\n  {text}" for line, (_, text) in zip(lines, told, strict=True)]
    return Report(data, "\n".join(lines))


def _explain_build(name: str, lists: list[str], shape: Sequence[Word]) -> Report:
    store = open_store()
    if shape:
        units = _units_of_calls(name, targets.personas_or_default(lists), shape)
    else:
        limit = targets.target_ids(targets.personas(lists)) if lists else None
        entries = [entry for _, _, entry in store.survey() if isinstance(entry, Entry)]
        wanted = known_units([name])[name] if name in TABLES else {name}
        units = _units_of_artifacts(entries, wanted, limit)
    if not units and name not in TABLES and not _is_unit(name):
        there = sorted(set().union(OTHER_UNITS, TABLES, *known_units().values()))
        raise UsageError(f"no unit {name!r}; there are {', '.join(there)}{near(name, there)}")
    reports = [engine.why_rebuild(unit, store) for unit in units]
    data = {"name": name, "units": reports}
    text = "\n".join(map(_render, reports))
    if not text and shape:
        return Report(data, f"no call of this shape compiles {name}")
    return Report(data, text or f"no artifact of {name} in any layer: every call would build one")


def known_units(ops: Iterable[str] = TABLES) -> dict[str, set[str]]:
    """The names of the units of each operator, over the problems of its sweep and every target."""
    personas = [target.resolve(name) for name in target.names()]
    known: dict[str, set[str]] = {}
    for op in ops:
        problems = words.problems_of(TABLES[op], ())
        decisions = [decide(TABLES[op], problem, p, wishes(building=True)) for problem in problems for p in personas]
        known[op] = {unit.name for decision in decisions for unit in decision.units}
    return known


def _is_unit(name: str) -> bool:
    """Whether a unit of this name was just not built yet. All sweeps together take seconds: this ends at the first
    operator that has it."""
    return name in OTHER_UNITS or any(name in known_units([op])[op] for op in TABLES)


def _units_of_calls(name: str, personas: Sequence[Persona], shape: Sequence[Word]) -> list[Unit]:
    """The units of calls: all that an operator compiles, or the unit of this name, whichever operator compiles it."""
    units: dict[Unit, None] = {}
    tables = [TABLES[name]] if name in TABLES else list(TABLES.values())
    for table, problems in words.problems_of_all(tables, shape, named=name in TABLES):
        for problem in problems:
            for persona in personas:
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
