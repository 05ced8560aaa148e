"""Calls of the GEMMs of 8-bit floats, on strided operands with NaN between and behind their rows, and what they must
give. Not a test file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiterlite import gemm
from aiterlite.ops.shuffle import shuffle_weight
from aiterlite.reference import gemm_a8w8 as reference

BLOCK = 128
NAN = {torch.float8_e4m3fn: 0x7F, torch.float8_e4m3fnuz: 0x80}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
NAN_OF_WORDS = 0x7FFF


@dataclass(frozen=True)
class Case:
    """`pad` bytes lie between rows of x and w, and elements of scales. `lying`: scales of x as [M, groups], or as
    [groups, M]."""

    n: int
    m: int
    k: int
    dtype: str = "bf16"
    pad: int = 0
    lying: str = "rows"
    bias: bool = False
    one_scale: bool = False


def codes(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, pad: int = 0) -> Tensor:
    """Random codes, some columns of which are larger, `pad` NaNs behind each row. (Of much larger ones sm_90 drops
    more of the rest.)"""
    values = torch.randn(shape, generator=generator)
    values[..., :: max(1, shape[-1] // 3)] *= 3
    made = values.clamp(-200, 200).to(dtype)
    held = torch.full((*shape[:-1], shape[-1] + pad), NAN[dtype], dtype=torch.uint8)
    held[..., : shape[-1]] = made.view(torch.uint8)
    return held.view(dtype)[..., : shape[-1]]


def scales(shape: tuple[int, int], generator: torch.Generator, pad: int, lying: str = "rows") -> Tensor:
    """Random positive scales, NaN behind each row of them."""
    values = torch.exp2(torch.rand(shape, generator=generator) * 8 - 6)
    if lying == "columns":
        return scales((shape[1], shape[0]), generator, pad).t()
    held = torch.full((shape[0], shape[1] + pad), float("nan"))
    held[:, : shape[1]] = values
    return held[:, : shape[1]]


def poisoned(shape: tuple[int, ...], dtype: torch.dtype, device: Any, pad: int = 0) -> Tensor:
    held = torch.full((*shape[:-1], shape[-1] + pad), NAN_OF_WORDS, dtype=torch.int16, device=device)
    return held.view(dtype)[..., : shape[-1]]


def moved(tensor: Tensor, device: Any) -> Tensor:
    """The same strides on another device, and what lies between."""
    if torch.device(device).type == "cpu":
        return tensor
    size = sum((count - 1) * stride for count, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    flat = torch.as_strided(tensor, (size,), (1,), tensor.storage_offset()).to(device)
    return torch.as_strided(flat, tensor.shape, tensor.stride())


def assert_near(got: Tensor, exact: Tensor, magnitude: Tensor, k: int, drops: float) -> None:
    bound = reference.error_bound(exact, magnitude, k, got.dtype, drops)
    apart = (got.double() - exact).abs()
    assert bool((apart <= bound).all()), f"{float((apart / bound).nan_to_num(torch.inf).max())} of the bound"


def blockscale_operands(case: Case, fp8: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator, groups = torch.Generator().manual_seed(seed), -(-case.k // BLOCK)
    x = codes((case.n, case.k), fp8, generator, case.pad)
    w = codes((case.m, case.k), fp8, generator, case.pad)
    x_scale = scales((case.n, groups), generator, case.pad % 7, case.lying)
    w_scale = scales((-(-case.m // BLOCK), groups), generator, case.pad % 5)
    return x, w, x_scale, w_scale


def run_blockscale(case: Case, fp8: torch.dtype, device: Any = "cpu", seed: int = 0, drops: float = 0.0) -> Tensor:
    """The call's result, which is right, and has the same bits with shuffled weights where these can be, into a given
    memory, and again."""
    x, w, x_scale, w_scale = blockscale_operands(case, fp8, seed)
    dtype = DTYPES[case.dtype]
    on = [moved(t, device) for t in (x, w, x_scale, w_scale)]
    exact, magnitude = reference.blockscale(*on)
    got = gemm.gemm_a8w8_blockscale(*on, dtype)
    assert (got.shape, got.dtype) == ((case.n, case.m), dtype)
    assert_near(got, exact, magnitude, case.k, drops)
    bits = got.view(torch.int16)
    if case.m % 16 == 0 and case.k % 32 == 0:
        shuffled = moved(shuffle_weight(w), device)
        given = on[0], shuffled, on[2], on[3]
        assert torch.equal(gemm.gemm_a8w8_blockscale(*given, dtype, isBpreshuffled=True).view(torch.int16), bits)
        out = poisoned((case.n, case.m), dtype, device, case.pad)
        groups_first = moved(x_scale.t().contiguous(), device).view(x_scale.shape)
        result = gemm.gemm_a8w8_blockscale_bpreshuffle(on[0], shuffled, groups_first, on[3], dtype, out)
        assert result is out and torch.equal(out.view(torch.int16), bits)
        if case.pad:
            behind = torch.as_strided(out.view(torch.int16), (case.n - 1, case.pad), out.stride(), case.m)
            assert bool((behind == NAN_OF_WORDS).all())
    else:
        assert torch.equal(gemm.gemm_a8w8_blockscale(*on, dtype).view(torch.int16), bits)
    return got


def run_rowscale(case: Case, fp8: torch.dtype, device: Any = "cpu", seed: int = 0, drops: float = 0.0) -> Tensor:
    generator, dtype = torch.Generator().manual_seed(seed), DTYPES[case.dtype]
    x = codes((case.n, case.k), fp8, generator, case.pad)
    w = codes((case.m, case.k), fp8, generator, case.pad)
    x_scale = scales((1 if case.one_scale else case.n, 1), generator, case.pad % 7)
    w_scale = scales((1 if case.one_scale else case.m, 1), generator, case.pad % 5)
    bias = torch.randn(case.m, generator=generator).to(dtype) if case.bias else None
    on: list[Any] = [None if t is None else moved(t, device) for t in (x, w, x_scale, w_scale, bias)]
    exact, magnitude = reference.rowscale(*on)
    got = gemm.gemm_a8w8(*on, dtype)
    assert_near(got, exact, magnitude, case.k, drops)
    if case.m % 16 == 0 and case.k % 32 == 0:
        shuffled = moved(shuffle_weight(w), device)
        again = gemm.gemm_a8w8_bpreshuffle(on[0], shuffled, *on[2:], dtype)
        assert torch.equal(again.view(torch.int16), got.view(torch.int16))
    return got


@dataclass(frozen=True)
class Batch:
    """`pad`: X is a part of rows that many elements longer, as queries are. `first`: tokens are X's first dimension,
    and the result's."""

    batch: int
    n: int
    m: int
    k: int
    dtype: str = "bf16"
    pad: int = 0
    first: tuple[bool, bool] = (True, False)
    bias: bool = False


def run_batched(case: Batch, fp8: torch.dtype, device: Any = "cpu", seed: int = 0, drops: float = 0.0) -> Tensor:
    generator, dtype = torch.Generator().manual_seed(seed), DTYPES[case.dtype]
    rows = (case.n, case.batch) if case.first[0] else (case.batch, case.n)
    x = torch.randn(*rows, case.k + case.pad, generator=generator).to(dtype)
    x[..., case.k :] = float("nan")
    x = x[..., : case.k]
    w = codes((case.batch, case.m, case.k), fp8, generator)
    w_scale = torch.tensor([0.37])
    bias = torch.randn(case.batch, 1, case.m, generator=generator).to(dtype) if case.bias else None
    on: list[Any] = [None if t is None else moved(t, device) for t in (x, w, w_scale, bias)]
    exact, magnitude = reference.batched(on[0].transpose(0, 1) if case.first[0] else on[0], *on[1:])
    call = gemm.batched_gemm_a8w8_a_per_token_group_prequant_w_per_batched_tensor_quant
    how = {"transpose_bm": case.first[1], "transpose_bm_in": case.first[0], "dtype": dtype}
    got = call(on[0], on[1], on[2], bias=on[3], **how)
    assert_near(got.transpose(0, 1) if case.first[1] else got, exact, magnitude, case.k, drops)
    out = poisoned(tuple(got.shape), dtype, device)
    assert call(on[0], on[1], on[2], bias=on[3], YQ=out, **how) is out
    assert torch.equal(out.view(torch.int16), got.view(torch.int16))
    return got
