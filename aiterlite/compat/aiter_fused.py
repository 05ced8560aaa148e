"""What engines call by one name and this package has in parts: an operator after another, or torch's alone. Engines
import these names with others that they can't go without, or take them for granted where an aiter is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aiterlite.errors import ArgumentError
from aiterlite.gemm import gemm_afp4wfp4
from aiterlite.moe import biased_grouped_topk, grouped_topk, shuffle_weight, topk_softmax
from aiterlite.mxfp4 import shuffle_scale
from aiterlite.norm import (
    rms_norm,
    rmsnorm2d_fwd_with_add,
    rmsnorm2d_fwd_with_add_dynamicquant,
    rmsnorm2d_fwd_with_dynamicquant,
)
from aiterlite.ops.linear import linear
from aiterlite.quant import static_per_tensor_quant


class GateMode(str, Enum):
    """How rows of gate and up lie in w1; `fused_moe` takes it, or its value."""

    SEPARATED = "separated"
    INTERLEAVE = "interleave"


def _refuse(op: str, remedy: str = "", **given: Any) -> None:
    for name, value in given.items():
        if value is not None and value is not False:
            got = "a tensor" if isinstance(value, Tensor) else value
            raise ArgumentError(op, name, got, "its default alone", remedy)


# Norms ----------------------------------------------------------------------------------------------------------------


def layernorm2d_fwd(
    input: Tensor, weight: Tensor, bias: Tensor, epsilon: float = 1e-5, x_bias: Tensor | None = None
) -> Tensor:
    """Layer norm of rows, by torch."""
    _refuse("layernorm2d_fwd", "Add it before.", x_bias=x_bias)
    return functional.layer_norm(input, input.shape[-1:], weight, bias, epsilon)


def rmsnorm_quant(
    out: Tensor,
    input: Tensor,
    scale: Tensor,
    weight: Tensor,
    epsilon: float,
    group_size: int = 0,
    shuffle_scale: bool = False,
    gemma_norm: bool = False,
) -> None:
    """`rmsnorm2d_fwd_with_dynamicquant` in another order."""
    _refuse("rmsnorm_quant", "Add 1 to weight before.", gemma_norm=gemma_norm)
    rmsnorm2d_fwd_with_dynamicquant(out, input, scale, weight, epsilon, 0, group_size, shuffle_scale)


def add_rmsnorm_quant(
    out: Tensor,
    input: Tensor,
    residual_in: Tensor,
    residual_out: Tensor,
    scale: Tensor,
    weight: Tensor,
    epsilon: float,
    group_size: int = 0,
    shuffle_scale: bool = False,
    gemma_norm: bool = False,
) -> None:
    """`rmsnorm2d_fwd_with_add_dynamicquant` in another order."""
    _refuse("add_rmsnorm_quant", "Add 1 to weight before.", gemma_norm=gemma_norm)
    given = out, input, residual_in, residual_out, scale, weight
    rmsnorm2d_fwd_with_add_dynamicquant(*given, epsilon, 0, group_size, shuffle_scale)


def fused_rms_fp8_per_tensor_static_quant(
    inp1: Tensor,
    inp1_weight: Tensor,
    inp1_epsilon: float,
    inp1_scale: Tensor,
    inp2: Tensor | None = None,
    inp2_weight: Tensor | None = None,
    inp2_epsilon: float | None = None,
    dtype_quant: torch.dtype = torch.float8_e4m3fn,
    res1: Tensor | None = None,
    output_unquantized_inp1: bool = False,
    rmsnorm_convert_to_inp1_type: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """RMSNorm of inp1, or of inp1 + res1, quantised by a scale that is given, and RMSNorm of inp2.

    Returns codes of inp1's norm, that norm where output_unquantized_inp1 asks, inp2's norm, and inp1 + res1. The norm
    is rounded to inp1's type before it is quantised, whatever rmsnorm_convert_to_inp1_type.
    """
    total = None
    if res1 is None:
        normed = rms_norm(inp1, inp1_weight, inp1_epsilon)
    else:
        normed, total = torch.empty_like(inp1), torch.empty_like(inp1)
        rmsnorm2d_fwd_with_add(normed, inp1, res1, total, inp1_weight, inp1_epsilon)
    codes = torch.empty(inp1.shape, dtype=dtype_quant, device=inp1.device)
    static_per_tensor_quant(codes, normed, inp1_scale)
    second = None
    if inp2 is not None:
        if inp2_weight is None:
            op, allowed = "fused_rms_fp8_per_tensor_static_quant", "a tensor beside inp2"
            raise ArgumentError(op, "inp2_weight", None, allowed)
        second = rms_norm(inp2, inp2_weight, inp1_epsilon if inp2_epsilon is None else inp2_epsilon)
    return codes, normed if output_unquantized_inp1 else None, second, total


def fused_add_rmsnorm_pad(
    x: Tensor, weight: Tensor, epsilon: float, res: Tensor | None = None, x_pad_to_multiple: int = 0
) -> Tensor | tuple[Tensor, Tensor]:
    """RMSNorm of x, or of x + res, whose rows end in zeros up to a multiple of x_pad_to_multiple; and x + res where res
    is given."""
    rows, width = x.shape
    most = -(-width // x_pad_to_multiple) * x_pad_to_multiple if x_pad_to_multiple > 0 else width
    out = x.new_zeros(rows, most)
    if res is None:
        out[:, :width] = rms_norm(x, weight, epsilon)
        return out
    total = torch.empty_like(res)
    rmsnorm2d_fwd_with_add(out[:, :width], x, res, total, weight, epsilon)
    return out, total


# GEMMs ----------------------------------------------------------------------------------------------------------------


def gemm_a16w16(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
    y: Tensor | None = None,
    config: object = None,
    activation: str | None = None,
    skip_reduce: bool = False,
    kernel_type: str = "bandwidth_bound",
    backend: str | None = None,
) -> Tensor:
    """`aiterlite.linear` under the arguments of upstream's Triton function, whose result is of `dtype` and may be
    written to y. `config`, `kernel_type` and `backend`, tunings, are not read."""
    _refuse("gemm_a16w16", "Apply it to the result.", activation=activation)
    _refuse("gemm_a16w16", "There are no parts of a sum.", skip_reduce=skip_reduce)
    made = linear(x, w, bias)
    return made.to(dtype) if y is None else y.copy_(made)


def fused_gemm_afp4wfp4_split_cat(
    x: Tensor,
    w: Tensor,
    y: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    S1: int,  # noqa: N803 (upstream's names)
    S2: int,  # noqa: N803
    dtype: torch.dtype = torch.bfloat16,
    config: object = None,
) -> tuple[Tensor, Tensor]:
    """The product of MXFP4 [M, D * (S1 + S2)] as [M, D, S1], with y [M, D, S3] behind it, and [M, D, S2]: how MLA's
    prefill makes keys and values of latents. `config`, a tuning, is not read."""
    heads = y.shape[1]
    if w.shape[0] != heads * (S1 + S2):
        op, allowed = "fused_gemm_afp4wfp4_split_cat", f"{heads * (S1 + S2)} rows, y's heads times S1 + S2"
        raise ArgumentError(op, "w", f"of {w.shape[0]} rows", allowed)
    made = gemm_afp4wfp4(x, w, x_scale, w_scale, dtype).view(x.shape[0], heads, S1 + S2)
    return torch.cat((made[..., :S1], y.to(dtype)), dim=-1), made[..., S1:].contiguous()


# Experts --------------------------------------------------------------------------------------------------------------


def moe_shuffle_weight(
    src: Tensor,
    experts_cnt: int | None = None,
    is_guinterleave: bool = False,
    gate_up: bool = False,
    layout: Sequence[int] = (16, 16),
) -> Tensor:
    """`shuffle_weight` under upstream's name for experts."""
    return shuffle_weight(src, layout, is_guinterleave=is_guinterleave, gate_up=gate_up)


def moe_shuffle_scale(
    src: Tensor | None, experts_cnt: int | None = None, is_guinterleave: bool = False, gate_up: bool = False
) -> Tensor | None:
    """`shuffle_scale` under upstream's name for experts, whose scales [E, N, blocks] are one matrix."""
    if src is not None and src.dim() == 3:
        src = src.flatten(0, 1)
    return shuffle_scale(src, experts_cnt, is_guinterleave, gate_up)


def topk_gating(
    topk_weights: Tensor,
    topk_indices: Tensor,
    gating_output: Tensor,
    correction_bias: Tensor | None = None,
    need_renorm: bool = True,
    routed_scaling_factor: float = 1.0,
    score_func: str = "softmax",
    num_shared_experts: int = 0,
) -> None:
    """The best experts of each token, ungrouped: `topk_softmax`, or `biased_grouped_topk` and `grouped_topk` of one
    group for scores by sigmoid. Columns of num_shared_experts behind the experts of gating_output are weighted by
    sigmoid, with a softmax. (Upstream's default score is sqrtsoftplus, which is not here.)"""
    op = "topk_gating"
    if score_func not in ("softmax", "sigmoid"):
        raise ArgumentError(op, "score_func", repr(score_func), "'softmax', 'sigmoid'")
    if score_func == "softmax":
        _refuse(op, "Scores by sigmoid take it.", correction_bias=correction_bias)
        if routed_scaling_factor != 1.0:
            raise ArgumentError(op, "routed_scaling_factor", routed_scaling_factor, "1.0 with softmax")
        indices = torch.empty_like(topk_indices, memory_format=torch.contiguous_format)
        shared = "sigmoid" if num_shared_experts else ""
        topk_softmax(topk_weights, topk_indices, indices, gating_output, need_renorm, num_shared_experts, shared)
        return
    if num_shared_experts:
        raise ArgumentError(op, "num_shared_experts", num_shared_experts, "0 with sigmoid")
    routed = topk_weights, topk_indices, 1, 1, need_renorm
    if correction_bias is None:
        grouped_topk(gating_output, *routed, False, routed_scaling_factor)
    else:
        biased_grouped_topk(gating_output, correction_bias, *routed, routed_scaling_factor)


def greedy_sample(out: Tensor, input: Tensor) -> None:
    """The place of the greatest of each row, by torch."""
    out.copy_(torch.argmax(input, -1))
