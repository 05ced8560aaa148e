"""Floating-point formats by exact arithmetic: bits to rational numbers and back. Shares nothing with the C++."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

NEAREST, UP, DOWN, ZERO = range(4)


@dataclass(frozen=True)
class Format:
    exponent: int
    mantissa: int
    bias: int
    infinity: bool = True
    nan: str = "ieee"  # "ieee", "ones" (only all ones below the sign), "negative_zero", "none"

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def sign(self) -> int:
        return 1 << (self.exponent + self.mantissa)

    @property
    def quiet_nan(self) -> int:
        return {
            "ieee": ((1 << self.exponent) - 1) << self.mantissa | 1 << (self.mantissa - 1),
            "ones": self.sign - 1,
            "negative_zero": self.sign,
            "none": 0,
        }[self.nan]

    @property
    def largest(self) -> int:
        """The code of the largest finite magnitude."""
        if self.infinity:
            return (((1 << self.exponent) - 1) << self.mantissa) - 1
        return self.sign - 2 if self.nan == "ones" else self.sign - 1


F16 = Format(5, 10, 15)
BF16 = Format(8, 7, 127)
F32 = Format(8, 23, 127)
F64 = Format(11, 52, 1023)
FP8_FNUZ = Format(4, 3, 8, infinity=False, nan="negative_zero")
BF8_FNUZ = Format(5, 2, 16, infinity=False, nan="negative_zero")
FP8_OCP = Format(4, 3, 7, infinity=False, nan="ones")
BF8_OCP = Format(5, 2, 15)
FP6 = Format(2, 3, 1, infinity=False, nan="none")
BF6 = Format(3, 2, 3, infinity=False, nan="none")
FP4 = Format(2, 1, 1, infinity=False, nan="none")


def is_nan(f: Format, code: int) -> bool:
    magnitude = code & (f.sign - 1)
    if f.nan == "negative_zero":
        return code == f.sign
    if f.nan == "ones":
        return magnitude == f.sign - 1
    if f.nan == "none":
        return False
    return magnitude > ((1 << f.exponent) - 1) << f.mantissa


def is_signalling(f: Format, code: int) -> bool:
    return is_nan(f, code) and not code >> (f.mantissa - 1) & 1


def is_infinite(f: Format, code: int) -> bool:
    return f.infinity and code & (f.sign - 1) == ((1 << f.exponent) - 1) << f.mantissa


def is_zero(f: Format, code: int) -> bool:
    return code & (f.sign - 1) == 0 and not is_nan(f, code)


def is_denormal(f: Format, code: int) -> bool:
    return 0 < code & (f.sign - 1) < 1 << f.mantissa


def negative(f: Format, code: int) -> bool:
    return bool(code & f.sign)


def value(f: Format, code: int) -> Fraction:
    """The number that a finite code stands for."""
    exponent = (code & (f.sign - 1)) >> f.mantissa
    mantissa = code & ((1 << f.mantissa) - 1)
    if exponent:
        mantissa += 1 << f.mantissa
    scale = Fraction(2) ** (max(exponent, 1) - f.bias - f.mantissa)
    return (-mantissa if code & f.sign else mantissa) * scale


def infinity(f: Format, sign: bool) -> int:
    return (f.sign if sign else 0) | ((1 << f.exponent) - 1) << f.mantissa


def encode(
    f: Format, number: Fraction, rounding: int = NEAREST, sign_of_zero: bool = False, saturate: bool = False
) -> int:
    """The code of a rational number, rounded."""
    if number == 0:
        return f.sign if sign_of_zero and f.nan != "negative_zero" else 0
    below = number < 0
    magnitude = abs(number)
    exponent = max(math.floor(math.log2(magnitude)) if 1e-300 < magnitude < 1e300 else _log2(magnitude), 1 - f.bias)
    while magnitude >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while magnitude < Fraction(2) ** exponent and exponent > 1 - f.bias:
        exponent -= 1
    units = magnitude / Fraction(2) ** (exponent - f.mantissa)
    whole = units.numerator // units.denominator
    rest = units - whole
    if rounding == NEAREST:
        whole += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1)
    elif rounding == UP:
        whole += rest > 0 and not below
    elif rounding == DOWN:
        whole += rest > 0 and below
    code = whole + ((exponent - 1 + f.bias) << f.mantissa)
    sign = f.sign if below else 0
    if code > f.largest:
        to_largest = rounding == ZERO or (rounding == UP and below) or (rounding == DOWN and not below)
        if saturate or to_largest or f.nan == "none":
            return sign | f.largest
        if f.infinity:
            return infinity(f, below)
        return f.quiet_nan if f.nan == "negative_zero" else sign | f.quiet_nan
    return 0 if code == 0 and f.nan == "negative_zero" else sign | code


def _log2(magnitude: Fraction) -> int:
    return magnitude.numerator.bit_length() - magnitude.denominator.bit_length() - 1


def quiet(f: Format, code: int) -> int:
    return code | 1 << (f.mantissa - 1)


def flush(f: Format, code: int) -> int:
    return code & f.sign if is_denormal(f, code) else code


def propagate(f: Format, *operands: int) -> int | None:
    """The result of arithmetic on a NaN: the first one, made quiet. None if there is none."""
    for operand in operands:
        if is_nan(f, operand):
            return quiet(f, operand)
    return None


def add(f: Format, a: int, b: int, rounding: int = NEAREST) -> int:
    nan = propagate(f, a, b)
    if nan is not None:
        return nan
    if is_infinite(f, a) or is_infinite(f, b):
        if is_infinite(f, a) and is_infinite(f, b) and a != b:
            return f.quiet_nan
        return a if is_infinite(f, a) else b
    total = value(f, a) + value(f, b)
    both_negative = negative(f, a) and negative(f, b)
    zero_sign = both_negative or (
        rounding == DOWN and not (is_zero(f, a) and is_zero(f, b) and not negative(f, a) and not negative(f, b))
    )
    return encode(f, total, rounding, zero_sign)


def mul(f: Format, a: int, b: int, rounding: int = NEAREST) -> int:
    nan = propagate(f, a, b)
    if nan is not None:
        return nan
    sign = negative(f, a) != negative(f, b)
    if is_infinite(f, a) or is_infinite(f, b):
        return f.quiet_nan if is_zero(f, a) or is_zero(f, b) else infinity(f, sign)
    product = value(f, a) * value(f, b)
    return (f.sign if sign else 0) if product == 0 else encode(f, product, rounding, sign)


def fma(f: Format, a: int, b: int, c: int, rounding: int = NEAREST) -> int:
    nan = propagate(f, a, b, c)
    if nan is not None:
        return nan
    sign = negative(f, a) != negative(f, b)
    if is_infinite(f, a) or is_infinite(f, b):
        if is_zero(f, a) or is_zero(f, b) or (is_infinite(f, c) and negative(f, c) != sign):
            return f.quiet_nan
        return infinity(f, sign)
    if is_infinite(f, c):
        return c
    total = value(f, a) * value(f, b) + value(f, c)
    zero_sign = (
        sign and negative(f, c)
        if total == 0 and (value(f, a) * value(f, b) == 0 and is_zero(f, c))
        else rounding == DOWN
    )
    return encode(f, total, rounding, zero_sign)


def compare(f: Format, a: int, b: int) -> int | None:
    """-1, 0 or 1, None if unordered."""
    if is_nan(f, a) or is_nan(f, b):
        return None
    x, y = _ordered(f, a), _ordered(f, b)
    return (x > y) - (x < y)


def _ordered(f: Format, code: int) -> Fraction:
    if is_infinite(f, code):
        return Fraction(-(2**2000) if negative(f, code) else 2**2000)
    return value(f, code)


def minimum(f: Format, a: int, b: int, ieee: bool) -> int:
    return _min_max(f, a, b, ieee, -1)


def maximum(f: Format, a: int, b: int, ieee: bool) -> int:
    return _min_max(f, a, b, ieee, 1)


def _min_max(f: Format, a: int, b: int, ieee: bool, wanted: int) -> int:
    """v_min and v_max: a NaN loses against a number, but in IEEE mode a signalling one wins, quiet; -0 < +0."""
    if ieee and is_signalling(f, a):
        return quiet(f, a)
    if ieee and is_signalling(f, b):
        return quiet(f, b)
    if is_nan(f, a):
        return b
    if is_nan(f, b):
        return a
    if is_zero(f, a) and is_zero(f, b):
        return (a & b) if wanted > 0 else (a | b)
    return a if compare(f, a, b) == wanted else b


def medium(f: Format, a: int, b: int, c: int, ieee: bool) -> int:
    if is_nan(f, a) or is_nan(f, b) or is_nan(f, c):
        return minimum(f, minimum(f, a, b, ieee), c, ieee)
    top = maximum(f, maximum(f, a, b, ieee), c, ieee)
    if compare(f, top, a) == 0:
        return maximum(f, b, c, ieee)
    if compare(f, top, b) == 0:
        return maximum(f, a, c, ieee)
    return maximum(f, a, b, ieee)


def convert(to: Format, source: Format, code: int, rounding: int = NEAREST, saturate: bool = False) -> int:
    """A code of one format as one of another."""
    sign = negative(source, code)
    if is_nan(source, code):
        if to.nan == "ieee" and source.nan == "ieee":
            shift = source.mantissa - to.mantissa
            payload = code & ((1 << source.mantissa) - 1)
            payload = payload >> shift if shift >= 0 else payload << -shift
            return (to.sign if sign else 0) | to.quiet_nan | payload
        return to.quiet_nan if to.nan == "negative_zero" else (to.sign if sign else 0) | to.quiet_nan
    if is_infinite(source, code):
        if to.infinity:
            return infinity(to, sign)
        if to.nan == "none":
            return (to.sign if sign else 0) | to.largest
        return to.quiet_nan if to.nan == "negative_zero" else (to.sign if sign else 0) | to.quiet_nan
    return encode(to, value(source, code), rounding, sign, saturate)
