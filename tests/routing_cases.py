"""Rows of logits for routing, of every kind that there is, and when a result is right. Not a test file."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from aiterlite.ops import operands
from aiterlite.ops.samples import sample
from aiterlite.ops.samples.routing import SCALE, ids_of
from aiterlite.reference import routing as reference
from aiterlite.tables import TABLES
from aiterlite.tables.problems import problem as problem_of
from aiterlite.tables.routing import NO_BIAS, RoutingProblem

NAN, INF = math.nan, math.inf
SENTINEL = -77
# Where two numbers that are compared are closer, float32 may choose otherwise.
MARGIN = 1e-5


def problem(op: str, tokens: int, experts: int, topk: int, **given: Any) -> RoutingProblem:
    made: RoutingProblem = problem_of(TABLES[op], {"num_tokens": tokens, "experts": experts, "topk": topk, **given})
    return made


R1 = {"groups": 8, "topk_groups": 4}
# op, experts, topk, other fields: every way that a row is cut, all types, scores and kinds of shared experts.
CASES: list[tuple[str, int, int, dict[str, Any]]] = [
    ("biased_grouped_topk", 256, 8, R1),
    ("biased_grouped_topk", 256, 8, {**R1, "dtype": "bf16", "bias": "fp32", "renorm": False}),
    ("biased_grouped_topk", 384, 8, {"dtype": "fp16"}),
    ("biased_grouped_topk", 160, 6, {"groups": 8, "topk_groups": 3, "dtype": "bf16"}),
    ("biased_grouped_topk", 72, 5, {"groups": 8, "topk_groups": 2}),
    ("biased_grouped_topk", 32, 3, {"groups": 32, "topk_groups": 5, "dtype": "bf16"}),
    ("grouped_topk", 256, 8, {**R1, "renorm": False}),
    ("grouped_topk", 64, 4, {"groups": 4, "topk_groups": 1, "score": "sigmoid", "dtype": "fp16"}),
    ("grouped_topk", 27, 2, {"groups": 3, "topk_groups": 2, "score": "softmax"}),
    ("moe_fused_gate", 256, 8, {**R1, "shared_experts": 1}),
    ("moe_fused_gate", 384, 8, {"shared_experts": 2, "dtype": "bf16"}),
    ("topk_softmax", 128, 8, {"renorm": False, "dtype": "bf16"}),
    ("topk_softmax", 60, 4, {"shared_experts": 4, "dtype": "bf16"}),
    ("topk_softmax", 512, 10, {"shared_experts": 1}),
    ("topk_sigmoid", 16, 1, {"dtype": "bf16"}),
    ("topk_sigmoid", 1024, 32, {}),
    ("fused_topk", 8, 2, {"renorm": False}),
    ("fused_topk", 7, 7, {"dtype": "fp16"}),
    ("fused_topk", 1, 1, {}),
]


def outputs(tokens: int, topk: int) -> tuple[Tensor, Tensor]:
    """Weights and ids that no call has written to."""
    return torch.full((tokens, topk), -7.0), torch.full((tokens, topk), -7, dtype=torch.int32)


def odd_rows(columns: int) -> list[list[float]]:
    """Rows that are hard to route: equal, saturated, underflowing, no numbers."""
    first = [0.0] * columns
    few = [(7 * i) % 3 - 1.0 for i in range(columns)]
    mixed = [[NAN, INF, -INF, 3.0, -200.0, 200.0, -0.0, 0.0][(5 * i) % 8] for i in range(columns)]
    one = [NAN if i == columns // 2 else i / columns for i in range(columns)]
    return [
        first,
        few,
        [NAN] * columns,
        [INF] * columns,
        [-INF] * columns,
        [-1000.0 - i for i in range(columns)],
        [1000.0 + i for i in range(columns)],
        [INF if i % 5 == 0 else -INF for i in range(columns)],
        mixed,
        one,
    ]


def assert_right(op: str, made: RoutingProblem, given: dict[str, Tensor]) -> None:
    """What a call on `given` left there is right, as far as float32 decides it; and whatever a row holds, ids are
    distinct and name experts, and weights are finite."""
    gating = given["gating_output"].cpu()
    weights, ids = given["topk_weights"].cpu(), given[ids_of(op)].cpu()
    chosen, weight = ids[:, : made.topk].long(), weights[:, : made.topk].double()
    assert bool(((chosen >= 0) & (chosen < made.experts)).all())
    assert all(len(set(row)) == made.topk for row in chosen.tolist())
    assert bool(weights.isfinite().all())
    bias = given.get("correction_bias")
    routed = reference.route(
        gating[:, : made.experts],
        made.topk,
        bias=None if bias is None else bias.cpu(),
        groups=made.groups,
        topk_groups=made.topk_groups,
        score=made.score,
        renorm=made.renorm,
        scale=SCALE if op in ("biased_grouped_topk", "grouped_topk", "moe_fused_gate") else 1.0,
    )
    sure = (routed.margin > MARGIN) | torch.full_like(routed.margin, made.bias == NO_BIAS).bool()
    assert torch.equal(chosen[sure], routed.ids[sure])
    torch.testing.assert_close(weight[sure], routed.weights[sure], rtol=2**-16, atol=2**-120)
    _assert_rest(made, gating, weights[:, made.topk :], ids[:, made.topk :])
    if "token_expert_indices" in given:
        wanted = reference.token_expert_indices(len(gating), made.topk)
        assert torch.equal(given["token_expert_indices"].cpu(), wanted)


def _assert_rest(made: RoutingProblem, gating: Tensor, weights: Tensor, ids: Tensor) -> None:
    """The columns of shared experts."""
    if made.shared_scored:
        logits = gating[:, made.experts :].double().nan_to_num(-87.0, INF, -87.0).clamp(min=-87.0)
        torch.testing.assert_close(weights.double(), logits.sigmoid(), rtol=2**-16, atol=0)
    elif made.shared_experts:
        slots = torch.arange(len(gating)).unsqueeze(1) + torch.arange(made.shared_experts)
        assert torch.equal(ids, (made.experts + slots % made.shared_experts).int()) and bool((weights == 1).all())


def run_odd(op: str, made: RoutingProblem, device: str = "cpu", seed: int = 0) -> dict[str, Tensor]:
    """A call on the odd rows and two random ones; a fifth of the biases are no numbers. Returns what it left."""
    rows = odd_rows(made.experts + (made.shared_experts if made.shared_scored else 0))
    made = replace(made, num_tokens=len(rows) + 2)
    drawn = sample(op, made, seed)
    given = drawn.fresh()
    given["gating_output"][: len(rows)] = torch.tensor(rows).to(operands.DTYPES[made.dtype])
    if "correction_bias" in given:
        odd = torch.tensor([INF, -INF, NAN])
        for i in range(0, made.experts, 5):
            given["correction_bias"][i] = odd[i % 3]
    given = {name: tensor.to(device) for name, tensor in given.items()}
    drawn.bind(given)()
    return given


def framed(tensor: Tensor, left: int, right: int, device: str = "cpu", fill: float = SENTINEL) -> tuple[Tensor, Tensor]:
    """The tensor as some columns of a wider one that holds `fill` elsewhere, and that one, with two more rows."""
    rows, columns = tensor.shape
    whole = torch.full((rows + 2, left + columns + right), fill, dtype=tensor.dtype, device=device)
    whole[1 : rows + 1, left : left + columns] = tensor.to(device)
    return whole[1 : rows + 1, left : left + columns], whole


def run_framed(op: str, made: RoutingProblem, device: str = "cpu", seed: int = 1) -> None:
    """A call on rows of wider tensors: its results are those of dense ones, and nothing else is touched."""
    drawn = sample(op, made, seed)
    dense = {name: tensor.to(device) for name, tensor in drawn.fresh().items()}
    drawn.bind(dense)()
    given, wholes = drawn.fresh(device), {}
    for at, name in enumerate(name for name in given if name != "correction_bias"):
        given[name], wholes[name] = framed(given[name], at, 3 + at, device)
    drawn.bind(given)()
    for name, whole in wholes.items():
        # Rows that are not aligned are loaded by other lanes, so sums may differ in their last bits.
        torch.testing.assert_close(given[name], dense[name], rtol=1e-6, atol=0, msg=name)
        rows, columns = given[name].shape
        at = list(wholes).index(name)
        whole[1 : rows + 1, at : at + columns] = SENTINEL
        assert bool((whole == SENTINEL).all()), name
