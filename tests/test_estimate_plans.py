"""Plans held against each other by estimates: what is run of a call, and when one plan is told from the table's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
# An installed package comes without benchmarks.
estimate_plans = pytest.importorskip("estimate_plans")
plan_candidates = pytest.importorskip("plan_candidates")

from aiterlite import emulator, envs  # noqa: E402
from aiterlite.emulator.estimate import estimate  # noqa: E402
from aiterlite.ops.samples import sample  # noqa: E402
from aiterlite.tables import TABLES, problems  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.emulated, pytest.mark.compile]


def test_some_workgroups_of_an_operators_launch(emulator_library: str) -> None:
    """Counters of two workgroups of sixteen give the estimate of all of them."""
    emulator.use_library(emulator_library)
    made = sample("wvSplitK", problems.problem(TABLES["wvSplitK"], {"n": 16, "m": 256, "k": 512}))
    found = {}
    with envs.override(AITERLITE_TARGET="mi300x"):
        for only in (0, 2):
            with emulator.watching(sanitize=False, counters=True, only=only) as seen:
                made.run()
            (found[only],) = seen.counters
    assert (found[2]["workgroups"], found[2]["launched"]) == (2, found[0]["workgroups"])
    both = [estimate([counted], resolve("mi300x")).us for counted in found.values()]
    assert both[1] == pytest.approx(both[0], rel=0.02)


def test_a_plan_is_told_where_the_timeline_agrees(emulator_library: str) -> None:
    emulator.use_library(emulator_library)
    case = next(case for case in plan_candidates.FAMILIES["norm"].cases("mi300x") if case.words == "128 x 512")
    decision = estimate_plans.decision_of(case, "norm", resolve("mi300x"))
    assert decision.row is not None and decision.row.name == "lanes" and decision.problem.row_count == 128
    usual = {
        name: plan for name, plan in plan_candidates.FAMILIES["norm"].candidates(decision) if plan == decision.plan
    }
    assert list(usual) == ["threads 128, batch 1"]

    def keep(slower: float, cycles: float) -> estimate_plans.Told:
        """With a table's plan that moves more bytes, and other plans of another timeline."""
        given: dict[str, Any] = {}

        def held(asked: list[Any], run: Any) -> Any:
            counters = given.setdefault("first", run())
            one = {**counters[0], "timeline": {"cycles": 4000.0, "together": 1}}
            if asked[4]["threads"] == 128 and asked[4]["batch"] == 1:
                traffic = {**one["bytes"]["global"], "unique_read": int(slower * 1e6)}
                one |= {"bytes": {**one["bytes"], "global": traffic}}
            else:
                one["timeline"] = {"cycles": cycles, "together": 1}
            return [one]

        return estimate_plans.of_case(case, "norm", "mi300x", held)

    told, contradicted, alike = keep(100, 4000.0), keep(100, 4100.0), keep(0, 4000.0)
    assert told.told and told.ratio > 2 and told.best != told.usual == "threads 128, batch 1"
    assert not contradicted.told and contradicted.best == contradicted.usual
    assert not alike.told
    assert told.timelines[told.best] == pytest.approx(4000 / 2100 + 1.68, rel=0.05)
    assert "| norm | mi300x | 2 | " in estimate_plans.summary([told, contradicted])
