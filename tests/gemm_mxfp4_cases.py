"""Calls of the GEMM of MXFP4 weights, on strided operands with NaN between and behind their rows and in the padding of
scales, and what they must give. Not a test file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiterlite.ops import gemm_mxfp4 as ops
from aiterlite.ops.shuffle import shuffle_scale, shuffle_weight
from aiterlite.reference import gemm_mxfp4 as reference
from aiterlite.reference import mxfp4

BLOCK = 32
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
NAN_OF_WORDS, NAN_OF_SCALES = 0x7FFF, 0xFF


@dataclass(frozen=True)
class Case:
    """`x`: bf16, fp16 or fp4. `pad` bytes lie between rows of x and w. `lying`: plain scales as rows, or as columns.
    `bias`: none, fp32 or result."""

    n: int
    m: int
    k: int
    x: str = "bf16"
    dtype: str = "bf16"
    pad: int = 0
    lying: str = "rows"
    bias: str = "none"
    factors: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Operands:
    x: Tensor
    w: Tensor
    x_scale: Tensor | None
    w_scale: Tensor
    bias: Tensor | None
    exact: Tensor
    magnitude: Tensor


def padded(tensor: Tensor, pad: int, fill: int) -> Tensor:
    """The same rows, `pad` bytes of `fill` behind each."""
    raw = tensor.contiguous().view(torch.uint8)
    held = torch.full((*raw.shape[:-1], raw.shape[-1] + pad), fill, dtype=torch.uint8)
    held[..., : raw.shape[-1]] = raw
    return held.view(tensor.dtype)[..., : tensor.shape[-1]]


def scales(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Bytes around those of real weights; a few blocks far off, and a first one of the least."""
    made = torch.randint(112, 128, shape, generator=generator, dtype=torch.uint8)
    made.view(-1)[::7] = 100
    made.view(-1)[0] = 0
    return made


def lying(scale: Tensor, how: str) -> Tensor:
    """In rows with NaN behind them, or as columns."""
    return padded(scale, 3, NAN_OF_SCALES) if how == "rows" else scale.mT.contiguous().mT


def operands(case: Case, seed: int = 0, batch: int = 0) -> Operands:
    generator = torch.Generator().manual_seed(seed)
    first = (batch,) if batch else ()
    dtype = DTYPES[case.dtype]
    w = torch.randint(0, 256, (*first, case.m, case.k // 2), generator=generator, dtype=torch.uint8)
    w_scale = scales((*first, case.m, case.k // BLOCK), generator)
    x_scale = None
    if case.x == "fp4":
        x = torch.randint(0, 256, (*first, case.n, case.k // 2), generator=generator, dtype=torch.uint8)
        x_scale = scales((*first, case.n, case.k // BLOCK), generator)
        numbers = mxfp4.dequantise(x, x_scale)
    else:
        x = torch.randn(*first, case.n, case.k, generator=generator).to(DTYPES[case.x])
        numbers = x
    bias = None
    if case.bias != "none":
        rows = case.n if seed % 2 else 1
        kind = torch.float32 if case.bias == "fp32" else dtype
        bias = torch.randn(rows, case.m, generator=generator).to(kind)
    exact, magnitude = reference.product(numbers, mxfp4.dequantise(w, w_scale), bias, *case.factors)
    fill = 0x7F
    return Operands(
        padded(x, case.pad, fill),
        padded(w, case.pad, fill),
        None if x_scale is None else lying(x_scale, case.lying),
        lying(w_scale, case.lying),
        bias,
        exact,
        magnitude,
    )


def shuffled_scale(scale: Tensor, fill: int = NAN_OF_SCALES) -> Tensor:
    """As shuffle_scale puts them, with `fill` in the padding."""
    rows, blocks = scale.shape
    held = torch.full((-(-rows // 256) * 256, -(-blocks // 8) * 8), fill, dtype=torch.uint8)
    held[:rows, :blocks] = scale
    made = shuffle_scale(held)
    assert made is not None
    return made


def poisoned(shape: tuple[int, ...], dtype: torch.dtype, device: Any, pad: int = 0) -> Tensor:
    count = pad if dtype.itemsize == 2 else pad // 2
    held = torch.full((*shape[:-1], (shape[-1] + count) * dtype.itemsize), 0x7F, dtype=torch.uint8, device=device)
    return held.view(dtype)[..., : shape[-1]]


def moved(tensor: Tensor | None, device: Any) -> Any:
    """The same strides on another device, and what lies between."""
    if tensor is None or torch.device(device).type == "cpu":
        return tensor
    size = sum((count - 1) * stride for count, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    flat = torch.as_strided(tensor, (size,), (1,), tensor.storage_offset()).to(device)
    return torch.as_strided(flat, tensor.shape, tensor.stride())


def assert_near(got: Tensor, exact: Tensor, magnitude: Tensor) -> None:
    exact, magnitude = exact.to(got.device), magnitude.to(got.device)
    bound = reference.error_bound(exact, magnitude, got.dtype)
    apart = (got.double() - exact).abs()
    worst = float((apart / bound).nan_to_num(torch.inf).max())
    assert worst <= 1, f"{worst} of the bound"
    assert float(apart.norm() / exact.norm().clamp_min(1e-30)) < 0.003


def run(case: Case, device: Any = "cpu", seed: int = 0) -> Tensor:
    """The call's result, which is right, and has the same bits in every layout that can be, and into a given memory."""
    made = operands(case, seed)
    dtype, factors = DTYPES[case.dtype], case.factors
    x, w, x_scale, w_scale, bias = (moved(t, device) for t in (made.x, made.w, made.x_scale, made.w_scale, made.bias))
    got: Tensor = ops.FORWARD(x, w, x_scale, w_scale, bias, dtype, *factors)
    assert (got.shape, got.dtype) == ((case.n, case.m), dtype)
    assert_near(got, made.exact, made.magnitude)
    bits = got.view(torch.uint8)
    x_tiles = None if made.x_scale is None else moved(shuffled_scale(made.x_scale), device)
    w_tiles = moved(shuffled_scale(made.w_scale), device)
    out = poisoned((case.n, case.m), dtype, device, 16)
    behind = torch.as_strided(out, (case.n, 8), out.stride(), case.m).clone() if case.n else out
    ops.OUT(out, x, w, x_tiles, w_tiles, bias, *factors, False, x_tiles is not None, True)
    assert torch.equal(out.contiguous().view(torch.uint8), bits), "shuffled scales"
    if case.n:
        after = torch.as_strided(out, (case.n, 8), out.stride(), case.m)
        assert torch.equal(after.contiguous().view(torch.uint8), behind.contiguous().view(torch.uint8))
    if case.m % 16 == 0 and case.k % 64 == 0:
        again = ops.FORWARD(
            x, moved(shuffle_weight(made.w), device), x_scale, w_tiles, bias, dtype, *factors, True, False, True
        )
        assert torch.equal(again.view(torch.uint8), bits), "shuffled weights"
    return got
