"""GEMM of 8-bit floats with scales in plain PyTorch: what each operator of `aiterlite.gemm` computes.

    blockscale   y[t, n] = sum over groups g of 128 k of x_scale[t, g] * w_scale[n / 128, g] * (sum of x * w in g)
    rowscale     y[t, n] = (sum of x * w) * x_scale[t] * w_scale[n] + bias[n]
    batched      of each batch: x quantised in groups of 128 (`aiterlite.reference.quant`), blockscale's sum with those
                 scales, * w_scale + bias

A NaN of an operand or of a scale is one of every output that it has a part in, and of no other. What an infinite scale
makes of a sum is not defined: on a CPU parts of a sum are scaled before they are added.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aiterlite.reference import quant

BLOCK = 128
_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
# What sm_90's matrix unit may lose of a group's 128 products, of the sum of their magnitudes, where none is much larger
# than others: of 32 products and the sum before it keeps some 13 bits of the greatest. Others lose nothing.
HOPPER_DROPS = 2.0**-10


def blocks(w_scale: Tensor, n: int, k: int) -> Tensor:
    """w_scale of blocks for each weight [n, k]."""
    return w_scale.repeat_interleave(BLOCK, 0)[:n].repeat_interleave(BLOCK, 1)[:, :k]


def blockscale(x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor) -> tuple[Tensor, Tensor]:
    """The exact result, in float64, and the sum of its terms' magnitudes."""
    k = x.shape[1]
    left = x.double() * x_scale.double().repeat_interleave(BLOCK, 1)[:, :k]
    right = w.double() * blocks(w_scale.double(), w.shape[0], k)
    return left @ right.T, left.abs() @ right.abs().T


def rowscale(
    x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same of scales of rows."""
    left = x.double() * x_scale.double().reshape(-1, 1)
    right = w.double() * w_scale.double().reshape(-1, 1)
    exact = left @ right.T
    return exact if bias is None else exact + bias.double(), left.abs() @ right.abs().T


def batched(x: Tensor, w: Tensor, w_scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same of x [B, M, K] of 16 bits and w [B, N, K]."""
    codes, scales = quant.per_group(x, w.dtype, BLOCK)
    left = codes.double() * scales.double().repeat_interleave(BLOCK, -1)
    right = w.double() * w_scale.double().reshape(())
    exact = left @ right.mT
    return exact if bias is None else exact + bias.double(), left.abs() @ right.mT.abs()


def error_bound(exact: Tensor, magnitude: Tensor, k: int, dtype: torch.dtype, drops: float = 0.0) -> Tensor:
    """What an output may differ from `exact`: its own rounding, the growth of float32 sums, and what a matrix unit
    drops of each group, which do not all point the same way."""
    groups = max(1.0, k / BLOCK)
    spread = 2.0**-24 * max(1, k) ** 0.5 + drops / groups**0.5
    least = 2.0**-24 if dtype == torch.float16 else 2.0**-133
    bound: Tensor = 2 * _ROUNDOFF[dtype] * exact.abs() + 2 * spread * magnitude + least
    return bound
