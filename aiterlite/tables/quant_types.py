"""Kinds of quantisation and of activation under upstream's names and numbers, which clients also pass as integers."""

from __future__ import annotations

from enum import IntEnum


class ActivationType(IntEnum):
    """What a gated layer applies to its gate."""

    No = -1
    Silu = 0
    Gelu = 1
    Swiglu = 2
    Situv2 = 3


class QuantType(IntEnum):
    """What shares a scale: all of a tensor, a row, or a block of so many rows by so many of their elements."""

    No = 0
    per_Tensor = 1  # noqa: N815 (upstream's name)
    per_Token = 2  # noqa: N815
    per_1x32 = 3
    per_1x128 = 4
    per_128x128 = 5
    per_256x128 = 6
    per_1024x128 = 7
