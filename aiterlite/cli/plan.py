"""What `build` builds: units, each with what asked for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiterlite.cli import targets
from aiterlite.cli.words import Word, problems_of_all
from aiterlite.dispatch import Table, decide
from aiterlite.errors import BundleError
from aiterlite.jit.record import Manifest
from aiterlite.jit.spec import HOST, Unit
from aiterlite.tables import TABLES, default_ops
from aiterlite.tables.problems import problem as problem_of
from aiterlite.target import Persona, canonical, launch_target
from aiterlite.wishes import wishes


@dataclass
class Plan:
    """Units in order of request, with who asked; calls that need no kernel; calls that nothing serves."""

    units: dict[Unit, list[str]] = field(default_factory=dict)
    torch: list[str] = field(default_factory=list)
    unserved: list[str] = field(default_factory=list)

    def add(self, unit: Unit, reason: str) -> None:
        self.units.setdefault(unit, []).append(reason)

    def add_call(self, table: Table, problem: Any, persona: Persona, needed: bool) -> None:
        """Add the units of one call. Where no row serves it, that is a failure if it is `needed`, else a remark."""
        decision = decide(table, problem, persona, wishes(building=True))
        call = str(decision).splitlines()[0]
        for unit in decision.units:
            self.add(unit, call)
        if decision.row is None:
            (self.unserved if needed else self.torch).append(f"{call}: no row applies")
        elif not decision.units:
            self.torch.append(f"{call}: {decision.row.name}")

    def add_any(self, table: Table, problems: Sequence[Any], persona: Persona) -> None:
        """Add the units of those calls that a row serves; that none is served is a failure."""
        served = [one for one in problems if decide(table, one, persona, wishes(building=True)).row is not None]
        for problem in served or problems[:1]:
            self.add_call(table, problem, persona, needed=True)


def from_problems(operators: Sequence[str], personas: Iterable[Persona], words: Sequence[Word] = ()) -> Plan:
    """The units of operators (the default ones where none is named) for the problems that words describe, else for
    those of their sweeps."""
    plan = Plan()
    tables = [targets.operator(name) for name in operators or default_ops()]
    found = problems_of_all(tables, words, named=bool(operators))
    for persona in personas:
        for table, problems in found:
            for problem in problems:
                plan.add_call(table, problem, persona, needed=bool(operators))
    return plan


def from_manifest(manifest: Manifest, personas: Mapping[str, Persona]) -> Plan:
    """Without personas exactly the recorded units.

    With them, by the names they were asked by: a target that the recording used has its recorded units. Any other
    target, and a chip or a part of one, has what dispatch chooses for the recorded calls: the recording knows targets
    only, and chips of one target dispatch differently. A call of another target may be another one here: of 8-bit
    floats of this target, of weights in another order, of other splits. All that it may be is built.
    """
    plan = Plan()
    recorded = list(manifest.units.values())
    if not personas:
        for unit in recorded:
            plan.add(unit, "recorded")
    for name, persona in personas.items():
        own = [unit for unit in recorded if unit.target == persona.target]
        if own and persona.family != "cpu":
            own += [unit for unit in recorded if unit.kind == HOST and unit.target == launch_target()]
        for unit in own:
            plan.add(unit, "recorded")
        if not own or (persona.family != "cpu" and canonical(name) != persona.target):
            for call in manifest.calls.values():
                table, problem = _recorded_call(call)
                if own:
                    plan.add_call(table, problem, persona, needed=True)
                else:
                    plan.add_any(table, table.elsewhere(problem, persona), persona)
    return plan


def add_emulator(plan: Plan, cpus: Iterable[Persona]) -> None:
    """The emulator for these CPUs, or for this one where there are none."""
    from aiterlite.emulator import library

    for target in [persona.target for persona in cpus] or [""]:
        plan.add(library.unit(target), "--emulator")


def _recorded_call(call: Mapping[str, Any]) -> tuple[Table, Any]:
    if call["op"] not in TABLES:
        raise BundleError(f"the manifest calls {call['op']!r}; this version has {', '.join(TABLES)}")
    table = TABLES[call["op"]]
    try:
        return table, problem_of(table, call["problem"])
    except ValueError as error:
        raise BundleError(f"the manifest holds a call that no version of {table.op} takes: {error}") from None
