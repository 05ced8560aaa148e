"""Launches and models of integer kernels: Python integers, or numpy where wrapping is what is meant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from emulator.launches import Array, Work, ceil_div, kernel, read, u32, write

M32, M64 = (1 << 32) - 1, (1 << 64) - 1


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def truncated_div(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def truncated_mod(a: int, b: int) -> int:
    return a - b * truncated_div(a, b)


def edge_words(rng: np.random.Generator, n: int, bits: int) -> Array:
    """Random words of all magnitudes, beginning with the ones at the edges."""
    dtype = np.dtype(f"u{bits // 8}")
    edges = [0, 1, 2, 3, (1 << bits) - 1, 1 << (bits - 1), (1 << (bits - 1)) - 1, 1 << bits // 2, (1 << bits // 2) - 1]
    words = rng.integers(0, (1 << bits) - 1, n, dtype=dtype, endpoint=True) >> rng.integers(0, bits, n).astype(dtype)
    words[: len(edges)] = edges
    rng.shuffle(words)
    return np.asarray(words, dtype)


def rows_of(operations: list[Callable[..., int]], columns: list[Array], bits: int) -> Array:
    mask = (1 << bits) - 1
    values = [[int(v) for v in row] for row in zip(*columns, strict=True)]
    return np.array([[operation(*row) & mask for row in values] for operation in operations], np.dtype(f"u{bits // 8}"))


OPERATIONS_64: list[Callable[[int, int], int]] = [
    lambda x, y: x + y,
    lambda x, y: x - y,
    lambda x, y: x * y,
    lambda x, y: x // y,
    lambda x, y: x % y,
    lambda x, y: truncated_div(signed(x, 64), signed(y, 64)),
    lambda x, y: truncated_mod(signed(x, 64), signed(y, 64)),
    lambda x, y: x << (y & 63),
    lambda x, y: x >> (y & 63),
    lambda x, y: signed(x, 64) >> (y & 63),
    lambda x, y: x & ~y,
    lambda x, y: (x ^ y) | (x >> 32),
    lambda x, y: int(x < y),
    lambda x, y: int(signed(x, 64) < signed(y, 64)),
    lambda x, y: x if signed(x, 64) >= signed(y, 64) else y,
    lambda x, y: int(x == (y + 1) & M64),
    lambda x, y: x.bit_count(),
    lambda x, y: 64 - x.bit_length(),
    lambda x, y: (x & -x).bit_length() - 1 if x else 64,
    lambda x, y: (x * y) >> 64,
    lambda x, y: (signed(x, 64) * signed(y, 64)) >> 64,
    lambda x, y: abs(signed(x, 64)),
    lambda x, y: int.from_bytes(x.to_bytes(8, "little"), "big"),
    lambda x, y: (x & M32) * (y & M32) + x,
    lambda x, y: signed(x, 32) * signed(y, 32) + y,
    lambda x, y: (x << 4) + y,
    lambda x, y: (x << (y & 63)) | (x >> (-y & 63)),
]

OPERATIONS_32: list[Callable[[int, int], int]] = [
    lambda x, y: x * y,
    lambda x, y: (x * y) >> 32,
    lambda x, y: (signed(x, 32) * signed(y, 32)) >> 32,
    lambda x, y: x // y,
    lambda x, y: x % y,
    lambda x, y: truncated_div(signed(x, 32), signed(y, 32)),
    lambda x, y: truncated_mod(signed(x, 32), signed(y, 32)),
    lambda x, y: (x & 0xFFFFFF) * (y & 0xFFFFFF),
    lambda x, y: signed(x, 24) * signed(y, 24) + x,
    lambda x, y: x >> 7 & 0x1FF,
    lambda x, y: signed(x >> 12, 11),
    lambda x, y: x + y + 77,
    lambda x, y: (x << 3) + y,
    lambda x, y: (x + y) << 5,
    lambda x, y: (x << 6) | y,
    lambda x, y: (x & y) | 0x1234567,
    lambda x, y: (x & y) | (~x & (y >> 3)),
    lambda x, y: (x << (y & 31)) | (x >> (-y & 31)),
    lambda x, y: signed(x, 32) >> (y & 31),
    lambda x, y: x << (y & 31),
    lambda x, y: x >> (y & 31),
    lambda x, y: x.bit_count() + y,
    lambda x, y: 32 - x.bit_length(),
    lambda x, y: (x & -x).bit_length() - 1 if x else 32,
    lambda x, y: int.from_bytes(x.to_bytes(4, "little"), "big"),
    lambda x, y: max(signed(x, 32), signed(y, 32), -5),
    lambda x, y: min(x, y, 1 << 30),
    lambda x, y: max(-100, min(signed(x, 32), 100)),
    lambda x, y: abs(signed(x, 32)),
    lambda x, y: signed(x, 8) + (y & 0xFFFF),
    lambda x, y: x - y if x < y else 0,
    lambda x, y: int(signed(x, 32) < signed(y, 32)) + 2 * int(x <= y) + 4 * int(x != y),
    lambda x, y: min(x + y, M32),
    lambda x, y: int(np.float32(x).view(np.uint32)),
    lambda x, y: int(np.float32(signed(x, 32)).view(np.uint32)),
    lambda x, y: ((x & 0xFFFF) * (y & 0xFFFF) + (x >> 16)) & 0xFFFF,
    lambda x, y: int((x & 0xFFFF) < (y & 0xFFFF)) + 2 * int(signed(x, 16) >= signed(y, 16)),
]


def _divisors(rng: np.random.Generator, x: Array, bits: int) -> Array:
    """Right operands: none is 0, and -1 does not meet the smallest integer."""
    y = edge_words(rng, len(x), bits)
    y[y == 0] = 7
    y[(x == 1 << (bits - 1)) & (y == (1 << bits) - 1)] = 13
    return y


@kernel("integers64", "integers", host=True)
def integers64(target: str, rng: np.random.Generator) -> Work:
    n = 150
    x = edge_words(rng, n, 64)
    y = _divisors(rng, x, 64)
    args = {"a": read(x), "b": read(y), "out": write(rows_of(OPERATIONS_64, [x, y], 64)), "n": u32(n)}
    return Work(args, (ceil_div(n, 64),), (64,))


@kernel("integers32", "integers", host=True)
def integers32(target: str, rng: np.random.Generator) -> Work:
    n = 150
    x = edge_words(rng, n, 32)
    y = _divisors(rng, x, 32)
    args = {"a": read(x), "b": read(y), "out": write(rows_of(OPERATIONS_32, [x, y], 32)), "n": u32(n)}
    return Work(args, (ceil_div(n, 64),), (64,))


def _perm(x: int, y: int, select: int) -> int:
    """v_perm_b32: bytes 0 to 3 are y's, 4 to 7 x's; 8 to 11 repeat a sign, 12 is zero, 13 and more all ones."""
    source, result = (x << 32) | y, 0
    for i in range(4):
        code = select >> 8 * i & 255
        if code < 8:
            byte = source >> 8 * code & 255
        elif code < 12:
            byte = 255 * (source >> (16 * (code - 8) + 15) & 1)
        else:
            byte = 0 if code == 12 else 255
        result |= byte << 8 * i
    return result


def _sad(x: int, y: int, bits: int) -> int:
    mask = (1 << bits) - 1
    return sum(abs((x >> s & mask) - (y >> s & mask)) for s in range(0, 32, bits))


def _masked_sad(x: int, y: int) -> int:
    return sum(abs((x >> s & 255) - (y >> s & 255)) for s in range(0, 32, 8) if y >> s & 255)


def _lerp(x: int, y: int, z: int) -> int:
    return sum((((x >> s & 255) + (y >> s & 255) + (z >> s & 1)) >> 1) << s for s in range(0, 32, 8))


def _field(x: int, offset: int, width: int) -> int:
    return x >> offset & ((1 << width) - 1)


def _signed_field(x: int, offset: int, width: int) -> int:
    """An arithmetic shift first, so a field that reaches past bit 31 is filled with the sign."""
    return signed(signed(x, 32) >> offset, width) if width else 0


def _pack_byte(x: int, index: int, word: int) -> int:
    return (word & ~(255 << 8 * index)) | min(x & 511, 255) << 8 * index


@kernel("bit_builtins")
def bit_builtins(target: str, rng: np.random.Generator) -> Work:
    n = 130
    x, y, z = (edge_words(rng, n, 32) for _ in range(3))
    # Every second selector of the byte permutation stays within its 14 meanings.
    z[::2] = sum(
        (rng.integers(0, 14, len(z[::2])).astype(np.uint32) << np.uint32(8 * i) for i in range(4)), np.uint32(0)
    )
    lane = list(range(n))
    operations: list[Callable[[int, int, int], int]] = [
        _perm,
        lambda x, y, z: _perm(x, y, 0x0C0D0703),
        lambda x, y, z: ((x << 32) | y) >> (z & 31),
        lambda x, y, z: ((x << 32) | y) >> 8 * (z & 3),
        lambda x, y, z: _sad(x, y, 8) + z,
        lambda x, y, z: _sad(x, y, 16) + z,
        lambda x, y, z: (_sad(x, y, 8) << 16) + z,
        lambda x, y, z: _masked_sad(x, y) + z,
        _lerp,
        lambda x, y, z: _field(x, y & 31, z & 31),
        lambda x, y, z: _signed_field(x, y & 31, z & 31),
    ]
    rows = rows_of(operations, [x, y, z], 32)
    in_wave = np.array(lane) % 64
    low = [(int(v) & ((1 << min(int(t), 32)) - 1)).bit_count() + int(w) for v, w, t in zip(x, y, in_wave, strict=True)]
    high = [
        (int(v) & ((1 << max(int(t) - 32, 0)) - 1)).bit_count() + int(w) for v, w, t in zip(x, y, in_wave, strict=True)
    ]
    counts = np.array([[value & M32 for value in row] for row in (low, high)], np.uint32)
    rest: list[Callable[[int, int, int], int]] = [
        lambda x, y, z: int(f"{x:032b}"[::-1], 2),
        lambda x, y, z: min(x, 0xFFFF) | min(y, 0xFFFF) << 16,
        lambda x, y, z: _pack_byte(x, y & 3, z),
    ]
    expected = np.concatenate([rows, counts, rows_of(rest, [x, y, z], 32)])
    args = {"a": read(x), "b": read(y), "c": read(z), "out": write(expected), "n": u32(n)}
    return Work(args, (ceil_div(n, 64),), (64,))


def _run_code(code: Array, a: int, b: int, stops: int) -> tuple[int, int]:
    for op in code:
        op &= 15
        if op == 0:
            a = a + b & M32
        elif op == 1:
            a = a - b & M32
        elif op == 2:
            a ^= b
        elif op == 3:
            a = a * (b | 1) & M32
        elif op == 4:
            b = a >> 3
        elif op == 5:
            b = signed(a, 32) >> 5 & M32
        elif op == 6:
            a = (a << 7 | a >> 25) & M32
        elif op == 7:
            b = ~b & a
        elif op == 8:
            a = abs(a - b)
        elif op == 9:
            b = a if signed(a, 32) < signed(b, 32) else b
        elif op == 10:
            a = b.bit_count() + (a << 1) & M32
        elif op == 11:
            b = b // ((a & 0xFF) + 1)
        elif op == 12:
            a = a % ((b & 0xFFFF) + 3)
        elif op == 13:
            a, b = b, a
        elif op == 14:
            for j in range(b & 3):
                a = a * 5 + j & M32
        else:
            if stops == 0:
                break
            stops -= 1
    return a, b


@kernel("integer_switch", host=True)
def integer_switch(target: str, rng: np.random.Generator) -> Work:
    n, stride, steps = 100, 23, 60
    program = rng.integers(0, 256, stride + steps).astype(np.uint8)
    x = rng.integers(0, 1 << 32, n).astype(np.uint32)
    results = [
        _run_code(program[i % stride : i % stride + steps], int(x[i]), i * 2654435761 & M32, i % 4) for i in range(n)
    ]
    args = {
        "program": read(program),
        "x": read(x),
        "out": write(np.array(results, np.uint32)),
        "n": u32(n),
        "stride": u32(stride),
        "steps": u32(steps),
    }
    return Work(args, (ceil_div(n, 64),), (64,))


def _collatz_steps(v: int) -> int:
    steps = 0
    while v != 1:
        if v & 1:
            v = 3 * v + 1
        else:
            v >>= 1
            if steps > 500:
                break
        steps += 1
    return steps


@kernel("collatz", host=True)
def collatz(target: str, rng: np.random.Generator) -> Work:
    n = 200
    x = rng.integers(1, 100_000, n).astype(np.uint32)
    y = rng.integers(0, 100_000, n).astype(np.uint32)
    primes = [p for p in range(200) if p > 1 and all(p % d for d in range(2, p))]
    expected = np.array(
        [
            [_collatz_steps(int(v)) for v in x],
            [np.gcd(int(v), int(w)) for v, w in zip(x, y, strict=True)],
            [sum(p < int(v) % 200 for p in primes) for v in x],
        ],
        np.uint32,
    )
    args = {"x": read(x), "y": read(y), "out": write(expected), "n": u32(n)}
    return Work(args, (ceil_div(n, 128),), (128,))


def _depth(a: int, b: int) -> int:
    if a == 0:
        return b + 1
    if b == 0:
        return _depth(a - 1, 1) + 1
    return _depth(a - 1, b - 1) * 2 + _depth(a - 1, b // 2)


def _mix(a: list[int], b: list[int], c: list[int], d: list[int], e: int, rest: list[int]) -> int:
    s = 0
    for t in range(5):
        s = s * 7 + a[t] + 2 * b[t] + 3 * c[t] + 5 * d[t]
    return s + (e >> 7) + sum(v * f for v, f in zip(rest, (3, 5, 7, 11, 13, 17, 19, 23), strict=True))


@kernel("calls", host=True)
def calls(target: str, rng: np.random.Generator) -> Work:
    n = 90
    x = rng.integers(0, 1 << 32, n).astype(np.uint32)
    y = rng.integers(0, 1 << 32, n).astype(np.uint32)
    rows: list[list[int]] = [[], [], []]
    for i, (a, b) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
        rows[0].append((a + b, a - b, a * (b | 1), (a ^ b) + (a >> 16))[a % 4] & M32)
        rows[1].append(_depth(a % 4, b % 6) & M32)
        m, w = [a, b, a ^ b, a + b & M32, a - b & M32], [b, a, i, 3, a & b]
        rest = [a, b, i, a * 3 & M32, b * 5 & M32, a | b, i * i, a >> 3]
        rows[2].append(_mix(m, w, w, m, a * b, rest) & M32)
    args = {"x": read(x), "y": read(y), "out": write(np.array(rows, np.uint32)), "n": u32(n)}
    return Work(args, (ceil_div(n, 64),), (64,))
