"""Skinny GEMM in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

# Unit roundoff of the output types: half the distance from 1 to the next number.
_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x[..., K] · weight[M, K]^T + bias at float32, rounded once to x's dtype."""
    y = x.float() @ weight.float().T
    return (y if bias is None else y + bias.float()).to(x.dtype)


def scaled_linear(
    x: Tensor, weight: Tensor, out_dtype: torch.dtype, scale_x: Tensor, scale_w: Tensor, bias: Tensor | None = None
) -> Tensor:
    """(x[..., K] · weight[M, K]^T) · scale_x · scale_w + bias, sums at float32, rounded once to out_dtype.

    scale_x has one element, or one for each row of x; scale_w the same of the weight. They are applied at float64, in
    which no product of a sum and two of them overflows or is subnormal.
    """
    y = (x.float() @ weight.float().T).double() * scales(x, scale_x, scale_w)
    return (y if bias is None else y + bias.double()).float().to(out_dtype)


def scales(x: Tensor, scale_x: Tensor, scale_w: Tensor) -> Tensor:
    """What each output of `scaled_linear` is multiplied by, in float64."""
    of_x = scale_x.double().reshape(*x.shape[:-1], 1) if scale_x.numel() > 1 else scale_x.double().flatten()
    return of_x * scale_w.double().flatten()


def error_bound(x: Tensor, weight: Tensor, exact: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
    """What an output may differ from `exact` (float64): 4 · (eps_out · |exact| + eps_fp32 · sqrt(K) · sum |x · w|). It
    is of x's dtype, where no other is given.

    The first term is the rounding of the output, the second the growth of float32 sums over K products.
    """
    products = x.double().abs() @ weight.double().abs().T
    spread = _ROUNDOFF[torch.float32] * x.shape[-1] ** 0.5 * products
    bound: Tensor = 4 * (_ROUNDOFF[out_dtype or x.dtype] * exact.abs() + spread)
    return bound


def scaled_error_bound(
    x: Tensor, weight: Tensor, out_dtype: torch.dtype, scale_x: Tensor, scale_w: Tensor, exact: Tensor
) -> Tensor:
    """The same for `scaled_linear`: the sums' error is scaled as the sums are."""
    products = x.double().abs() @ weight.double().abs().T
    scaled = products * scales(x, scale_x, scale_w).abs()
    spread = _ROUNDOFF[torch.float32] * x.shape[-1] ** 0.5 * scaled
    bound: Tensor = 4 * (_ROUNDOFF[out_dtype] * exact.abs() + spread)
    return bound
