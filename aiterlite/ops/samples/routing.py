"""Samples of routing: rows of random logits whose choices no rounding changes; results hold something before."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import operands, routing
from aiterlite.ops.samples import Exact, Sample, Tensors, Within
from aiterlite.reference import routing as reference
from aiterlite.tables.routing import NO_BIAS, TABLES, RoutingProblem

SCALE = 2.5
# Choices are made at float32, from exponentials that are good to some units in the last place.
_MARGIN = 2.0**-18
# Of a weight, relative: the exponential's argument is rounded, up to 87 log2(e) of it.
_ERROR = 2.0**-16


def operands_of(problem: RoutingProblem, seed: int) -> tuple[Tensor, Tensor | None, reference.Routed]:
    """Logits and the bias of a problem, and what is to be chosen. Rows that a rounding could decide are drawn again."""
    generator = torch.Generator().manual_seed(seed)
    columns = problem.experts + (problem.shared_experts if problem.shared_scored else 0)
    dtype = operands.DTYPES[problem.dtype]
    gating = torch.randn(problem.num_tokens, columns, generator=generator).to(dtype)
    bias = None
    if problem.bias != NO_BIAS:
        bias = (torch.randn(problem.experts, generator=generator) * 0.1).to(operands.DTYPES[problem.bias])
    while True:
        routed = _route(problem, gating, bias)
        unsure = routed.margin < _MARGIN
        # Without a bias nothing is rounded before it is compared.
        if bias is None or not bool(unsure.any()):
            return gating, bias, routed
        gating[unsure] = torch.randn(int(unsure.sum()), columns, generator=generator).to(dtype)


def _route(problem: RoutingProblem, gating: Tensor, bias: Tensor | None) -> reference.Routed:
    return reference.route(
        gating[:, : problem.experts],
        problem.topk,
        bias=bias,
        groups=problem.groups,
        topk_groups=problem.topk_groups,
        score=problem.score,
        renorm=problem.renorm,
    )


def _scaled(op: str) -> bool:
    return op in ("biased_grouped_topk", "grouped_topk", "moe_fused_gate")


def ids_of(op: str) -> str:
    """The operator's name of the ids."""
    return "topk_indices" if op in ("topk_softmax", "topk_sigmoid") else "topk_ids"


def _outputs(op: str, problem: RoutingProblem, gating: Tensor, routed: reference.Routed) -> dict[str, Tensor]:
    """Weights at float64, and integers."""
    weights = routed.weights * (SCALE if _scaled(op) else 1.0)
    ids, tokens = routed.ids.int(), problem.num_tokens
    if problem.shared_experts and problem.shared_scored:
        weights = torch.cat([weights, gating[:, problem.experts :].double().sigmoid()], 1)
    elif problem.shared_experts:
        slots = torch.arange(problem.shared_experts) + torch.arange(tokens).unsqueeze(1)
        ids = torch.cat([ids, (problem.experts + slots % problem.shared_experts).int()], 1)
        weights = torch.cat([weights, weights.new_ones(tokens, problem.shared_experts)], 1)
    found = {"topk_weights": weights, ids_of(op): ids}
    if op == "topk_softmax":
        found["token_expert_indices"] = reference.token_expert_indices(tokens, problem.topk)
    return found


def _bound(op: str, problem: RoutingProblem) -> Callable[[Tensors], functools.partial[Any]]:
    def bind(given: Tensors) -> functools.partial[Any]:
        gating, bias = given["gating_output"], given.get("correction_bias")
        weights, ids = given["topk_weights"], given[ids_of(op)]
        groups, renorm, shared = (problem.groups, problem.topk_groups), problem.renorm, problem.shared_experts
        calls: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
            "biased_grouped_topk": (
                routing.biased_grouped_topk,
                (gating, bias, weights, ids, *groups, renorm, SCALE),
            ),
            "grouped_topk": (
                routing.grouped_topk,
                (gating, weights, ids, *groups, renorm, problem.score == "softmax", SCALE),
            ),
            "moe_fused_gate": (
                _fused_gate,
                (gating, bias, weights, ids, *groups, problem.topk + shared, shared, SCALE),
            ),
            "topk_softmax": (
                routing.topk_softmax,
                (weights, ids, given.get("token_expert_indices"), gating, renorm, shared, "sigmoid" if shared else ""),
            ),
            "topk_sigmoid": (routing.topk_sigmoid, (weights, ids, gating)),
            "fused_topk": (_fused_topk, (gating, gating, problem.topk, renorm, ids, weights)),
        }
        function, args = calls[op]
        return functools.partial(function, *args)

    return bind


# Calls whose results are their arguments.
def _fused_gate(*args: Any) -> None:
    routing.moe_fused_gate(*args)


def _fused_topk(*args: Any) -> None:
    routing.fused_topk(*args)


def _baseline(op: str, problem: RoutingProblem) -> Callable[[Tensors], object]:
    """Plain torch at float32, without the rules for rows that are no numbers."""

    def call(given: Tensors) -> object:
        logits = given["gating_output"][:, : problem.experts].float()
        scores = logits.softmax(-1) if problem.score == "softmax" else logits.sigmoid()
        bias = given.get("correction_bias")
        choice = scores if bias is None else scores + bias.float()
        if problem.topk_groups < problem.groups:
            grouped = choice.view(choice.shape[0], problem.groups, -1)
            ranked = grouped.amax(-1) if bias is None else grouped.topk(2, -1).values.sum(-1)
            kept = torch.zeros_like(ranked, dtype=torch.bool)
            kept.scatter_(1, ranked.topk(problem.topk_groups, -1).indices, True)
            choice = grouped.masked_fill(~kept.unsqueeze(-1), -torch.inf).view(choice.shape)
        ids = choice.topk(problem.topk, -1).indices
        weights = scores.gather(1, ids)
        if problem.renorm:
            weights = weights / weights.sum(-1, keepdim=True)
        return (weights * SCALE if _scaled(op) else weights), ids.int()

    return call


def _sample(op: str, problem: RoutingProblem, seed: int) -> Sample:
    if problem.num_tokens < 1 or problem.groups < 1 or problem.experts % max(1, problem.groups):
        raise ArgumentError("sample", "problem", str(problem), "a row or more, of groups of equal size")
    gating, bias, routed = operands_of(problem, seed)
    wanted = _outputs(op, problem, gating, routed)
    inputs = {"gating_output": gating}
    if bias is not None:
        inputs["correction_bias"] = bias
    for name, value in wanted.items():
        dtype = torch.float32 if name == "topk_weights" else torch.int32
        inputs[name] = torch.full(value.shape, -7, dtype=dtype)
    weights = wanted.pop("topk_weights")
    return Sample(
        inputs=inputs,
        bind=_bound(op, problem),
        results=(),
        outputs={
            "topk_weights": Within(weights, weights * _ERROR + 2.0**-120),
            **{name: Exact(value) for name, value in wanted.items()},
        },
        baseline=_baseline(op, problem),
    )


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {table.op: functools.partial(_sample, table.op) for table in TABLES}
