"""The division steps, alone and in the sequences that compilers make of them: quotients are correctly rounded."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from emulator import floats as fp
from emulator.assembly import TARGETS, Case, join64, run, split64
from emulator.executor import library
from emulator.floats import F32, F64, Format
from emulator.values import doubles, floats, generator

from aiterlite.emulator import use_library

pytestmark = pytest.mark.emulated

# What clang makes of a / b with denormals kept (without the mode switches that a kernel with flushed denormals needs).
F32_DIVISION = """
v_div_scale_f32 v20, s[40:41], v9, v9, v8
v_div_scale_f32 v21, vcc, v8, v9, v8
v_rcp_f32_e32 v22, v20
v_fma_f32 v23, -v20, v22, 1.0
v_fmac_f32_e32 v22, v23, v22
v_mul_f32_e32 v23, v21, v22
v_fma_f32 v24, -v20, v23, v21
v_fmac_f32_e32 v23, v24, v22
v_fma_f32 v20, -v20, v23, v21
v_div_fmas_f32 v20, v20, v22, v23
v_div_fixup_f32 v32, v20, v9, v8
"""
F64_DIVISION = """
v_div_scale_f64 v[20:21], s[40:41], v[10:11], v[10:11], v[8:9]
v_rcp_f64_e32 v[22:23], v[20:21]
v_fma_f64 v[24:25], -v[20:21], v[22:23], 1.0
v_fma_f64 v[22:23], v[22:23], v[24:25], v[22:23]
v_fma_f64 v[24:25], -v[20:21], v[22:23], 1.0
v_fma_f64 v[22:23], v[22:23], v[24:25], v[22:23]
v_div_scale_f64 v[24:25], vcc, v[8:9], v[10:11], v[8:9]
v_mul_f64 v[26:27], v[24:25], v[22:23]
v_fma_f64 v[20:21], -v[20:21], v[26:27], v[24:25]
v_div_fmas_f64 v[20:21], v[20:21], v[22:23], v[26:27]
v_div_fixup_f64 v[32:33], v[20:21], v[10:11], v[8:9]
"""


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


def quotient(f: Format, n: int, d: int) -> int:
    """n / d, a NaN result being 0xffc00000 (or its f64 likeness) as v_div_fixup makes it."""
    invalid = f.sign | f.quiet_nan
    sign = fp.negative(f, n) != fp.negative(f, d)
    if fp.is_nan(f, n):
        return fp.quiet(f, n)
    if fp.is_nan(f, d):
        return fp.quiet(f, d)
    if (fp.is_zero(f, n) and fp.is_zero(f, d)) or (fp.is_infinite(f, n) and fp.is_infinite(f, d)):
        return invalid
    if fp.is_zero(f, d) or fp.is_infinite(f, n):
        return fp.infinity(f, sign)
    if fp.is_infinite(f, d) or fp.is_zero(f, n):
        return f.sign if sign else 0
    return fp.encode(f, fp.value(f, n) / fp.value(f, d), sign_of_zero=sign)


def pairs(f: Format, count: int) -> tuple[Any, Any]:
    """Numerators and denominators: corners, ordinary values, and quotients at both ends of the range."""
    rng = generator(f"division{f.bits}")
    make = floats if f is F32 else doubles
    n = np.concatenate([make(rng) for _ in range(count)])
    d = np.concatenate([make(rng) for _ in range(count)])
    if f is F32:
        spread = rng.integers(0, 256, (2, 64 * count))
        n[::2] = (n[::2] & 0x807FFFFF) | spread[0, ::2].astype(np.uint32) << np.uint32(23)
        d[::2] = (d[::2] & 0x807FFFFF) | spread[1, ::2].astype(np.uint32) << np.uint32(23)
    else:
        spread = rng.integers(0, 2048, (2, 64 * count)).astype(np.uint64)
        keep = np.uint64(0x800FFFFFFFFFFFFF)
        n[::2] = (n[::2] & keep) | spread[0, ::2] << np.uint64(52)
        d[::2] = (d[::2] & keep) | spread[1, ::2] << np.uint64(52)
    return n, d


@pytest.mark.parametrize("target", TARGETS)
def test_f32(target: str) -> None:
    n, d = pairs(F32, 24)
    cases = [Case(F32_DIVISION, {"v8": n[i : i + 64], "v9": d[i : i + 64]}) for i in range(0, len(n), 64)]
    found = np.concatenate([got["v32"] for got in run(target, cases)])
    wrong = [
        (hex(int(a)), hex(int(b)), hex(int(q)), hex(quotient(F32, int(a), int(b))))
        for a, b, q in zip(n, d, found, strict=True)
        if int(q) != quotient(F32, int(a), int(b))
    ]
    assert not wrong, wrong[:10]


@pytest.mark.parametrize("target", TARGETS)
def test_f64(target: str) -> None:
    n, d = pairs(F64, 24)
    cases = []
    for i in range(0, len(n), 64):
        (a, b), (c, e) = split64(n[i : i + 64]), split64(d[i : i + 64])
        cases.append(Case(F64_DIVISION, {"v8": a, "v9": b, "v10": c, "v11": e}, read=("v32", "v33")))
    found = np.concatenate([join64(got["v32"], got["v33"]) for got in run(target, cases)])
    wrong = [
        (hex(int(a)), hex(int(b)), hex(int(q)), hex(quotient(F64, int(a), int(b))))
        for a, b, q in zip(n, d, found, strict=True)
        if int(q) != quotient(F64, int(a), int(b))
    ]
    assert not wrong, (len(wrong), wrong[:10])


@pytest.mark.parametrize("target", TARGETS)
def test_fixup_f16(target: str) -> None:
    """v_div_fixup_f16 takes an approximate quotient's magnitude and settles sign and special values."""
    rng = generator("fixup16")
    from emulator.floats import F16
    from emulator.values import halves

    q, d, n = halves(rng), halves(rng), halves(rng)
    got = run(
        target, [Case("v_div_fixup_f16 v32, v8, v9, v10", {"v8": q, "v9": d, "v10": n, "v32": np.uint32(0x77770000)})]
    )[0]
    for i in range(64):
        a, b, c = (int(v[i]) & 0xFFFF for v in (q, d, n))
        special = any(fp.is_nan(F16, x) or fp.is_infinite(F16, x) or fp.is_zero(F16, x) for x in (b, c))
        sign = 0x8000 if fp.negative(F16, b) != fp.negative(F16, c) else 0
        want = quotient(F16, c, b) if special else (a & 0x7FFF) | sign
        if not special and fp.is_nan(F16, a):
            want = fp.quiet(F16, want)
        assert int(got["v32"][i]) == 0x77770000 | want, (hex(a), hex(b), hex(c))


@pytest.mark.parametrize("target", TARGETS)
def test_trig_preop(target: str) -> None:
    """The chunk of 2/pi that a large argument's reduction starts from."""
    bits = 1201 + 64
    # 2/pi to enough bits: arctan by Machin's formula in integers.
    scale = 1 << (bits + 64)

    def arctan(inverse: int) -> int:
        total, term, k, sign = 0, scale // inverse, 1, 1
        while term:
            total += sign * (term // k)
            term //= inverse * inverse
            k, sign = k + 2, -sign
        return total

    pi = 4 * (4 * arctan(5) - arctan(239))
    two_over_pi = Fraction(2 * scale, pi)
    expansion = two_over_pi.numerator * (1 << 1201) // two_over_pi.denominator
    exponents = [1023, 1077, 1100, 1500, 1968, 2040]
    values = np.array([e << 52 | 0x123456789ABCD for e in exponents] * 10 + [0] * 4, np.uint64)
    segment = np.arange(64, dtype=np.uint32) % 3
    low, high = split64(values)
    got = run(
        target,
        [Case("v_trig_preop_f64 v[32:33], v[8:9], v10", {"v8": low, "v9": high, "v10": segment}, read=("v32", "v33"))],
    )[0]
    found = join64(got["v32"], got["v33"]).view(np.float64)
    for i in range(60):
        e = int(values[i] >> np.uint64(52)) & 2047
        shift = int(segment[i]) * 53 + max(e - 1077, 0)
        field = expansion >> (1201 - 53 - shift) & ((1 << 53) - 1) if shift <= 1148 else 0
        power = -53 - shift + (128 if e >= 1968 else 0)
        assert found[i] == float(Fraction(field) * Fraction(2) ** power), (e, int(segment[i]))
