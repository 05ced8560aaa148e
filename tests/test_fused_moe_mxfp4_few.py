"""Experts of MXFP4 for 1 to 4 tokens on gfx942 and gfx950, without sorting: against float64, and to the bit what calls
of more tokens make of the same ones; emulated with all sanitizers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fused_moe_cases import skewed_ids  # noqa: E402
from fused_moe_mxfp4_cases import Case, case_of, check, problem_of, run  # noqa: E402
from gemm_operands import AMD, on  # noqa: E402

from aiterlite.dispatch import decide  # noqa: E402
from aiterlite.emulator.observe import Recording  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402
from aiterlite.tables.fused_moe import TABLE  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.torch,
    pytest.mark.compile,
    pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd")),
]
each_target = pytest.mark.parametrize("target", AMD)
CASES: dict[str, dict[str, Any]] = {
    "codes": {"width": 160, "inter": 96, "masked": True, "global_experts": 70},
    "codes, as many experts as pairs": {"width": 64, "inter": 32, "experts": 24},
    "kept": {"width": 64, "inter": 32, "precision": "a16w4", "weighted_input": True, "bias1": True, "bias2": True},
    "eight bits": {"width": 96, "inter": 64, "precision": "a8w4", "interleaved": True, "by_slots": True},
}


def first_tokens(case: Case, count: int) -> Case:
    """The same call of fewer tokens."""
    made = case.made
    rows = {name: getattr(made, name)[:count] for name in ("x", "ids", "routing")}
    return replace(case, problem=replace(case.problem, tokens=count), made=replace(made, **rows))


def sorts(recording: Recording) -> bool:
    return any("moe_sort" in str(report["kernel"]) for report in recording.launches)


@each_target
@pytest.mark.parametrize("name", CASES)
def test_tokens_have_the_bits_of_calls_that_sort(name: str, target: str, sanitized: Recording) -> None:
    """More pairs of one expert than a group has; ids of none, and an expert that a token names twice."""
    problem = problem_of(**{"tokens": 5, "topk": 6, "experts": 7, **CASES[name]})
    ids = skewed_ids("strange", replace(problem, experts=problem.global_experts), 3)
    ids[0], ids[1], ids[2] = 2, 2, 2
    case = case_of(problem, 4, ids)
    with on(target):
        whole = run(case)
        assert sorts(sanitized)
        check(case, whole)
        sanitized.launches.clear()
        for count in (4, 1):
            few = first_tokens(case, count)
            assert torch.equal(run(few, spare=1), whole[:count])
    assert not sorts(sanitized)


@each_target
def test_tokens_that_do_not_count(target: str, sanitized: Recording) -> None:
    for kind, live in (("none", None), ("one expert", 2), ("strange", 0)):
        problem = problem_of(tokens=4, topk=3, experts=5, width=64, inter=32)
        case = case_of(problem, 1, skewed_ids(kind, problem), live=live)
        with on(target):
            check(case, run(case))
    assert not sorts(sanitized)


def test_which_calls_are_not_sorted() -> None:
    found = {}
    for chip in ("mi300x", "mi355x", "h200"):
        for tokens, topk in ((1, 8), (4, 8), (4, 16), (3, 24), (5, 8)):
            problem = problem_of(tokens=tokens, topk=topk, experts=256, width=7168, inter=256, shuffled=True)
            row = decide(TABLE, problem, resolve(chip)).row
            found[chip, tokens, topk] = row.name if row is not None else ""
    few = {(tokens, topk) for (chip, tokens, topk), row in found.items() if row == "mxfp4_few"}
    assert few == {(1, 8), (4, 8), (4, 16)}
    on_hopper = {(tokens, topk): row for (chip, tokens, topk), row in found.items() if chip == "h200"}
    assert {calls for calls, row in on_hopper.items() if row == "mxfp4_mma"} == {(3, 24)}
