"""What a corpus kernel is: where its source lies, how it is launched, and what must be in memory afterwards."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Maker = Callable[[str, np.random.Generator], "Work"]

TARGETS = ("gfx942", "gfx950")
UNIT32 = 2.0**-24  # unit roundoff of f32
UNIT_BF16 = 2.0**-8


@dataclass(frozen=True)
class Buffer:
    """Memory that a pointer argument names: what it holds at the start, and what it must hold at the end.

    `expected` None means an input: it is passed read-only. Otherwise `view` of the final contents must equal
    `expected`, to within `tolerance` (absolute, elementwise), or where that is None in every bit, any NaN being like
    another.
    """

    start: Array
    expected: Array | None = None
    tolerance: Array | float | None = None
    view: Callable[[Array], Array] = lambda array: array

    def mismatch(self, final: Array) -> str:
        """What differs, in words; empty if nothing does."""
        if self.expected is None:
            return ""
        got, want = self.view(final), self.expected
        if got.shape != want.shape:
            return f"has shape {got.shape}, expected {want.shape}"
        if self.tolerance is None:
            same = got == want
            if got.dtype.kind == "f":
                unsigned = np.dtype(f"u{got.dtype.itemsize}")
                same = np.ascontiguousarray(got).view(unsigned) == np.ascontiguousarray(want).view(unsigned)
                same |= np.isnan(got) & np.isnan(want)
            limit = np.zeros(got.shape)
        else:
            limit = np.broadcast_to(np.asarray(self.tolerance, np.float64), got.shape)
            same = np.abs(got.astype(np.float64) - want.astype(np.float64)) <= limit
        if same.all():
            return ""
        at = tuple(int(i) for i in np.argwhere(~same)[0])
        within = "" if self.tolerance is None else f" within {limit[at]:.3g}"
        place = ", ".join(map(str, at))
        wrong = f"{(~same).sum()} of {same.size} differ"
        return f"[{place}] is {got[at]!r}, expected {want[at]!r}{within}; {wrong}"


@dataclass(frozen=True)
class Pages:
    """A table of addresses: of these arrays, or 0 where there is None. The arrays are inputs."""

    arrays: tuple[Array | None, ...]


@dataclass(frozen=True)
class Work:
    """One launch. `args` in the kernel's order: `Buffer`, `Pages` or a numpy scalar of the parameter's size."""

    args: dict[str, Buffer | Pages | np.generic]
    grid: tuple[int, ...]
    block: tuple[int, ...]
    lds: int = 0


@dataclass(frozen=True)
class Kernel:
    """A launch of the corpus: kernel `symbol` of `hip/<source>.hip`.

    `host` says that the source also compiles for the host, where each work-item is a fiber.
    """

    name: str
    source: str
    symbol: str
    make: Maker
    targets: tuple[str, ...] = TARGETS
    host: bool = False

    def work(self, target: str) -> Work:
        """The same launch every time."""
        return self.make(target, np.random.default_rng(zlib.crc32(self.name.encode())))


KERNELS: dict[str, Kernel] = {}


def kernel(
    name: str, source: str = "", symbol: str = "", *, targets: tuple[str, ...] = TARGETS, host: bool = False
) -> Callable[[Maker], Maker]:
    """Registers a maker of launches under a name, which is also the kernel's and the source's unless given."""

    def register(make: Maker) -> Maker:
        assert name not in KERNELS, name
        KERNELS[name] = Kernel(name, source or name, symbol or name, make, targets, host)
        return make

    return register


def read(array: Array) -> Buffer:
    """An input."""
    return Buffer(np.ascontiguousarray(array))


def write(expected: Array) -> Buffer:
    """An output that must equal `expected` in every bit; at the start no bit of it does."""
    expected = np.ascontiguousarray(expected)
    return Buffer(np.invert(expected.view(np.uint8)).view(expected.dtype).reshape(expected.shape), expected)


def write_near(expected: Array, tolerance: Array | float, dtype: Any, view: Any = None) -> Buffer:
    """An output of `dtype` whose `view` must be near `expected`; it starts as NaN (all bits set)."""
    start = np.full(expected.size * np.dtype(dtype).itemsize, 0xFF, np.uint8).view(dtype).reshape(expected.shape)
    return Buffer(start, expected, tolerance, view or (lambda array: array))


def write_viewed(expected: Array, dtype: Any, view: Callable[[Array], Array]) -> Buffer:
    """An output of `dtype`, as large as `expected`, whose `view` must equal that in every bit; it starts all ones."""
    start = np.full(expected.size * np.dtype(dtype).itemsize, 0xFF, np.uint8).view(dtype).reshape(expected.shape)
    return Buffer(start, expected, None, view)


def update(start: Array, expected: Array, view: Any = None) -> Buffer:
    """Memory that the kernel reads and writes; `expected` in every bit."""
    return Buffer(np.ascontiguousarray(start), np.ascontiguousarray(expected), None, view or (lambda array: array))


def u32(value: int) -> np.uint32:
    return np.uint32(value & 0xFFFFFFFF)


def i32(value: int) -> np.int32:
    return np.int32(value)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
