"""Samples of the GEMMs of 8-bit floats: normal random codes, which both e4m3 types have, and positive scales."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import gemm_a8w8 as ops
from aiterlite.ops import gemm_a8w8_batched as batched
from aiterlite.ops import operands
from aiterlite.ops.samples import Sample, Tensors, Within
from aiterlite.ops.shuffle import shuffle_weight
from aiterlite.reference import gemm_a8w8 as reference
from aiterlite.reference import quant
from aiterlite.tables import gemm_a8w8 as tables
from aiterlite.tables.gemm_a8w8_problem import (
    BLOCK,
    DTYPES,
    FLAVOURS,
    NATIVE,
    A8w8Problem,
    BatchedProblem,
    BlockScaleProblem,
    RowScaleProblem,
)
from aiterlite.target import persona_for


def _stored(generator: torch.Generator, *shape: int) -> Tensor:
    """Numbers that both flavours have, so that what is expected does not depend on the target."""
    return torch.randn(*shape, generator=generator).to(torch.float8_e4m3fn).float()


def _own(problem: A8w8Problem, x: Tensor) -> torch.dtype:
    flavour = persona_for(x.device.type, x.device.index).fp8 if problem.fp8 == NATIVE else problem.fp8
    return operands.FP8_DTYPES[flavour]


def _start(problem: A8w8Problem, seed: int) -> tuple[torch.Generator, torch.dtype]:
    operands.check_choice("sample", "dtype", problem.dtype, DTYPES)
    operands.check_choice("sample", "fp8", problem.fp8, (NATIVE, *FLAVOURS))
    return torch.Generator().manual_seed(seed), operands.DTYPES[problem.dtype]


def _within(exact: Tensor, magnitude: Tensor, k: int, dtype: torch.dtype) -> Within:
    return Within(exact, reference.error_bound(exact, magnitude, k, dtype, reference.HOPPER_DROPS))


def _codes(problem: A8w8Problem, given: Tensors) -> tuple[Tensor, Tensor]:
    """x and w as a call takes them."""
    flavour = _own(problem, given["x"])
    w = given["weight"].to(flavour)
    return given["x"].to(flavour), shuffle_weight(w) if problem.is_shuffled else w


def _blockscale(problem: BlockScaleProblem, seed: int) -> Sample:
    generator, dtype = _start(problem, seed)
    n, m, k, groups = problem.n, problem.m, problem.k, -(-problem.k // BLOCK)
    inputs = {"x": _stored(generator, n, k), "weight": _stored(generator, m, k)}
    inputs["x_scale"] = torch.rand(n, groups, generator=generator) + 0.5
    inputs["w_scale"] = (torch.rand(-(-m // BLOCK), groups, generator=generator) + 0.5) * max(k, 1) ** -0.5
    exact, magnitude = reference.blockscale(*inputs.values())

    def bind(given: Tensors) -> functools.partial[Tensor]:
        scales = given["x_scale"], given["w_scale"]
        return functools.partial(ops.gemm_a8w8_blockscale, *_codes(problem, given), *scales, dtype, problem.shuffled)

    return Sample(inputs, bind, ("y",), {"y": _within(exact, magnitude, k, dtype)})


def _rowscale(problem: RowScaleProblem, seed: int) -> Sample:
    generator, dtype = _start(problem, seed)
    n, m, k = problem.n, problem.m, problem.k
    inputs = {"x": _stored(generator, n, k), "weight": _stored(generator, m, k)}
    inputs["x_scale"] = torch.rand(n, 1, generator=generator) + 0.5
    inputs["w_scale"] = (torch.rand(m, 1, generator=generator) + 0.5) * max(k, 1) ** -0.5
    if problem.bias:
        inputs["bias"] = torch.randn(m, generator=generator).to(dtype)
    exact, magnitude = reference.rowscale(*inputs.values())
    call = ops.gemm_a8w8_bpreshuffle if problem.shuffled else ops.gemm_a8w8

    def bind(given: Tensors) -> functools.partial[Tensor]:
        scales = given["x_scale"], given["w_scale"]
        return functools.partial(call, *_codes(problem, given), *scales, given.get("bias"), dtype)

    return Sample(inputs, bind, ("y",), {"y": _within(exact, magnitude, k, dtype)})


def _batched(problem: BatchedProblem, seed: int) -> Sample:
    generator, dtype = _start(problem, seed)
    batch, n, m, k = problem.batch, problem.n, problem.m, problem.k
    if k % BLOCK:
        raise ArgumentError("sample", "k", k, f"a multiple of {BLOCK}")
    x = torch.randn(*((n, batch) if problem.tokens_first else (batch, n)), k, generator=generator).to(dtype)
    inputs = {"x": x, "weight": _stored(generator, batch, m, k), "w_scale": torch.tensor([max(k, 1) ** -0.5])}
    if problem.bias:
        inputs["bias"] = torch.randn(batch, 1, m, generator=generator).to(dtype)
    rows, bias = x.transpose(0, 1) if problem.tokens_first else x, inputs.get("bias")
    # x is quantised by the target's own format: what its codes may differ from x by goes into the bound.
    exact = rows.double() @ inputs["weight"].double().mT * inputs["w_scale"].double()
    steps = [_step(rows, flavour) for flavour in (torch.float8_e4m3fn, torch.float8_e4m3fnuz)]
    magnitude = (rows.double().abs() @ inputs["weight"].double().mT.abs()) * inputs["w_scale"].double()
    apart = torch.maximum(*steps) @ inputs["weight"].double().mT.abs() * inputs["w_scale"].double()
    exact = exact if bias is None else exact + bias.double()
    bound = reference.error_bound(exact, 1.1 * magnitude, k, dtype, reference.HOPPER_DROPS) + 1.01 * apart

    def bind(given: Tensors) -> functools.partial[Tensor]:
        w = given["weight"].to(_own(problem, given["x"]))
        call = batched.batched_gemm_a8w8_a_per_token_group_prequant_w_per_batched_tensor_quant
        made = functools.partial(call, given["x"], w, given["w_scale"], group_size=BLOCK, bias=given.get("bias"))
        return functools.partial(made, dtype=dtype, transpose_bm_in=problem.tokens_first)

    return Sample(inputs, bind, ("y",), {"y": Within(exact, bound)})


def _step(x: Tensor, flavour: torch.dtype) -> Tensor:
    """How far each element of x is from its code."""
    codes, scales = quant.per_group(x, flavour, BLOCK)
    return (codes.double() * scales.double().repeat_interleave(BLOCK, -1) - x.double()).abs()


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {
    tables.BLOCKSCALE: _blockscale,
    tables.ROWSCALE: _rowscale,
    tables.BATCHED: _batched,
}
