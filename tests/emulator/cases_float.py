"""Launches and models of scalar floating-point kernels: correctly rounded operations have one right bit pattern."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from emulator import formats
from emulator.launches import UNIT32, Array, Buffer, Work, ceil_div, kernel, read, u32, write, write_near, write_viewed

_libm = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
_libm.fma.argtypes, _libm.fma.restype = [ctypes.c_double] * 3, ctypes.c_double
_libm.fmaf.argtypes, _libm.fmaf.restype = [ctypes.c_float] * 3, ctypes.c_float


def fma(x: Array, y: Array, z: Array) -> Array:
    """Products and sums with one rounding, in the type of `x` (f64, f32, or f16 by exact fractions)."""
    if x.dtype == np.float16:
        return np.array([_fma16(*map(float, v)) for v in zip(x.ravel(), y.ravel(), z.ravel(), strict=True)]).reshape(
            x.shape
        )
    function = _libm.fma if x.dtype == np.float64 else _libm.fmaf
    flat = [function(*map(float, v)) for v in zip(x.ravel(), y.ravel(), z.ravel(), strict=True)]
    return np.array(flat, x.dtype).reshape(x.shape)


def _fma16(x: float, y: float, z: float) -> np.float16:
    if not all(map(np.isfinite, (x, y, z))):
        return np.float16(x * y + z)
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    if exact == 0:
        return np.float16(x * y + z)
    near = float(exact)
    # To odd: a double that stands for the exact value in the second rounding, to f16.
    if Fraction(near) != exact and not np.float64(near).view(np.uint64) & np.uint64(1):
        near = float(np.nextafter(near, np.inf if exact > Fraction(near) else -np.inf))
    return np.float16(near)


def edge_floats(rng: np.random.Generator, n: int, dtype: Any, spread: int) -> Array:
    """Random values over 2^-spread .. 2^spread, with zeros, subnormals, ties, infinities and NaN among them."""
    info = np.finfo(dtype)
    tiny = float(info.smallest_subnormal)
    edges = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1.5,
        2.5,
        -2.5,
        float(info.max),
        -float(info.max),
        float(info.tiny),
        tiny,
        -3 * tiny,
    ]
    edges += [float(info.tiny) * 0.75, np.inf, -np.inf, np.nan]
    values = (rng.standard_normal(n) * np.exp2(rng.integers(-spread, spread, n))).astype(dtype)
    values[: len(edges)] = np.array(edges, dtype)
    rng.shuffle(values)
    return np.asarray(values)


def _no_sign_of_zero(rows: set[int]) -> Callable[[Array], Array]:
    """A view that forgets the sign of zeros in some rows: of a minimum of +0 and -0 either is right."""

    def view(out: Array) -> Array:
        out = out.copy()
        for row in rows:
            out[row] = np.where(out[row] == 0, 0, out[row])
        return out

    return view


def _write_rows(rows: list[Array], dtype: Any, free_zero: set[int]) -> Buffer:
    view = _no_sign_of_zero(free_zero)
    return write_viewed(view(np.stack(rows).astype(dtype)), dtype, view)


def _common_rows(x: Array, y: Array, z: Array) -> list[Array]:
    two, half = x.dtype.type(2), x.dtype.type(0.5)
    return [
        x + y,
        x - y,
        x * y,
        x / y,
        np.sqrt(x),
        fma(x, y, z),
        np.fmin(x, y),
        np.fmax(x, y),
        half * x + two * two * y,
        np.copysign(x, y),
    ]


@kernel("float64", host=True)
def float64(target: str, rng: np.random.Generator) -> Work:
    n = 180
    x, y, z = (edge_floats(rng, n, np.float64, 40) for _ in range(3))
    with np.errstate(all="ignore"):
        add, sub, mul, div, root, fused, low, high, mixed, signed = _common_rows(x, y, z)
        rows = [add, sub, mul, div, root, fused, low, high, np.floor(x), np.ceil(x), np.trunc(x), np.rint(x)]
        rows += [np.abs(x), -x, np.where(x < y, x, z), np.where(x >= y, y, z), np.where(x == x, 1.0, 2.0)]
        rows += [mixed, signed, 1.0 / x]
    args = {"a": read(x), "b": read(y), "c": read(z), "out": _write_rows(rows, np.float64, {6, 7}), "n": u32(n)}
    return Work(args, (ceil_div(n, 64),), (64,))


@kernel("exact32", "float32", host=True)
def exact32(target: str, rng: np.random.Generator) -> Work:
    n = 180
    x, y, z = (edge_floats(rng, n, np.float32, 30) for _ in range(3))
    with np.errstate(all="ignore"):
        add, sub, mul, div, root, fused, low, high, mixed, signed = _common_rows(x, y, z)
        rows = [add, sub, mul, div, root, fused, low, high]
        rows += [np.fmax(np.fmin(x, np.float32(1)), np.float32(0)), np.floor(x), np.ceil(x), np.trunc(x), np.rint(x)]
        rows += [np.abs(x) + -y, -x * np.abs(y), np.where(x < y, x, z), np.where(x >= y, z, y)]
        rows += [np.where(x != x, np.float32(3), np.float32(4)), mixed, signed]
        rows += [np.fmax(x, np.fmax(y, z)), np.fmin(x, np.fmin(y, z)), x - np.floor(x), (x + y) * np.float32(2)]
        rows += [np.fmax(np.fmin(np.fmax(x, y), np.fmax(np.fmin(x, y), z)), np.fmin(x, y))]
    args = {
        "a": read(x),
        "b": read(y),
        "c": read(z),
        "out": _write_rows(rows, np.float32, {6, 7, 8, 20, 21, 24}),
        "n": u32(n),
    }
    return Work(args, (ceil_div(n, 64),), (64,))


@kernel("transcendental32", "float32")
def transcendental32(target: str, rng: np.random.Generator) -> Work:
    n = 190
    x = rng.uniform(-30, 30, n).astype(np.float32)
    x[:4] = [0.0, -87.0, 88.0, 1e-6]
    y = np.exp2(rng.uniform(-100, 100, n)).astype(np.float32)
    y[:4] = [1.0, 2.0, 0.9999999, 1e-42]
    xd, yd = x.astype(np.float64), y.astype(np.float64)
    normal = np.where(yd < 1e-30, 1.0, yd)
    mantissa, exponent = np.frexp(xd)
    exact = [np.exp(xd), np.exp2(xd), np.log(yd), np.log2(yd), np.log10(yd), np.sin(xd), np.cos(xd)]
    exact += [np.ldexp(xd, np.arange(n) % 40 - 20), np.minimum(xd - np.floor(xd), 1 - UNIT32), mantissa, exponent]
    exact += [1 / np.sqrt(normal), 1 / normal, np.median([xd, yd, np.ones(n)], axis=0)]
    # Exponentials and logarithms: 3 ulp, as OpenCL asks for, an ulp being up to 2 units; the hardware's logarithm is
    # good to an ulp of the result or of 1, whichever is larger. Sine and cosine: the argument is scaled by 1 / 2 pi,
    # rounded twice, before the hardware takes the fraction; that moves the angle by up to 3 units of it. The fraction
    # rounds once. Reciprocals are good to 1 ulp.
    relative = [6.0, 6.0, 6.0, 6.0, 6.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0, 2.0, 0.0]
    absolute = [0.0, 0.0, 2.0, 2.0, 2.0, 3 * np.abs(xd) + 4, 3 * np.abs(xd) + 4, *[0.0] * 7]
    bound = np.stack([UNIT32 * (r * np.abs(e) + a) for e, r, a in zip(exact, relative, absolute, strict=True)])
    args = {"a": read(x), "b": read(y), "out": write_near(np.stack(exact), bound, np.float32), "n": u32(n)}
    return Work(args, (ceil_div(n, 64),), (64,))


@kernel("conversions", "float64", host=True)
def conversions(target: str, rng: np.random.Generator) -> Work:
    n = 170
    x = (rng.standard_normal(n) * np.exp2(rng.integers(-10, 60, n))).astype(np.float64)
    x[:7] = [0.0, -0.5, 0.5, 2.0**53 + 2, -(2.0**62), 1.5, 2.0**31]
    y = rng.integers(-(1 << 63), 1 << 63, n) >> rng.integers(0, 63, n)
    y[:6] = [0, -1, 1, (1 << 63) - 1, -(1 << 63), (1 << 53) + 1]
    unsigned, low = y.view(np.uint64), y.view(np.uint64).astype(np.uint32)
    doubles = [y.astype(np.float64), unsigned.astype(np.float64), low.view(np.int32).astype(np.float64)]
    doubles += [low.astype(np.float64), x.astype(np.float32).astype(np.float64)]
    longs = [np.trunc(x).astype(np.int64), np.trunc(np.abs(x)).astype(np.uint64).view(np.int64)]
    ints = [np.trunc(x * 2.0**-32).astype(np.int32), np.trunc(np.abs(x) * 2.0**-31).astype(np.uint32).view(np.int32)]
    floats = [x.astype(np.float32), y.astype(np.float32), unsigned.astype(np.float32)]
    args = {
        "a": read(x),
        "b": read(y),
        "doubles": write(np.stack(doubles)),
        "longs": write(np.stack(longs)),
        "ints": write(np.stack(ints)),
        "floats": write(np.stack(floats)),
        "n": u32(n),
    }
    return Work(args, (ceil_div(n, 64),), (64,))


@kernel("half_exact", "half")
def half_exact(target: str, rng: np.random.Generator) -> Work:
    n = 180
    x, y, z = (edge_floats(rng, n, np.float16, 8) for _ in range(3))
    with np.errstate(all="ignore"):
        rows = [x + y, x - y, x * y, x / y, fma(x, y, z), np.sqrt(x), np.fmin(x, y), np.fmax(x, y)]
        rows += [np.fmax(x, np.fmax(y, z)), np.floor(x), np.rint(x), np.abs(x) - y, np.where(x < y, x, z)]
        # The last row is a product that -O0 computes as a multiply-add with +0, which turns -0 into +0.
        shorts = (np.arange(n) * 37).astype(np.int16)
        rows += [shorts.astype(np.float16), (x.astype(np.float32) * np.float32(3)).astype(np.float16)]
    args = {"a": read(x), "b": read(y), "c": read(z), "out": _write_rows(rows, np.float16, {6, 7, 8, 14}), "n": u32(n)}
    return Work(args, (ceil_div(n, 64),), (64,))


@kernel("half_pairs", "half")
def half_pairs(target: str, rng: np.random.Generator) -> Work:
    n = 100
    x, y, z = (edge_floats(rng, 2 * n, np.float16, 6).reshape(n, 2) for _ in range(3))
    flipped = np.ascontiguousarray(y[:, ::-1])
    with np.errstate(all="ignore"):
        rows = [x + y, x * flipped, x - flipped, fma(x, y, z), fma(x, flipped, -z), np.fmax(x, y), np.fmin(-x, y)]
        xf, yf, zf = (v.astype(np.float32) for v in (x, y, z))
        # An f16 product is exact in f32; the dot product rounds each of its two sums, or neither alone.
        dot = xf.astype(np.float64)[:, 0] * yf[:, 0] + xf.astype(np.float64)[:, 1] * yf[:, 1] + 1.5
        terms = np.abs(xf[:, 0] * yf[:, 0]) + np.abs(xf[:, 1] * yf[:, 1]) + 1.5
        fused = fma(xf[:, 0].copy(), yf[:, 1].copy(), zf[:, 0].copy())
        last = xf.astype(np.float64)[:, 1] * yf[:, 0] + 0.25
    expected = np.stack([dot, fused.astype(np.float64), last])
    bound = np.stack([2 * UNIT32 * terms, np.zeros(n), UNIT32 * np.abs(last)])
    # Not finite: the comparison is of what infinity and NaN are, which a bound cannot say.
    finite = np.isfinite(expected)
    expected[~finite], bound[~finite] = 0, 0

    def view(dots: Array) -> Array:
        return np.where(finite, dots, np.where(np.isfinite(dots), 1, 0))

    args = {
        "a": read(x),
        "b": read(y),
        "c": read(z),
        "out": _write_rows(rows, np.float16, {5, 6}),
        "dots": write_near(expected, bound, np.float32, view),
        "n": u32(n),
    }
    return Work(args, (ceil_div(n, 64),), (64,))


@kernel("float_pairs", "packed32")
def float_pairs(target: str, rng: np.random.Generator) -> Work:
    n = 100
    x, y, z = (edge_floats(rng, 2 * n, np.float32, 20).reshape(n, 2) for _ in range(3))
    flipped, low, high = np.ascontiguousarray(y[:, ::-1]), y[:, [0, 0]], y[:, [1, 1]]
    with np.errstate(all="ignore"):
        rows = [x + y, x * y, fma(x, y, z), fma(x, flipped, z), fma(x, low, -z), x * high, x - flipped]
        rows += [np.stack([x[:, 1], z[:, 0]], axis=1)]
    args = {"a": read(x), "b": read(y), "c": read(z), "out": _write_rows(rows, np.float32, set()), "n": u32(n)}
    return Work(args, (ceil_div(n, 64),), (64,))


def _dot(x: Array, y: Array, z: Array, bits: int, signed: bool) -> Array:
    """Sum of products of the fields of two words, plus a word, wrapping."""
    total = z.astype(np.int64)
    for shift in range(0, 32, bits):
        a, b = ((w.astype(np.int64) >> shift) & ((1 << bits) - 1) for w in (x, y))
        if signed:
            a, b = (v - ((v >> (bits - 1)) << bits) for v in (a, b))
        total = total + a * b
    return (total & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


@kernel("integer_pairs", "packed32")
def integer_pairs(target: str, rng: np.random.Generator) -> Work:
    n = 90
    x, y, z = (rng.integers(0, 1 << 16, (n, 2)).astype(np.uint16) for _ in range(3))
    x[:3], y[:3] = [[0, 0xFFFF], [0x8000, 0x7FFF], [1, 2]], [[0xFFFF, 1], [0x8000, 0x8000], [0, 17]]
    sx, sy, shift = x.view(np.int16), y.view(np.int16), y & 15
    rows = [x + y, x - y, x * y, x * y + z, x << shift, x >> shift, (sx >> shift.view(np.int16)).view(np.uint16)]
    rows += [np.maximum(x, y), np.minimum(x, y), np.maximum(sx, sy).view(np.uint16), np.minimum(sx, sy).view(np.uint16)]
    rows += [np.minimum(x.astype(np.uint32) + y, 0xFFFF).astype(np.uint16), np.stack([x[:, 1], y[:, 0]], axis=1)]
    words = [np.ascontiguousarray(v).view(np.uint32)[:, 0] for v in (x, y, z)]
    dots = [_dot(*words, 8, True), _dot(*words, 8, False), _dot(*words, 4, True), _dot(*words, 16, True)]
    args = {
        "a": read(x),
        "b": read(y),
        "c": read(z),
        "out": write(np.stack(rows)),
        "dots": write(np.stack(dots)),
        "n": u32(n),
    }
    return Work(args, (ceil_div(n, 64),), (64,))


@kernel("quantize_fp8")
def quantize_fp8(target: str, rng: np.random.Generator) -> Work:
    groups = 37
    x = rng.standard_normal((groups, 128)) * np.exp2(rng.integers(-20, 20, (groups, 1)))
    x[3], x[4, 5:] = 0, 0
    x[5] *= np.exp2(rng.integers(-9, 1, 128))
    codes = formats.to_bf16(x.astype(np.float32))
    values = formats.bf16_values(codes)
    fmt = formats.fp8(target)
    # In f32 step by step, as the kernel divides: every operation is correctly rounded.
    scale = np.maximum(np.abs(values).max(axis=1), np.float32(1e-10)) / np.float32(fmt.largest)
    q = fmt.encode(values / scale[:, None]).astype(np.uint8)
    args = {"x": read(codes), "q": write(q), "scales": write(scale), "groups": u32(groups)}
    return Work(args, (ceil_div(groups, 16),), (256,))


@kernel("decode_fp8", "fp8_convert")
def decode_fp8(target: str, rng: np.random.Generator) -> Work:
    codes = np.arange(256, dtype=np.uint8)
    fp8 = formats.fp8(target).values.astype(np.float32)
    bf8 = formats.bf8(target).values.astype(np.float32)
    # Pairs: for each item fp8 low, fp8 high, bf8 low, bf8 high.
    pairs = np.concatenate([fp8.reshape(64, 4), bf8.reshape(64, 4)], axis=1).reshape(-1)
    return Work({"words": read(codes.view(np.int32)), "out": write(np.concatenate([fp8, bf8, pairs]))}, (1,), (64,))


def _floats_for(fmt: formats.Format, rng: np.random.Generator, n: int) -> Array:
    """Values of a format, ties between neighbours and what lies beside them, and what is too small or too large."""
    finite = fmt.finite
    ties = (finite[1:] + finite[:-1]) / 2
    pool = np.concatenate([finite, ties, np.nextafter(ties.astype(np.float32), np.float32(0)), ties * 1.0001])
    pool = np.concatenate([pool, -pool, [fmt.largest * 1.02, fmt.largest * 4, -fmt.largest * 2, np.nan, finite[1] / 3]])
    return rng.choice(pool, n).astype(np.float32)


@kernel("encode_fp8", "fp8_convert")
def encode_fp8(target: str, rng: np.random.Generator) -> Work:
    n = 500
    fp8, bf8 = formats.fp8(target), formats.bf8(target)
    x = np.concatenate([_floats_for(fp8, rng, n // 2), _floats_for(bf8, rng, n // 2)])
    before = rng.integers(-(1 << 31), 1 << 31, n).astype(np.int32)
    rows = []
    for fmt in (fp8, bf8):
        codes = fmt.encode(x.astype(np.float64))
        pair = codes | np.roll(codes, -1) << 8
        old = before.view(np.uint32)
        rows += [old & np.uint32(0xFFFF0000) | pair, old & np.uint32(0xFFFF) | pair << 16]
    expected = np.stack(rows).astype(np.uint32).view(np.int32)
    expected[:, n - 1] = 0  # the last one has no neighbour and is not written

    def view(out: Array) -> Array:
        """A NaN has many codes in e5m2: all become one."""
        out = out.copy()
        out[:, n - 1] = 0
        codes = out.view(np.uint8).reshape(4, n, 4)
        for row, fmt in enumerate((fp8, fp8, bf8, bf8)):
            nan = np.isnan(fmt.values[codes[row]])
            place = np.arange(4) // 2 == row % 2
            codes[row][nan & place] = fmt.nan_code
        return out

    expected = view(expected)
    args = {"x": read(x), "before": read(before), "out": write_viewed(expected, np.int32, view), "n": u32(n)}
    return Work(args, (ceil_div(n, 64),), (64,))


def _encode_random(fmt: formats.Format, x: Array, random: Array) -> Array:
    """Adds the top random bits below the last mantissa bit that stays, then cuts off."""
    dropped = 23 - fmt.mantissa
    bits = x.view(np.uint32).astype(np.uint64) + (random.view(np.uint32) >> np.uint32(32 - dropped))
    return fmt.encode(((bits >> np.uint64(dropped)) << np.uint64(dropped)).astype(np.uint32).view(np.float32))


@kernel("encode_random", "fp8_convert")
def encode_random(target: str, rng: np.random.Generator) -> Work:
    # Values that are normal in both formats: how random bits enter a subnormal result is not documented.
    n = 260
    x = (rng.uniform(1, 2, n) * np.exp2(rng.integers(-4, 6, n)) * rng.choice([-1, 1], n)).astype(np.float32)
    random, before = (rng.integers(-(1 << 31), 1 << 31, n).astype(np.int32) for _ in range(2))
    other = random ^ np.int32(0x5A5A5A5A)
    old = before.view(np.uint32)
    fp8, bf8 = formats.fp8(target), formats.bf8(target)
    first = old & np.uint32(0xFF00FF00) | _encode_random(fp8, x, random) | _encode_random(fp8, x, other) << 16
    second = old & np.uint32(0x00FF00FF) | _encode_random(bf8, x, random) << 8 | _encode_random(bf8, x, other) << 24
    expected = np.stack([first, second]).astype(np.uint32).view(np.int32)
    args = {"x": read(x), "random": read(random), "before": read(before), "out": write(expected), "n": u32(n)}
    return Work(args, (ceil_div(n, 64),), (64,))
