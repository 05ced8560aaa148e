"""What calls of the fused mixture of experts ask of their operands; what these mean is in `ops/fused_moe.py`."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import arguments, operands
from aiterlite.ops.shuffle import DEPTH, ROWS
from aiterlite.tables.fused_moe_problem import BLOCK
from aiterlite.tables.quant_types import ActivationType, QuantType

DTYPES = (torch.bfloat16, torch.float16)
CODES = tuple(operands.FP8_DTYPES.values())
IDS = (torch.int32, torch.int64)
# The names of problems for upstream's kinds.
QUANTS = {QuantType.No: "none", QuantType.per_Token: "token", QuantType.per_1x128: "block"}
QUANTS[QuantType.per_128x128] = QUANTS[QuantType.per_1x128]
QUANTS[QuantType.per_1x32] = "mxfp4"
QUANTS[QuantType.per_Tensor] = "tensor"
ACTIVATIONS = {ActivationType.Silu: "silu", ActivationType.Gelu: "gelu", ActivationType.Swiglu: "swiglu"}
GATE_MODES = {"separated": False, "interleave": True, "interleaved": True}
# Upstream's swiglu where nothing else is asked for.
LIMIT, BETA, LINEAR_BETA = 7.0, 1.702, 1.0
_MOST = torch.finfo(torch.float32).max
# What has one scale.
_SHARED = {"block": f"block of {BLOCK} x {BLOCK}", "token": "row", "tensor": "expert's matrix"}
_PAD = "Pad weights with zeros, and scales with ones, before."


def number_of(op: str, argument: str, kind: Any) -> int:
    """The number of a member of an enumeration, this package's or another's. Raises `ArgumentError`."""
    if isinstance(kind, int):
        return int(kind)
    try:
        return operator.index(getattr(kind, "value", kind))
    except TypeError:
        kinds = {"activation": "ActivationType", "quant_type": "QuantType"}
        allowed = f"a member of {kinds[argument]}, or its number"
        raise ArgumentError(op, argument, repr(kind), allowed) from None


def quant_name(op: str, kind: Any) -> str:
    """The problem's name of a kind of quantisation. Raises `ArgumentError`."""
    if kind in QUANTS:
        return QUANTS[kind]
    known = QuantType(kind).name if kind in list(QuantType) else kind
    remedy = "Quantise weights by blocks of 128 x 128, by rows or by tensors, or to MXFP4."
    allowed = ", ".join(f"QuantType.{item.name} ({item.value})" for item in QUANTS)
    raise ArgumentError(op, "quant_type", known, allowed, remedy)


def activation_name(op: str, kind: Any) -> str:
    """The problem's name of an activation. Raises `ArgumentError`."""
    if kind in ACTIVATIONS:
        return ACTIVATIONS[kind]
    known = ActivationType(kind).name if kind in list(ActivationType) else kind
    allowed = ", ".join(f"ActivationType.{item.name} ({item.value})" for item in ACTIVATIONS)
    raise ArgumentError(op, "activation", known, allowed, "Apply others between two grouped products of your own.")


def activation_numbers(
    op: str, name: str, limit: float | None, beta: float | None, linear_beta: float | None
) -> tuple[str, dict[str, int | float]]:
    """The activation that is computed, and its numbers. A silu of clamped operands is a swiglu of another beta."""
    for argument, value in (("swiglu_limit", limit), ("beta", beta), ("linear_beta", linear_beta)):
        # What is more is infinite as kernels take it, and a NaN is not at most anything.
        if value is not None and not abs(value) <= _MOST:
            raise ArgumentError(op, argument, value, "a finite number of 32 bits, or None")
    if limit is not None and limit < 0:
        raise ArgumentError(op, "swiglu_limit", limit, "a number above 0, or None")
    if name != "swiglu":
        for argument, value in (("beta", beta), ("linear_beta", linear_beta)):
            if value is not None:
                raise ArgumentError(op, argument, value, "None", "It is swiglu's: pass ActivationType.Swiglu.")
        if not limit:
            return name, {"limit": math.inf, "beta": 1.0, "linear_beta": 0.0}
        if name != "silu":
            raise ArgumentError(op, "swiglu_limit", limit, "None", "Only silu and swiglu have a limit.")
        return "swiglu", {"limit": limit, "beta": 1.0, "linear_beta": 0.0}
    return name, {
        "limit": LIMIT if limit is None else limit or math.inf,
        "beta": BETA if beta is None else beta,
        "linear_beta": LINEAR_BETA if linear_beta is None else linear_beta,
    }


def is_interleaved(op: str, mode: Any) -> bool:
    """Whether rows of gate and up take turns. Raises `ArgumentError`."""
    name = getattr(mode, "value", mode)
    if name is None:
        return False
    if name not in GATE_MODES:
        raise ArgumentError(op, "gate_mode", repr(mode), "'separated', 'interleave'")
    return GATE_MODES[name]


def check_weights(op: str, x: Tensor, w1: Tensor, w2: Tensor, names: tuple[str, str, str], shuffled: bool) -> None:
    """`names` are the call's of x, w1 and w2."""
    of_x, of_w1, of_w2 = names
    operands.check_dims(op, of_x, x, 2, "[tokens, width]")
    operands.check_dims(op, of_w1, w1, 3, "[experts, 2 * inter, width]")
    operands.check_dims(op, of_w2, w2, 3, "[experts, width, inter]")
    experts, rows, width = w1.shape
    operands.check_shape(op, of_x, x, [[x.shape[0], width]], f"[tokens, {width}], as wide as {of_w1}")
    if rows % 2 or not experts * rows * width:
        remedy = "A layer without gate has no kernel here."
        raise ArgumentError(op, of_w1, f"of shape {list(w1.shape)}", "[experts, 2 * inter, width], none 0", remedy)
    if list(w2.shape) != [experts, width, rows // 2]:
        remedy = "A layer without gate has no kernel here." if list(w2.shape) == [experts, width, rows] else ""
        allowed = f"{[experts, width, rows // 2]}, of {of_w1}'s experts, width and half its rows"
        raise ArgumentError(op, of_w2, f"of shape {list(w2.shape)}", allowed, remedy)
    operands.check_like(op, of_w2, w2, w1, of_w1)
    operands.check_device(op, of_w1, w1, x, of_x)
    arguments.check_contiguous(op, **{of_w1: w1, of_w2: w2})
    if shuffled and (width % DEPTH or rows // 2 % DEPTH):
        allowed = f"a width and inter of multiples of {DEPTH}, where weights are shuffled"
        raise ArgumentError(op, of_w1, f"of shape {list(w1.shape)}", allowed, _PAD)
    assert ROWS <= DEPTH


def check_scales(op: str, quant: str, w1: Tensor, w2: Tensor, names: tuple[str, str], **scales: Tensor | None) -> None:
    """The scales of w1 and w2, in this order, by the call's names; `names` are those of w1 and w2."""
    given = dict(zip(names, scales.items(), strict=True))
    for of, weight in zip(names, (w1, w2), strict=True):
        name, scale = given[of]
        if quant == "none":
            if scale is not None:
                raise ArgumentError(op, name, "a tensor", f"None beside {of} of {weight.dtype}", "Pass a quant_type.")
            continue
        experts, rows, columns = weight.shape
        if quant == "block" and (rows % BLOCK or columns % BLOCK):
            allowed = f"rows and columns of multiples of {BLOCK}, the blocks of its scales"
            raise ArgumentError(op, of, f"of shape {list(weight.shape)}", allowed, _PAD)
        shape = {"block": [experts, rows // BLOCK, columns // BLOCK], "token": [experts, rows]}.get(quant, [experts])
        if scale is None:
            raise ArgumentError(op, name, "None", f"float32 {shape}, a number for each {_SHARED[quant]} of {of}")
        arguments.check_tensors(op, **{name: scale})
        operands.check_dtype(op, name, scale, (torch.float32,), "the dtype of scales")
        operands.check_device(op, name, scale, weight, of)
        # Dimensions of 1 say nothing. As many numbers in another shape are in another order.
        fitting, words = [shape, [experts, math.prod(shape[1:])], [math.prod(shape)]], "or flattened"
        if quant == "tensor":
            words = f"or {[experts, 1]}"
        if quant == "tensor" and weight is w1:
            fitting, words = [shape, [experts, 2]], f"or {[experts, 2]}, gate's and up's"
        if _sizes(scale.shape) not in map(_sizes, fitting):
            raise ArgumentError(op, name, f"of shape {list(scale.shape)}", f"{shape}, {words}")
        arguments.check_contiguous(op, **{name: scale})


def check_input(op: str, quant: str, x: Tensor, scale: Tensor | None, w1: Tensor, dtype: torch.dtype) -> None:
    """Hidden states: of the result's type, or codes of the weights' with scales, for each 128 of a token where weights
    have them by blocks, and else a scale a token, or one."""
    if x.itemsize != 1:
        operands.check_dtype(op, "hidden_states", x, (dtype,), "the dtype of the result")
        if scale is not None:
            allowed = f"None beside hidden_states of {x.dtype}"
            raise ArgumentError(op, "a1_scale", "a tensor", allowed, "They are quantised in the call.")
        return
    if quant == "none":
        raise ArgumentError(op, "hidden_states", f"of dtype {x.dtype}", f"{dtype}, the dtype of the result")
    operands.check_dtype(op, "hidden_states", x, (w1.dtype,), "codes of the weights' type")
    tokens, width = x.shape
    shapes = [[tokens, width // BLOCK]] if quant == "block" else [[tokens, 1], [tokens]]
    if scale is None:
        raise ArgumentError(op, "a1_scale", "None", f"float32 {shapes[0]}, the scales of hidden_states")
    words = "" if quant == "block" else f"{[tokens, 1]} or {[tokens]}, a scale a token, or one number"
    if quant == "block" or scale.numel() != 1:
        operands.check_shape(op, "a1_scale", scale, shapes, words)
    operands.check_dtype(op, "a1_scale", scale, (torch.float32,), "the dtype of scales")
    operands.check_device(op, "a1_scale", scale, x, "hidden_states")


def input_strides(quant: str, scale: Tensor | None) -> dict[str, int]:
    """How far scales of hidden states lie apart, from token to token, and from one group of 128 to the next."""
    group = scale is not None and quant in ("block", "mxfp4")
    token = scale is not None and (group or scale.numel() > 1)
    return {
        "stride_scale_token": scale.stride(0) if scale is not None and token else 0,
        "stride_scale_group": scale.stride(1) if scale is not None and group else 0,
    }


def check_static(op: str, quant: str, x: Tensor, **scales: Tensor | None) -> None:
    """A checkpoint's scales for x or h as a whole, which are not read (docs/fused-moe.md)."""
    for name, scale in scales.items():
        if scale is None:
            continue
        if quant != "tensor":
            remedy = "Leave it out: what is multiplied as 8-bit numbers is quantised in the call, by its own scales."
            raise ArgumentError(op, name, "a tensor", "None, unless quant_type is per_Tensor", remedy)
        arguments.check_tensors(op, **{name: scale})
        operands.check_dtype(op, name, scale, (torch.float32,), "the dtype of scales")
        operands.check_device(op, name, scale, x, "hidden_states")
        if scale.numel() != 1:
            remedy = "Take the largest of those of all experts."
            raise ArgumentError(op, name, f"of shape {list(scale.shape)}", "one number", remedy)


def _sizes(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def check_codes(op: str, quant: str, w1: Tensor, dtype: torch.dtype, name: str = "w1") -> None:
    """The dtype of weights."""
    allowed, why = ((dtype,), "the dtype of the result") if quant == "none" else (CODES, "codes of scales")
    operands.check_dtype(op, name, w1, allowed, why)


def check_biases(op: str, w1: Tensor, w2: Tensor, **biases: Tensor | None) -> None:
    """Those of w1 and w2, in this order, by the call's names."""
    for weight, of, (name, bias) in zip((w1, w2), ("w1", "w2"), biases.items(), strict=True):
        if bias is None:
            continue
        operands.check_shape(op, name, bias, [list(weight.shape[:2])], f"{list(weight.shape[:2])}, one a row of {of}")
        if bias.dtype != torch.float32:
            remedy = "Call .float() on it once, where weights are loaded."
            raise ArgumentError(op, name, f"of dtype {bias.dtype}", "torch.float32", remedy)
        operands.check_device(op, name, bias, weight, of)
        arguments.check_contiguous(op, **{name: bias})


def check_routing(op: str, x: Tensor, ids: Tensor, weights: Tensor) -> None:
    operands.check_dims(op, "topk_ids", ids, 2, "[tokens, topk]")
    operands.check_dtype(op, "topk_ids", ids, IDS)
    operands.check_shape(op, "topk_ids", ids, [[x.shape[0], ids.shape[1]]], f"[{x.shape[0]}, topk], a row a token")
    operands.check_shape(op, "topk_weight", weights, [ids.shape])
    operands.check_dtype(op, "topk_weight", weights, (torch.float32,))
    for name, tensor in (("topk_ids", ids), ("topk_weight", weights)):
        operands.check_device(op, name, tensor, x, "hidden_states")
        operands.check_dense(op, **{name: tensor})


def check_counted(op: str, x: Tensor, experts: int, mask: Tensor | None, live: Tensor | None) -> None:
    """The mask of experts and the number of tokens."""
    for name, tensor, least, remedy in (
        ("expert_mask", mask, experts, "It has one entry an expert of all ranks, 1 for those of w1."),
        ("num_local_tokens", live, 1, "Leave it out where all tokens count."),
    ):
        if tensor is None:
            continue
        operands.check_dtype(op, name, tensor, (torch.int32,))
        operands.check_device(op, name, tensor, x, "hidden_states")
        arguments.check_contiguous(op, **{name: tensor})
        if tensor.numel() < least:
            raise ArgumentError(op, name, f"of {tensor.numel()} entries", f"at least {least}", remedy)


def is_aligned(x: Tensor, out: Tensor, *weights: Tensor) -> bool:
    """Whether all rows begin at multiples of 16 bytes."""
    rows = all(operands.is_aligned(tensor, 16 // tensor.itemsize) for tensor in (x, out))
    return rows and all(w.data_ptr() % 16 == 0 and w.shape[-1] * w.itemsize % 16 == 0 for w in weights)
