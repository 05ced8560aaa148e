"""Number formats from their definitions: exact values of all codes, and rounding to nearest.

Independent of the emulator and of torch: a format is its field widths, its bias and what its top codes mean.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Format:
    """A sign bit, `exponent` and `mantissa` bits.

    `specials` says what the top codes are: "ieee" (infinities and NaN in the top binade), "nan" (one NaN, all mantissa
    bits set), "fnuz" (one NaN where -0 would be, no other), "none".
    """

    exponent: int
    mantissa: int
    bias: int
    specials: str

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @functools.cached_property
    def values(self) -> Array:
        """The float64 value of every code."""
        codes = np.arange(1 << self.bits)
        e = codes >> self.mantissa & ((1 << self.exponent) - 1)
        m = (codes & ((1 << self.mantissa) - 1)).astype(np.float64)
        scale = np.ldexp(1.0, np.maximum(e, 1) - self.bias - self.mantissa)
        magnitude = (m + np.where(e > 0, 1 << self.mantissa, 0)) * scale
        top = e == (1 << self.exponent) - 1
        if self.specials == "ieee":
            magnitude[top & (m == 0)] = np.inf
            magnitude[top & (m > 0)] = np.nan
        if self.specials == "nan":
            magnitude[top & (m == (1 << self.mantissa) - 1)] = np.nan
        values = np.where(codes >> (self.bits - 1), -magnitude, magnitude)
        if self.specials == "fnuz":
            values[1 << (self.bits - 1)] = np.nan
        return values

    @functools.cached_property
    def finite(self) -> Array:
        """The finite values from +0 up; their index is their code."""
        positive = self.values[: 1 << (self.bits - 1)]
        return positive[np.isfinite(positive)]

    @property
    def largest(self) -> float:
        return float(self.finite[-1])

    @property
    def nan_code(self) -> int:
        """The NaN that conversions produce: the only one, or the quiet one with nothing else set."""
        if self.specials == "fnuz":
            return 1 << (self.bits - 1)
        if self.specials == "nan":
            return (1 << (self.bits - 1)) - 1
        return (((1 << self.exponent) - 1) << self.mantissa) | (1 << (self.mantissa - 1))

    def decode(self, codes: Array) -> Array:
        return self.values[codes]

    def encode(self, values: Array, saturate: bool = False) -> Array:
        """The nearest code, ties to even. What rounds past the largest is infinity, else NaN, unless `saturate`."""
        values = np.asarray(values, np.float64)
        magnitude = np.abs(values)
        finite = self.finite
        # The step past the largest value decides what rounds to it.
        beyond = finite[-1] + (finite[-1] - finite[-2])
        grid = np.append(finite, beyond)
        low = np.clip(np.searchsorted(grid, np.nan_to_num(magnitude, nan=0.0), side="right") - 1, 0, len(finite) - 1)
        middle = (grid[low] + grid[low + 1]) / 2
        up = (magnitude > middle) | ((magnitude == middle) & (low % 2 == 1))
        codes = low + up
        over = codes == len(finite)
        if saturate or self.specials == "none":
            codes = np.where(over, len(finite) - 1, codes)
        elif self.specials == "ieee":
            codes = np.where(over, ((1 << self.exponent) - 1) << self.mantissa, codes)
        negative = np.signbit(values)
        codes = codes | np.where(negative, 1 << (self.bits - 1), 0)
        if self.specials == "fnuz":
            codes = np.where(codes == 1 << (self.bits - 1), 0, codes)
        if self.specials in ("nan", "fnuz"):
            sign = np.where(negative, 1 << (self.bits - 1), 0) if self.specials == "nan" else 0
            codes = np.where(over & (not saturate), self.nan_code | sign, codes)
        if self.specials != "none":
            sign = np.where(negative, 1 << (self.bits - 1), 0) if self.specials != "fnuz" else 0
            codes = np.where(np.isnan(values), self.nan_code | sign, codes)
        return codes.astype(np.uint32)


E4M3FN = Format(4, 3, 7, "nan")
E5M2 = Format(5, 2, 15, "ieee")
E4M3FNUZ = Format(4, 3, 8, "fnuz")
E5M2FNUZ = Format(5, 2, 16, "fnuz")
E2M3 = Format(2, 3, 1, "none")
E3M2 = Format(3, 2, 3, "none")
E2M1 = Format(2, 1, 1, "none")
F16 = Format(5, 10, 15, "ieee")
BF16 = Format(8, 7, 127, "ieee")


def fp8(target: str) -> Format:
    return E4M3FNUZ if target == "gfx942" else E4M3FN


def bf8(target: str) -> Format:
    return E5M2FNUZ if target == "gfx942" else E5M2


def bf16_values(codes: Array) -> Array:
    """float32 values of bf16 codes."""
    return (np.asarray(codes, np.uint32) << 16).view(np.float32)


def to_bf16(values: Array) -> Array:
    """bf16 codes of float32 values, to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), bits >> 16 | 0x40, rounded).astype(np.uint16)


def pack_codes(codes: Array, bits: int) -> Array:
    """Codes of `bits` bits along the last axis as bytes without gaps, lowest bits first."""
    planes = (codes[..., None].astype(np.uint32) >> np.arange(bits, dtype=np.uint32)) & 1
    return np.packbits(planes.astype(np.uint8).reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")


def unpack_codes(packed: Array, bits: int) -> Array:
    """The inverse of `pack_codes`."""
    planes = np.unpackbits(packed, axis=-1, bitorder="little").reshape(*packed.shape[:-1], -1, bits)
    return (planes.astype(np.uint32) << np.arange(bits, dtype=np.uint32)).sum(-1).astype(np.uint32)
