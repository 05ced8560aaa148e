"""From a problem to one implementation, with the reasons. Pure.

Each operator has one declarative table of rows: requirements x implementation x preference. `decide` checks every
row and returns a `Decision`: the chosen row, and for each other row why not and what would change that. Logs, error
texts, `aiterlite explain` and tests all read that same object.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Protocol

from aiterlite.errors import DispatchError
from aiterlite.hardware import ARCHITECTURES
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Workspace, units_of
from aiterlite.target import Persona

# The back ends of AMD kernels, between which AITERLITE_PREFER chooses.
KINDS = ("asm", "hip")


@dataclass(frozen=True)
class Wishes:
    """What the environment asks of dispatch. `prefer` is one of `KINDS`, or None for what the table prefers."""

    vskip: bool | None = None
    prefer: str | None = None
    jit_off: bool = False
    strict: bool = False


@dataclass(frozen=True)
class Refusal:
    """Why a row may not serve a problem, and what would change that (empty: nothing the caller can do)."""

    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.reason} ({self.remedy})" if self.remedy else self.reason


class Requirement(Protocol):
    """What a row needs of a call; its text says it in words."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None: ...

    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Targets:
    """The persona's target is one of these; a trailing `*` matches any ending."""

    names: tuple[str, ...]

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        for name in self.names:
            if persona.target == name or (name.endswith("*") and persona.target.startswith(name[:-1])):
                return None
        return Refusal(f"runs on {', '.join(self.names)}, the target is {persona.target}")

    def __str__(self) -> str:
        return f"target {' or '.join(self.names)}"


@dataclass(frozen=True)
class ComputeUnits:
    """The persona's CU count lies in a range."""

    low: int
    high: int

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if self.low <= persona.cu_count <= self.high:
            return None
        return Refusal(f"needs {self.low} to {self.high} CUs, {persona.chip} has {persona.cu_count}")

    def __str__(self) -> str:
        return f"{self.low} to {self.high} CUs"


@dataclass(frozen=True)
class OneOf:
    """A field of the problem has one of these values; `remedy` says what to do with another."""

    name: str
    values: tuple[Any, ...]
    remedy: str = ""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        value = getattr(problem, self.name)
        if value in self.values:
            return None
        return Refusal(f"{self.name} must be {' or '.join(map(str, self.values))}, it is {value}", self.remedy)

    def __str__(self) -> str:
        return f"{self.name} {' or '.join(map(str, self.values))}"


@dataclass(frozen=True)
class Between:
    """A number of the problem lies in a range, both ends included; `remedy` says what to do with another."""

    name: str
    low: int
    high: int
    remedy: str = ""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        value = getattr(problem, self.name)
        if self.low <= value <= self.high:
            return None
        return Refusal(f"{self.name} must be {self.low} to {self.high}, it is {value}", self.remedy)

    def __str__(self) -> str:
        return f"{self.name} {self.low} to {self.high}"


@dataclass(frozen=True)
class Holds:
    """A flag of the problem has a value; `reason` says what another value means."""

    name: str
    value: bool
    reason: str
    remedy: str = ""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        return None if getattr(problem, self.name) is self.value else Refusal(self.reason, self.remedy)

    def __str__(self) -> str:
        return self.name if self.value else f"not {self.name}"


@dataclass(frozen=True)
class Row:
    """One implementation of an operator.

    Higher `preference` wins; ties are decided by the order of the table. `favour` adds to it where data speaks for the
    row and a problem, and `favoured_by` says which data, or tells it of a problem. `plan` gives the tiling and geometry
    of a problem's launches, `kernels` the launches themselves in their order (None for torch), and `workspace` the
    memory that they need besides the operands. `vskip` marks kernels that use s_setvskip; the table holds others for
    the same problems. `fallback` marks what AITERLITE_STRICT=1 refuses. `accuracy` says how exact a problem's results
    are, where an operator promises that.
    """

    name: str
    backend: str
    requires: tuple[Requirement, ...]
    preference: int = 0
    plan: Callable[[Any, Persona], Any] | None = None
    kernels: Callable[[Any, Persona, Any], tuple[Kernel, ...]] | None = None
    workspace: Callable[[Any, Persona, Any], Workspace | None] | None = None
    vskip: bool = False
    fallback: bool = False
    accuracy: Callable[[Any], Any] | None = None
    favour: Callable[[Any, Persona], int] | None = None
    favoured_by: str | Callable[[Any, Persona], str] = ""

    def why_favoured(self, problem: Any, persona: Persona) -> str:
        by = self.favoured_by
        return (by if isinstance(by, str) else by(problem, persona)) if self.favoured(problem, persona) else ""

    def favoured(self, problem: Any, persona: Persona) -> int:
        return self.favour(problem, persona) if self.favour is not None else 0


@dataclass(frozen=True)
class Axis:
    """Fields of a problem that vary together, and their values: `Axis(("m", "k"), ((256, 7168), ...))`."""

    fields: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]


def one_axis(name: str, *values: Any) -> Axis:
    """An axis of one field."""
    return Axis((name,), tuple((value,) for value in values))


def with_native_floats(problem: Any, persona: Persona) -> list[Any]:
    """A problem, and the same with the 8-bit floats of a persona's target in place of others."""
    others = {row.fp8 for row in ARCHITECTURES.values()} - {persona.fp8}
    foreign = {f.name: persona.fp8 for f in fields(problem) if getattr(problem, f.name) in others}
    return [problem, replace(problem, **foreign)] if foreign else [problem]


@dataclass(frozen=True)
class Table:
    """The rows of one operator, and the type of its problems.

    `sweep` gives the problems that the operator is built, benchmarked and tried for where nobody names one: the product
    of its axes. `derive` adds to the named fields those that follow from them or from the environment. `elsewhere` says
    what the call of a problem may be on another target than the one where it was recorded.
    """

    op: str
    problem: type
    rows: tuple[Row, ...]
    sweep: tuple[Axis, ...] = ()
    derive: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    elsewhere: Callable[[Any, Persona], Sequence[Any]] = with_native_floats


@dataclass(frozen=True)
class Rejected:
    row: str
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True)
class Decision:
    """What was chosen for a problem on a persona, and why everything else was not."""

    op: str
    problem: Any
    persona: Persona
    row: Row | None
    plan: Any = None
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @functools.cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        """The launches of the chosen row, in their order."""
        if self.row is None or self.row.kernels is None:
            return ()
        return self.row.kernels(self.problem, self.persona, self.plan)

    @property
    def workspace(self) -> Workspace | None:
        """The memory that the launches need besides the operands."""
        if self.row is None or self.row.workspace is None:
            return None
        return self.row.workspace(self.problem, self.persona, self.plan)

    @property
    def accuracy(self) -> str:
        """How exact the results are; empty where nothing is promised."""
        return str(self.row.accuracy(self.problem)) if self.row is not None and self.row.accuracy else ""

    @property
    def units(self) -> tuple[Unit, ...]:
        """What the chosen row compiles, and what launches it."""
        return units_of(self.kernels)

    def to_json(self) -> dict[str, Any]:
        return {
            "op": self.op,
            "problem": asdict(self.problem),
            "persona": asdict(self.persona),
            "chosen": self.row.name if self.row else None,
            "backend": self.row.backend if self.row else None,
            "plan": asdict(self.plan) if self.plan is not None else None,
            "accuracy": self.accuracy or None,
            "kernels": [kernel.to_json() for kernel in self.kernels],
            "units": [unit.label for unit in self.units],
            "rejected": [
                {"row": item.row, "why": [{"reason": r.reason, "remedy": r.remedy} for r in item.refusals]}
                for item in self.rejected
            ],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        shape = ", ".join(f"{f.name}={getattr(self.problem, f.name)}" for f in fields(self.problem))
        lines = [f"{self.op}({shape}) on {self.persona}"]
        if self.row is None:
            lines.append("  no row applies")
        else:
            lines.append(f"  -> {self.row.name} ({self.row.backend})")
            if self.plan is not None:
                lines.append("     " + _words(asdict(self.plan)))
            lines += [f"     {self.accuracy}"] if self.accuracy else []
            lines += [f"     kernel {kernel}" for kernel in self.kernels]
            lines += [f"     unit {unit.label}" for unit in self.units]
        for item in self.rejected:
            lines.append(f"  not {item.row}: " + "; ".join(map(str, item.refusals)))
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def _words(plan: Mapping[str, Any]) -> str:
    """A plan's fields, those of its parts too, as `name=value`."""
    return ", ".join(_words(v) if isinstance(v, Mapping) else f"{name}={v}" for name, v in plan.items())


def decide(table: Table, problem: Any, persona: Persona, wishes: Wishes = Wishes()) -> Decision:
    """Choose a row. A decision without a row is returned, not raised: see `require`."""
    rejected: list[Rejected] = []
    open_rows: list[Row] = []
    for row in table.rows:
        refusals = [
            refusal
            for requirement in row.requires
            if (refusal := requirement.refuse(problem, persona, wishes)) is not None
        ]
        refusals += _environment_refusals(row, persona, wishes)
        if refusals:
            rejected.append(Rejected(row.name, tuple(refusals)))
        else:
            open_rows.append(row)
    ranked = sorted(
        open_rows,
        key=lambda row: (
            -(wishes.vskip is True and row.vskip),
            -(row.backend in KINDS and row.backend == wishes.prefer),
            -row.preference - row.favoured(problem, persona),
        ),
    )
    chosen = ranked[0] if ranked else None
    by = chosen.why_favoured(problem, persona) if chosen is not None else ""
    rejected += [Rejected(row.name, (_outranked(row, ranked[0], by, wishes),)) for row in ranked[1:]]
    notes = []
    if wishes.vskip is True and chosen is not None and not chosen.vskip and any(row.vskip for row in table.rows):
        notes.append(f"AITER_ENABLE_VSKIP=1 has no row for this problem; took {chosen.name}")
    if chosen is not None and chosen.backend in KINDS and wishes.prefer not in (None, chosen.backend):
        if any(row.backend == wishes.prefer for row in open_rows):
            notes.append(f"AITER_ENABLE_VSKIP=1 goes before AITERLITE_PREFER={wishes.prefer}; took {chosen.name}")
        elif any(row.backend == wishes.prefer for row in table.rows):
            notes.append(f"AITERLITE_PREFER={wishes.prefer} has no row for this problem; took {chosen.name}")
    order = {row.name: index for index, row in enumerate(table.rows)}
    rejected.sort(key=lambda item: order[item.row])
    plan = chosen.plan(problem, persona) if chosen is not None and chosen.plan is not None else None
    return Decision(table.op, problem, persona, chosen, plan, tuple(rejected), tuple(notes))


def _outranked(row: Row, chosen: Row, by: str, wishes: Wishes) -> Refusal:
    other_kind = {row.backend, chosen.backend} == set(KINDS) and wishes.prefer != row.backend
    return Refusal(
        f"{chosen.name} is preferred{f', {by}' if by else ''}", f"AITERLITE_PREFER={row.backend}" if other_kind else ""
    )


def _environment_refusals(row: Row, persona: Persona, wishes: Wishes) -> list[Refusal]:
    refusals = []
    if wishes.jit_off and row.kernels is not None:
        refusals.append(Refusal("AITERLITE_JIT=off", "AITERLITE_JIT=auto or require-cache"))
    if row.vskip and wishes.vskip is False:
        refusals.append(Refusal("it uses s_setvskip and AITER_ENABLE_VSKIP=0", "AITER_ENABLE_VSKIP=1"))
    if row.vskip and wishes.vskip is None and not persona.vskip_safe:
        refusals.append(Refusal(f"it uses s_setvskip, not safe unasked on {persona.chip}", "AITER_ENABLE_VSKIP=1"))
    return refusals


def require(decision: Decision, wishes: Wishes) -> Row:
    """The chosen row. Raises `DispatchError` with the whole trace where there is none, or, under AITERLITE_STRICT=1,
    where it is a fallback or ignores a wish."""
    if decision.row is None:
        raise DispatchError(f"no implementation of {decision.op} takes this problem:\n{decision}", decision)
    if wishes.strict and (decision.row.fallback or decision.notes):
        raise DispatchError(
            f"AITERLITE_STRICT=1 and {decision.op} would fall back to {decision.row.name}:\n{decision}", decision
        )
    return decision.row


def problem_from(table: Table, values: Mapping[str, Any]) -> Any:
    """A problem of a table's type from plain data (a manifest, a command line). Raises `ValueError`."""
    known = {f.name for f in fields(table.problem)}
    unknown = set(values) - known
    if unknown:
        raise ValueError(f"{table.op} has no field {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
    try:
        return table.problem(**values)
    except TypeError as error:
        raise ValueError(f"{table.op}: {error}") from None
