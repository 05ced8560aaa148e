"""Launches and models of what only gfx950 has outside its matrix instructions."""

from __future__ import annotations

import numpy as np
from emulator import formats
from emulator.launches import Array, Work, ceil_div, kernel, read, u32, write

GFX950 = ("gfx950",)


def _transposed(rows: Array, bits: int) -> Array:
    """What a transposing read leaves in 64 lanes when lane l's address holds rows[l], in elements of `bits` bits.

    In each group of 16 lanes the lanes' elements, one lane after the other, are a matrix of 16 columns. Lane l gets
    column l.
    """
    elements = formats.unpack_codes(rows.view(np.uint8).reshape(4, -1), bits).reshape(4, -1, 16)
    return formats.pack_codes(elements.transpose(0, 2, 1).reshape(64, -1), bits).view(np.int32)


@kernel("lds_transpose", "gfx950_lds_transpose", targets=GFX950)
def lds_transpose(target: str, rng: np.random.Generator) -> Work:
    x = rng.integers(-(1 << 31), 1 << 31, (64, 2)).astype(np.int32)
    y = rng.integers(-(1 << 31), 1 << 31, (64, 3)).astype(np.int32)
    out = np.stack([_transposed(x, bits) for bits in (16, 8, 4)])
    args = {"x": read(x), "y": read(y), "out": write(out), "out6": write(_transposed(y, 6))}
    return Work(args, (1,), (64,))


@kernel("swaps", "gfx950_vector", targets=GFX950)
def swaps(target: str, rng: np.random.Generator) -> Work:
    a, b = (rng.integers(0, 1 << 32, 64).astype(np.uint32) for _ in range(2))
    # Rows of 16: odd rows of the first trade places with even rows of the second; halves of 32 likewise.
    ra, rb = a.reshape(2, 2, 16).copy(), b.reshape(2, 2, 16).copy()
    ra[:, 1], rb[:, 0] = b.reshape(2, 2, 16)[:, 0], a.reshape(2, 2, 16)[:, 1]
    ha, hb = np.concatenate([a[:32], b[:32]]), np.concatenate([a[32:], b[32:]])
    out = np.stack([ra.reshape(64), rb.reshape(64), ha, hb])
    return Work({"a": read(a), "b": read(b), "out": write(out)}, (1,), (64,))


def _truth_table(x: Array, y: Array, z: Array, table: int) -> Array:
    """Bit i of the result is bit (x_i * 4 + y_i * 2 + z_i) of the table."""
    result = np.zeros_like(x)
    for i in range(8):
        if table >> i & 1:
            result |= (x if i & 4 else ~x) & (y if i & 2 else ~y) & (z if i & 1 else ~z)
    return result


@kernel("bits", "gfx950_vector", targets=GFX950)
def bits(target: str, rng: np.random.Generator) -> Work:
    n = 100
    x, y, z = (rng.integers(0, 1 << 32, n).astype(np.uint32) for _ in range(3))
    # One step of a linear feedback shift register.
    step = x << np.uint32(1) ^ np.where(x >> np.uint32(31), np.uint32(197), np.uint32(0))
    rows = [step, _truth_table(x, y, z, 0x96), _truth_table(x, y, z, 0x2D), x & y ^ ~z]
    args = {"a": read(x), "b": read(y), "c": read(z), "out": write(np.stack(rows)), "n": u32(n)}
    return Work(args, (ceil_div(n, 64),), (64,))


@kernel("scaled", "gfx950_vector", targets=GFX950)
def scaled(target: str, rng: np.random.Generator) -> Work:
    n = 140
    exponent = rng.integers(-6, 7, n)
    x = (rng.standard_normal((n, 2)) * 3).astype(np.float32)
    x[:4] = [[6, -6], [0.25, 0.75], [5, 2.5], [-0.0, 0.1]]
    exponent[:4] = 0
    scale = np.ldexp(np.float32(1), exponent).astype(np.float32)
    # Divided by the scale on the way down, multiplied on the way up. Nothing here leaves the range of fp8; fp4 has
    # nothing above its largest, so what is above becomes that.
    down = x.astype(np.float64) / scale[:, None]
    fp4, fp8 = formats.E2M1.encode(down), formats.E4M3FN.encode(down)
    words4 = np.uint32(0xFFFF00FF) | (fp4[:, 0] | fp4[:, 1] << 4) << np.uint32(8)
    words8 = np.uint32(0x1234) | (fp8[:, 0] | fp8[:, 1] << 8) << np.uint32(16)
    up = [formats.E2M1.decode(fp4) * scale[:, None], formats.E4M3FN.decode(fp8) * scale[:, None]]
    args = {
        "x": read(x),
        "scale": read(scale),
        "codes": write(np.stack([words4, words8]).astype(np.uint32)),
        "back": write(np.stack(up).astype(np.float32)),
        "n": u32(n),
    }
    return Work(args, (ceil_div(n, 64),), (64,))


@kernel("bfloat", "gfx950_vector", targets=GFX950)
def bfloat(target: str, rng: np.random.Generator) -> Work:
    n = 120
    x = (rng.standard_normal((n, 2)) * np.exp2(rng.integers(-130, 127, (n, 2)))).astype(np.float32)
    x[:3] = [[1.00390625, 1.01171875], [np.inf, -np.inf], [0.0, -0.0]]
    args = {"x": read(x), "out": write(formats.to_bf16(x)), "n": u32(n)}
    return Work(args, (ceil_div(n, 64),), (64,))


@kernel("bounds", "gfx950_vector", targets=GFX950)
def bounds(target: str, rng: np.random.Generator) -> Work:
    n = 130
    x, y, z = (rng.standard_normal(n).astype(np.float32) for _ in range(3))
    x[:3], y[1:4], z[2:6] = np.nan, np.nan, np.inf
    # Unlike fmin and fmax, a NaN stays.
    rows = [np.minimum(np.minimum(x, y), z), np.maximum(np.maximum(x, y), z)]
    args = {"a": read(x), "b": read(y), "c": read(z), "out": write(np.stack(rows)), "n": u32(n)}
    return Work(args, (ceil_div(n, 64),), (64,))
