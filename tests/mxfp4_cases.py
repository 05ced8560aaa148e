"""Rows to quantise to MXFP4, outputs ringed with poison, and what they must hold. Not a test file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from quant_cases import Ringed, strided_like
from torch import Tensor

from aiterlite.ops import mxfp4 as ops
from aiterlite.ops.shuffle import padded_scale_shape
from aiterlite.reference import mxfp4 as reference

MODES = (0, 1, 2, 3)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def in_turns(count: int) -> list[Any]:
    """Parameters number and target: every number on a CPU and a GPU, and, as each is a kernel to build, on the two
    emulated targets by turns."""
    amd = {"gfx942": 0, "gfx950": 1}
    chosen = [(number, target) for number in range(count) for target in ("cpu", *amd, "cuda")]
    marks = {"cpu": (), "cuda": (pytest.mark.gpu,), **dict.fromkeys(amd, (pytest.mark.emulated,))}
    return [pytest.param(n, t, marks=marks[t]) for n, t in chosen if t not in amd or n % 2 == amd[t]]


def scale_exponent(maximum: float, mode: int) -> int:
    """The exponent of a block's scale, by the words of the formats, in exact numbers: none of the reference's bits."""
    mantissa, exponent = np.frexp(np.float64(maximum))  # maximum is mantissa * 2^exponent, 0.5 <= mantissa < 1
    floor = int(exponent) - 1
    if mode == 0:
        return floor - 2
    if mode == 1:
        return floor - 2 + int(mantissa * 2 > 1.5)
    if mode == 2:
        return floor - 2 + int(mantissa * 2 >= 1.75)
    return floor - 2 + int(mantissa * 2 > 1.0)


def nearest_code(value: float) -> int:
    """The e2m1 code of a number, by distances: the nearest, of two the even one, beyond 6 that."""
    apart = np.abs(_E2M1 - abs(value))
    nearest = np.flatnonzero(apart == apart.min())
    code = int(nearest[0] if len(nearest) == 1 else next(n for n in nearest if n % 2 == 0))
    return code + (8 if np.signbit(value) else 0)


def rows_of(rows: int, width: int, dtype: torch.dtype, seed: int = 0, pad: int = 0, offset: int = 0) -> Tensor:
    """Random rows `pad` elements apart: blocks of very different magnitudes, some with a large number among small ones,
    of ties, of zeros, and with a NaN, an infinity or subnormal numbers. What lies between rows is NaN."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, width // 32, 32, generator=generator)
    values *= torch.exp2(torch.randint(-8, 8, values.shape[:2], generator=generator).float()).unsqueeze(-1)
    flat = values.view(-1, 32)
    ties = torch.tensor([0.25, -0.75, 1.25, 1.75, -2.5, 3.5, 5.0, 6.0, -0.0, 0.0, 4.0, -4.0] * 3)[:32]
    special: list[Any] = [
        lambda block: block.zero_(),
        lambda block: block.copy_(torch.full((32,), -0.0)),
        lambda block: block[7:8].fill_(float("nan")),
        lambda block: block[31:].fill_(float("inf")),
        lambda block: block[:1].fill_(-float("inf")),
        lambda block: block.mul_(1e-6),
        lambda block: block.mul_(1e-39),
        lambda block: block.copy_(ties),
        lambda block: block[3:4].mul_(1000.0),
    ]
    for i in range(0, len(flat), 2):
        special[(i // 2 + seed) % len(special)](flat[i])
    storage = torch.full((offset + rows * (width + pad),), float("nan"), dtype=dtype)
    view = torch.as_strided(storage, (rows, width), (width + pad, 1), offset)
    return view.copy_(values.view(rows, width).to(dtype))


def assert_codes(got: Tensor, wanted: Tensor, what: str) -> None:
    got, wanted = got.cpu().view(torch.uint8), wanted.view(torch.uint8)
    if torch.equal(got, wanted):
        return
    at = tuple((got != wanted).nonzero()[0].tolist())
    raise AssertionError(f"{what}: {int((got != wanted).sum())} bytes differ; at {at} {got[at]:#x} for {wanted[at]:#x}")


def shuffled(scale: Tensor, rows: int) -> Tensor:
    """Scales as upstream's formula has them, byte by byte, in tiles of `rows` rows; zeros elsewhere."""
    columns = -(-scale.shape[1] // 8) * 8
    found = torch.zeros(rows * columns, dtype=torch.uint8)
    x, y = torch.meshgrid(torch.arange(scale.shape[0]), torch.arange(scale.shape[1]), indexing="ij")
    at = x // 32 * 32 * columns + y // 8 * 256 + y % 4 * 64 + x % 16 * 4 + y % 8 // 4 * 2 + x % 32 // 16
    found[at.flatten()] = scale.reshape(-1)
    return found.view(rows, columns)


def run(
    x: Tensor,
    mode: int = 1,
    layout: str = "rows",
    device: str = "cpu",
    live: int | None = None,
    factor: int = 1,
    offset: int = 0,
    scale_rows: int = 0,
) -> None:
    """A call on x, compared, and that nothing beside its results is written."""
    rows, blocks = x.shape[0], x.shape[1] // 32
    out = Ringed.of((rows, blocks * 16), torch.uint8, device, offset)
    shape: tuple[int, ...] = {"rows": (rows, blocks), "columns": (blocks, rows)}.get(layout, ())
    if layout == "shuffled":
        shape = padded_scale_shape(rows, blocks)
        shape = (scale_rows or shape[0], shape[1])
    scales = Ringed.of(shape, torch.uint8, device)
    counted = None if live is None else torch.tensor([live], dtype=torch.int32, device=device)
    written = scales.inner.T if layout == "columns" else scales.inner
    given = strided_like(x, device), out.inner, written
    ops.quantise(*given, mode, layout == "shuffled", counted, factor)
    codes, wanted = reference.quantise(x, mode)
    count = rows if live is None else max(0, min(rows, live * factor))
    assert_codes(out.inner[:count], codes[:count], "codes")
    if layout == "shuffled":
        assert_codes(scales.inner, shuffled(wanted[:count], shape[0]), "scales")
    else:
        assert_codes(written[:count], wanted[:count], "scales")
        assert bool((written[count:] == 0x5A).all())
    assert out.ring_is_whole and scales.ring_is_whole and bool(out.untouched()[count:].all())
