"""Layouts of tiles meet no bank twice: the model of the banks proves it of what the header itself computes.

The header's functions run in a small host program, once for each target that it distinguishes. The model is what
`tile/layout.h` states, spelled out here as groups of lanes and banks.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from device_units import CSRC, HERE, HOSTSIM

from aiterlite.jit import toolchain

pytestmark = pytest.mark.compile

TARGETS = {"gfx942": "942", "gfx950": "950", "NVIDIA": "90"}


@dataclass(frozen=True)
class Layout:
    kind: str
    rows: int
    row_bytes: int
    pitch: int
    size: int
    places: tuple[int, ...]  # at(row, byte), by row and 4 bytes
    sources: tuple[int, ...]  # source(offset), by 4 bytes

    def at(self, row: int, byte: int) -> int:
        assert byte % 4 == 0 and byte < self.row_bytes
        return self.places[(row * self.row_bytes + byte) // 4]


@functools.cache
def layouts(target: str) -> tuple[Layout, ...]:
    location = toolchain.require("host")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "layout"
        command = [*location.cc, "-std=c++17", "-O0", "-fsanitize=address", f"-DAITERLITE_HOST_SIM={TARGETS[target]}"]
        command += [f"-I{CSRC / 'include'}", f"-I{HOSTSIM}", str(HERE / "layout_main.cpp"), "-o", str(program)]
        built = subprocess.run(command, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr[:4000]
        lines = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines()
    found = []
    for head, places, sources in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        kind, *sizes = head.split()
        rows, row_bytes, pitch, size = map(int, sizes)
        found.append(
            Layout(
                kind, rows, row_bytes, pitch, size, tuple(map(int, places.split())), tuple(map(int, sources.split()))
            )
        )
    return tuple(found)


# The banks ------------------------------------------------------------------------------------------------------------

Lanes = Sequence[int]


def spans(*bounds: tuple[int, int]) -> list[int]:
    return [lane for first, last in bounds for lane in range(first, last + 1)]


def twice(*groups: Lanes) -> list[Lanes]:
    return [*groups, *([lane + 32 for lane in group] for group in groups)]


GROUPS_OF_8 = twice(
    spans((0, 3), (20, 23)), spans((4, 7), (16, 19)), spans((8, 11), (28, 31)), spans((12, 15), (24, 27))
)
GROUPS_OF_16 = twice(spans((0, 3), (12, 15), (20, 27)), spans((4, 11), (16, 19), (28, 31)))
# (bytes a lane) -> (groups served together, banks)
READS = {
    ("gfx942", 16): (GROUPS_OF_8, 32),
    ("gfx950", 16): (GROUPS_OF_16, 64),
    ("gfx950", 8): (twice(range(32)), 64),
    ("NVIDIA", 16): ([range(first, first + 8) for first in range(0, 32, 8)], 32),
}


def conflicts(target: str, size: int, addresses: Sequence[int]) -> int:
    """Cycles of one access beyond those that its bytes take."""
    groups, banks = READS[target, size]
    extra = 0
    for group in groups:
        words = {addresses[lane] // 4 + i for lane in group for i in range(size // 4)}
        busiest = max(Counter(word % banks for word in words).values())
        extra += busiest - max(1, -(-len(words) // banks))
    return extra


def test_the_model_knows_a_conflict() -> None:
    for (target, size), (groups, banks) in READS.items():
        lanes = sum(map(len, groups))
        assert sorted(lane for group in groups for lane in group) == list(range(lanes))
        assert conflicts(target, size, [lane * size for lane in range(lanes)]) == 0
        # All lanes on the same banks: as many cycles as lanes, instead of those of the bytes.
        worst = conflicts(target, size, [lane * banks * 4 for lane in range(lanes)])
        assert worst == sum(len(group) - max(1, len(group) * size // (4 * banks)) for group in groups)


# How lanes read -------------------------------------------------------------------------------------------------------


def operands(layout: Layout, target: str, size: int) -> Iterable[list[int]]:
    """Operands of 16 or 32 rows, 16 bytes a lane, at every place; on NVIDIA the four matrices of ldmatrix."""
    lanes = 32 if target == "NVIDIA" else 64
    step = 32 if target == "NVIDIA" else 16 * 64 // size
    size = 16 if target == "NVIDIA" else size
    for row in range(0, layout.rows, size):
        for byte in range(0, layout.row_bytes - step + 1, step):
            yield [layout.at(row + lane % size, byte + lane // size * 16) for lane in range(lanes)]


def operands_of_16(layout: Layout, target: str) -> Iterable[list[int]]:
    return operands(layout, target, 16)


def operands_of_32(layout: Layout, target: str) -> Iterable[list[int]]:
    return operands(layout, target, 32)


def transposed_16bit(layout: Layout, target: str) -> Iterable[list[int]]:
    for row in range(0, layout.rows - 16, 16):
        for byte in range(0, layout.row_bytes - 31, 32):
            for lower in (0, 16):
                yield [
                    layout.at(row + lower + 4 * (lane // 16) + lane % 16 // 4, byte + lane % 4 * 8)
                    for lane in range(64)
                ]


def transposed_8bit(layout: Layout, target: str) -> Iterable[list[int]]:
    for row in range(0, layout.rows - 32, 32):
        for byte in range(0, layout.row_bytes, 16):
            yield [layout.at(row + 8 * (lane // 16) + lane % 16 // 2, byte + lane % 2 * 8) for lane in range(64)]


def check(target: str, kind: str, size: int, reads: Callable[[Layout, str], Iterable[list[int]]]) -> int:
    checked = 0
    for layout in layouts(target):
        if layout.kind == kind:
            for addresses in reads(layout, target):
                extra = conflicts(target, size, addresses)
                assert extra == 0, f"{kind} rows of {layout.row_bytes} bytes, pitch {layout.pitch}: {extra} cycles"
                checked += 1
    return checked


@pytest.mark.parametrize("target", TARGETS)
def test_operands_meet_no_bank_twice(target: str) -> None:
    assert check(target, "operand16", 16, operands_of_16) > 100
    assert check(target, "operand32", 16, operands_of_32) > 100
    assert check(target, "swizzled", 16, operands_of_16) > 50
    assert check(target, "swizzled", 16, operands_of_32) > 50


@pytest.mark.parametrize("target", TARGETS)
def test_odd_lengths_of_swizzled_rows(target: str) -> None:
    assert check(target, "swizzled_odd_128", 16, operands_of_16) > 50


def test_odd_lengths_of_swizzled_rows_by_8_bytes_a_lane() -> None:
    """Four vectors of 8 elements a row."""

    def operands_of_8_bytes(layout: Layout, target: str) -> Iterable[list[int]]:
        for row in range(0, layout.rows, 16):
            for byte in range(0, layout.row_bytes, 32):
                yield [layout.at(row + lane % 16, byte + lane // 16 * 8) for lane in range(64)]

    assert check("gfx950", "swizzled_odd_64", 8, operands_of_8_bytes) > 50


@pytest.mark.parametrize("target", TARGETS)
def test_dense_rows_do(target: str) -> None:
    """The model finds the conflicts that the layouts are there to avoid, and the published numbers."""
    found = {
        layout.row_bytes: max(conflicts(target, 16, addresses) for addresses in operands_of_16(layout, target))
        for layout in layouts(target)
        if layout.kind == "dense"
    }
    assert all(found[row_bytes] > 0 for row_bytes in (128, 256, 512, 576, 1152))
    if target == "NVIDIA":
        # 8 rows of 512 or 1152 bytes: 8-way, 32 cycles for 4 (measured); of 576 bytes 4-way, 16 for 4.
        assert (found[512], found[1152], found[576]) == (28, 28, 12)
        assert {layout.pitch for layout in layouts(target) if layout.kind == "operand16"} >= {592, 1168}


def test_gfx950_transposes_without_conflict() -> None:
    assert check("gfx950", "operand16", 8, transposed_16bit) > 100
    assert check("gfx950", "operand32", 8, transposed_8bit) > 50


@pytest.mark.parametrize("target", TARGETS)
def test_places_are_distinct_and_sources_are_their_reverse(target: str) -> None:
    for layout in layouts(target):
        assert len(set(layout.places)) == len(layout.places)
        assert max(layout.places) + 4 <= layout.size and layout.pitch % 16 == 0
        for index, place in enumerate(layout.places):
            row, byte = divmod(index * 4, layout.row_bytes)
            assert layout.sources[place // 4] == row << 16 | byte
            # 16 aligned bytes of a row stay together.
            assert place - layout.at(row, byte // 16 * 16) == byte % 16
        for offset, source in enumerate(layout.sources):
            # What is padding reads the row's last chunk: inside the row, and aligned as its place is.
            row, byte = source >> 16, source & 0xFFFF
            assert row < layout.rows and byte < layout.row_bytes and byte % 16 == offset * 4 % 16


def test_swizzles_are_those_of_the_copy_engine() -> None:
    """sm_90: chunk c of row r is at c ^ r % 8 in rows of 128 bytes, c ^ r / 2 % 4 in 64, c ^ r / 4 % 2 in 32."""
    for row_bytes, key in {128: lambda r: r % 8, 64: lambda r: r // 2 % 4, 32: lambda r: r // 4 % 2}.items():
        (layout,) = (x for x in layouts("NVIDIA") if x.kind == "swizzled" and x.row_bytes == row_bytes)
        for row in range(layout.rows):
            for chunk in range(row_bytes // 16):
                assert layout.at(row, chunk * 16) == row * row_bytes + (chunk ^ key(row)) * 16
