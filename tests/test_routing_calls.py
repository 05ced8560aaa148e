"""Routing's functions as calls: signatures, what they write to and refuse; and plans of its kernel."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from routing_cases import R1, outputs, problem  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from aiterlite import dispatch, moe  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError  # noqa: E402
from aiterlite.tables import TABLES  # noqa: E402
from aiterlite.tables import routing as tables  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
BIASED, FUSED_GATE = "biased_grouped_topk", "moe_fused_gate"
FP32, INT32 = torch.float32, torch.int32


# Functions ------------------------------------------------------------------------------------------------------------

# Of aiter; the types are its own.
SIGNATURES = {
    BIASED: "gating_output, correction_bias, topk_weights, topk_ids, num_expert_group, topk_group, need_renorm, "
    "routed_scaling_factor=1.0",
    "grouped_topk": "gating_output, topk_weights, topk_ids, num_expert_group, topk_group, need_renorm, "
    "is_softmax=True, routed_scaling_factor=1.0",
    FUSED_GATE: "input, bias, topk_weights, topk_ids, num_expert_group, topk_group, topk, n_share_experts_fusion, "
    "routed_scaling_factor=1.0",
    "topk_softmax": "topk_weights, topk_indices, token_expert_indices, gating_output, need_renorm, "
    "num_shared_experts=0, shared_expert_scoring_func=''",
    "topk_sigmoid": "topk_weights, topk_indices, gating_output",
    "fused_topk": "hidden_states, gating_output, topk, renormalize, topk_ids=None, topk_weights=None",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_upstreams(name: str) -> None:
    parameters = inspect.signature(getattr(moe, name)).parameters.values()
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    assert ", ".join(map(str, bare)) == SIGNATURES[name]


def test_fused_topk_writes_to_what_it_is_given() -> None:
    gating = torch.randn(4, 16)
    weights, ids = outputs(4, 2)
    got = moe.fused_topk(torch.empty(4, 1), gating, 2, True, topk_weights=weights, topk_ids=ids)
    assert got[0] is weights and got[1] is ids
    made = moe.fused_topk(gating, gating, 2, True)
    assert torch.equal(made[0], weights) and torch.equal(made[1], ids) and made[0].dtype == FP32
    gate = moe.moe_fused_gate(gating, torch.zeros(16), weights, ids, 1, 1, 2, 0)
    assert gate[0] is weights and gate[1] is ids


def test_clients_calls() -> None:
    """vLLM's, with a shared expert fused: columns of buffers for as many tokens as there may be, the shared expert's
    filled before. SGLang's: logits converted to float32, beside a float32 bias, one call for a batch and one a part."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, 256, generator=generator).bfloat16()
    bias = torch.randn(256, generator=generator) / 10
    total_weights, total_ids = torch.full((64, 9), 1.0), torch.full((64, 9), 256, dtype=INT32)
    weights, ids = total_weights[:5], total_ids[:5]
    moe.biased_grouped_topk(
        *(logits, bias.bfloat16(), weights[:, :8], ids[:, :8], 8, 4, True), routed_scaling_factor=2.5
    )
    assert ids[:, 8].tolist() == [256] * 5 and weights[:, 8].tolist() == [1.0] * 5
    assert bool((total_ids[5:] == 256).all() and (total_weights[5:] == 1).all())
    torch.testing.assert_close(weights[:, :8].sum(-1), torch.full((5,), 2.5))
    gate_weights, gate_ids = outputs(5, 9)
    moe.moe_fused_gate(logits, bias.bfloat16(), gate_weights, gate_ids, 8, 4, 9, 1, 2.5)
    assert torch.equal(gate_ids, ids) and torch.equal(gate_weights, weights)

    whole, part = outputs(5, 8), outputs(2, 8)
    moe.biased_grouped_topk(logits.float(), bias, *whole, 8, 4, True, 2.5)
    moe.biased_grouped_topk(logits[3:].float(), bias, *part, 8, 4, True, 2.5)
    assert torch.equal(part[1], whole[1][3:]) and torch.equal(part[0], whole[0][3:])


def test_fake_tensors_and_gradients() -> None:
    with FakeTensorMode():
        gating = torch.empty(5, 16)
        weights, ids = moe.fused_topk(gating, gating, 3, True)
        assert weights.shape == (5, 3) and ids.dtype == INT32
        with pytest.raises(ArgumentError):
            moe.topk_sigmoid(torch.empty(5, 3), torch.empty(5, 2, dtype=torch.int64), gating)
    gating = torch.randn(2, 8, requires_grad=True)
    with pytest.raises(NotImplementedError, match="fused_topk is not differentiable"):
        moe.fused_topk(gating, gating, 2, True)
    with torch.no_grad():
        moe.fused_topk(gating, gating, 2, True)


def test_autograd_hears_of_what_is_written() -> None:
    weights, ids = outputs(2, 2)
    before = weights._version, ids._version
    moe.topk_sigmoid(weights, ids, torch.randn(2, 8))
    assert (weights._version, ids._version) == (before[0] + 1, before[1] + 1)


def biased(**changes: Any) -> Callable[[], None]:
    """A call of `biased_grouped_topk` that is right but for `changes`."""
    weights, ids = outputs(2, 4)
    right = {"gating_output": torch.zeros(2, 16), "correction_bias": torch.zeros(16), "topk_weights": weights}
    right |= {"topk_ids": ids, "num_expert_group": 4, "topk_group": 2, "need_renorm": True}
    return lambda: moe.biased_grouped_topk(**{**right, **changes})


ONE = torch.zeros(2, 16)
REFUSED: list[tuple[Callable[[], Any], str, str]] = [
    (biased(gating_output=torch.zeros(16)), "gating_output", "2 dimensions"),
    (biased(gating_output=ONE.double()), "gating_output", "torch.bfloat16"),
    (biased(gating_output=torch.zeros(16, 2).T), "gating_output", "stride 1"),
    (biased(correction_bias=torch.zeros(15)), "correction_bias", "one an expert"),
    (biased(correction_bias=torch.zeros(16).half()), "correction_bias", "beside gating_output of torch.float32"),
    (biased(correction_bias=torch.zeros(32)[::2]), "correction_bias", "stride 1"),
    (biased(topk_weights=torch.zeros(2, 4).half()), "topk_weights", "torch.float32"),
    (biased(topk_weights=torch.zeros(3, 4)), "topk_weights", r"allowed: \[2, 4\]\."),
    (biased(topk_weights=torch.zeros(2, 5)), "topk_weights", r"allowed: \[2, 4\]\."),
    (biased(topk_weights=torch.zeros(1, 4).expand(2, 4)), "topk_weights", "do not overlap"),
    (biased(topk_ids=torch.zeros(2, 4, dtype=torch.int64)), "topk_ids", "torch.int32"),
    (biased(topk_weights=torch.zeros(4, 2).T), "topk_weights", "stride 1"),
    (biased(num_expert_group=3), "num_expert_group", "a divisor of the 16 experts"),
    (biased(num_expert_group=0), "num_expert_group", "a divisor"),
    (biased(topk_group=5), "topk_group", "1 to num_expert_group, 4"),
    (biased(topk_group=0), "topk_group", "1 to num_expert_group"),
    (biased(num_expert_group=8, topk_group=1), "topk_ids", "at most 2. Keep more groups"),
    (biased(topk_weights=torch.zeros(2, 0), topk_ids=torch.zeros(2, 0, dtype=INT32)), "topk_ids", "1 to 32"),
    (lambda: moe.fused_topk(ONE[:1], ONE, 2, True), "hidden_states", "as many rows"),
    (lambda: moe.fused_topk(ONE, ONE, 33, True), "topk", "1 to 32"),
    (lambda: moe.fused_topk(ONE, ONE, 17, True), "topk_ids", "at most 16"),
    (
        lambda: moe.moe_fused_gate(ONE, torch.zeros(16), *outputs(2, 4), 1, 1, 2, 2),
        "topk",
        "more than the 2 shared experts",
    ),
    (lambda: moe.moe_fused_gate(ONE, torch.zeros(16), *outputs(2, 4), 1, 1, 5, 1), "topk_weights", "or wider"),
    (lambda: moe.moe_fused_gate(ONE, torch.zeros(16), *outputs(2, 4), 1, 1, 4, -1), "n_share_experts_fusion", "0 to"),
    (
        lambda: moe.topk_softmax(*outputs(2, 4), outputs(2, 4)[1], ONE, True, 1, "softmax"),
        "shared_expert_scoring_func",
        "sigmoid",
    ),
    (lambda: moe.topk_softmax(*outputs(2, 4), outputs(2, 4)[1], ONE, True, 1, "sigmoid"), "topk_weights", r"\[2, 5\]"),
    (lambda: moe.topk_softmax(*outputs(2, 4), outputs(2, 4)[1], ONE, True, 16), "gating_output", "more than 16 col"),
    (lambda: moe.topk_softmax(*outputs(2, 4), outputs(2, 3)[1], ONE, True), "token_expert_indices", "or wider"),
]


@pytest.mark.parametrize(("call", "argument", "said"), REFUSED)
def test_what_does_not_fit_is_refused(call: Callable[[], Any], argument: str, said: str) -> None:
    with pytest.raises(ArgumentError, match=said) as refused:
        call()
    assert refused.value.argument == argument


def test_more_experts_or_groups_than_there_are_kernels_for() -> None:
    with pytest.raises(DispatchError, match="experts must be 1 to 1024, it is 1025"):
        moe.fused_topk(torch.zeros(1, 1025), torch.zeros(1, 1025), 2, True)
    gating = torch.zeros(1, 64)
    with pytest.raises(DispatchError, match="groups must be 1 to 32, it is 64"):
        moe.grouped_topk(gating, *outputs(1, 2), 64, 2, True)


# Plans ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", ["mi300x", "mi355x", "h100"])
def test_every_row_is_cut_so_that_each_expert_has_one_lane(chip: str) -> None:
    persona = resolve(chip)
    refused = []
    for groups in range(1, 33):
        for size in {1, 2, 7, 8, 20, 31, 1024 // groups}:
            cut = tables.cut(tables.RoutingProblem(5, groups * size, 1, groups, 1, dtype="bf16"), persona.wave_size)
            if cut is None:
                refused.append((groups, size))
                continue
            assert groups * cut.group_lanes <= cut.lanes <= persona.wave_size and cut.each <= 48
            assert size <= cut.group_lanes * cut.each < size + cut.group_lanes * 8
            assert not cut.vectors or (cut.each % 8 == 0 and size % 8 == 0)
    # Nearly as many experts as there may be, in groups of no power of two.
    assert refused == ([] if persona.wave_size == 64 else [(g, 1024 // g) for g in (5, 9, 10, 17, 18, 19, 20)])


def test_a_group_that_no_lane_can_sort_is_refused_with_a_remedy() -> None:
    made = tables.RoutingProblem(4, 1020, 8, 17, 4, bias="fp32", score="sigmoid")
    decision = dispatch.decide(tables.BIASED_GROUPED_TOPK, made, resolve("h100"))
    assert decision.row is None
    assert "a group of 60 experts, of 17 groups, takes more than 48 experts a lane" in str(decision)
    on_a_cpu = dispatch.decide(tables.BIASED_GROUPED_TOPK, made, resolve("cpu-x86-64-v3"))
    assert on_a_cpu.row is not None and "a lane" not in str(on_a_cpu)


def test_a_softmax_without_shared_experts_is_one_kernel_whoever_asks() -> None:
    found = [TABLES[op] for op in ("topk_softmax", "fused_topk", "grouped_topk")]
    units = {dispatch.decide(t, problem(t.op, 4, 128, 8), resolve("h100")).kernels[0].unit for t in found}
    assert len(units) == 1


@pytest.mark.parametrize(("tokens", "waves", "grid"), [(1, 1, 1), (256, 1, 256), (4096, 4, 1024), (4097, 4, 1025)])
def test_few_tokens_have_a_workgroup_each(tokens: int, waves: int, grid: int) -> None:
    made = problem(BIASED, tokens, 256, 8, **R1)
    decision = dispatch.decide(tables.BIASED_GROUPED_TOPK, made, resolve("h200"))
    assert (decision.plan.waves, decision.plan.grid) == (waves, grid)
    assert decision.kernels[0].overlaps
