"""Calls of RMSNorm on strided rows, with outputs in rings of poison, and what they must hold. Not a test file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from quant_cases import CODES, DTYPES, Ringed, same, strided_like
from torch import Tensor

from aiterlite import norm
from aiterlite.reference import norm as reference

_FRACTION = {torch.bfloat16: 7, torch.float16: 10}
_LEAST = {torch.bfloat16: -126, torch.float16: -14}


@dataclass(frozen=True)
class Case:
    """`pad` elements lie between rows, which begin `offset` elements into their memory."""

    rows: int
    width: int
    dtype: str = "bf16"
    with_add: bool = False
    gemma: bool = False
    sensitive: bool = False
    pad: int = 0
    offset: int = 0
    epsilon: float = 1e-6


@dataclass(frozen=True)
class Operands:
    x: Tensor
    residual: Tensor
    weight: Tensor


def strided(values: Tensor, pad: int, offset: int) -> Tensor:
    """The same rows further apart; what lies between them is NaN."""
    rows, width = values.shape
    storage = torch.full((offset + rows * (width + pad),), float("nan"), dtype=values.dtype)
    return torch.as_strided(storage, (rows, width), (width + pad, 1), offset).copy_(values)


def operands_of(case: Case, seed: int = 0) -> Operands:
    """Rows of very different magnitudes, some columns 30 times as large; the second is of zeros."""
    generator, dtype = torch.Generator().manual_seed(seed), DTYPES[case.dtype]

    def rows(scale: float) -> Tensor:
        values = torch.randn(case.rows, case.width, generator=generator) * scale
        values[:, :: max(1, case.width // 5)] *= 30
        values *= torch.exp2(torch.randint(-6, 3, (case.rows, 1), generator=generator).float())
        values[1:2] = 0
        return strided(values.to(dtype), case.pad, case.offset)

    weight = torch.randn(case.width, generator=generator).to(dtype)
    return Operands(rows(1.0), rows(0.5), strided(weight[None], 0, case.offset)[0])


def half_steps(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Half the distance of a type's numbers at float64 values."""
    exponent = torch.frexp(value.abs()).exponent - 1
    return torch.exp2((exponent.clamp_min(_LEAST[dtype]) - _FRACTION[dtype] - 1).double())


def assert_is_the_norm(out: Tensor, h: Tensor, weight: Tensor, case: Case) -> None:
    """As float64 has it, rounded once: beyond half a step an element may be off by what float32 sums are. These have
    no cancellation; a chain is of width / 16 numbers at most, 40 more where chains meet, half of that in the root; the
    root, the factor of the mean and two products are 8 roundings."""
    exact = h.double() / (h.double().square().mean(-1, keepdim=True) + case.epsilon).sqrt()
    factor = weight.double() + float(case.gemma)
    wanted = exact * factor
    off = wanted.abs() * ((case.width / 16 + 40) / 2 + 8) * 2.0**-24
    bound = half_steps(wanted.abs() + off, out.dtype) + off
    if case.sensitive:
        bound = bound + factor.abs() * (half_steps(exact, out.dtype) + exact.abs() * 2.0**-12)
    apart = (out.double() - wanted).abs()
    assert bool((apart <= bound).all()), f"{case}: {float((apart / bound).nan_to_num(9e9).max())} of the bound"


def call(case: Case, given: Operands, device: str, in_place: bool = False) -> tuple[Tensor, Tensor | None]:
    """(out, residual_out) of a call, on the CPU; nothing beside them was written."""
    x, residual, weight = (strided_like(tensor, device) for tensor in (given.x, given.residual, given.weight))
    offset = case.offset * 2
    out, total = (Ringed.of(tuple(x.shape), x.dtype, device, offset) for _ in range(2))
    if not case.with_add:
        if in_place:
            norm.rms_norm_cu(x, x, weight, case.epsilon)
            return x.cpu(), None
        if case.sensitive:
            return norm.rms_norm(x, weight, case.epsilon, 1).cpu(), None
        norm.rms_norm_cu(out.inner, x, weight, case.epsilon)
        assert out.ring_is_whole and same(norm.rmsnorm2d_fwd(x, weight, case.epsilon), out.inner)
        return out.inner.cpu(), None
    if in_place:
        norm.fused_add_rms_norm_cu(x, residual, weight, case.epsilon)
        return x.cpu(), residual.cpu()
    rest = weight, case.epsilon, case.gemma, int(case.sensitive)
    norm.rmsnorm2d_fwd_with_add(out.inner, x, residual, total.inner, *rest)
    assert out.ring_is_whole and total.ring_is_whole
    return out.inner.cpu(), total.inner.cpu()


def run(case: Case, device: str, seed: int = 0) -> Tensor:
    """A call, out of place and in place, held to float64; its result."""
    given = operands_of(case, seed)
    out, total = call(case, given, device)
    h = given.x
    if total is not None:
        h = reference.add(given.x, given.residual)
        assert same(total, h)
    assert_is_the_norm(out, h, given.weight, case)
    if not (case.gemma or case.sensitive):
        again, total = call(case, given, device, in_place=True)
        assert same(again.contiguous(), out) and (total is None or same(total.contiguous(), h.contiguous()))
    return out


def run_quantised(case: Case, code: str, device: str, group: int = 0, transposed: bool = False, seed: int = 0) -> None:
    """A fused call gives the bits of the norm and of quantisation after it, on the same target."""
    given, dtype = operands_of(case, seed), CODES[code]
    plain, total = call(replace(case, gemma=False), given, device)
    codes, scales = reference.quantised(plain, dtype, group, transposed)
    x, residual, weight = (strided_like(tensor, device) for tensor in (given.x, given.residual, given.weight))
    out, yscale = (Ringed.of(tuple(t.shape), t.dtype, device) for t in (codes, scales))
    sums = Ringed.of(tuple(x.shape), x.dtype, device, case.offset * 2)
    rest: tuple[Any, ...] = (yscale.inner, weight, case.epsilon, int(case.sensitive), group, transposed)
    if case.with_add:
        norm.rmsnorm2d_fwd_with_add_dynamicquant(out.inner, x, residual, sums.inner, *rest)
        assert total is not None and same(sums.inner, total) and sums.ring_is_whole
    else:
        norm.rmsnorm2d_fwd_with_dynamicquant(out.inner, x, *rest)
    assert same(out.inner, codes) and same(yscale.inner, scales), f"{case}, {code}, {group}, {transposed}"
    assert out.ring_is_whole and yscale.ring_is_whole
