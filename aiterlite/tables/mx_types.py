"""How the scale of an MX block is chosen, under upstream's names and numbers, which clients also pass as integers."""

from __future__ import annotations

from enum import IntEnum


class MxScaleRoundMode(IntEnum):
    """Which power of two a block of 32 elements is divided by, of its greatest magnitude m. Beside each, the name that
    torchao has for it, and what of a block's largest elements is cut off at 6, the largest e2m1 number."""

    RoundDown = 0  # FLOOR, of OCP's text: 2^floor(log2 m) / 4; from 6 to 8 times the scale is cut off.
    RoundUp = 1  # RCEIL: the least power of two that is not below m / 6; nothing is.
    Even = 2  # EVEN, of Quark: as RoundDown, but of the next power of two from 1.75 times one on; from 6 to 7 is.
    Ceil = 3  # CEIL: 2^ceil(log2 m) / 4; nothing is.


# What upstream calls so: its PyTorch form, its HIP kernels, and what sorts for experts.
MX_DEFAULT_ROUND_MODE = MxScaleRoundMode.RoundUp
# Elements that share a scale.
BLOCK = 32


def rule(mode: int) -> dict[str, int]:
    """A mode as kernels have it (csrc/include/aiterlite/numeric/mxfp4_encode.h): `carry` takes fractions of a float32
    from the mode's limit on to the next exponent; `least` is the least byte of a block that is not all zeros."""
    carry, least = {
        MxScaleRoundMode.RoundDown: (0, 0),
        MxScaleRoundMode.RoundUp: (0x3FFFFF, 1),
        MxScaleRoundMode.Even: (0x200000, 0),
        MxScaleRoundMode.Ceil: (0x7FFFFF, 1),
    }[MxScaleRoundMode(mode)]
    return {"carry": carry, "least": least}
