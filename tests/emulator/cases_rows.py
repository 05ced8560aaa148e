"""Launches and models of the kernels that reduce, scan and move rows."""

from __future__ import annotations

import numpy as np
from emulator import formats
from emulator.launches import (
    UNIT32,
    UNIT_BF16,
    Array,
    Buffer,
    Pages,
    Work,
    ceil_div,
    i32,
    kernel,
    read,
    u32,
    update,
    write,
    write_near,
)


@kernel("block_reduce", host=True)
def block_reduce(target: str, rng: np.random.Generator) -> Work:
    groups, n = 3, 2777
    x = rng.standard_normal(n).astype(np.float32)
    y = rng.integers(-(1 << 31), 1 << 31, n).astype(np.int32)
    of = np.arange(n) // 256 % groups
    sums = np.array([x[of == g].astype(np.float64).sum() for g in range(groups)])
    # A sum passes through one add an element of its work-item, then the 8 levels of the tree.
    adds = ceil_div(n, 256 * groups) + 8
    bound = np.array([adds * UNIT32 * np.abs(x[of == g]).astype(np.float64).sum() for g in range(groups)])
    maxima = np.array([y[of == g].max() for g in range(groups)], np.int32)
    args = {
        "x": read(x),
        "y": read(y),
        "sums": write_near(sums, bound, np.float32),
        "maxima": write(maxima),
        "n": u32(n),
    }
    return Work(args, (groups,), (256,))


@kernel("scan", host=True)
def scan(target: str, rng: np.random.Generator) -> Work:
    rows, length = 3, 307
    x = rng.integers(-(1 << 31), 1 << 31, (rows, length)).astype(np.int32)
    expected = np.cumsum(x.view(np.uint32), axis=1, dtype=np.uint32).view(np.int32)
    return Work({"x": read(x), "out": write(expected), "length": i32(length)}, (rows,), (128,), lds=1024)


def _transpose(rng: np.random.Generator, dtype: type) -> Work:
    rows, cols = 70, 45
    x = rng.integers(0, np.iinfo(dtype).max, (rows, cols)).astype(dtype)
    args = {"in": read(x), "out": write(x.T), "rows": u32(rows), "cols": u32(cols)}
    return Work(args, (ceil_div(cols, 32), ceil_div(rows, 32)), (32, 8))


@kernel("transpose_b32", "transpose", host=True)
def transpose_b32(target: str, rng: np.random.Generator) -> Work:
    return _transpose(rng, np.uint32)


@kernel("transpose_b16", "transpose", host=True)
def transpose_b16(target: str, rng: np.random.Generator) -> Work:
    return _transpose(rng, np.uint16)


@kernel("softmax", host=True)
def softmax(target: str, rng: np.random.Generator) -> Work:
    rows, length = 4, 331
    x = (rng.standard_normal((rows, length)) * 4).astype(np.float32)
    shifted = x.astype(np.float64) - x.max(axis=1, keepdims=True).astype(np.float64)
    e = np.exp(shifted)
    expected = e / e.sum(axis=1, keepdims=True)
    # The difference x - max is rounded, which moves exp by that much of itself; exp is good to 3 ulp (6 units); so are
    # the summands, whose sum passes 3 adds of a work-item and 7 of the tree; then the quotient.
    depth = ceil_div(length, 128) + 7
    relative = UNIT32 * (np.abs(shifted) + np.abs(shifted).max() + 6 + 6 + depth + 2)
    return Work(
        {"x": read(x), "out": write_near(expected, relative * expected, np.float32), "length": i32(length)},
        (rows,),
        (128,),
    )


def _rms_norm(rng: np.random.Generator, length: int) -> Work:
    rows, eps = 3, np.float32(1e-5)
    x = formats.to_bf16(rng.standard_normal((rows, length)).astype(np.float32))
    weight = formats.to_bf16(rng.uniform(0.5, 1.5, length).astype(np.float32))
    xv, wv = formats.bf16_values(x).astype(np.float64), formats.bf16_values(weight).astype(np.float64)
    expected = xv / np.sqrt((xv * xv).mean(axis=1, keepdims=True) + float(eps)) * wv
    # Relative: the squares and their sum (all positive), quotient and eps halve under the root; root, reciprocal, two
    # products; then bf16.
    adds = 8 * ceil_div(length, 8 * 128) + 7 + 1
    relative = UNIT32 * ((adds + 3) / 2 + 4) + UNIT_BF16
    out = write_near(expected, np.abs(expected) * relative, np.uint16, formats.bf16_values)
    return Work({"x": read(x), "weight": read(weight), "out": out, "length": u32(length), "eps": eps}, (rows,), (128,))


@kernel("rms_norm", host=True)
def rms_norm(target: str, rng: np.random.Generator) -> Work:
    return _rms_norm(rng, 1096)


@kernel("rms_norm_odd", "rms_norm", "rms_norm", host=True)
def rms_norm_odd(target: str, rng: np.random.Generator) -> Work:
    """Rows that are not 16-byte aligned, for the tail path."""
    return _rms_norm(rng, 333)


@kernel("gather_scatter", host=True)
def gather_scatter(target: str, rng: np.random.Generator) -> Work:
    moves, cols, rows, out_rows = 37, 53, 19, 50
    table = rng.integers(0, 1 << 16, (rows, cols)).astype(np.uint16)
    source = rng.integers(-4, rows, moves).astype(np.int64)
    to = rng.permutation(out_rows)[:moves].astype(np.int64)
    start = rng.integers(0, 1 << 16, (out_rows, cols)).astype(np.uint16)
    expected = start.copy()
    expected[to] = np.where(source[:, None] < 0, 0, table[source])
    start = np.where(np.isin(np.arange(out_rows), to)[:, None], ~expected, start)
    args = {
        "table": read(table),
        "from": read(source),
        "to": read(to),
        "out": update(start, expected),
        "moves": u32(moves),
        "cols": u32(cols),
    }
    return Work(args, (ceil_div(moves, 8),), (16, 8, 2))


@kernel("gather_pointers", "gather_scatter", host=True)
def gather_pointers(target: str, rng: np.random.Generator) -> Work:
    moves, cols = 21, 35
    pages = tuple(None if i % 5 == 4 else rng.integers(0, 1 << 16, cols).astype(np.uint16) for i in range(moves))
    expected = np.stack([np.zeros(cols, np.uint16) if page is None else page for page in pages])
    args: dict[str, Buffer | Pages | np.generic] = {
        "pages": Pages(pages),
        "out": write(expected),
        "moves": u32(moves),
        "cols": u32(cols),
    }
    return Work(args, (ceil_div(moves, 8),), (16, 8, 2))


@kernel("producer_consumer", host=True)
def producer_consumer(target: str, rng: np.random.Generator) -> Work:
    groups, tiles = 2, 7
    x = rng.integers(0, 1 << 32, (groups, tiles, 192)).astype(np.uint32)
    i = np.arange(192)
    expected = np.zeros((groups, 192), np.uint32)
    for tile in range(tiles):
        expected += x[:, tile, (i * 5 + tile) % 192] * np.uint32(tile + 1)
    return Work({"x": read(x), "out": write(expected), "tiles": u32(tiles)}, (groups,), (256,))


@kernel("relay", "producer_consumer", host=True)
def relay(target: str, rng: np.random.Generator) -> Work:
    groups = 3
    x = rng.integers(0, 1 << 32, groups).astype(np.uint32)
    word = x.copy()
    for turn in range(8):
        word = word * np.uint32(3) + np.uint32(turn)
    expected = word[:, None] + np.arange(512, dtype=np.uint32)
    return Work({"x": read(x), "out": write(expected)}, (groups,), (512,))


@kernel("phases", "persistent")
def phases(target: str, rng: np.random.Generator) -> Work:
    groups, count = 6, 5
    rows = rng.integers(0, 1 << 32, (groups, 128)).astype(np.uint32)
    history: list[Array] = [rows]
    for p in range(count):
        left = np.roll(history[-1], 1, axis=0)
        right = np.roll(np.roll(history[-1], -1, axis=0), -1, axis=1)
        history.append(left * np.uint32(3) + (right ^ np.uint32(p)))
    # Even phases lie in the first half, odd ones in the second.
    last = [history[count - count % 2], history[count - 1 + count % 2]]
    start = np.stack([rows, ~last[1]])
    args = {
        "rows": update(start, np.stack(last)),
        "arrived": update(np.zeros(1, np.uint32), np.array([groups * count], np.uint32)),
        "groups": u32(groups),
        "count": u32(count),
    }
    return Work(args, (groups,), (128,))


@kernel("look_back", "persistent")
def look_back(target: str, rng: np.random.Generator) -> Work:
    tiles, groups = 11, 4
    x = rng.integers(0, 1 << 32, (tiles, 64)).astype(np.uint32)
    sums = np.cumsum(x.reshape(-1), dtype=np.uint32)
    totals = (np.uint64(1) << np.uint64(32)) | sums[63::64].astype(np.uint64)
    args = {
        "x": read(x),
        "out": write(sums),
        "ticket": update(np.zeros(1, np.uint32), np.array([tiles + groups], np.uint32)),
        "totals": update(np.zeros(tiles, np.uint64), totals),
        "tiles": u32(tiles),
    }
    return Work(args, (groups,), (64,))
