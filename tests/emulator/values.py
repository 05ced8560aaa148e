"""Register contents that find mistakes: corner cases first, random values after them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Lanes = npt.NDArray[np.uint32]

INTEGERS = [0, 1, 2, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x80000001, 31, 32, 0xFFFF, 0x8000, 0x00FF00FF, 0x12345678]
FLOATS = [
    0x00000000, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFFC12345, 0x7F800001,
    0xFF900000, 0x00000001, 0x807FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x3FC00000, 0xC0200000, 0x40200000,
    0x3F000000, 0xBF000000, 0x4B000001, 0x4F000000, 0xCF000000, 0x4F7FFFFF, 0x3EAAAAAB, 0x33800000,
]  # fmt: skip
HALVES = [
    0x0000, 0x8000, 0x3C00, 0xBC00, 0x7C00, 0xFC00, 0x7E01, 0xFE55, 0x7C01, 0xFD00, 0x0001, 0x83FF, 0x0400, 0x7BFF,
    0xFBFF, 0x3E00, 0xC100, 0x4100, 0x3800, 0x3555, 0x6400, 0x77FF,
]  # fmt: skip
DOUBLES = [
    0x0000000000000000, 0x8000000000000000, 0x3FF0000000000000, 0xBFF0000000000000, 0x7FF0000000000000,
    0xFFF0000000000000, 0x7FF8000000000001, 0x7FF0000000000001, 0x0000000000000001, 0x800FFFFFFFFFFFFF,
    0x0010000000000000, 0x7FEFFFFFFFFFFFFF, 0x3FE0000000000000, 0xC004000000000000, 0x4004000000000000,
    0x41DFFFFFFFC00000, 0x41E0000000000000, 0xC1E0000000000000, 0x41EFFFFFFFE00000, 0x4330000000000001,
    0x3FD5555555555555,
]  # fmt: skip


def generator(name: str, number: int = 0) -> np.random.Generator:
    """Seeded by the instruction's name, the same in every run."""
    return np.random.default_rng([number, *name.encode()])


def _mixed(pool: list[int], count: int, rng: np.random.Generator, random: Any, dtype: Any) -> Any:
    corners = rng.permutation(np.array(pool, dtype=dtype))[: count // 2 + 8]
    rest = random(count - len(corners)) if len(corners) < count else np.zeros(0, dtype)
    return rng.permutation(np.concatenate([corners, rest]).astype(dtype))[:count]


def integers(rng: np.random.Generator, count: int = 64) -> Lanes:
    lanes: Lanes = _mixed(INTEGERS, count, rng, lambda n: rng.integers(0, 1 << 32, n, dtype=np.uint64), np.uint32)
    return lanes


def floats(rng: np.random.Generator, count: int = 64) -> Lanes:
    """f32 bits: special values, ordinary magnitudes, and a few of any exponent."""

    def random(n: int) -> Any:
        ordinary = rng.normal(0, 4, n).astype(np.float32).view(np.uint32)
        wild = rng.integers(0, 1 << 32, n, dtype=np.uint64).astype(np.uint32)
        return np.where(rng.random(n) < 0.7, ordinary, wild)

    lanes: Lanes = _mixed(FLOATS, count, rng, random, np.uint32)
    return lanes


def halves(rng: np.random.Generator, count: int = 64) -> Lanes:
    """f16 bits in the low half, noise in the high one."""

    def random(n: int) -> Any:
        ordinary = rng.normal(0, 4, n).astype(np.float16).view(np.uint16)
        wild = rng.integers(0, 1 << 16, n, dtype=np.uint32)
        return np.where(rng.random(n) < 0.7, ordinary, wild)

    low = _mixed(HALVES, count, rng, random, np.uint32)
    lanes: Lanes = low | rng.integers(0, 1 << 16, count, dtype=np.uint32) << np.uint32(16)
    return lanes


def packed_halves(rng: np.random.Generator, count: int = 64) -> Lanes:
    lanes: Lanes = (halves(rng, count) & 0xFFFF) | (halves(rng, count) & 0xFFFF) << np.uint32(16)
    return lanes


def doubles(rng: np.random.Generator, count: int = 64) -> npt.NDArray[np.uint64]:
    def random(n: int) -> Any:
        ordinary = rng.normal(0, 4, n).astype(np.float64).view(np.uint64)
        wild = rng.integers(0, 1 << 63, n, dtype=np.uint64)
        return np.where(rng.random(n) < 0.7, ordinary, wild)

    lanes: npt.NDArray[np.uint64] = _mixed(DOUBLES, count, rng, random, np.uint64)
    return lanes


def exec_mask(rng: np.random.Generator) -> int:
    return int(rng.integers(0, 1 << 63, dtype=np.uint64)) << 1 | 1
