"""Quantisation in plain PyTorch: what a scale and a code are, for every bit pattern of x.

A scale is made of the greatest magnitude m of what shares it, NaN left out: max(m, 1e-10) / largest, where `largest` is
the greatest number of the format. A code is x / scale, rounded to nearest, ties to even, and beyond the largest to
that; both divisions are those of IEEE 754 at float32. What follows:

    all zeros               scale 1e-10 / largest, codes zero with x's sign (e4m3fnuz and int8 have no negative zero)
    subnormal x             like all other numbers; below 1e-10 in magnitude, scales do not get smaller
    a NaN                   its code is the format's NaN, without a sign (int8: 0); other elements are as if it were
                            not there
    an infinity             scale infinity; numbers become zero, infinities NaN (int8: 0), so that it is not hidden

A static scale may be anything: a code is x * (1 / scale), rounded the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e4m3fnuz: 240.0, torch.int8: 127.0}
LEAST_MAXIMUM = 1e-10


def greatest(x: Tensor) -> Tensor:
    """The greatest magnitude along the last dimension, NaN left out, and 0 of nothing; float32, the dimension kept."""
    magnitude = x.float().abs()
    if not x.shape[-1]:
        return magnitude.new_zeros(*x.shape[:-1], 1)
    return torch.where(magnitude.isnan(), 0.0, magnitude).amax(-1, keepdim=True)


def scale_of(maximum: Tensor, dtype: torch.dtype, largest: float | None = None) -> Tensor:
    # By a tensor: on a GPU torch divides by a number as though it multiplied by the reciprocal.
    return maximum.clamp_min(LEAST_MAXIMUM) / torch.full_like(maximum, LARGEST[dtype] if largest is None else largest)


def encode(value: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 as codes."""
    inside = value.clamp(-LARGEST[dtype], LARGEST[dtype])
    without_sign = torch.where(inside.isnan(), 0.0 if dtype == torch.int8 else torch.nan, inside)
    return without_sign.round().to(dtype) if dtype == torch.int8 else without_sign.to(dtype)


def per_token(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(codes, scales [..., 1]) of x[..., K]."""
    scale = scale_of(greatest(x), dtype)
    return encode(x.float() / scale, dtype), scale


def per_group(x: Tensor, dtype: torch.dtype, group: int) -> tuple[Tensor, Tensor]:
    """(codes, scales [..., K / group]) of x[..., K]."""
    codes, scales = per_token(x.reshape(*x.shape[:-1], x.shape[-1] // group, group), dtype)
    return codes.flatten(-2), scales.squeeze(-1)


def per_tensor(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(codes, scale [1]) of x."""
    scale = scale_of(greatest(x.flatten()), dtype)
    return encode(x.float() / scale, dtype), scale


def static(x: Tensor, dtype: torch.dtype, scale: Tensor) -> Tensor:
    """The codes of x by a scale of one element."""
    return encode(x.float() * (1.0 / scale.float()), dtype)
