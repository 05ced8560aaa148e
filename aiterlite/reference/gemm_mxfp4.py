"""GEMM of MXFP4 weights in plain PyTorch: what each operator computes.

    y[t, n] = alpha * (sum over k of x[t, k] * w[n, k]) + beta * bias[n], or bias[t, n]

x and w are what their codes times their scales are (`aiterlite.reference.mxfp4`), at float32, or x as it is in 16 bits;
the sum is float32's, and one rounding follows. A NaN of an operand or of a scale is one of every output that it has a
part in, and of no other. What lies past K, the padding of scales included, has no part in anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Of an output: one step of bf16, and of the sum of its terms' magnitudes what float32 sums may lose.
_STEP = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}
LOST = 2.0**-20


def product(
    x: Tensor, w: Tensor, bias: Tensor | None = None, alpha: float = 1.0, beta: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The exact result, in float64, and the sum of its terms' magnitudes, of dequantised operands [..., M, K] and
    [..., N, K]."""
    left, right = x.double(), w.double()
    exact, magnitude = alpha * (left @ right.mT), abs(alpha) * (left.abs() @ right.mT.abs())
    if bias is not None:
        exact, magnitude = exact + beta * bias.double(), magnitude + (beta * bias.double()).abs()
    return exact, magnitude


def error_bound(exact: Tensor, magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """What an output may differ from `exact`: one step of its type, and what sums lose."""
    least = 2.0**-24 if dtype == torch.float16 else 2.0**-133
    bound: Tensor = _STEP[dtype] * exact.abs() + LOST * magnitude + least
    return bound
