"""Cuts of a GEMM's plan timed beside each other: what its estimate is fitted to, and tried by."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from side_by_side import build, microseconds

from aiterlite.benchmark.timing import Contender
from aiterlite.target import Persona


@dataclass(frozen=True)
class Trial:
    """A problem of `n` tokens, `m` rows of weights and `k`, on `device`: `tables` is the module of its cuts, `prepare`
    makes a call by the cut that the table has then, of the number of the copy to use, and `error` says how large the
    error of the first copy's result is in bounds."""

    tables: Any
    problem: Any
    persona: Persona
    device: torch.device
    copies: int
    prepare: Callable[[], Contender]
    error: Callable[[Any], float]

    def expected(self, cut: Any) -> float:
        tiles = -(-self.problem.n // cut.cols)
        cost: float = self.tables.estimate(cut, tiles, self.problem.m, self.problem.k, 1, self.persona.cu_count)
        return cost


def ranked(trial: Trial, kind: Callable[[Any], object]) -> tuple[Any, list[Any], list[list[Any]]]:
    """The plan's own cut; those that there are, the best by its estimate first; and the same by kinds."""
    problem, tables = trial.problem, trial.tables
    first = tables.cut_for(problem, trial.persona.cu_count)
    cuts = sorted(tables.candidates(first.cols, problem.m, problem.k), key=trial.expected)
    kinds = dict.fromkeys(map(kind, cuts))
    return first, cuts, [[cut for cut in cuts if kind(cut) == one] for one in kinds]


@contextlib.contextmanager
def _choosing(tables: Any, cut: Any) -> Iterator[None]:
    planned = tables.cut_for
    tables.cut_for = lambda *_: cut
    try:
        yield
    finally:
        tables.cut_for = planned


def sweep(
    trial: Trial,
    cuts: Sequence[Any],
    name: Callable[[Any], str],
    samples: int,
    beside: Mapping[str, Contender],
    words: Callable[[Mapping[str, Any]], str],
) -> list[dict[str, Any]]:
    """A row for each cut, printed with what `words` says of it. The first is the plan's. `beside` is timed in the same
    run, and each row has its times."""
    problem, tables = trial.problem, trial.tables
    build([tables.kernels(problem, trial.persona, tables.plan_of(cut, problem))[0].unit for cut in cuts])
    contenders: dict[str, Contender] = {}
    errors: dict[str, float] = {}
    for cut in cuts:
        with _choosing(tables, cut):
            contenders[name(cut)] = trial.prepare()
        errors[name(cut)] = trial.error(contenders[name(cut)](0))
    times = microseconds({**contenders, **beside}, trial.copies, trial.device, samples)
    rows = []
    for cut in cuts:
        row = {"n": problem.n, "m": problem.m, "k": problem.k, "cut": asdict(cut), "us": times[name(cut)]}
        row |= {"expected": trial.expected(cut), "of_bound": errors[name(cut)]}
        row |= {one: times[one] for one in beside}
        rows.append(row)
        print(
            f"({problem.m}, {problem.k}) {problem.n:>4} {name(cut):26} {row['us']:6.2f} us, expected "
            f"{row['expected']:6.2f}, {words(row)}, error {row['of_bound']:.2f}{'  planned' if cut == cuts[0] else ''}",
            flush=True,
        )
    return rows
