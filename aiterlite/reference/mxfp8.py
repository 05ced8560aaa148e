"""MXFP8 in plain PyTorch: 8-bit codes (e4m3fn) that share a scale (e8m0) with 32 elements, by RoundUp.

Of the greatest magnitude m of a block, with `e` and `f` the exponent and the fraction field of m as a float32, the byte
of its scale is e - 8 + (f > 0x600000), which is m > 448 * 2^k: at least 1 of what is not zero, 0 of zeros, 255 where an
infinity or a NaN is, and then all of the block reads as NaN. A code is x / scale to nearest, ties to the even code;
none is beyond 448.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aiterlite.reference import mxfp4
from aiterlite.tables.mx_types import BLOCK


def scale_byte(maximum: Tensor) -> Tensor:
    """The byte of a block, uint8, of its greatest magnitude, float32."""
    bits = maximum.contiguous().view(torch.int32) & 0x7FFFFFFF
    exponent = bits >> 23
    byte = exponent - 8 + ((bits & 0x7FFFFF) > 0x600000).int()
    byte = torch.maximum(byte, (bits > 0).int())
    return torch.where(exponent == 255, 255, byte).to(torch.uint8)


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """(codes float8_e4m3fn [..., K], scales uint8 [..., K / 32]) of x[..., K]."""
    blocks = x.float().reshape(*x.shape[:-1], x.shape[-1] // BLOCK, BLOCK)
    byte = scale_byte(blocks.abs().amax(-1))
    scaled = torch.ldexp(blocks.double(), 127 - byte.int().unsqueeze(-1)).float()
    scaled = torch.where((byte == 255).unsqueeze(-1), 0.0, scaled)
    return scaled.to(torch.float8_e4m3fn).flatten(-2), byte


def dequantise(codes: Tensor, scale: Tensor) -> Tensor:
    """float32 [..., K] of codes [..., K] and scales [..., K / 32]. Exact, but for what is beyond float32's range."""
    values = codes.double()
    blocks = values.view(*values.shape[:-1], values.shape[-1] // BLOCK, BLOCK)
    return (blocks * mxfp4.scale_value(scale).unsqueeze(-1)).flatten(-2).float()
