"""Calls of gated activations on strided rows, with outputs in rings of poison, and what they must hold. Not a test
file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from norm_cases import half_steps, strided
from quant_cases import CODES, DTYPES, Ringed, same, strided_like
from torch import Tensor

from aiterlite import activation
from aiterlite.reference import activation as reference

FUNCTIONS: dict[str, Callable[..., None]] = {
    "silu": activation.silu_and_mul,
    "gelu": activation.gelu_and_mul,
    "gelu_tanh": activation.gelu_tanh_and_mul,
}


@dataclass(frozen=True)
class Case:
    """`pad` elements lie between rows of x, which begin `offset` elements into their memory."""

    rows: int
    width: int
    dtype: str = "bf16"
    name: str = "silu"
    limit: float = 0.0
    pad: int = 0
    offset: int = 0


def x_of(case: Case, seed: int = 0) -> Tensor:
    """Rows of very different magnitudes, whose last result is the greatest; the second is of zeros."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(case.rows, 2 * case.width, generator=generator) * 2
    values[:, :: max(1, case.width // 5)] *= 10
    values[:, case.width - 1 :: case.width] = 40
    values *= torch.exp2(torch.randint(-4, 2, (case.rows, 1), generator=generator).float())
    values[1:2] = 0
    return strided(values.to(DTYPES[case.dtype]), case.pad, case.offset)


def exact(case: Case, x: Tensor) -> tuple[Tensor, Tensor]:
    """float64's results, and by how much float32's may be off: exponents have an error of their own size, to which a
    gate's cube adds three roundings; 16 more are for the exponential, the reciprocal and products, of approximate
    instructions too. 1 + erf cancels below zero: its error is that of 1."""
    gate, up = x.double().chunk(2, -1)
    if case.limit:
        gate, up = gate.clamp(max=case.limit), up.clamp(-case.limit, case.limit)
    if case.name == "gelu":
        value: Tensor = gate * torch.special.ndtr(gate) * up
        return value, (gate * up).abs() * 2.0**-21
    power = gate
    if case.name == "gelu_tanh":
        power = 2 * (2 / torch.pi) ** 0.5 * gate * (1 + 0.044715 * gate * gate)
    value = gate * torch.sigmoid(power) * up
    # Beyond e^-87 a reciprocal may be zero.
    return value, value.abs() * (3 * power.abs() + 16) * 2.0**-24 + (gate * up).abs() * 2.0**-125


def assert_is_right(out: Tensor, x: Tensor, case: Case) -> None:
    """As float64 has it, rounded once."""
    wanted, off = exact(case, x)
    bound = half_steps(wanted.abs() + off, out.dtype) + off
    apart = (out.double() - wanted).abs()
    assert bool((apart <= bound).all()), f"{case}: {float((apart / bound).nan_to_num(9e9).max())} of the bound"


def call(case: Case, x: Tensor, device: str, pad: int = 0) -> Tensor:
    """The result of a call, on the CPU; nothing beside it was written. Rows of it are `pad` elements apart."""
    out = Ringed.of((case.rows, case.width + pad), x.dtype, device, case.offset * 2)
    given = out.inner[:, : case.width], strided_like(x, device)
    FUNCTIONS[case.name](*given, *((case.limit,) if case.limit else ()))
    assert out.ring_is_whole and bool(out.untouched()[:, case.width :].all())
    return given[0].cpu().contiguous()


def run(case: Case, device: str, seed: int = 0) -> Tensor:
    x = x_of(case, seed)
    out = call(case, x, device, case.pad)
    assert_is_right(out, x, case)
    return out


def run_quantised(case: Case, code: str, device: str, group: int = 0, transposed: bool = False, seed: int = 0) -> None:
    """A fused call gives the bits of the activation and of quantisation after it, on the same target; 0 is a scale a
    row. The same by the function that returns its results, which has no limit, and no transposed scales."""
    x, dtype = x_of(case, seed), CODES[code]
    codes, scales = reference.quantised(call(case, x, device), dtype, group, transposed)
    size, given = group or case.width, strided_like(x, device)
    if case.name == "silu":
        out, scale = (Ringed.of(tuple(t.shape), t.dtype, device) for t in (codes, scales))
        activation.silu_and_mul_quant(out.inner, given, scale.inner, size, case.limit, transposed)
        assert same(out.inner, codes) and same(scale.inner, scales), f"{case}, {code}, {group}, {transposed}"
        assert out.ring_is_whole and scale.ring_is_whole
    if not case.limit and not transposed:
        found: tuple[Any, Any] = activation.act_mul_and_fp8_group_quant(given, case.name, size, dtype)
        assert same(found[0], codes) and same(found[1], scales.view(found[1].shape)), f"{case}, {code}, {group}"
