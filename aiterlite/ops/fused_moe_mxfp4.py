"""What calls of the fused mixture of experts ask of weights of MXFP4, their scales, and hidden states beside them.

Scales are one matrix of all experts, [experts * rows, columns / 32]: as it is, or, beside weights that are shuffled, as
`shuffle_scale` puts it, in any shape of as many bytes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import arguments, operands
from aiterlite.ops.shuffle import is_shuffled, padded_scale_shape
from aiterlite.tables.fused_moe_problem import A4W4, A8W4, A16W4
from aiterlite.tables.mx_types import BLOCK as MX_BLOCK

PACKED, SCALES = operands.MX_CODES, operands.MX_SCALES
# Codes of a byte.
PACK = 2
# By what AITERLITE_MXFP4_ACTIVATIONS says; auto goes by the call.
_PRECISIONS = {"fp4": A4W4, "fp8": A8W4, "bf16": A16W4}
# Codes of MXFP8.
EIGHT = torch.float8_e4m3fn
_PAD = "Pad weights and hidden states with zeros before they are quantised."


def is_packed(x: Tensor) -> bool:
    return x.dtype in PACKED


def width_of(x: Tensor) -> int:
    """Elements of a row."""
    return x.shape[-1] * (PACK if is_packed(x) else 1)


def precision_of(asked: str, x: Tensor, interleaved: bool) -> str:
    """What x and h become. Where nothing else is asked for they are what x comes as, or else what upstream multiplies
    many tokens' by: MXFP4, and MXFP8 where gates take turns."""
    if asked in _PRECISIONS:
        return _PRECISIONS[asked]
    if x.itemsize == 1:
        return A8W4 if x.dtype == EIGHT else A4W4
    return A8W4 if interleaved else A4W4


def check_weights(op: str, x: Tensor, w1: Tensor, w2: Tensor, shuffled: bool) -> None:
    operands.check_dims(op, "hidden_states", x, 2, "[tokens, width]")
    operands.check_dims(op, "w1", w1, 3, "[experts, 2 * inter, width / 2], two codes a byte")
    operands.check_dims(op, "w2", w2, 3, "[experts, width, inter / 2], two codes a byte")
    operands.check_dtype(op, "w1", w1, PACKED, "two codes a byte")
    operands.check_dtype(op, "w2", w2, PACKED, "two codes a byte")
    experts, rows, _ = w1.shape
    width, inter = width_of(w1), rows // 2
    if width_of(x) != width:
        words = f"[tokens, {width}], or {width // PACK} bytes of two codes, as wide as w1"
        raise ArgumentError(op, "hidden_states", f"of shape {list(x.shape)}", words)
    if rows % 2 or not experts * rows * width:
        remedy = "A layer without gate has no kernel here."
        raise ArgumentError(op, "w1", f"of shape {list(w1.shape)}", "[experts, 2 * inter, width / 2], none 0", remedy)
    wanted = [experts, width, inter // PACK]
    if inter % PACK or list(w2.shape) != wanted:
        raise ArgumentError(op, "w2", f"of shape {list(w2.shape)}", f"{wanted}, two codes of w1's inter width a byte")
    for name, weight in (("w1", w1), ("w2", w2)):
        operands.check_device(op, name, weight, x, "hidden_states")
    arguments.check_contiguous(op, w1=w1, w2=w2)
    step = MX_BLOCK * (2 if shuffled else 1)
    if width % step or inter % step:
        why = "where weights are shuffled" if shuffled else "the elements of a scale"
        raise ArgumentError(op, "w1", f"of width {width} and inter {inter}", f"multiples of {step}, {why}", _PAD)


def check_scales(op: str, w1: Tensor, w2: Tensor, shuffled: bool, **scales: Tensor | None) -> None:
    """The scales of w1 and w2, in this order, by the call's names."""
    for weight, of, (name, scale) in zip((w1, w2), ("w1", "w2"), scales.items(), strict=True):
        experts, rows, _ = weight.shape
        blocks = width_of(weight) // MX_BLOCK
        plain = ([experts, rows, blocks], [experts * rows, blocks], [experts, rows * blocks])
        padded = list(padded_scale_shape(experts * rows, blocks))
        wanted = f"shuffle_scale's {padded}, or as many in another shape" if shuffled else f"{plain[0]} or {plain[1]}"
        if scale is None:
            raise ArgumentError(op, name, "None", f"scales of {of}, float8_e8m0fnu or uint8: {wanted}")
        arguments.check_tensors(op, **{name: scale})
        operands.check_dtype(op, name, scale, SCALES, "the dtypes of scales of MXFP4")
        operands.check_device(op, name, scale, weight, of)
        fits = scale.numel() == math.prod(padded) if shuffled else list(scale.shape) in plain
        if not fits:
            remedy = f"{of}'s attribute is_shuffled says that weights and scales " + (
                "are shuffled." if shuffled else "are not shuffled; set it where they are."
            )
            raise ArgumentError(op, name, f"of shape {list(scale.shape)}", wanted, remedy)
        if not shuffled and is_shuffled(scale):
            # They may well be as many. SGLang shuffles scales alone where it takes a chip to have no MXFP4.
            got, remedy = "shuffled by shuffle_scale, beside weights that are not", f"Shuffle {of} too, or neither."
            raise ArgumentError(op, name, got, wanted, remedy)
        arguments.check_contiguous(op, **{name: scale})


def check_input(op: str, x: Tensor, scale: Tensor | None, dtype: torch.dtype, precision: str) -> None:
    """Hidden states: of the result's type, or codes of what they would become, with a scale for each 32 of a token."""
    codes = {A4W4: PACKED, A8W4: (EIGHT,)}.get(precision, ())
    if x.dtype not in codes:
        if x.itemsize == 1 and x.dtype in (*PACKED, EIGHT):
            allowed = f"{', '.join(map(str, (dtype, *codes)))}, as AITERLITE_MXFP4_ACTIVATIONS has it"
            raise ArgumentError(
                op, "hidden_states", f"of dtype {x.dtype}", allowed, "Unset it, or pass what they are of."
            )
        operands.check_dtype(op, "hidden_states", x, (dtype, *codes), "the dtype of the result, or codes")
        if scale is not None:
            allowed = f"None beside hidden_states of {x.dtype}"
            raise ArgumentError(op, "a1_scale", "a tensor", allowed, "They are quantised in the call.")
        return
    shape = [x.shape[0], width_of(x) // MX_BLOCK]
    if scale is None:
        raise ArgumentError(op, "a1_scale", "None", f"{shape}, the scales of hidden_states")
    operands.check_shape(op, "a1_scale", scale, [shape])
    operands.check_dtype(op, "a1_scale", scale, SCALES, "the dtypes of scales of MXFP4")
    operands.check_device(op, "a1_scale", scale, x, "hidden_states")
