"""What only sm_90 has: the copy engine, clusters, named barriers, moving registers. On a GPU, marked `gpu`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device_units import image, run

Array = np.ndarray[Any, np.dtype[Any]]
SOURCES = ("fp8", "lanes", "softmax", "tile", "transpose", "mma_sync", "sm90_wgmma", "sm90_exchange")


@pytest.mark.nvcc
@pytest.mark.compile
@pytest.mark.parametrize("source", SOURCES)
def test_kernels_assemble_without_spilling(source: str) -> None:
    """Needs no GPU: every instruction of the library is one that ptxas knows."""
    assert image(source, "sm_90a")[:4] == b"\x7fELF"


def launch(kernel: str, grid: int, block: int, args: list[Any], cluster: int = 1) -> None:
    run("sm_90a", "sm90_exchange", kernel, grid, block, args, cluster=cluster)


@pytest.mark.gpu
def test_rows_arrive_by_the_copy_engine() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (200, 576), dtype=np.uint8)
    rows = rng.integers(0, 200, 128).astype(np.uint32)
    out = np.zeros((128, 576), np.uint8)
    launch("copy_rows", 1, 128, [x, rows, out])
    assert np.array_equal(out, x[rows])


@pytest.mark.gpu
def test_copies_are_counted_by_a_barrier() -> None:
    x = np.random.default_rng(2).integers(0, 256, (256, 16), dtype=np.uint8)
    out = np.zeros_like(x)
    launch("copy_counted", 1, 128, [x, out])
    expected = x.copy()
    expected[::3] = 0
    assert np.array_equal(out, expected[::-1])


@pytest.mark.gpu
def test_a_copy_reaches_the_whole_cluster() -> None:
    x = np.random.default_rng(3).integers(0, 256, (256, 16), dtype=np.uint8)
    out = np.zeros((4, 256, 16), np.uint8)
    launch("copy_to_cluster", 4, 64, [x, out], cluster=4)
    assert np.array_equal(out, np.broadcast_to(x, out.shape))


@pytest.mark.gpu
def test_workgroups_of_a_cluster_exchange() -> None:
    x = np.random.default_rng(4).integers(-99, 100, (4, 64)).astype(np.float32)
    words, read = np.zeros_like(x), np.zeros_like(x)
    quads, rows = np.zeros((4, 64, 4), np.float32), np.zeros((4, 64, 4), np.float32)
    counts, sums = np.zeros(4, np.uint32), np.zeros(4, np.float32)
    launch("exchange", 4, 64, [x, words, quads, counts, sums, rows, read], cluster=4)
    before = np.roll(x, 1, axis=0)
    assert np.array_equal(words, before)
    assert np.array_equal(read, before + 2)
    expected = before[..., None] + np.arange(4, dtype=np.float32)
    assert np.array_equal(quads, expected) and np.array_equal(rows, expected)
    assert (counts == 4 * sum(range(64))).all() and (sums == 4 * 64).all()


@pytest.mark.gpu
def test_the_copy_engine_stores() -> None:
    x = np.random.default_rng(5).integers(0, 256, (128, 16), dtype=np.uint8)
    out = np.zeros_like(x)
    launch("store_rows", 1, 64, [x, out])
    assert np.array_equal(out, x[::-1])


@pytest.mark.gpu
def test_warpgroups_take_turns_and_registers() -> None:
    turns = 50
    x = np.random.default_rng(6).integers(-9, 10, (turns, 128)).astype(np.float32)
    out = np.zeros(128, np.float32)
    launch("take_turns", 1, 256, [x, out, np.uint32(turns)])
    expected = sum((turn + 1) * np.roll(x[turn], -turn) for turn in range(turns))
    assert np.array_equal(out, expected)
