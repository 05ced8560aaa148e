"""Calls of the fused mixture of experts with weights of MXFP4: operands between poison, and the float64 layer whose x
and h are rounded as the call's are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from fused_moe_cases import result_shape
from torch import Tensor

from aiterlite.ops import fused_moe as ops
from aiterlite.ops.samples import fused_moe as samples
from aiterlite.reference import fused_moe as reference
from aiterlite.tables.fused_moe_problem import MoeProblem
from aiterlite.tables.quant_types import ActivationType, QuantType

ACTIVATIONS = {"silu": ActivationType.Silu, "gelu": ActivationType.Gelu, "swiglu": ActivationType.Swiglu}
# Relative, by Frobenius norms. Of one rounding more than the reference's, and of codes that float32 sums turn over.
STAGE, WHOLE = 5e-3, 5e-2
_RING = 512


def problem_of(**fields: Any) -> MoeProblem:
    given = {"tokens": 5, "experts": 6, "topk": 3, "width": 256, "inter": 128, "precision": "a4w4", **fields}
    return MoeProblem(**{"global_experts": given["experts"], **given, "quant": "mxfp4", "code": "e2m1"})


@dataclass
class Case:
    """`live` is what num_local_tokens says."""

    problem: MoeProblem
    made: samples.Operands
    live: int | None = None

    @property
    def layer(self) -> reference.Layer:
        made, problem = self.made, self.problem
        rounded = samples.rounding_of(problem)
        return reference.fused_moe(
            made.x, made.weights, made.ids, made.routing, samples.activation_of(problem), made.x_scale, made.mask,
            self.live, problem.weighted_input, rounded, by_slots=problem.by_slots,
        )  # fmt: skip

    @property
    def dtype(self) -> torch.dtype:
        return samples.dtype_of(self.problem.dtype)


def case_of(problem: MoeProblem, seed: int = 0, ids: Tensor | None = None, live: int | None = None) -> Case:
    return Case(problem, samples.make(problem, seed, ids), live)


def _ringed(t: Tensor, spare: int = 0) -> Tensor:
    """The same between poison, rows `spare` elements further apart."""
    fill: Any = math.nan if t.is_floating_point() else -1 if t.itemsize > 1 else 0xFF
    rows = t.reshape(-1, t.shape[-1])
    step = rows.shape[1] + spare
    whole = torch.full((2 * _RING + len(rows) * step,), fill, dtype=t.dtype, device=t.device)
    inner = whole.as_strided((len(rows), rows.shape[1]), (step, 1), _RING)
    inner.copy_(rows)
    return inner if spare else inner.view(t.shape)


def run(case: Case, spare: int = 0, device: str = "cpu") -> Tensor:
    """One call into a poisoned result, around which nothing may change."""
    problem, made = case.problem, case.made
    live = None if case.live is None else torch.tensor([case.live], dtype=torch.int32)
    out = torch.full(result_shape(problem), math.nan, dtype=case.dtype)
    given = [
        _ringed(made.x, 16 * spare), _ringed(made.w1), _ringed(made.w2), _ringed(made.routing, spare),
        _ringed(made.ids, spare), _ringed(out, 0 if problem.by_slots else 8 * spare), made.mask, live,
        *[t if t is None else _ringed(t) for t in (made.w1_scale, made.w2_scale, made.x_scale)],
    ]  # fmt: skip
    given += [t if t is None else _ringed(t) for t in (made.weights.bias1, made.weights.bias2)]
    given = [t if t is None or device == "cpu" else t.to(device) for t in given]
    ops.OPERATOR(
        *given[:-2], ACTIVATIONS[problem.activation], QuantType.per_1x32, problem.weighted_input,
        "interleave" if problem.interleaved else "separated", problem.shuffled, None, None, None,
        problem.deterministic, problem.precision, problem.by_slots, *given[-2:],
    )  # fmt: skip
    written = given[5]
    assert written is not None
    got = written.cpu().clone()
    if device == "cpu":
        whole = torch.empty(0, dtype=written.dtype).set_(written.untyped_storage())
        written.fill_(math.nan)
        assert bool(whole.isnan().all()), "a write outside the result"
    return got


def check(case: Case, got: Tensor, most: float = STAGE) -> None:
    layer = case.layer
    assert got.dtype == case.dtype and got.shape == layer.out.shape
    local = reference.local_ids(case.made.ids, case.problem.experts, case.made.mask, case.live)
    assert not got[(local if case.problem.by_slots else local.amax(1)) < 0].any()
    if layer.out.norm() > 0:
        error = reference.relative_error(got, layer.out)
        assert error <= most, f"the error is {error:.2e}"


def first_stage(problem: MoeProblem, seed: int = 0) -> tuple[Case, Tensor]:
    """A layer whose result is h, w2 being ones at [i, i]: topk 1, weights of 1; and h in float64."""
    case = case_of(problem, seed)
    made = case.made
    assert problem.topk == 1 and not problem.shuffled and problem.width >= problem.inter
    made.routing.fill_(1.0)
    made.w2.zero_()
    for i in range(problem.inter):
        made.w2[:, i, i // 2] = 2 << (i % 2 * 4)
    assert made.w2_scale is not None
    made.w2_scale.fill_(127)
    return case, case.layer.out[:, : problem.inter]
