"""RMSNorm in plain PyTorch, at float32: what the operators compute, and where they round.

    h   = x, or x + residual, rounded to x's type: what is written to residual_out
    out = h / sqrt(mean of h^2 + epsilon) * weight, rounded to x's type

`gemma` adds 1 to weights. `model_sensitive` rounds h / sqrt(...) before it is multiplied, as the code of many models
does. What is quantised is the rounded out, so that a fused call gives the bits of its parts. A row of zeros with
epsilon 0, or one with a NaN, is all NaN; one with an infinity is NaN there and 0 elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aiterlite.reference import quant


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, gemma: bool = False, model_sensitive: bool = False) -> Tensor:
    h = x.float()
    value = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + epsilon)
    if model_sensitive:
        value = value.to(x.dtype).float()
    return (value * (weight.float() + float(gemma))).to(x.dtype)


def add(x: Tensor, residual: Tensor) -> Tensor:
    """The sum whose norm is taken."""
    return (x.float() + residual.float()).to(x.dtype)


def quantised(out: Tensor, dtype: torch.dtype, group_size: int = 0, transposed: bool = False) -> tuple[Tensor, Tensor]:
    """(codes, scales) of a result, a scale for each row (0) or group; transposed scales are [groups, rows]."""
    if not group_size:
        return quant.per_token(out, dtype)
    codes, scales = quant.per_group(out, dtype, group_size)
    return codes, scales.T.contiguous() if transposed else scales
