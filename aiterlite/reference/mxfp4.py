"""MXFP4 in plain PyTorch: what the scale of a block of 32 elements and its 4-bit codes are, for every bit pattern of x.

A code is e2m1: 8 for a sign, and 0 to 7 for 0, 0.5, 1, 1.5, 2, 3, 4, 6. Byte i of a row holds element 2i in its low
half and 2i + 1 in its high one. A scale is e8m0: byte b is 2^(b - 127), 255 is NaN.

Of the greatest magnitude m of a block, with `e` and `f` the exponent and the fraction field of m as a float32:

    RoundDown   e - 2                                           at least 0
    RoundUp     e - 2 + (f > 0x400000), which is m > 6 * 2^k    at least 1 (m / 6 rounds to a float32 above zero)
    Even        e - 2 + (f >= 0x600000), from 1.75 * 2^k on     at least 0
    Ceil        e - 2 + (f > 0)                                 at least 1 (m / 4 rounds to a float32 above zero)

A code is x / scale to nearest, ties to the even code, beyond 6 that; it keeps the sign of x, of a zero too. So:

    all zeros               byte 0, codes zero with x's signs
    subnormal x             like all other numbers
    an infinity or a NaN    byte 255, whatever else is in the block: all of it reads as NaN; codes are 7 with x's signs
"""

from __future__ import annotations

import torch
from torch import Tensor

from aiterlite.tables.mx_types import BLOCK, MxScaleRoundMode

NUMBERS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# Halfway to the next code, which is taken if it is even.
_TIES = ((0.25, False), (0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True), (5.0, False))
# Beside each mode, the fraction from which the exponent is the next one, the least byte of what is not zero, and the
# denormal, as an integer, that still counts as zero.
_RULES = {
    MxScaleRoundMode.RoundDown: (0x800000, 0, 0),
    MxScaleRoundMode.RoundUp: (0x400001, 1, 3),
    MxScaleRoundMode.Even: (0x600000, 0, 0),
    MxScaleRoundMode.Ceil: (0x000001, 1, 2),
}


def scale_byte(maximum: Tensor, mode: int) -> Tensor:
    """The byte of a block, uint8, of its greatest magnitude, float32."""
    up, least, nothing = _RULES[MxScaleRoundMode(mode)]
    bits = maximum.contiguous().view(torch.int32) & 0x7FFFFFFF
    exponent = bits >> 23
    byte = exponent - 2 + ((bits & 0x7FFFFF) >= up).int()
    byte = torch.maximum(byte, least * (bits > nothing).int())
    return torch.where(exponent == 255, 255, byte).to(torch.uint8)


def quantise(x: Tensor, mode: int = MxScaleRoundMode.RoundUp) -> tuple[Tensor, Tensor]:
    """(codes uint8 [..., K / 2], scales uint8 [..., K / 32]) of x[..., K]."""
    blocks = x.float().reshape(*x.shape[:-1], x.shape[-1] // BLOCK, BLOCK)
    byte = scale_byte(blocks.abs().amax(-1), mode)
    return pack(encode(blocks, byte.unsqueeze(-1)).flatten(-2)), byte


def encode(x: Tensor, byte: Tensor) -> Tensor:
    """The codes of float32, uint8, by the bytes of their scales."""
    magnitude = torch.ldexp(x.double().abs(), 127 - byte.int())
    code = torch.zeros_like(magnitude, dtype=torch.uint8)
    for tie, is_up in _TIES:
        code += (magnitude >= tie) if is_up else (magnitude > tie)
    code = torch.where((byte == 255).expand_as(code), 7, code)
    return code | (torch.signbit(x).to(torch.uint8) << 3)


def pack(codes: Tensor) -> Tensor:
    """Two codes a byte, the first in the low half."""
    return codes[..., ::2] | codes[..., 1::2] << 4


def unpack(packed: Tensor) -> Tensor:
    """The codes of bytes."""
    both = packed.view(torch.uint8)
    return torch.stack((both & 15, both >> 4), -1).flatten(-2)


def numbers(packed: Tensor) -> Tensor:
    """float64 of codes, without their scales."""
    each = torch.tensor([sign * number for sign in (1.0, -1.0) for number in NUMBERS], dtype=torch.float64)
    return each.to(packed.device)[unpack(packed).long()]


def dequantise(packed: Tensor, scale: Tensor) -> Tensor:
    """float32 [..., K] of codes [..., K / 2] and scales [..., K / 32], of these types or as uint8. Exact, but for what
    is beyond the range of float32."""
    values = numbers(packed)
    blocks = values.view(*values.shape[:-1], values.shape[-1] // BLOCK, BLOCK)
    return (blocks * scale_value(scale).unsqueeze(-1)).flatten(-2).float()


def scale_value(scale: Tensor) -> Tensor:
    """float64 of the bytes of scales."""
    byte = scale.view(torch.uint8)
    one = torch.ones(byte.shape, dtype=torch.float64, device=byte.device)
    return torch.where(byte == 255, torch.nan, torch.ldexp(one, byte.int() - 127))
