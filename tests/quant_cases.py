"""Rows to quantise, outputs ringed with poison, and what they must hold. Not a test file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from emulator.formats import E4M3FN, E4M3FNUZ
from torch import Tensor

from aiterlite.ops import quant as ops
from aiterlite.reference import quant as reference

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CODES = ops.CODES
_FORMATS = {torch.float8_e4m3fn: E4M3FN, torch.float8_e4m3fnuz: E4M3FNUZ}
_RING, _POISON = 64, 0x5A


def every_value(dtype: torch.dtype) -> Tensor:
    """All bit patterns of a 16-bit type."""
    return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)


def encoded(values: np.ndarray[Any, Any], code: torch.dtype) -> np.ndarray[Any, Any]:
    """float64 values as codes, by the definition of the format: what `reference.encode` must give. Bytes."""
    nan = np.isnan(values)
    if code == torch.int8:
        rounded = np.rint(np.clip(np.where(nan, 0.0, values), -127, 127))
        return rounded.astype(np.int8).view(np.uint8)
    fmt = _FORMATS[code]
    return np.where(nan, fmt.nan_code, fmt.encode(np.where(nan, 0.0, values), True)).astype(np.uint8)


def rows_of(rows: int, width: int, dtype: torch.dtype, seed: int = 0, pad: int = 0, offset: int = 0) -> Tensor:
    """Random rows `pad` elements apart, of very different magnitudes from one 32 elements to the next; what lies
    between them is NaN. From the third row on there are 32 zeros, a NaN, an infinity, subnormal numbers, and
    numbers so small that the least scale serves them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, width, generator=generator)
    exponents = torch.randint(-8, 8, (rows, -(-width // 32)), generator=generator)
    values *= torch.exp2(exponents.float()).repeat_interleave(32, 1)[:, :width]
    for row, special in enumerate((0.0, float("nan"), float("inf"), -float("inf"), 1e-6, 1e-40), 2):
        if row >= rows:
            break
        at = 32 * row % width
        if row in (3, 4, 5):
            values[row, at + 5 :: 160] = special
        else:
            values[row, at : at + 32] *= special
        values[row, at] = -0.0
    storage = torch.full((offset + rows * (width + pad),), float("nan"), dtype=dtype)
    view = torch.as_strided(storage, (rows, width), (width + pad, 1), offset)
    return view.copy_(values.to(dtype))


def strided_like(x: Tensor, device: str) -> Tensor:
    """x on a device, with its strides and the offset into its memory."""
    whole = torch.as_strided(x, (x.untyped_storage().nbytes() // x.itemsize,), (1,), 0).to(device)
    return torch.as_strided(whole, x.shape, x.stride(), x.storage_offset())


@dataclass
class Ringed:
    """A tensor of poison with a ring of it around."""

    whole: Tensor
    inner: Tensor

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: torch.dtype, device: str = "cpu", offset: int = 0) -> Ringed:
        """`offset` bytes beside a multiple of 16."""
        size = int(np.prod(shape)) * dtype.itemsize
        whole = torch.full((size + 2 * _RING + offset,), _POISON, dtype=torch.uint8, device=device)
        return cls(whole, whole[_RING + offset : _RING + offset + size].view(dtype).view(shape))

    @property
    def ring_is_whole(self) -> bool:
        at = self.inner.storage_offset() * self.inner.itemsize
        size = self.inner.nbytes
        return bool((self.whole[:at] == _POISON).all() and (self.whole[at + size :] == _POISON).all())

    def untouched(self) -> Tensor:
        """Which elements hold poison in all their bytes."""
        flat = self.inner.view(-1).view(torch.uint8).view(-1, self.inner.itemsize)
        return (flat == _POISON).all(1).view(self.inner.shape)


def same(got: Tensor, wanted: Tensor) -> bool:
    """The same bits; a NaN of float32 is any NaN."""
    got, wanted = got.cpu(), wanted.cpu()
    if got.dtype == torch.float32:
        return bool(((got == wanted) | (got.isnan() & wanted.isnan())).all())
    return torch.equal(got.view(torch.uint8), wanted.view(torch.uint8))


def assert_same(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name, value in wanted.items():
        if same(got[name], value):
            continue
        mine, right = got[name].cpu().reshape(value.shape), value.cpu()
        if mine.dtype != torch.float32:
            mine, right = mine.view(torch.uint8), right.view(torch.uint8)
        at = tuple((mine != right).nonzero()[0].tolist())
        raise AssertionError(f"{name}: {int((mine != right).sum())} differ; at {at} {mine[at]} for {right[at]}")


def run_groups(
    x: Tensor,
    code: torch.dtype,
    group: int,
    transposed: bool = False,
    live: int | None = None,
    factor: int = 1,
    device: str = "cpu",
    offset: int = 0,
) -> None:
    """Groups of rows, quantised and compared; `live` rows of them times `factor`, else all."""
    call: Callable[..., None] = ops.dynamic_per_group_scaled_quant
    rows = x.shape[0]
    out = Ringed.of(tuple(x.shape), code, device, offset)
    scales = Ringed.of((rows, x.shape[1] // group), torch.float32, device)
    counted = None if live is None else torch.tensor([live], dtype=torch.int32, device=device)
    call(out.inner, strided_like(x, device), scales.inner, group, transposed, counted, factor)
    _compare(out, scales, x, reference.per_group(x, code, group), transposed, rows if live is None else live * factor)


def run_tokens(
    x: Tensor,
    code: torch.dtype,
    live: int | None = None,
    factor: int = 1,
    device: str = "cpu",
    offset: int = 0,
) -> None:
    rows = x.shape[0]
    out, scales = Ringed.of(tuple(x.shape), code, device, offset), Ringed.of((rows, 1), torch.float32, device)
    counted = None if live is None else torch.tensor([live], dtype=torch.int32, device=device)
    given = out.inner, strided_like(x, device), scales.inner
    ops.dynamic_per_token_scaled_quant(*given, None, False, counted, factor)
    _compare(out, scales, x, reference.per_token(x, code), False, rows if live is None else live * factor)


def _compare(
    out: Ringed, scales: Ringed, x: Tensor, wanted: tuple[Tensor, Tensor], transposed: bool, live: int
) -> None:
    live = max(0, min(live, x.shape[0]))
    found = scales.inner.view(-1)[: live * wanted[1].shape[1]]
    right = wanted[1][:live].T.contiguous() if transposed else wanted[1][:live]
    assert_same(
        {"out": out.inner[:live], "scales": found.view(right.shape)}, {"out": wanted[0][:live], "scales": right}
    )
    assert out.ring_is_whole and scales.ring_is_whole
    assert bool(out.untouched()[live:].all()) and bool(scales.untouched().view(-1)[found.numel() :].all())


def run_tensor(x: Tensor, code: torch.dtype, device: str = "cpu", offset: int = 0) -> None:
    out, scale = Ringed.of(tuple(x.shape), code, device, offset), Ringed.of((1,), torch.float32, device)
    ops.dynamic_per_tensor_quant(out.inner, strided_like(x, device), scale.inner)
    wanted = reference.per_tensor(x, code)
    assert_same({"out": out.inner, "scale": scale.inner}, dict(zip(("out", "scale"), wanted, strict=True)))
    assert out.ring_is_whole and scale.ring_is_whole


def run_static(x: Tensor, code: torch.dtype, by: float, device: str = "cpu", offset: int = 0) -> Tensor:
    out, scale = Ringed.of(tuple(x.shape), code, device, offset), torch.tensor([by], device=device)
    ops.static_per_tensor_quant(out.inner, strided_like(x, device), scale)
    assert_same({"out": out.inner}, {"out": reference.static(x, code, torch.tensor([by]))})
    assert out.ring_is_whole
    return out.inner
