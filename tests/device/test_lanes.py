"""Reductions, the place of a maximum, and scans, of waves and of workgroups."""

from __future__ import annotations

from typing import Any

import device_units
import numpy as np
import pytest

where = pytest.mark.parametrize("where", device_units.EVERYWHERE)
Array = np.ndarray[Any, np.dtype[Any]]
GROUPS, WAVES = 6, 4


def shape(where: str) -> tuple[int, int, int]:
    return GROUPS, WAVES, device_units.wave_size(where)


def butterfly(values: Array) -> Array:
    """The sum in the order in which lanes meet: neighbours, then pairs, ..., in float32."""
    while values.shape[-1] > 1:
        values = values[..., 0::2] + values[..., 1::2]
    return values[..., 0]


@where
def test_sums_and_maxima_have_one_result_and_order(where: str) -> None:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(shape(where)) * np.exp2(rng.integers(-8, 8, shape(where)))).astype(np.float32)
    x[1, 2, 3], x[2], x[3, 0, 5] = np.inf, -np.inf, np.nan
    sums, maxima = (np.zeros((*x.shape, 2), np.float32) for _ in range(2))
    of_eight, strided = np.zeros_like(x), np.zeros_like(x)
    block = x[0].size
    device_units.run(where, "lanes", "reduce_floats", GROUPS, block, [x, sums, maxima, of_eight, strided])
    of_wave = butterfly(x)
    of_group = of_wave[:, 0]
    for wave in range(1, WAVES):
        of_group = of_group + of_wave[:, wave]
    # In every lane, in every bit.
    assert np.array_equal(sums[..., 0], np.broadcast_to(of_wave[..., None], x.shape), equal_nan=True)
    assert np.array_equal(sums[..., 1], np.broadcast_to(of_group[:, None, None], x.shape), equal_nan=True)
    with np.errstate(invalid="ignore"):
        most = np.fmax.reduce(x, axis=2)
    assert np.array_equal(maxima[..., 0], np.broadcast_to(most[..., None], x.shape))
    assert np.array_equal(maxima[..., 1], np.broadcast_to(most.max(1)[:, None, None], x.shape))
    eights = x.reshape(-1, 8)
    assert np.array_equal(
        of_eight.reshape(-1, 8), np.broadcast_to(butterfly(eights)[:, None], eights.shape), equal_nan=True
    )
    columns = x.reshape(GROUPS, WAVES, -1, 16)
    expected = np.broadcast_to(np.fmax.reduce(columns, axis=2)[:, :, None], columns.shape)
    assert np.array_equal(strided.reshape(columns.shape), expected)


@where
def test_lanes_of_equal_values_find_each_other(where: str) -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(0, 32, shape(where), dtype=np.uint32)
    x[1], x[2] = 31, np.arange(x.shape[2]) % 32
    x[3] = rng.integers(0, 2, x[3].shape)
    x[4, 1], x[4, 2, :-1], x[4, 2, -1] = 6, 8, 9
    everything, before, first, odd = (np.full_like(x, 98) for _ in range(4))
    device_units.run(where, "lanes", "match_words", GROUPS, x[0].size, [x, everything, before, first, odd])
    same = x[..., :, None] == x[..., None, :]
    assert np.array_equal(everything, same.sum(-1))
    assert np.array_equal(before, np.tril(same, -1).sum(-1))
    assert np.array_equal(first, same.argmax(-1))
    is_odd = x % 2 == 1
    expected = np.where(is_odd.any(-1), is_odd.argmax(-1), 99)
    assert np.array_equal(odd, np.broadcast_to(expected[..., None], x.shape))


def first_of(values: Array) -> int:
    """NaN is greatest, -0 equals 0, the lowest index wins: torch's order."""
    nan = np.flatnonzero(np.isnan(values))
    return int(nan[0]) if len(nan) else int(np.argmax(values))


@where
def test_the_first_of_the_greatest_is_found(where: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(-3, 4, shape(where)).astype(np.float32)  # many ties
    x[0] = -x[0] * 0.0  # both zeros, all equal
    x[1] = -np.inf
    x[2] = -(rng.random(x[2].shape).astype(np.float32)) - 1  # all negative
    x[3, 1, 7], x[3, 2, 3] = -np.float32(np.nan), np.nan  # the one whose sign is set comes first
    x[4, 3, -1] = np.inf
    flat = x.reshape(GROUPS, -1)
    of_wave, of_group = np.zeros(x.shape, np.uint32), np.zeros(x.shape, np.uint32)
    greatest = np.zeros(x.shape, np.float32)
    device_units.run(where, "lanes", "find_first", GROUPS, flat.shape[1], [x, of_wave, of_group, greatest])
    for group in range(GROUPS):
        expected = first_of(flat[group])
        assert (of_group[group] == expected).all(), f"group {group}"
        assert np.array_equal(greatest[group], np.full_like(x[group], flat[group][expected]), equal_nan=True)
        for wave in range(WAVES):
            assert (of_wave[group, wave] == wave * x.shape[2] + first_of(x[group, wave])).all(), f"wave {wave}"


@where
def test_scans_add_up_what_came_before(where: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(0, 1 << 32, shape(where), dtype=np.uint64).astype(np.uint32)
    x[1], x[2] = 0, 1
    x[3, 2, 9] = 77
    x[0][x[0] == 77] = 0
    wave, before, everything, joined, any_lane = (np.zeros_like(x) for _ in range(5))
    flat = x.reshape(GROUPS, -1)
    threads = flat.shape[1]
    arrays = [x, wave, before, everything, joined, any_lane]
    device_units.run(where, "lanes", "scan_words", GROUPS, threads, arrays)
    assert np.array_equal(wave, np.cumsum(x, axis=2, dtype=np.uint32))
    inclusive = np.cumsum(flat, axis=1, dtype=np.uint32)
    assert np.array_equal(before.reshape(flat.shape), inclusive - flat)
    assert np.array_equal(everything.reshape(flat.shape), np.broadcast_to(inclusive[:, -1:], flat.shape))
    # Intervals only join in the order of their threads.
    thread = np.arange(threads, dtype=np.uint32)
    assert np.array_equal(joined.reshape(flat.shape), np.broadcast_to(thread << 16, flat.shape))
    assert np.array_equal(any_lane, np.broadcast_to((x == 77).any(2, keepdims=True), x.shape))


@where
def test_lanes_vote(where: str) -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(0, 1 << 32, shape(where), dtype=np.uint64).astype(np.uint32)
    x[1] |= 1
    x[2] &= ~np.uint32(1)
    x[3] &= ~np.uint32(1)
    x[3, 1, -1], x[3, 2, 17] = 5, 0xFFFFFFFF
    x[0] >>= 1
    low, high, first, greatest, of_eight = (np.zeros_like(x) for _ in range(5))
    block = x[0].size
    device_units.run(where, "lanes", "vote", GROUPS, block, [x, low, high, first, greatest, of_eight])
    lanes = x.shape[-1]
    odd = x % 2 != 0
    mask = (odd.astype(np.uint64) << np.arange(lanes, dtype=np.uint64)).sum(-1, keepdims=True)
    assert np.array_equal(low | high.astype(np.uint64) << np.uint64(32), np.broadcast_to(mask, x.shape))
    assert np.array_equal(first, np.broadcast_to(odd.argmax(-1)[..., None], x.shape))
    assert np.array_equal(greatest, np.broadcast_to(x.max(-1, keepdims=True), x.shape))
    eights = odd.reshape(-1, lanes // 8, 8).copy()
    eights[..., 7] = True
    found = eights.argmax(-1)[..., None]
    own = (np.arange(8) == found) * 256
    assert np.array_equal(of_eight.reshape(eights.shape), (found + np.arange(lanes // 8)[:, None] * 8) | own)
