"""The plans of `benchmarks/plan_candidates.py` beside those of the tables, by estimates: `estimate_choices.py --plans`.

An estimate adds up what a workgroup does, and is calibrated; it does not see that a load is asked for only when the one
before has come. The timeline of a workgroup does, and is compared with nothing. So a plan is told from the table's only
where the estimate prefers it beyond what two estimates are told apart by, and the timeline prefers it too; where
workgroups read what others read, also if all of them read memory.
"""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from plan_candidates import FAMILIES, Case, rows_of

from aiterlite import dispatch, envs
from aiterlite.dispatch import Decision, Wishes
from aiterlite.emulator import watching
from aiterlite.emulator.calibration import shipped
from aiterlite.emulator.estimate import Estimate, estimate, faster
from aiterlite.jit import engine
from aiterlite.target import Persona, resolve

Counters = list[dict[str, Any]]
# What a run gives is kept by what was asked: (what was asked, what runs it).
Keep = Callable[[list[Any], Callable[[], Any]], Any]


_NO_WISHES = Wishes()


class _Asked(Exception):  # noqa: N818 (no error)
    """Stops a call where its table is asked."""


class Told(NamedTuple):
    """The estimates of a call on a chip, by plan, and the microseconds of its timelines; `usual` is the table's plan,
    `best` the one of the least estimate of those that the timeline does not call slower, `told` whether it is told."""

    family: str
    chip: str
    words: str
    usual: str
    best: str
    told: bool
    estimates: dict[str, Estimate]
    timelines: dict[str, float]

    @property
    def ratio(self) -> float:
        return self.estimates[self.usual].us / self.estimates[self.best].us


def decision_of(case: Case, family: str, persona: Persona) -> Decision:
    """What the table decides for a case, by the row that the family's plans are of."""
    found: list[Decision] = []
    real = dispatch.decide

    def stop(table: Any, problem: Any, asked: Persona, wishes: Wishes = _NO_WISHES) -> Decision:
        decision = real(table, problem, asked, wishes)
        if table.op != case.op:
            return decision
        names = rows_of(family, persona)
        row = next((row for row in table.rows if row.name in names), decision.row)
        assert row is not None and row.plan is not None
        found.append(Decision(table.op, problem, asked, row, row.plan(problem, asked)))
        raise _Asked

    with mock.patch.object(dispatch, "decide", stop), envs.override(AITERLITE_TARGET=persona.chip):
        try:
            case.call()
        except _Asked:
            return found[0]
    raise ValueError(f"{case.op} of {case.words} asks no table of that name")


def run(case: Case, decision: Decision, plan: Any, chip: str) -> Counters:
    """Counters of a case by a plan."""
    real = dispatch.decide

    def take(table: Any, problem: Any, asked: Persona, wishes: Wishes = _NO_WISHES) -> Decision:
        if table.op != case.op:
            return real(table, problem, asked, wishes)
        return Decision(table.op, problem, asked, decision.row, plan)

    with (
        mock.patch.object(dispatch, "decide", take),
        envs.override(AITERLITE_TARGET=chip),
        watching(sanitize=False, counters=True, timeline=0, only=case.only) as seen,
    ):
        case.call()
    shown = [{name: launch["timeline"][name] for name in ("cycles", "together")} for launch in seen.launches]
    return [{**counted, "timeline": each} for counted, each in zip(seen.counters, shown, strict=True)]


def timeline_us(counters: Counters, persona: Persona) -> float:
    """Microseconds of launches by the timeline of one workgroup of each, and of those that share its CU."""
    chip, memset = shipped().chips[persona.chip], shipped().shared.memset
    total = 0.0
    for index, counted in enumerate(counters):
        groups, held = counted.get("launched", counted["workgroups"]), counted["timeline"]
        rounds = math.ceil(groups / (max(1, held["together"]) * persona.cu_count))
        total += rounds * held["cycles"] / chip.clock_mhz + chip.launch * (memset if index else 1)
    return total


def read_again(counters: Counters) -> Counters:
    """The same where each workgroup's reads come from memory."""

    def again(counted: dict[str, Any]) -> dict[str, Any]:
        traffic = counted["bytes"]["global"]
        arguments = {
            name: {**held, "unique_read": held["read"], "size": 1 << 62} for name, held in counted["arguments"].items()
        }
        moved = {**counted["bytes"], "global": {**traffic, "unique_read": traffic["read"]}}
        return {**counted, "bytes": moved, "arguments": arguments}

    return [again(counted) for counted in counters]


def of_case(case: Case, family: str, chip: str, keep: Keep) -> Told:
    """The estimates and timelines of all plans for a case."""
    persona = resolve(chip)
    decision = decision_of(case, family, persona)
    plans = {"the table's": decision.plan} | dict(FAMILIES[family].candidates(decision))
    usual = next((name for name, plan in plans.items() if plan == decision.plan and name != "the table's"), "")
    if usual:
        del plans["the table's"]
    usual = usual or "the table's"
    found: dict[str, Estimate] = {}
    timelines: dict[str, float] = {}
    kept: dict[str, Counters] = {}
    for name, plan in plans.items():
        made = Decision(case.op, decision.problem, persona, decision.row, plan)
        content = [engine.wanted(kernel.unit).key for kernel in made.kernels]
        asked = ["plan", chip, case.op, asdict(decision.problem), asdict(plan), case.only, content]
        kept[name] = keep(asked, lambda plan=plan: run(case, decision, plan, chip))  # type: ignore[misc]
        found[name], timelines[name] = estimate(kept[name], persona), timeline_us(kept[name], persona)
    open_to = [name for name in found if timelines[name] <= timelines[usual]]
    best = min(open_to, key=lambda name: found[name].us)
    told = best != usual and faster(found[best], found[usual]) == "A"
    if told and FAMILIES[family].again:
        told = faster(estimate(read_again(kept[best]), persona), found[usual]) == "A"
    return Told(family, chip, case.words, usual, best, told, found, timelines)


def sweep(families: Iterable[str], chips: Iterable[str], keep: Keep) -> Iterator[Told]:
    for family in families:
        for chip in chips:
            for case in FAMILIES[family].cases(chip):
                made = of_case(case, family, chip, keep)
                said = [
                    f"{name} {made.estimates[name].us:.1f} us ({made.timelines[name]:.1f} by timelines)"
                    for name in (made.usual, made.best)
                ]
                answer = "told" if made.told else "cannot tell"
                print(
                    f"  {family}, {chip}, {made.words}: {said[0]}; best {said[1]}, {made.ratio:.2f} times; {answer}",
                    flush=True,
                )
                yield made


def summary(rows: Iterable[Told]) -> str:
    """A Markdown table: by family and chip, how often the best is the table's, and is told from it."""
    by: defaultdict[tuple[str, str], list[Told]] = defaultdict(list)
    for row in rows:
        by[row.family, row.chip].append(row)
    lines = ["| family | chip | calls | plans | the table's is best | told | mean of table's over best | most |"]
    lines.append("|" + " --- |" * 8)
    for (family, chip), own in by.items():
        ratios = [row.ratio for row in own]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        most = max(own, key=lambda row: row.ratio)
        lines.append(
            f"| {family} | {chip} | {len(own)} | {sum(len(row.estimates) for row in own)} | "
            f"{sum(row.usual == row.best for row in own)} | {sum(row.told for row in own)} | {mean:.2f} | "
            f"{most.ratio:.2f}: {most.words} |"
        )
    return "\n".join(lines)


def write(file: Path, rows: Iterable[Told]) -> None:
    """All estimates, a line each."""
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        head = ("us", "low", "high", "timeline_us", "kind", "limit", "parts")
        writer.writerow(("family", "chip", "call", "plan", "is_usual", *head))
        for row in rows:
            for name, held in row.estimates.items():
                numbers = (f"{held.us:.2f}", f"{held.low:.2f}", f"{held.high:.2f}", f"{row.timelines[name]:.2f}")
                parts = json.dumps({key: round(value, 2) for key, value in held.parts.items()})
                said = (row.family, row.chip, row.words, name, int(name == row.usual))
                writer.writerow((*said, *numbers, held.kind, held.limit, parts))
