"""Calls of the fused mixture of experts: operands in the middle of poison, results against the float64 layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiterlite import moe
from aiterlite.ops import fmoe, fused_moe
from aiterlite.ops.samples import fused_moe as samples
from aiterlite.ops.samples.fused_moe import Operands
from aiterlite.reference import fused_moe as reference
from aiterlite.tables.fused_moe_problem import MoeProblem
from aiterlite.tables.quant_types import ActivationType, QuantType

ACTIVATIONS = {"silu": ActivationType.Silu, "gelu": ActivationType.Gelu, "swiglu": ActivationType.Swiglu}
QUANTS = {"none": QuantType.No, "token": QuantType.per_Token, "block": QuantType.per_128x128}
QUANTS["tensor"] = QuantType.per_Tensor
# Ways in which a call's operands may lie and be used.
HOWS: list[dict[str, Any]] = [
    {},
    {"shuffled": True, "activation": "gelu"},
    {"interleaved": True, "activation": "swiglu"},
    {"shuffled": True, "interleaved": True, "weighted_input": True},
    {"masked": True, "global_experts": 21, "weighted_input": True},
]
RING = 64
# Relative, by Frobenius norms. Where a kernel keeps x and h: a rounding of the result, and of h and each slot to the
# result's type. Where it rounds both to 8 bits: two codes' errors, of 0.024 each, and what a silu makes of them.
KEPT = {torch.bfloat16: 4e-3, torch.float16: 5e-4}
ROUNDED = 5e-2
# A reference that rounds what a kernel rounds leaves that of the result, and codes that float32 sums turn over.
LIKE_ROUNDED = 5e-3
# sm_90's matrix unit keeps about 13 bits of the sum of products of 8-bit numbers, so that h rounds to another code here
# and there: the error that the layer may have, and that an element's sum may.
LIKE, MATRIX = 2e-2, 2.0**-10
# Rounding x and h costs 4.3e-2 of a large layer. Of a few tokens of few experts it is a mean over less.
SMALL, R1 = 7e-2, 5e-2


def problem_of(**fields: Any) -> MoeProblem:
    """A small problem; weights without scales have no code."""
    given = {"tokens": 5, "experts": 8, "topk": 3, "width": 256, "inter": 128, **fields}
    if given.get("quant") == "none":
        given["code"] = ""
    return MoeProblem(**{"global_experts": given["experts"], **given})


def ringed(tensor: Tensor, spare: int = 0) -> Tensor:
    """The same, rows `spare` elements further apart, in the middle of NaN, or of ids and masks that count."""
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() else tensor.reshape(1, 1)
    step = rows.shape[1] + spare
    fill: Any = float("nan") if tensor.is_floating_point() else 1
    whole = torch.full((2 * RING + len(rows) * step,), fill, dtype=torch.float32, device=tensor.device).to(tensor.dtype)
    inner = whole.as_strided((len(rows), rows.shape[1]), (step, 1), RING)
    inner.copy_(rows)
    if spare:
        assert tensor.dim() == 2
        return inner
    return inner.view(tensor.shape)


@dataclass
class Case:
    """A problem, its operands, and how they lie. `live` is what num_local_tokens says; None: nothing."""

    problem: MoeProblem
    made: Operands
    live: int | None = None
    wide: bool = False
    spare: int = 0

    def layer(self, rounded: torch.dtype | None = None, which: str = "xh") -> reference.Layer:
        made, problem = self.made, self.problem
        return reference.fused_moe(
            made.x, made.weights, made.ids, made.routing, samples.activation_of(problem), made.x_scale, made.mask,
            self.live, problem.weighted_input, rounded, which, problem.by_slots,
        )  # fmt: skip

    @property
    def dtype(self) -> torch.dtype:
        return samples.dtype_of(self.problem.dtype)


def result_shape(problem: MoeProblem) -> tuple[int, ...]:
    return (problem.tokens, *((problem.topk,) if problem.by_slots else ()), problem.width)


def case_of(
    problem: MoeProblem, seed: int = 0, ids: Tensor | None = None, device: torch.device | str = "cpu", **how: Any
) -> Case:
    return Case(problem, samples.make(problem, seed, ids, device), **how)


def run(case: Case) -> Tensor:
    """One call into a poisoned result; nothing around it, and no row's end, may change."""
    problem, made = case.problem, case.made
    ids = made.ids.long() if case.wide else made.ids
    live = None if case.live is None else torch.tensor([case.live], dtype=torch.int32, device=made.x.device)
    spare = case.spare
    # Rows begin at multiples of 16 bytes, those of x as codes too. Those of slots lie one behind the other.
    apart, between = 0 if problem.by_slots else 8 * spare, 16 // made.x.itemsize * spare
    given = [
        ringed(made.x, between), ringed(made.w1), ringed(made.w2), ringed(made.routing, spare), ringed(ids, spare),
        ringed(torch.full(result_shape(problem), float("nan"), dtype=case.dtype, device=made.x.device), apart),
        *[t if t is None else ringed(t) for t in (made.mask, live, made.weights.w1_scale, made.weights.w2_scale)],
        made.x_scale if made.x_scale is None else ringed(made.x_scale, spare if made.x_scale.dim() == 2 else 0),
    ]  # fmt: skip
    out = given[5]
    assert out is not None
    whole = torch.empty(0, dtype=out.dtype, device=out.device).set_(out.untyped_storage())
    before = whole.clone()
    fused_moe.OPERATOR(
        *given, ACTIVATIONS[problem.activation], QUANTS[problem.quant], problem.weighted_input,
        "interleave" if problem.interleaved else "separated", problem.shuffled, None, None, None, problem.deterministic,
        "", problem.by_slots, *[t if t is None else ringed(t) for t in (made.weights.bias1, made.weights.bias2)],
    )  # fmt: skip
    got = out.clone()
    out.fill_(float("nan"))
    assert torch.equal(whole.view(torch.int16), before.view(torch.int16)), "a write outside the result"
    return got


def check(
    case: Case,
    got: Tensor,
    rounds: bool = False,
    like: float = LIKE_ROUNDED,
    matrix: float = 0.0,
    apart: float = ROUNDED,
) -> None:
    """`rounds`: the kernel may round x, h or both to 8 bits; its error is then at most `like`, relative to one of the
    references that do, and `apart` to the exact layer. `matrix`: what a sum of products may be off by, relative to its
    terms."""
    layer = case.layer()
    assert got.dtype == case.dtype and got.shape == result_shape(case.problem)
    bound = reference.error_bound(layer, case.dtype, rounds) + matrix * layer.terms
    assert bool(((got.double() - layer.out).abs() <= bound).all()), "beyond the bound of an element"
    if layer.out.norm() > 0:
        most = apart if rounds else KEPT[case.dtype]
        assert reference.relative_error(got, layer.out) <= most
    if rounds and layer.out.norm() > 0:
        code = samples.dtype_of(case.problem.code)
        alike = [layer, *[case.layer(code, which) for which in ("xh", "h", "x")]]
        assert min(reference.relative_error(got, other.out) for other in alike) <= like
    local = reference.local_ids(case.made.ids, case.problem.experts, case.made.mask, case.live)
    assert not got[(local if case.problem.by_slots else local.amax(1)) < 0].any()


def check_on_hopper(case: Case, got: Tensor, rounds: bool) -> None:
    check(case, got, rounds, LIKE, MATRIX, R1 if case.problem.width == 7168 else SMALL)


# Routing --------------------------------------------------------------------------------------------------------------


def skewed_ids(kind: str, problem: MoeProblem, seed: int = 0) -> Tensor:
    """Ids of a kind: what is far from random."""
    tokens, topk, experts = problem.tokens, problem.topk, problem.experts
    generator = torch.Generator().manual_seed(seed)
    shape = (tokens, topk)
    if kind == "one expert":
        return torch.full(shape, experts - 1, dtype=torch.int32)
    if kind == "one token an expert":
        return (torch.arange(tokens * topk, dtype=torch.int32) % experts).view(shape)
    if kind == "few experts":
        return 3 * torch.randint(0, max(1, experts // 3), shape, generator=generator).int()
    if kind == "none":
        return torch.full(shape, -1, dtype=torch.int32)
    if kind == "twice":
        ids = torch.randint(0, experts, (tokens, 1), generator=generator).int().expand(shape).clone()
        ids[:, -1] = (ids[:, -1] + 1) % experts
        return ids
    assert kind == "strange"
    ids = torch.randint(0, experts, shape, generator=generator).int()
    strange = torch.tensor([-1, experts, -(2**31), 2**31 - 1, experts + 7], dtype=torch.int32)
    where = torch.rand(shape, generator=generator) < 0.4
    return torch.where(where, strange[torch.randint(0, 5, shape, generator=generator)], ids)


KINDS = ("one expert", "one token an expert", "few experts", "none", "twice", "strange")


# Sorted ---------------------------------------------------------------------------------------------------------------


def run_sorted(case: Case, block_size: int, before: Tensor) -> Tensor:
    """`before` with a call of fmoe_fp8_blockscale_g1u1 added to it."""
    problem, made = case.problem, case.made
    assert problem.shuffled and problem.quantised and made.x_scale is not None
    buffers = samples.sorted_operands(made, block_size)
    scale = ringed(made.x_scale.T.contiguous())
    given = [
        ringed(before), ringed(made.x), ringed(made.w1), ringed(made.w2), *map(ringed, buffers.values()),
        scale, *[ringed(t) for t in (made.weights.w1_scale, made.weights.w2_scale) if t is not None],
    ]  # fmt: skip
    out = given[0]
    whole = torch.empty(0, dtype=out.dtype, device=out.device).set_(out.untyped_storage())
    fmoe.OPERATOR(
        *given[:8], problem.topk, *given[8:], ACTIVATIONS[problem.activation], block_size, problem.deterministic
    )
    got = out.clone()
    out.fill_(float("nan"))
    assert bool(whole.isnan().all()), "a write outside the result"
    return got


def call(case: Case, **changes: Any) -> Tensor:
    """The public function."""
    made, problem = case.made, case.problem
    given: dict[str, Any] = {
        "hidden_states": made.x,
        "w1": made.w1,
        "w2": made.w2,
        "topk_weight": made.routing,
        "topk_ids": made.ids,
        "expert_mask": made.mask,
        "activation": ACTIVATIONS[problem.activation],
        "quant_type": QUANTS[problem.quant],
        "doweight_stage1": problem.weighted_input,
        "w1_scale": made.weights.w1_scale,
        "w2_scale": made.weights.w2_scale,
        "a1_scale": made.x_scale,
        "gate_mode": "interleave" if problem.interleaved else "separated",
        "dtype": case.dtype if problem.quantised else None,
    }
    return moe.fused_moe(**{**given, **changes})
