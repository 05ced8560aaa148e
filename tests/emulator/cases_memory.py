"""Launches and models of kernels about memory: atomics, private arrays, narrow accesses, buffers, loads to LDS."""

from __future__ import annotations

from typing import Any

import numpy as np
from emulator.launches import Array, Buffer, Work, ceil_div, i32, kernel, read, u32, update, write, write_viewed


def words(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(0, 1 << 32, shape).astype(np.uint32)


@kernel("histogram", "lds_atomics", host=True)
def histogram(target: str, rng: np.random.Generator) -> Work:
    n, bins = 2221, 61
    x = (rng.integers(0, 1 << 16, n) ** 2).astype(np.uint32)
    start = rng.integers(0, 100, bins).astype(np.uint32)
    counts = start + np.bincount(x % bins, minlength=bins).astype(np.uint32)
    return Work({"x": read(x), "counts": update(start, counts), "n": u32(n)}, (4,), (192,))


@kernel("ranks", "lds_atomics", host=True)
def ranks(target: str, rng: np.random.Generator) -> Work:
    n, threshold = 700, 1 << 31
    x = words(rng, n)
    groups = ceil_div(n, 256)
    lists, lengths = np.full((groups, 256), 0xA5A5A5A5, np.uint32), np.zeros(groups, np.uint32)
    for g in range(groups):
        kept = np.sort(x[256 * g : 256 * (g + 1)][x[256 * g : 256 * (g + 1)] > threshold])
        lists[g, : len(kept)], lengths[g] = kept, len(kept)

    def view(out: Array) -> Array:
        """The order inside a list is free."""
        out = out.copy()
        for g in range(groups):
            out[g, : lengths[g]].sort()
        return out

    args = {
        "x": read(x),
        "list": update(np.full((groups, 256), 0xA5A5A5A5, np.uint32), lists, view),
        "lengths": write(lengths),
        "n": u32(n),
        "threshold": u32(threshold),
    }
    return Work(args, (groups,), (128,))


def _fold(operation: Any, values: Array, start: int) -> int:
    return int(operation.reduce(values, initial=values.dtype.type(start)))


@kernel("lds_tallies", "lds_atomics", host=True)
def lds_tallies(target: str, rng: np.random.Generator) -> Work:
    groups = 2
    x = words(rng, groups, 128)
    t = np.arange(128, dtype=np.uint32)
    out_words, longs = np.zeros((groups, 10), np.uint32), np.zeros((groups, 4), np.uint64)
    for g, v in enumerate(x):
        signed, wide = v.view(np.int32), v.astype(np.uint64) * np.uint64(0x100000001)
        total = int(v.astype(np.uint64).sum()) & 0xFFFFFFFF
        out_words[g] = [
            total,
            -total & 0xFFFFFFFF,
            _fold(np.bitwise_and, v | np.uint32(0xFF) << t % np.uint32(24), 0xFFFFFFFF),
            _fold(np.bitwise_or, v & np.uint32(0x11111111), 0),
            _fold(np.bitwise_xor, v, 0),
            int(signed.min()) & 0xFFFFFFFF,
            int(signed.max()) & 0xFFFFFFFF,
            int(v.min()),
            int(v.max()),
            total,
        ]
        chain = 0
        for _ in range(128):
            chain = chain * 3 + 1 & 0xFFFFFFFFFFFFFFFF
        longs[g] = [int(wide.sum()), int(wide.max()), int(wide.min()), chain]
    args = {
        "x": read(x),
        "words": write(out_words),
        "longs": write(longs),
        "floats": write((x % 1024).sum(axis=1).astype(np.float32)),
        "doubles": write(x.astype(np.float64).sum(axis=1)),
    }
    return Work(args, (groups,), (128,))


@kernel("tallies", "global_atomics", host=True)
def tallies(target: str, rng: np.random.Generator) -> Work:
    n = 333
    x = words(rng, n)
    i = np.arange(n)
    wide = x.astype(np.uint64) * np.uint64(0x1000000FD)
    results: list[list[int]] = []
    starts: list[list[int]] = []
    for v, bits in ((x, 32), (wide, 64)):
        ones, signed = (1 << bits) - 1, v.view(np.dtype(f"i{bits // 8}"))
        shift = (i % (bits - 8)).astype(v.dtype)
        nibbles = v.dtype.type(0x1111111111111111 & ones)
        starts.append([5, ones, 0, 0, ones >> 1, 1 << (bits - 1), ones, 0])
        results.append(
            [
                5 + int(v.sum(dtype=v.dtype)) & ones,
                _fold(np.bitwise_and, v | v.dtype.type(0xFF) << shift, ones),
                _fold(np.bitwise_or, v & nibbles, 0),
                _fold(np.bitwise_xor, v, 0),
                int(signed.min()) & ones,
                int(signed.max()) & ones,
                int(v.min()),
                int(v.max()),
            ]
        )
    args = {
        "x": read(x),
        "words": update(np.array(starts[0], np.uint32), np.array(results[0], np.uint32)),
        "longs": update(np.array(starts[1], np.uint64), np.array(results[1], np.uint64)),
        "n": u32(n),
    }
    return Work(args, (ceil_div(n, 128),), (128,))


@kernel("tickets", "global_atomics", host=True)
def tickets(target: str, rng: np.random.Generator) -> Work:
    n = 300
    x = words(rng, n)
    first = 0xABCDEF
    placed = x.astype(np.uint64) << np.uint64(20) | np.arange(n, dtype=np.uint64)
    # All values that were put in but the one that is left, and the one that was there before.
    universe = np.sort(np.append(placed, np.uint64(first)))

    def is_chain(out: Array) -> Array:
        """The values taken out, sorted, with the one that is missing put back: who comes last is free."""
        return np.sort(np.append(out, universe[~np.isin(universe, out)]))

    args = {
        "x": read(x),
        "counter": update(np.zeros(1, np.uint32), np.array([n], np.uint32)),
        "long_counter": Buffer(np.array([first], np.uint64), np.array([True]), None, lambda out: np.isin(out, placed)),
        "list": write_viewed(np.sort(x), np.uint32, np.sort),
        "swapped": Buffer(~placed, universe, None, is_chain),
        "n": u32(n),
    }
    return Work(args, (ceil_div(n, 128),), (128,))


@kernel("float_tallies", "global_atomics", host=True)
def float_tallies(target: str, rng: np.random.Generator) -> Work:
    n = 290
    x = rng.integers(0, 2000, n).astype(np.float32)
    i = np.arange(n)
    sums = np.array([x[i % 3 == j].sum() for j in range(3)], np.float32)
    doubles = np.array([x[i % 2 == j].astype(np.float64).sum() * 0.5 for j in range(2)])
    args = {
        "x": read(x),
        "sum": update(np.zeros(3, np.float32), sums),
        "double_sum": update(np.zeros(2), doubles),
        "maximum": update(np.full(1, 3.5, np.float32), x.max(keepdims=True)),
        "n": u32(n),
    }
    return Work(args, (ceil_div(n, 128),), (128,))


@kernel("exclusive", "global_atomics", host=True)
def exclusive(target: str, rng: np.random.Generator) -> Work:
    groups = 9
    x = words(rng, groups)
    a, b = 1, int(x.sum(dtype=np.uint32))
    for _ in range(groups):
        a = a * 5 + 3 & 0xFFFFFFFF
    args = {
        "lock": update(np.zeros(1, np.uint32), np.zeros(1, np.uint32)),
        "pair": update(np.array([1, 0], np.uint32), np.array([a, b], np.uint32)),
        "x": read(x),
    }
    return Work(args, (groups,), (128,))


@kernel("double_bounds", "global_atomics")
def double_bounds(target: str, rng: np.random.Generator) -> Work:
    n = 200
    x = rng.standard_normal(n)
    signed = x.astype(np.float64).view(np.uint64)
    xors = np.bitwise_xor.reduce(signed)
    start = np.array([np.inf, -np.inf])
    args = {
        "x": read(x),
        "bounds": update(start, np.array([x.min(), x.max()])),
        "folded": update(np.zeros(1, np.uint64), np.array([xors], np.uint64)),
        "less": update(np.array([7], np.uint32), np.array([7 - n & 0xFFFFFFFF], np.uint32)),
        "n": u32(n),
    }
    return Work(args, (ceil_div(n, 128),), (128,))


@kernel("packed_atomics")
def packed_atomics(target: str, rng: np.random.Generator) -> Work:
    # Sums stay below 256, where bf16 still counts in ones.
    values = rng.integers(-3, 4, (128, 2))
    halves = values.astype(np.float16).view(np.uint32)[:, 0]
    floats = values.astype(np.float32).view(np.uint32)
    bfloats = floats[:, 0] >> 16 | floats[:, 1] & np.uint32(0xFFFF0000)
    start = np.array([[1, -2], [1, -2]])
    half = [(start[0] + values.sum(axis=0)), values.sum(axis=0)]
    as_half = [h.astype(np.float16).view(np.uint32)[0] for h in half]
    as_bfloat = [(f := h.astype(np.float32).view(np.uint32))[0] >> 16 | f[1] & np.uint32(0xFFFF0000) for h in half]
    initial = np.array([np.array([1, -2], np.float16).view(np.uint32)[0], 0x3F80 | 0xC000 << 16, 0, 0], np.uint32)
    expected = np.array([as_half[0], as_bfloat[0], as_half[1], as_bfloat[1]], np.uint32)
    initial[2:] = ~expected[2:]
    args = {"halves": read(halves), "bfloats": read(bfloats), "sums": update(initial, expected)}
    return Work(args, (1,), (128,))


@kernel("private_sort", "scratch", host=True)
def private_sort(target: str, rng: np.random.Generator) -> Work:
    n, length = 75, 24
    x = rng.integers(-50, 50, (n, length)).astype(np.int32)
    order = np.argsort(x, axis=1, kind="stable").astype(np.int32)
    args = {
        "x": read(x),
        "out": write(np.take_along_axis(x, order.astype(np.int64), axis=1)),
        "order": write(order),
        "n": u32(n),
    }
    return Work(args, (ceil_div(n, 64),), (64,))


def _record_tally(x: Array, i: int) -> tuple[int, int]:
    mask = (1 << 64) - 1
    v = x[i:].astype(np.int64)
    delta = [int(np.int64(v[j] - 100).astype(np.int8)) for j in range(7)]
    amount = [[int(v[j] * v[r]) & 0xFFFF for j in range(6)] for r in range(3)]
    mine = int(v[0]) % 3
    total = sum(delta[(int(v[1]) + j) % 7] * 256 + amount[mine][(int(v[2]) + j) % 6] for j in range(42))
    tail = amount[(int(v[0]) + 1) % 3][int(v[3]) % 6]
    bytes_ = [d & 255 for d in delta] if i & 1 else [int(b) for b in v[:7]]
    folded = 0
    for b in bytes_:
        folded = folded * 31 + b & mask
    return total + tail & mask, folded


@kernel("bytes_and_shorts", "scratch", host=True)
def bytes_and_shorts(target: str, rng: np.random.Generator) -> Work:
    n = 90
    x = rng.integers(0, 256, n + 7).astype(np.uint8)
    expected = np.array([_record_tally(x, i) for i in range(n)], np.uint64)
    return Work({"x": read(x), "out": write(expected), "n": u32(n)}, (ceil_div(n, 64),), (64,))


@kernel("spills", "scratch", host=True)
def spills(target: str, rng: np.random.Generator) -> Work:
    n = 101
    x = words(rng, n)
    i = np.arange(n)
    v = [x[(i * 7 + j * 13) % n] for j in range(48)]
    for _ in range(3):
        for j in range(48):
            v[j] = v[j] * np.uint32(3) + (v[(j + 17) % 48] ^ v[(j + 31) % 48] >> np.uint32(3))
    s = np.zeros(n, np.uint32)
    for row in v:
        s = s * np.uint32(33) + row
    return Work({"x": read(x), "out": write(s), "n": u32(n)}, (ceil_div(n, 64),), (64,))


@kernel("subword", host=True)
def subword(target: str, rng: np.random.Generator) -> Work:
    n = 150
    x = rng.integers(0, 256, n + 10).astype(np.uint8)
    sx = x.astype(np.int64) - (x >> 7).astype(np.int64) * 256
    hx = x[: len(x) // 2 * 2].view(np.uint16).astype(np.int64)
    shx = hx - (hx >> 15) * 65536
    i = np.arange(n)
    t, base = i % 64, i - i % 64
    lds_bytes, lds_shorts = np.zeros((3, 256), np.int64), np.zeros((3, 128), np.int64)
    for g in range(3):
        at = np.minimum(64 * g + np.arange(64), n - 1)
        for j in range(4):
            lds_bytes[g, 4 * np.arange(64) + 3 - j] = x[at + j]
        lds_shorts[g, :64] = hx[at // 2]
        lds_shorts[g, 127 - np.arange(64)] = hx[at // 2 + 1] + 1 & 0xFFFF
    g = base // 64
    byte, short = lds_bytes[g, (5 * t + 1) % 256], lds_shorts[g, (3 * t) % 128]
    v = x[i] + 3 * sx[i + 1] + 5 * hx[i // 2] + 7 * shx[i // 2 + 1] + 11 * (byte - (byte >> 7) * 256)
    v = v + 13 * lds_bytes[g, (7 * t) % 256] + 17 * (short - (short >> 15) * 65536) + 19 * lds_shorts[g, (t + 64) % 128]
    bytes_ = np.stack([v >> 9 & 255, x[i]], axis=1).astype(np.uint8)
    shorts = np.stack([v >> 16 & 0xFFFF, v & 0xFFFF], axis=1).astype(np.uint16)
    pairs = np.stack([hx[i // 2] | hx[i // 2 + 2] << 16, x[i + 2].astype(np.int64) << 16 | sx[i] & 0xFFFF])
    args = {
        "x": read(x),
        "widened": write(v.astype(np.int32)),
        "bytes": write(bytes_),
        "shorts": write(shorts),
        "pairs": write(pairs.astype(np.uint32)),
        "n": u32(n),
    }
    return Work(args, (ceil_div(n, 64),), (64,))


def _resource(memory: Array, at: Array, size: int, limit: int) -> Array:
    """`size` bytes at byte offsets `at` of a raw resource of `limit` bytes: 0 where they do not lie inside."""
    data = np.zeros(int(at.max()) + size + 4, np.uint8)
    raw = memory.view(np.uint8).reshape(-1)
    data[: min(len(raw), len(data))] = raw[: len(data)]
    value = sum((data[at + b].astype(np.uint32) << np.uint32(8 * b) for b in range(size)), np.zeros(len(at), np.uint32))
    return np.where(at + size <= limit, value, 0).astype(np.uint32)


@kernel("buffer_loads", "buffers")
def buffer_loads(target: str, rng: np.random.Generator) -> Work:
    n, limit, scalar = 128, 362, 40
    x = words(rng, 100)
    at = np.arange(n) * 4
    rows = [_resource(x, at + 3 + scalar, 1, limit), _resource(x, at + 2 + scalar, 2, limit)]
    rows += [_resource(x, at + 20 + scalar, 4, limit)]
    rows += [_resource(x, at + scalar + 4 * j, 4, limit) for j in range(2)]
    rows += [_resource(x, at + 4 * j, 4, limit) for j in range(3)]
    rows += [_resource(x, at + 16 + 4 * j, 4, limit) for j in range(4)]
    args = {"x": read(x), "out": write(np.stack(rows)), "bytes": u32(limit), "scalar_offset": i32(scalar)}
    return Work(args, (2,), (64,))


@kernel("buffer_stores", "buffers")
def buffer_stores(target: str, rng: np.random.Generator) -> Work:
    n, count, limit = 128, 120, 300
    x = words(rng, n)
    start = words(rng, 4, count)
    expected = start.copy()
    for i in range(n):
        v = int(x[i])
        if 4 * i + 4 <= limit:
            expected[0, i] = v
        if 4 * i + 4 <= limit:
            expected[1, i] = int(start[1, i]) & 0xFFFF | (v & 0xFFFF) << 16
        for row, width in ((2, 2), (3, 4)):
            for j in range(width if i % width == 0 else 0):
                if 4 * (i + j) + 4 <= limit:
                    expected[row, i + j] = v + j & 0xFFFFFFFF
    args = {"x": read(x), "out": update(start, expected), "bytes": u32(limit), "count": u32(count)}
    return Work(args, (2,), (64,))


@kernel("buffer_to_lds", "buffers")
def buffer_to_lds(target: str, rng: np.random.Generator) -> Work:
    groups, count = 2, 490
    x = words(rng, count)
    loaded = np.append(x, np.zeros(512 - count, np.uint32)).reshape(groups, 4, 64)
    loaded[:, 3, ::2] = 0x5A5A5A5A  # those lanes were off
    return Work({"x": read(x), "out": write(loaded + np.uint32(1)), "bytes": u32(4 * count)}, (groups,), (64,))


@kernel("load_to_lds")
def load_to_lds(target: str, rng: np.random.Generator) -> Work:
    groups = 2
    x = words(rng, groups, 4, 2, 64)
    expected = x[..., ::-1].copy()
    expected[:, :, 1, 1::4] = 0  # those lanes were off
    return Work({"x": read(x), "out": write(expected)}, (groups,), (256,))


@kernel("load_to_lds_wide", "load_to_lds", targets=("gfx950",))
def load_to_lds_wide(target: str, rng: np.random.Generator) -> Work:
    groups = 2
    x = words(rng, groups, 4, 2, 64, 4)
    expected = np.zeros((groups, 4, 512), np.uint32)
    expected[..., :256] = x[:, :, 0, ::-1].reshape(groups, 4, 256)
    expected[..., 256:448] = x[:, :, 1, ::-1, :3].reshape(groups, 4, 192)
    return Work({"x": read(x), "out": write(expected)}, (groups,), (256,))


@kernel("globals", host=True)
def globals_(target: str, rng: np.random.Generator) -> Work:
    n = 100
    primes = np.array([2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53], np.int32)
    weights = np.array([0.5, 1.5, -2.5, 3.5, 4.25, -5.125, 6.0, 7.75], np.float32)
    i = np.arange(n)
    integers = primes[i % 16] + np.where(i % 2, primes[8 + i % 8], primes[i % 8])
    args = {"integers": write(integers.astype(np.int32)), "floats": write(weights[i % 8]), "n": u32(n)}
    return Work(args, (ceil_div(n, 64),), (64,))


@kernel("identifiers")
def identifiers(target: str, rng: np.random.Generator) -> Work:
    grid, block = (2, 3, 2), (5, 3, 4)
    z, y, x, tz, ty, tx = np.meshgrid(*map(np.arange, (2, 3, 2, 4, 3, 5)), indexing="ij")
    size = np.full(x.shape, 10000 * 5 + 100 * 3 + 4)
    expected = np.stack([tx, ty, tz, x, y, z, size, np.full(x.shape, 2 * 3 * 2)], axis=-1).astype(np.uint32)
    return Work({"out": write(expected)}, grid, block)
