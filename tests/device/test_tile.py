"""Tiles in shared memory: filled asynchronously row by row, read back at the places that the layout names."""

from __future__ import annotations

import re

import device_units
import numpy as np
import pytest

# Kernel, rows of the tile, bytes of a row.
TILES = [
    ("fill_padded_576", 16, 576),
    ("fill_padded_1152", 10, 1152),
    ("fill_odd_576", 16, 576),
    ("fill_swizzled_64", 64, 64),
    ("fill_swizzled_128", 48, 128),
    ("fill_swizzled_512", 16, 512),
]


@pytest.mark.parametrize("where", device_units.EVERYWHERE)
def test_two_fills_arrive_row_by_row(where: str) -> None:
    rng = np.random.default_rng(5)
    for kernel, rows, row_bytes in TILES:
        x = rng.integers(0, 256, (2 * rows + 3, row_bytes + 64), dtype=np.uint8)
        # The last row ends where the memory does: nothing may be read beyond a row.
        flat = x.reshape(-1)[: -(x.shape[1] - row_bytes)].copy()
        order = rng.permutation(len(x))[: 2 * rows].astype(np.uint32)
        order[3] = len(x) - 1
        out = np.zeros((2 * rows, row_bytes), np.uint8)
        flat.flags.writeable = False
        device_units.run(where, "tile", kernel, 1, 256, [flat, order, out, np.uint32(x.shape[1])])
        wrong = np.argwhere(out != x[order, :row_bytes])
        assert not len(wrong), f"{kernel}: first wrong byte at row, byte {wrong[0]} of {len(wrong)}"


@pytest.mark.parametrize("where", device_units.EVERYWHERE)
def test_registers_are_transposed(where: str) -> None:
    x = np.random.default_rng(6).integers(0, 1 << 32, (64, 4), dtype=np.uint64).astype(np.uint32)
    found, pairs = np.zeros_like(x), np.zeros((64, 2), np.uint32)
    block = 64
    device_units.run(where, "transpose", "transpose_registers", 1, block, [x, found, pairs])
    matrix = x.view(np.uint8).reshape(64, 4, 4)
    assert np.array_equal(found.view(np.uint8).reshape(64, 4, 4), matrix.transpose(0, 2, 1))
    halves = np.ascontiguousarray(x[:, :2]).view(np.uint16).reshape(64, 2, 2)
    assert np.array_equal(pairs.view(np.uint16).reshape(64, 2, 2), halves.transpose(0, 2, 1))


@pytest.mark.parametrize("target", device_units.AMD)
def test_what_lies_outside_a_buffer_is_zero(target: str) -> None:
    lane_bytes = 16 if target == "gfx950" else 4
    for size in (16 * 100 + 8, 4 * 77, 4):
        # The allocation ends where the buffer does.
        x = np.random.default_rng(7).integers(1, 1 << 32, size // 4, dtype=np.uint64).astype(np.uint32)
        x.flags.writeable = False
        loaded = np.full((128, 4), 7, np.uint32)
        in_lds = np.full((128, lane_bytes // 4), 7, np.uint32)
        device_units.run(target, "amd_buffer", "load_bounded", 1, 128, [x, loaded, in_lds, np.uint32(size)])
        padded = np.zeros(512, np.uint32)
        padded[: len(x)] = x
        assert np.array_equal(loaded, padded.reshape(128, 4))
        # Lanes read in reverse order.
        assert np.array_equal(in_lds, padded[: 32 * lane_bytes].reshape(128, -1)[::-1])


@pytest.mark.parametrize("target", device_units.AMD)
def test_a_launch_sizes_lds(target: str) -> None:
    x, out = np.arange(128, dtype=np.uint32), np.zeros(128, np.uint32)
    device_units.run(target, "amd_buffer", "reverse_in_dynamic_lds", 1, 128, [x, out], shared=512)
    assert np.array_equal(out, x[::-1])


@pytest.mark.parametrize("target", device_units.AMD)
def test_later_fills_stay_on_their_way(target: str) -> None:
    """The first tile is read while the second arrives: nothing before the first barrier waits for all loads."""
    from emulator import session

    from aiterlite import emulator

    if session.missing():
        pytest.skip(session.missing())
    session.device(target)
    listing = emulator.disassemble(device_units.image("tile", target))
    kernel = re.split(r"<(?=fill_swizzled_128>)", listing)[1].split("s_endpgm")[0]
    before_barrier = kernel.split("s_barrier")[0]
    fills = before_barrier.count("global_load_lds_dword")
    last_wait = re.findall(r"vmcnt\((\d+)\)", before_barrier)[-1]
    # Two fills of 48 rows of 128 bytes by 256 threads; where waves made more and fewer loads, the fewest count.
    assert (fills, last_wait) == ((4, "1") if target == "gfx950" else (12, "6")), before_barrier
