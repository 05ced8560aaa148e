"""Samples of the fused mixture of experts: normal random numbers, distinct experts a token, a few ids of none."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import fmoe, fused_moe, operands
from aiterlite.ops import fused_moe_operands as checks
from aiterlite.ops.samples import Sample, Tensors, Within
from aiterlite.ops.shuffle import shuffle_scale, shuffle_weight
from aiterlite.reference import fused_moe as reference
from aiterlite.reference import moe_sorting as sorting
from aiterlite.reference import mxfp4, mxfp8, quant
from aiterlite.reference.fused_moe import Activation, Weights
from aiterlite.tables.fused_moe_problem import (
    A4W4,
    A8W4,
    BLOCK,
    FMOE_OP,
    MX_CODE,
    NATIVE,
    OP,
    PRECISIONS,
    FmoeProblem,
    MoeProblem,
    on,
)
from aiterlite.tables.moe_sorting import capacity
from aiterlite.target import persona_for

# Every so many pairs one has no expert.
_NONE_EACH = 29
# What codes of weights are spread by: most of the range of both flavours is used.
_SPREAD = 48.0
# Those of weights that are not of 8 bits.
_CODES = {"none": ("",), "mxfp4": (MX_CODE,)}
# Hidden states as codes and scales, by the scales that weights have.
_QUANTISED: dict[str, Callable[[Tensor, torch.dtype], tuple[Tensor, Tensor]]] = {
    "block": lambda x, dtype: quant.per_group(x, dtype, BLOCK),
    "token": quant.per_token,
    "tensor": quant.per_tensor,
}
# Codes that are looked up together, by four bytes each.
_AT_ONCE = 1 << 24


def dtype_of(name: str) -> torch.dtype:
    """Native codes are made as e4m3fn, of numbers that both flavours have, so that what is expected does not depend on
    the target; `_native` makes the target's of them."""
    return {**operands.DTYPES, **operands.FP8_DTYPES, NATIVE: torch.float8_e4m3fn}[name]


def _native(problem: Any, tensor: Tensor) -> Tensor:
    """An operand as its device's kernels take it."""
    if problem.code != NATIVE or tensor.itemsize != 1:
        return tensor
    persona = persona_for(tensor.device.type, tensor.device.index)
    return tensor.to(dtype_of(on(problem, persona).code))


def codes(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Normal random numbers as codes, by a table of 256 quantiles: many are made soon."""
    quantiles = torch.special.ndtri((torch.arange(256) + 0.5) / 256) * _SPREAD
    table = quantiles.to(dtype).view(torch.uint8).to(generator.device)
    drawn = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device=generator.device)
    made = torch.empty_like(drawn)
    for begin in range(0, drawn.numel(), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        torch.index_select(table, 0, drawn.view(-1)[part].int(), out=made.view(-1)[part])
    return made.view(dtype)


@dataclass
class Operands:
    """Those of a call: hidden states, weights as the reference takes them and as kernels do, and routing."""

    x: Tensor
    x_scale: Tensor | None
    weights: Weights
    w1: Tensor
    w2: Tensor
    ids: Tensor
    routing: Tensor
    mask: Tensor | None
    w1_scale: Tensor | None = None
    w2_scale: Tensor | None = None


def make(problem: MoeProblem, seed: int, ids: Tensor | None = None, device: torch.device | str = "cpu") -> Operands:
    """Operands of a problem on a device, of `ids` where they are given. Raises `ArgumentError`."""
    for name, value, allowed in (
        ("dtype", problem.dtype, ("bf16", "fp16")),
        ("quant", problem.quant, tuple(checks.QUANTS.values())),
        ("activation", problem.activation, tuple(checks.ACTIVATIONS.values())),
        ("code", problem.code, _CODES.get(problem.quant, (NATIVE, *operands.FP8_DTYPES))),
        ("precision", problem.precision, PRECISIONS if problem.is_mx else ("",)),
    ):
        operands.check_choice("sample", name, value, allowed)
    if problem.topk > problem.experts:
        raise ArgumentError("sample", "topk", problem.topk, f"at most experts, {problem.experts}")
    generator = torch.Generator(device).manual_seed(seed)
    normal = functools.partial(torch.randn, generator=generator, device=device)
    uniform = functools.partial(torch.rand, generator=generator, device=device)
    experts, width, inter = problem.experts, problem.width, problem.inter
    named = problem.global_experts if problem.masked else experts
    if named < experts:
        raise ArgumentError("sample", "global_experts", named, f"at least experts, {experts}")
    dtype = dtype_of(problem.dtype)
    x: Tensor = normal(problem.tokens, width).to(dtype)
    x_scale = None
    if problem.quantised and problem.is_mx:
        x, x_scale = (mxfp8 if problem.precision == A8W4 else mxfp4).quantise(x)
    elif problem.quantised:
        # Codes of fnuz end at 240, and those below of e4m3fn are also its own, but for the least.
        least = "e4m3fnuz" if problem.code == NATIVE else problem.code
        x, x_scale = _QUANTISED[problem.quant](x, dtype_of(least))
        x = x.to(dtype_of(problem.code))
    shapes = (experts, 2 * inter, width), (experts, width, inter)
    if problem.quant == "none":
        w1, w2 = ((normal(s) * s[2] ** -0.5).to(dtype) for s in shapes)
        weights = Weights(w1, w2, None, None, problem.interleaved)
    elif problem.is_mx:
        (w1, first), (w2, second) = (mxfp4.quantise((normal(s) * s[2] ** -0.5).to(dtype)) for s in shapes)
        weights = Weights(w1, w2, first, second, problem.interleaved)
    else:
        w1, w2 = (codes(shape, dtype_of(problem.code), generator) for shape in shapes)
        # Of tensors, odd seeds have a scale for gate and one for up.
        first = _scales(problem.quant, shapes[0], generator, 1 + seed % 2)
        second = _scales(problem.quant, shapes[1], generator)
        weights = Weights(w1, w2, first, second, problem.interleaved)
    weights = replace(
        weights,
        bias1=normal(experts, 2 * inter) if problem.bias1 else None,
        bias2=normal(experts, width) if problem.bias2 else None,
    )
    if problem.shuffled:
        w1, w2 = shuffle_weight(w1), shuffle_weight(w2)
    w1_scale, w2_scale = weights.w1_scale, weights.w2_scale
    if problem.is_mx and problem.shuffled:
        w1_scale, w2_scale = (shuffle_scale(s.flatten(0, 1)) for s in (w1_scale, w2_scale) if s is not None)
    if ids is None:
        ids = uniform(problem.tokens, named).topk(problem.topk, dim=1).indices.int()
        ids.view(-1)[_NONE_EACH - 1 :: _NONE_EACH] = -1
    routing = uniform(problem.tokens, problem.topk)
    mask = None
    if problem.masked:
        mask = torch.zeros(named, dtype=torch.int32, device=device)
        mask[torch.randperm(named, generator=generator, device=device)[:experts]] = 1
    return Operands(x, x_scale, weights, w1, w2, ids.to(device), routing, mask, w1_scale, w2_scale)


def _scales(kind: str, shape: tuple[int, int, int], generator: torch.Generator, halves: int = 1) -> Tensor:
    """Those that make weights of variance 1 / columns."""
    experts, rows, columns = shape
    of_tensor = (experts, halves) if halves > 1 else (experts,)
    of = {"block": (experts, rows // BLOCK, columns // BLOCK), "tensor": of_tensor}.get(kind, (experts, rows))
    made: Tensor = (0.5 + torch.rand(of, generator=generator, device=generator.device)) * (columns**-0.5 / _SPREAD)
    return made


def layer_of(problem: MoeProblem, made: Operands, rounded: torch.dtype | str | None = None) -> reference.Layer:
    return reference.fused_moe(
        made.x, made.weights, made.ids, made.routing, activation_of(problem), made.x_scale, made.mask,
        weighted_input=problem.weighted_input, rounded=rounded, by_slots=problem.by_slots,
    )  # fmt: skip


def rounding_of(problem: MoeProblem) -> str | None:
    """What the reference rounds x and h to, beside weights of MXFP4."""
    return {A4W4: reference.MXFP4, A8W4: reference.MXFP8}.get(problem.precision)


def activation_of(problem: Any) -> Activation:
    return Activation(problem.activation, checks.LIMIT, checks.BETA, checks.LINEAR_BETA)


def _fused_moe(problem: MoeProblem, seed: int) -> Sample:
    made = make(problem, seed)
    layer = layer_of(problem, made, rounding_of(problem))
    dtype = dtype_of(problem.dtype)
    optional = {
        "expert_mask": made.mask,
        "w1_scale": made.w1_scale,
        "w2_scale": made.w2_scale,
        "a1_scale": made.x_scale,
        "bias1": made.weights.bias1,
        "bias2": made.weights.bias2,
    }
    inputs = {"hidden_states": made.x, "w1": made.w1, "w2": made.w2, "topk_weight": made.routing, "topk_ids": made.ids}
    inputs["out"] = torch.zeros(layer.out.shape, dtype=dtype)
    inputs |= {name: tensor for name, tensor in optional.items() if tensor is not None}
    kinds = (_key(checks.ACTIVATIONS, problem.activation), _key(checks.QUANTS, problem.quant))
    mode = "interleave" if problem.interleaved else "separated"

    def bind(given: Tensors) -> functools.partial[Any]:
        tensors = [_native(problem, given[name]) for name in list(inputs)[:6]]
        mask, w1_scale, w2_scale, a1_scale, *biases = (given.get(name) for name in optional)
        precision = problem.precision or A4W4
        options = (problem.weighted_input, mode, problem.shuffled, None, None, None, problem.deterministic, precision)
        kept = (w1_scale, w2_scale, a1_scale, *kinds, *options, problem.by_slots, *biases)
        return functools.partial(fused_moe.OPERATOR, *tensors, mask, None, *kept)

    bound = reference.error_bound(layer, dtype, problem.quant in ("token", "block", "tensor"))
    return Sample(inputs=inputs, bind=bind, results=(), outputs={"out": Within(layer.out, bound)})


def _key(kinds: dict[Any, str], name: str) -> int:
    return next(int(kind) for kind, value in kinds.items() if value == name)


def as_moe(problem: FmoeProblem) -> MoeProblem:
    """The layer of tokens that are not sorted yet."""
    return MoeProblem(
        tokens=problem.tokens, experts=problem.experts, topk=problem.topk, width=problem.width, inter=problem.inter,
        dtype=problem.dtype, code=problem.code, activation=problem.activation, shuffled=True, quantised=True,
    )  # fmt: skip


def sorted_operands(made: Operands, block_size: int) -> dict[str, Tensor]:
    """What `moe_sorting` makes of a call's routing, in buffers as large as upstream's."""
    (tokens, topk), experts = made.ids.shape, len(made.w1)
    entries = capacity(tokens, topk, experts, block_size)
    rows = sorting.moe_sorting(made.ids.tolist(), made.routing.tolist(), experts, block_size)
    ints = functools.partial(torch.zeros, dtype=torch.int32, device=made.ids.device)
    buffers = {
        "sorted_token_ids": ints(entries),
        "sorted_weights": torch.zeros(entries, device=made.ids.device),
        "sorted_expert_ids": ints(-(-entries // block_size)),
        "num_valid_ids": ints(2),
    }
    prefixes: tuple[list[Any], ...] = (rows.sorted_ids, rows.sorted_weights, rows.sorted_expert_ids)
    for buffer, values in zip(buffers.values(), (*prefixes, list(rows.num_valid_ids)), strict=True):
        buffer[: len(values)] = torch.tensor(values, dtype=buffer.dtype)
    return buffers


def _fmoe(problem: FmoeProblem, seed: int) -> Sample:
    moe = as_moe(problem)
    made = make(moe, seed)
    layer = layer_of(moe, made)
    dtype = dtype_of(problem.dtype)
    assert made.x_scale is not None and made.weights.w1_scale is not None and made.weights.w2_scale is not None
    inputs = {"out": torch.zeros(made.x.shape, dtype=dtype), "input": made.x, "gate": made.w1, "down": made.w2}
    inputs |= sorted_operands(made, problem.block_size)
    inputs |= {"input_scale": made.x_scale.T.contiguous()}
    inputs |= {"fc1_scale": made.weights.w1_scale, "fc2_scale": made.weights.w2_scale}
    activation = _key(checks.ACTIVATIONS, problem.activation)

    def bind(given: Tensors) -> functools.partial[Any]:
        tensors = [_native(problem, tensor) for tensor in given.values()]
        return functools.partial(
            fmoe.OPERATOR,
            *tensors[:8],
            problem.topk,
            *tensors[8:],
            activation,
            problem.block_size,
            problem.deterministic,
        )

    bound = reference.error_bound(layer, dtype)
    return Sample(inputs=inputs, bind=bind, results=(), outputs={"out": Within(layer.out, bound)})


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {OP: _fused_moe, FMOE_OP: _fmoe}
