"""Routing on a CPU: against the definition, on rows that are hard to route, and what its functions refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from routing_cases import CASES, INF, NAN, R1, assert_right, framed, outputs, problem, run_framed, run_odd  # noqa: E402

from aiterlite import moe  # noqa: E402
from aiterlite.ops.operator import OPERATORS  # noqa: E402
from aiterlite.ops.samples import sample  # noqa: E402
from aiterlite.ops.samples.routing import ids_of  # noqa: E402
from aiterlite.reference import routing as reference  # noqa: E402
from aiterlite.tables import problems  # noqa: E402
from aiterlite.tables import routing as tables  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
cases = pytest.mark.parametrize(("op", "experts", "topk", "given"), CASES)
BIASED = "biased_grouped_topk"
INT32 = torch.int32


# Results --------------------------------------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("tokens", [1, 33])
def test_a_row_is_routed_as_defined(op: str, experts: int, topk: int, given: dict[str, Any], tokens: int) -> None:
    drawn = sample(op, problem(op, tokens, experts, topk, **given), seed=tokens)
    assert drawn.of_bound(drawn.run()) <= 1


@cases
def test_hard_rows_have_distinct_ids_and_finite_weights(
    op: str, experts: int, topk: int, given: dict[str, Any]
) -> None:
    made = problem(op, 1, experts, topk, **given)
    assert_right(op, made, run_odd(op, made))


@cases
def test_strides_are_honoured_and_other_columns_left(op: str, experts: int, topk: int, given: dict[str, Any]) -> None:
    run_framed(op, problem(op, 5, experts, topk, **given))


@pytest.mark.parametrize("table", tables.TABLES, ids=lambda table: table.op)
def test_default_problems_are_right_and_torch_agrees(table: Any) -> None:
    """Torch's own top-k leaves the order of what it takes open, but not the set."""
    assert set(OPERATORS[table.op].mutates) >= {"topk_weights"}
    for made in problems.sweep(table):
        drawn = sample(table.op, replace(made, num_tokens=min(made.num_tokens, 40)))
        got = drawn.run()
        assert drawn.of_bound(got) <= 1, made
        assert drawn.baseline is not None
        weights, ids = drawn.baseline(drawn.inputs)  # type: ignore[misc]
        order, theirs = got[ids_of(table.op)][:, : made.topk].sort(-1), ids.sort(-1)
        assert torch.equal(order.values, theirs.values)
        ours = got["topk_weights"][:, : made.topk].gather(1, order.indices)
        torch.testing.assert_close(ours, weights.gather(1, theirs.indices), rtol=1e-5, atol=1e-7)


@given(st.data())
@settings(max_examples=40)
def test_any_rows_and_biases(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 2, 3, 8]))
    experts = groups * data.draw(st.integers(1, 12))
    topk_groups = data.draw(st.integers(1, groups))
    topk = data.draw(st.integers(1, min(32, topk_groups * experts // groups)))
    number = st.sampled_from([NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 88.0, -86.0, -90.0, 3e38, -3e38, 2.5])
    row = st.lists(number, min_size=experts, max_size=experts)
    gating = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=3)))
    bias = torch.tensor(data.draw(row))
    weights, ids = outputs(len(gating), topk)
    given = {"gating_output": gating, "topk_weights": weights, "topk_ids": ids}
    fields = {"groups": groups, "topk_groups": topk_groups}
    moe.biased_grouped_topk(gating, bias, weights, ids, groups, topk_groups, True, 2.5)
    assert_right(BIASED, problem(BIASED, len(gating), experts, topk, **fields), {**given, "correction_bias": bias})
    for score in ("softmax", "sigmoid"):
        made = problem("grouped_topk", len(gating), experts, topk, **fields, score=score, renorm=False)
        moe.grouped_topk(gating, weights, ids, groups, topk_groups, False, score == "softmax", 2.5)
        assert_right("grouped_topk", made, given)


@given(st.integers(1, 300), st.integers(0, 2**31))
@settings(max_examples=25)
def test_experts_in_another_order_are_the_same_experts(experts: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    topk = min(experts, 8)
    # All different, so that no tie is decided by the order.
    gating = torch.stack([torch.randperm(experts, generator=generator) for _ in range(4)]) / experts - 0.5
    order = torch.randperm(experts, generator=generator)
    weights, ids = moe.fused_topk(gating, gating, topk, True)
    others, moved = moe.fused_topk(gating, gating[:, order], topk, True)
    assert torch.equal(ids, order[moved.long()].int())
    torch.testing.assert_close(others, weights)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4))
    assert bool((weights.diff(dim=-1) <= 0).all())


def test_ties_go_to_the_lowest_index() -> None:
    """Of groups too: of the eight all alike those from 0 on are kept."""
    gating, bias = torch.zeros(2, 256), torch.zeros(256)
    bias[[250, 40, 41]] = torch.tensor([0.5, 0.25, 0.25])
    weights, ids = outputs(2, 8)
    moe.biased_grouped_topk(gating, bias, weights, ids, 8, 4, True, 2.5)
    assert ids.tolist() == [[250, 40, 41, 0, 1, 2, 3, 4]] * 2
    torch.testing.assert_close(weights, torch.full((2, 8), 2.5 / 8))


def test_a_dropped_group_is_never_chosen_and_scaling_needs_no_renorm() -> None:
    """Where upstream masks by 0, choices below that would lose to it."""
    gating = torch.zeros(1, 16)
    bias = torch.full((16,), -3.0)
    bias[:4] = -2.0
    weights, ids = outputs(1, 6)
    moe.biased_grouped_topk(gating, bias, weights, ids, 4, 2, False, 4.0)
    assert ids.tolist() == [[0, 1, 2, 3, 4, 5]] and weights.tolist() == [[2.0] * 6]
    # An expert that is -inf is chosen before one of a dropped group.
    bias[5] = -INF
    moe.biased_grouped_topk(gating, bias, *outputs(1, 8), 4, 2, False)
    wide, which = outputs(1, 8)
    moe.biased_grouped_topk(gating, bias, wide, which, 4, 2, False)
    assert which.tolist() == [[0, 1, 2, 3, 4, 6, 7, 5]]


def test_a_row_without_numbers_shares_alike() -> None:
    """No score is zero: a row whose sigmoids all underflow is not divided by nothing."""
    gating = torch.tensor([[NAN] * 8, [-INF] * 8, [-500.0] * 8, [INF] * 8])
    for renorm in (True, False):
        weights, ids = outputs(4, 4)
        moe.grouped_topk(gating, weights, ids, 2, 1, renorm, False, 2.0)
        assert ids.tolist() == [[0, 1, 2, 3]] * 4
        least = 2 * float(torch.tensor(reference.LEAST_LOGIT, dtype=torch.float64).sigmoid())
        wanted = [[0.5] * 4] * 4 if renorm else [[least] * 4] * 3 + [[2.0] * 4]
        torch.testing.assert_close(weights, torch.tensor(wanted), rtol=1e-5, atol=0)
    weights, ids = moe.fused_topk(gating, gating, 4, False)
    assert weights.tolist() == [[0.125] * 4] * 4 and ids.tolist() == [[0, 1, 2, 3]] * 4


def test_shared_experts_of_a_softmax_keep_the_callers_ids() -> None:
    gating = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    whole = torch.full((3, 6), -7, dtype=INT32)
    whole[:, 4:] = torch.tensor([8, 9], dtype=INT32)
    weights, indices = torch.full((3, 6), -7.0), torch.empty(3, 4, dtype=INT32)
    moe.topk_softmax(weights, whole[:, :4], indices, gating, True, 2, "sigmoid")
    assert whole[:, 4:].tolist() == [[8, 9]] * 3
    torch.testing.assert_close(weights[:, 4:], gating[:, 8:].sigmoid())
    assert indices.tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    alone = torch.full((3, 6), -7.0)
    moe.topk_softmax(alone, whole[:, :4], indices, gating, True, 2)
    assert torch.equal(alone[:, :4], weights[:, :4]) and bool((alone[:, 4:] == -7).all())


def test_the_number_of_threads_changes_no_bit() -> None:
    drawn = sample(BIASED, problem(BIASED, 300, 256, 8, **R1))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(drawn.run())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(got[name], found[0][name]) for got in found for name in got)


def test_no_rows_are_no_work() -> None:
    empty = torch.empty(0, 256)
    moe.biased_grouped_topk(empty, torch.zeros(256), *outputs(0, 8), 8, 4, True)
    weights, ids = moe.fused_topk(empty, empty, 8, True)
    assert weights.shape == ids.shape == (0, 8)


def test_a_frame_is_no_result() -> None:
    """The negative control of `framed`."""
    view, whole = framed(torch.zeros(2, 3), 1, 2)
    view[0, 0] = 5
    assert whole[1, 1] == 5 and int((whole == -77).sum()) == 4 * 6 - 6
