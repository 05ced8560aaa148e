"""A layer of a mixture of experts in plain PyTorch, in float64: its definition, the tests' oracle.

Of token t and slot s whose id is an expert's that is here:

    gate, up  = the expert's rows of w1 for both, times x[t] (times the routing weight, where that goes on the input),
                and their biases, where there are such
    h         = act(gate) * up
    out[t]   += the expert's w2 times h, and its biases (times the routing weight, where it goes on the result)

silu is g * sigmoid(g), gelu g * Phi(g), by erf; swiglu, of gate at most `limit` and up within it, is
gate * sigmoid(beta * gate) * (up + linear_beta). An id that is no expert's, or whose expert's mask is 0, adds nothing,
and neither do tokens from `live` on; what their rows of x hold is not looked at. `by_slots`: what each slot adds is the
result, [tokens, topk, width], zeros where it adds nothing.

Weights of MXFP4 (reference/mxfp4.py) are multiplied by x and h as they are, or as MXFP4 has them, by RoundUp, h as what
it is in bfloat16: `rounded=MXFP4`; or as MXFP8 does (reference/mxfp8.py): `rounded=MXFP8`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from aiterlite.reference import mxfp4, mxfp8, quant

GROUP = 128
MXFP4, MXFP8 = "mxfp4", "mxfp8"
# Codes of an e4m3 type are 2^-4 of a number apart, which makes an rms error of some 0.026 of it.
_CODE_ERROR = 0.026
_UNIT = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}
# Half a step between the least numbers of a type, which lie evenly: fp16's end soon.
_LEAST = {dtype: torch.finfo(dtype).smallest_normal * unit for dtype, unit in _UNIT.items()}


@dataclass(frozen=True)
class Weights:
    """Of a layer's experts, unshuffled: w1 [experts, 2 * inter, width], w2 [experts, width, inter], as codes and their
    float32 scales: None, one a row ([experts, rows]), one a block of 128 x 128, one a matrix ([experts]), or of w1 one
    of gate and one of up ([experts, 2]). Of MXFP4 two codes a byte, and bytes for scales, [experts, rows, columns /
    32]. Biases, of rows as they lie, are [experts, rows], float32."""

    w1: Tensor
    w2: Tensor
    w1_scale: Tensor | None = None
    w2_scale: Tensor | None = None
    interleaved: bool = False
    bias1: Tensor | None = None
    bias2: Tensor | None = None

    def gate_up(self, expert: int) -> tuple[Tensor, Tensor]:
        """Two float64 matrices [inter, width]."""
        scale = None if self.w1_scale is None else self.w1_scale[expert]
        if scale is not None and list(scale.shape) == [2]:
            each = len(self.w1[expert]) // 2
            scale = scale.repeat(each) if self.interleaved else scale.repeat_interleave(each)
        return self._halves(dequantised(self.w1[expert], scale))

    def _halves(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        middle = len(rows) // 2
        return (rows[0::2], rows[1::2]) if self.interleaved else (rows[:middle], rows[middle:])

    def gate_up_bias(self, expert: int) -> tuple[Tensor | float, Tensor | float]:
        return (0.0, 0.0) if self.bias1 is None else self._halves(self.bias1[expert].double())

    def down_bias(self, expert: int) -> Tensor | float:
        return 0.0 if self.bias2 is None else self.bias2[expert].double()

    def down(self, expert: int) -> Tensor:
        return dequantised(self.w2[expert], None if self.w2_scale is None else self.w2_scale[expert])


@dataclass(frozen=True)
class Activation:
    """`name` is silu, gelu or swiglu; the rest is swiglu's."""

    name: str = "silu"
    limit: float = math.inf
    beta: float = 1.702
    linear_beta: float = 1.0

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor:
        if self.name == "silu":
            return gate * torch.sigmoid(gate) * up
        if self.name == "gelu":
            normal: Tensor = torch.special.ndtr(gate)
            return gate * normal * up
        gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        return gate * torch.sigmoid(self.beta * gate) * (up + self.linear_beta)


@dataclass(frozen=True)
class Layer:
    """Of each element of a layer's output, in float64: its value; `spread`, the standard deviation that it gets where x
    and h are rounded to 8-bit floats by groups of 128; and `terms`, the sum over its slots of their magnitudes. It has
    `slots` of them."""

    out: Tensor
    spread: Tensor
    terms: Tensor
    slots: int = 1


def dequantised(codes: Tensor, scale: Tensor | None) -> Tensor:
    """A matrix as numbers: float64."""
    if scale is not None and scale.itemsize == 1:
        return mxfp4.dequantise(codes, scale).double()
    values: Tensor = codes.double()
    if scale is None:
        return values
    if scale.numel() in (1, len(codes)):
        return values * scale.double().reshape(-1, 1)
    blocks: Tensor = scale.double().reshape(len(codes) // GROUP, -1)
    return values * blocks.repeat_interleave(GROUP, 0).repeat_interleave(GROUP, 1)


def rounded_by_groups(x: Tensor, dtype: torch.dtype | str) -> Tensor:
    """x[..., K] as its 8-bit codes and their scales stand for, or those of MXFP4 or MXFP8: float64."""
    if isinstance(dtype, str):
        if dtype == MXFP8:
            return mxfp8.dequantise(*mxfp8.quantise(x)).double()
        return mxfp4.dequantise(*mxfp4.quantise(x)).double()
    codes, scales = quant.per_group(x, dtype, GROUP)
    return codes.double() * scales.double().repeat_interleave(GROUP, -1)


def local_ids(ids: Tensor, experts: int, mask: Tensor | None = None, live: int | None = None) -> Tensor:
    """int64 [tokens, topk]: which of the experts here each id names, -1 where that is none."""
    ids = ids.long()
    named = experts if mask is None else mask.numel()
    inside = (ids >= 0) & (ids < named)
    local = torch.where(inside, ids, -1)
    if mask is not None:
        numbers = torch.where(mask.long() != 0, (mask.long() != 0).cumsum(0) - 1, -1)
        local = torch.where(inside, numbers[ids.clamp(0, named - 1)], -1)
    local = torch.where(local < experts, local, -1)
    if live is not None:
        local[max(0, live) :] = -1
    return local


def fused_moe(
    x: Tensor,
    weights: Weights,
    topk_ids: Tensor,
    topk_weights: Tensor,
    activation: Activation = Activation(),
    x_scale: Tensor | None = None,
    mask: Tensor | None = None,
    live: int | None = None,
    weighted_input: bool = False,
    rounded: torch.dtype | str | None = None,
    which: str = "xh",
    by_slots: bool = False,
) -> Layer:
    """The layer. x is [tokens, width], or codes of `x_scale`, [tokens, width / 128], [tokens, 1] or one number, or
    MXFP4 or MXFP8. With `rounded`, those of x and h that `which` names are rounded to codes of that type and a scale
    for each 128 elements, or to MXFP4 or MXFP8; an x of codes is left as it is."""
    experts, width = weights.w2.shape[:2]
    local = local_ids(topk_ids, experts, mask, live)
    routing = topk_weights.double()
    rows = topk_ids.numel() if by_slots else len(x)
    out, square, terms = (torch.zeros(rows, width, dtype=torch.float64, device=x.device) for _ in range(3))
    for expert in sorted(set(local.flatten().tolist())):
        if expert < 0:
            continue
        tokens, slots = (local == expert).nonzero(as_tuple=True)
        weight = routing[tokens, slots].unsqueeze(1)
        given = x[tokens]
        if x_scale is not None and x_scale.itemsize == 1:
            given = (mxfp4 if given.dtype == torch.uint8 else mxfp8).dequantise(given, x_scale[tokens])
        elif x_scale is not None:
            scales = x_scale.reshape(-1, 1).expand(len(x), 1) if x_scale.numel() in (1, len(x)) else x_scale
            given = given.double() * scales[tokens].double().repeat_interleave(width // scales.shape[1], -1)
        elif rounded is not None and "x" in which:
            given = rounded_by_groups(given, rounded)
        on_input, on_result = (weight, 1.0) if weighted_input else (1.0, weight)
        numbers = given.double() * on_input
        gate_rows, up_rows = weights.gate_up(expert)
        of_gate, of_up = weights.gate_up_bias(expert)
        gate, up = numbers @ gate_rows.T + of_gate, numbers @ up_rows.T + of_up
        h = activation(gate, up)
        h_square = _square_of_h(gate, up, activation, numbers, gate_rows, up_rows, x_scale is None)
        h_square = h_square + (_CODE_ERROR * h) ** 2
        if rounded is not None and "h" in which:
            h = rounded_by_groups(h.bfloat16() if isinstance(rounded, str) else h.float(), rounded)
        down = weights.down(expert)
        made = (h @ down.T + weights.down_bias(expert)) * on_result
        row = tokens * topk_ids.shape[1] + slots if by_slots else tokens
        out.index_add_(0, row, made)
        terms.index_add_(0, row, made.abs())
        # Where a token names an expert twice, both slots have the same errors.
        named, places = row.unique(return_inverse=True)
        spread = (h_square @ down.T**2).sqrt() * torch.as_tensor(on_result).abs()
        square[named] += torch.zeros_like(spread[: len(named)]).index_add_(0, places, spread) ** 2
    shape = (*(topk_ids.shape if by_slots else topk_ids.shape[:1]), width)
    slots = 1 if by_slots else topk_ids.shape[1]
    return Layer(out.view(shape), square.sqrt().view(shape), terms.view(shape), slots)


def _square_of_h(
    gate: Tensor, up: Tensor, activation: Activation, x: Tensor, gate_rows: Tensor, up_rows: Tensor, of_x: bool
) -> Tensor:
    """The variance of h where x is rounded."""
    if not of_x:
        return torch.zeros_like(gate)
    step = 1e-3 * (1 + gate.abs())
    slope = (activation(gate + step, up) - activation(gate - step, up)) / (2 * step)
    along = (activation(gate, up + 0.5) - activation(gate, up - 0.5)).abs()
    squares = (_CODE_ERROR * x) ** 2
    return slope**2 * (squares @ gate_rows.T**2) + along**2 * (squares @ up_rows.T**2)


def error_bound(layer: Layer, dtype: torch.dtype, rounded: bool = True) -> Tensor:
    """How far an element may be from `layer.out`: seven standard deviations of rounding x and h to 8 bits, or h to
    `dtype` where they are not; a rounding of each slot's result and of their sum, of small numbers also of h, by whose
    weights, of variance 1 / columns, its elements' roundings spread as one does; and the float32 sums on the way."""
    unit, least = _UNIT[dtype], (1 + 8 * layer.slots) * _LEAST[dtype]
    share = 1.0 if rounded else unit / _CODE_ERROR
    return 7.0 * share * layer.spread + (2 * unit + 2.0**-16) * layer.terms + unit * layer.out.abs() + least + 1e-30


def relative_error(got: Tensor, exact: Tensor) -> float:
    """Of a whole output, by Frobenius norms."""
    return float((got.double() - exact).norm() / exact.norm().clamp_min(1e-300))
