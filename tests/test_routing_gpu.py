"""Routing on a GPU: the definition, hard rows, strides, and replays of a captured call."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from routing_cases import CASES, R1, assert_right, problem, run_framed, run_odd  # noqa: E402

from aiterlite.ops.samples import sample  # noqa: E402

pytestmark = pytest.mark.gpu
cases = pytest.mark.parametrize(("op", "experts", "topk", "given"), CASES)


@cases
@pytest.mark.parametrize("tokens", [1, 33, 1500])
def test_a_row_is_routed_as_defined(op: str, experts: int, topk: int, given: dict[str, Any], tokens: int) -> None:
    drawn = sample(op, problem(op, tokens, experts, topk, **given), seed=tokens)
    assert drawn.of_bound(drawn.run("cuda")) <= 1


@cases
def test_hard_rows(op: str, experts: int, topk: int, given: dict[str, Any]) -> None:
    made = problem(op, 1, experts, topk, **given)
    assert_right(op, made, run_odd(op, made, "cuda"))


@cases
def test_strides_are_honoured_and_other_columns_left(op: str, experts: int, topk: int, given: dict[str, Any]) -> None:
    run_framed(op, problem(op, 5, experts, topk, **given), "cuda")


def test_a_captured_call_routes_what_its_logits_then_hold() -> None:
    """A chain of calls, each of which starts before the one ahead of it has ended, and reads what that left."""
    made = problem("biased_grouped_topk", 64, 256, 8, **R1)
    first, second = sample("biased_grouped_topk", made, 0), sample("biased_grouped_topk", made, 1)
    given = first.fresh("cuda")
    call = first.bind(given)
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(3):
            call()
    for drawn in (second, first):
        for name in ("gating_output", "correction_bias"):
            given[name].copy_(drawn.inputs[name])
        for _ in range(50):
            given["topk_ids"].fill_(-1)
            graph.replay()
        assert drawn.of_bound(drawn.named((), given)) <= 1
