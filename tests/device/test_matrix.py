"""Matrix products through tiles in shared memory, on small integers: every order of summation gives the same bits."""

from __future__ import annotations

from typing import Any

import device_units
import numpy as np
import pytest
from emulator.formats import BF16, E4M3FN, F16, Array, Format, fp8

TYPES = {"bf16": (BF16, np.uint16), "fp16": (F16, np.uint16)}


def integers(rng: np.random.Generator, shape: tuple[int, ...], fmt: Format, dtype: Any) -> tuple[Array, Array]:
    """Numbers, and their codes."""
    values = rng.integers(-4, 5, shape).astype(np.float64)
    return values, fmt.encode(values).astype(dtype)


def element(name: str, target: str) -> tuple[Format, Any]:
    return TYPES[name] if name in TYPES else (fp8(target), np.uint8)


def check(found: Array, expected: Array, what: str) -> None:
    wrong = np.argwhere(found != expected)
    assert not len(wrong), f"{what}: {found[tuple(wrong[0])]} at {wrong[0]}, expected {expected[tuple(wrong[0])]}"


@pytest.mark.parametrize("target", device_units.AMD)
def test_a_wave_multiplies(target: str) -> None:
    rng = np.random.default_rng(7)
    for kind in ("product_bf16", "product_fp16", "product_fp8", "wide_fp8", "narrow_bf16", "narrow_fp16", "narrow_fp8"):
        fmt, dtype = element(kind.split("_")[1], target)
        for size in (16,) if kind.startswith("narrow") else (16, 32):
            depth = 256 // np.dtype(dtype).itemsize
            a, codes_a = integers(rng, (size, depth), fmt, dtype)
            b, codes_b = integers(rng, (size, depth), fmt, dtype)
            d = np.full((size, size), np.nan, np.float32)
            device_units.run(target, "mfma", f"{kind}_{size}", 1, 64, [codes_a, codes_b, d])
            check(d, a @ b.T, f"{kind}_{size}")


@pytest.mark.parametrize("target", device_units.AMD[1:])
def test_gfx950_multiplies_what_it_transposes(target: str) -> None:
    rng = np.random.default_rng(8)
    for name, columns in (("bf16", 32), ("fp8", 64)):
        fmt, dtype = element(name, target)
        v, codes_v = integers(rng, (64, columns), fmt, dtype)
        p, codes_p = integers(rng, (16, 64), fmt, dtype)
        d = np.full((columns, 16), np.nan, np.float32)
        kernel = f"transposed_{8 * np.dtype(dtype).itemsize}bit"
        device_units.run(target, "mfma", kernel, 1, 64, [codes_v, codes_p, d])
        check(d, v.T @ p.T, kernel)


@pytest.mark.parametrize("target", device_units.AMD[1:])
def test_gfx950_scales_blocks(target: str) -> None:
    rng = np.random.default_rng(9)
    a, codes_a = integers(rng, (16, 128), E4M3FN, np.uint8)
    b, codes_b = integers(rng, (16, 128), E4M3FN, np.uint8)
    scales = rng.integers(124, 131, (2, 16, 4)).astype(np.uint8)
    d = np.full((16, 16), np.nan, np.float32)
    device_units.run(target, "mfma", "scaled_fp8", 1, 64, [codes_a, codes_b, scales[0], scales[1], d])
    factor = np.repeat(np.exp2(scales.astype(np.float64) - 127), 32, axis=2)
    check(d, (a * factor[0]) @ (b * factor[1]).T, "scaled_fp8")


@pytest.mark.parametrize("where", device_units.NVIDIA)
def test_a_warp_multiplies(where: str) -> None:
    rng = np.random.default_rng(10)
    for name, (fmt, dtype) in TYPES.items():
        a, codes_a = integers(rng, (16, 64), fmt, dtype)
        b, codes_b = integers(rng, (8, 64), fmt, dtype)
        d = np.full((16, 8), np.nan, np.float32)
        device_units.run(where, "mma_sync", f"warp_product_{name}", 1, 32, [codes_a, codes_b, d])
        check(d, a @ b.T, name)
    a, codes_a = integers(rng, (16, 16), BF16, np.uint16)
    b, codes_b = integers(rng, (16, 16), BF16, np.uint16)
    d = np.full((16, 16), np.nan, np.float32)
    device_units.run(where, "mma_sync", "warp_product_transposed", 1, 32, [codes_a, codes_b, d])
    check(d, a.T @ b, "transposed")


@pytest.mark.parametrize("where", device_units.NVIDIA)
def test_a_warp_multiplies_what_it_widens(where: str) -> None:
    rng = np.random.default_rng(11)
    a, codes_a = integers(rng, (16, 32), E4M3FN, np.uint8)
    b, codes_b = integers(rng, (8, 32), F16, np.uint16)
    d = np.full((16, 8), np.nan, np.float32)
    device_units.run(where, "mma_sync", "warp_product_e4m3", 1, 32, [codes_a, codes_b, d])
    check(d, a @ b.T, "e4m3")
    v, codes_v = integers(rng, (16, 32), E4M3FN, np.uint8)
    b, _ = integers(rng, (8, 16), F16, np.uint16)
    codes_b = F16.encode(np.pad(b, ((0, 0), (0, 16)), constant_values=3.0)).astype(np.uint16)
    d = np.full((16, 2, 8), np.nan, np.float32)
    device_units.run(where, "mma_sync", "warp_product_e4m3_transposed", 1, 32, [codes_v, codes_b, d])
    # Row 2 i + odd of the product is row i of the half `odd`.
    check(d.reshape(32, 8), v.T @ b.T, "e4m3 transposed")


@pytest.mark.parametrize("where", device_units.NVIDIA)
def test_matrices_are_stored(where: str) -> None:
    x = np.random.default_rng(12).integers(0, 1 << 16, (4, 32, 2)).astype(np.uint16)
    out = np.zeros((2, 4, 8, 8), np.uint16)
    device_units.run(where, "mma_sync", "store_four_matrices", 1, 32, [x, out])
    # Lane l holds elements 2 (l % 4) and the next of row l / 4.
    matrices = x.reshape(4, 8, 8)
    check(out[0], matrices, "store_matrices")
    check(out[1], matrices.transpose(0, 2, 1), "store_matrices_transposed")


SHARED_BYTES = (64 + 256) * 128 + 1024


@pytest.mark.gpu
@pytest.mark.parametrize("columns", [8, 16, 24, 32, 40, 48, 64, 96, 128, 256])
@pytest.mark.parametrize("name", ["bf16", "fp16", "e4m3fn"])
def test_a_warpgroup_multiplies(name: str, columns: int) -> None:
    rng = np.random.default_rng(13)
    fmt, dtype = TYPES.get(name, (E4M3FN, np.uint8))
    depth = 128 // np.dtype(dtype).itemsize
    a, codes_a = integers(rng, (64, depth), fmt, dtype)
    b, codes_b = integers(rng, (columns, depth), fmt, dtype)
    for operand in ("group", "registers"):
        d = np.full((64, columns), np.nan, np.float32)
        kernel = f"{operand}_{name}_{columns}"
        device_units.run("sm_90a", "sm90_wgmma", kernel, 1, 128, [codes_a, codes_b, d], shared=SHARED_BYTES)
        check(d, a @ b.T, kernel)


@pytest.mark.gpu
def test_a_warpgroup_multiplies_what_has_k_down_its_rows() -> None:
    rng = np.random.default_rng(14)
    a, codes_a = integers(rng, (64, 64), BF16, np.uint16)
    b, codes_b = integers(rng, (2, 64, 64), BF16, np.uint16)
    d = np.full((2, 64, 128), np.nan, np.float32)
    device_units.run("sm_90a", "sm90_wgmma", "group_transposed", 1, 128, [codes_a, codes_b, d], shared=SHARED_BYTES)
    expected = a.T @ np.concatenate([b[0], b[1]], axis=1)
    check(d[0], expected, "a from shared memory")
    check(d[1], expected, "a from registers")


@pytest.mark.gpu
def test_a_warpgroup_multiplies_pieces_without_swizzle() -> None:
    rng = np.random.default_rng(15)
    a, codes_a = integers(rng, (64, 64), BF16, np.uint16)
    b, codes_b = integers(rng, (16, 64), BF16, np.uint16)
    d = np.full((64, 16), np.nan, np.float32)
    device_units.run("sm_90a", "sm90_wgmma", "group_pieces", 1, 128, [codes_a, codes_b, d], shared=SHARED_BYTES)
    check(d, a @ b.T, "pieces")
