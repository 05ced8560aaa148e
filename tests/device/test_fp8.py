"""Conversions to and from 8-bit formats: the same bits everywhere, for every bf16 and fp16 value and at every edge."""

from __future__ import annotations

import functools

import device_units
import numpy as np
import pytest
from emulator.formats import BF16, E4M3FN, E4M3FNUZ, F16, Array, Format

where = pytest.mark.parametrize("where", device_units.EVERYWHERE)
FORMATS = {"e4m3fn": E4M3FN, "e4m3fnuz": E4M3FNUZ}


@functools.cache
def inputs() -> Array:
    """All bf16 and fp16 values, and of each format the floats at, beside and between its values, beyond its largest."""
    codes = np.arange(1 << 16, dtype=np.uint32)
    values = [(codes << 16).view(np.float32), codes.astype(np.uint16).view(np.float16).astype(np.float32)]
    for fmt in FORMATS.values():
        step = fmt.finite[-1] - fmt.finite[-2]
        grid = np.concatenate([fmt.finite, fmt.largest + step * np.arange(1, 4)])
        points = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2]).astype(np.float32)
        values += [points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(-1))]
    # NaN of every kind, denormal floats, and the extremes.
    nan = np.array([0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    values += [nan, np.array([0, 1e-45, 1e-39, 2.0**-126, 3.4e38, np.inf], np.float32)]
    everything = np.concatenate(values)
    everything = np.concatenate([everything, -everything])
    return np.concatenate([everything, np.zeros(-len(everything) % 1024, np.float32)])


def encoded(fmt: Format, values: Array, saturate: bool) -> Array:
    """What `numeric/fp8.h` states. The one NaN has no sign."""
    with np.errstate(invalid="ignore"):  # of a signalling NaN
        codes = fmt.encode(values.astype(np.float64), saturate)
    if saturate:
        # `Format` lets infinities saturate too, but NaN not.
        assert (fmt.decode(codes[np.isinf(values)]) == np.copysign(fmt.largest, values[np.isinf(values)])).all()
    return np.where(np.isnan(fmt.decode(codes)), fmt.nan_code, codes).astype(np.uint8)


def test_the_statement_is_what_torch_does() -> None:
    torch = pytest.importorskip("torch")
    values = inputs()
    for name, fmt in FORMATS.items():
        near = values[np.abs(values) <= fmt.largest]
        codes = torch.from_numpy(near).to(getattr(torch, f"float8_{name}")).view(torch.uint8).numpy()
        np.testing.assert_array_equal(encoded(fmt, near, True), codes)


@where
def test_every_float_is_rounded_as_stated(where: str) -> None:
    values = inputs()
    n = len(values)
    out = np.zeros((12, n), np.uint8)
    values.flags.writeable = False
    device_units.run(where, "fp8", "encode_fp8", n // 1024, 256, [values, out, np.uint32(n)])
    index = 0
    for name, fmt in FORMATS.items():
        for overflow in ("the largest", "NaN"):
            expected = encoded(fmt, values, overflow == "the largest")
            for at_once in (4, 2, 1):
                wrong = np.flatnonzero(out[index] != expected)
                first = wrong[:1]
                assert not len(wrong), (
                    f"{len(wrong)} of {name}, overflow to {overflow}, {at_once} at once: {values[first]} is "
                    f"{out[index][first]}, expected {expected[first]}"
                )
                index += 1


@where
def test_every_code_is_decoded_as_stated(where: str) -> None:
    floats, scales = np.zeros((4, 256), np.float32), np.zeros(256, np.float32)
    pairs = np.zeros((2, 2, 256), np.uint16)
    device_units.run(where, "fp8", "decode_fp8", 1, 64, [floats, pairs[0], pairs[1], scales])
    for index, fmt in enumerate((E4M3FN, E4M3FNUZ)):
        values = fmt.values.astype(np.float32)
        for found in (floats[2 * index], floats[2 * index + 1]):
            assert (
                np.array_equal(found, values, equal_nan=True)
                and (np.signbit(found) == np.signbit(values))[~np.isnan(values)].all()
            )
        for found, wide in zip(pairs[:, index], (BF16, F16), strict=True):
            assert np.array_equal(wide.decode(found), fmt.values, equal_nan=True)
    expected = np.append(np.exp2(np.arange(-127, 128, dtype=np.float64)), np.nan).astype(np.float32)
    assert np.array_equal(scales, expected, equal_nan=True)


@where
def test_every_16_bit_value_is_a_float(where: str) -> None:
    codes = np.arange(1 << 16, dtype=np.uint16)
    from_bf16, from_fp16 = np.zeros(1 << 16, np.float32), np.zeros(1 << 16, np.float32)
    device_units.run(where, "fp8", "convert_16bit", 256, 256, [codes, from_bf16, from_fp16])
    assert np.array_equal(from_bf16, BF16.values.astype(np.float32), equal_nan=True)
    assert np.array_equal(from_fp16, F16.values.astype(np.float32), equal_nan=True)


@where
def test_pairs_are_rounded_to_nearest(where: str) -> None:
    values = inputs()
    as_bf16, as_fp16 = np.zeros(len(values), np.uint16), np.zeros(len(values), np.uint16)
    device_units.run(where, "transpose", "pack_pairs", len(values) // 128, 64, [values, as_bf16, as_fp16])
    for fmt, found in ((BF16, as_bf16), (F16, as_fp16)):
        with np.errstate(invalid="ignore"):  # of a signalling NaN
            expected = fmt.encode(values.astype(np.float64)).astype(np.uint16)
        nan = np.isnan(values)
        np.testing.assert_array_equal(found[~nan], expected[~nan])
        assert np.isnan(fmt.decode(found[nan])).all()
