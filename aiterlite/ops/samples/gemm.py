"""Samples of the skinny GEMMs: contiguous operands of normal random numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aiterlite.ops import batched_gemm, gemm, gemm_fp8, gemm_rc, linear, operands, router_gemm
from aiterlite.ops.samples import Sample, Tensors, Within
from aiterlite.reference import gemm as reference
from aiterlite.tables.batched_gemm import BatchedGemmProblem
from aiterlite.tables.gemm import DTYPES, FLAVOURS, GemmProblem
from aiterlite.tables.gemm_fp8 import NATIVE, SCALES_W, SCALES_X, ScaledGemmProblem
from aiterlite.target import persona_for


def _gemm(op: Callable[..., Tensor], *options: str, rounds: bool = True) -> Callable[[GemmProblem, int], Sample]:
    """Samples of an operator; the problem's fields named in `options` are keywords of the call."""

    def make(problem: GemmProblem, seed: int) -> Sample:
        n, m, k = problem.n, problem.m, problem.k
        operands.check_choice("sample", "dtype", problem.dtype, DTYPES)
        dtype = operands.DTYPES[problem.dtype]
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        x = normal(n, k).to(dtype)
        weight = (normal(m, k) * max(k, 1) ** -0.5).to(dtype)
        inputs = {"x": x, "weight": weight}
        if problem.bias:
            inputs["bias"] = normal(m).to(dtype)
        bias = inputs.get("bias")
        keywords = {name: getattr(problem, name) for name in options}
        exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
        return Sample(
            inputs=inputs,
            bind=lambda given: functools.partial(op, *given.values(), **keywords),
            results=("y",),
            outputs={"y": Within(exact, reference.error_bound(x, weight, exact, None if rounds else torch.float32))},
            baseline=lambda given: functional.linear(*given.values()),
        )

    return make


def _batched_gemm(problem: BatchedGemmProblem, seed: int) -> Sample:
    operands.check_choice("sample", "dtype", problem.dtype, DTYPES)
    dtype = operands.DTYPES[problem.dtype]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(problem.batch, problem.n, problem.k, generator=generator).to(dtype)
    w = torch.randn(problem.batch, problem.m, problem.k, generator=generator)
    inputs = {"x": x, "weight": (w * max(problem.k, 1) ** -0.5).to(dtype)}
    exact = x.double() @ inputs["weight"].double().mT
    if problem.bias:
        inputs["bias"] = torch.randn(problem.batch, 1, problem.m, generator=generator).to(dtype)
        exact = exact + inputs["bias"].double()
    bound = torch.stack([reference.error_bound(*of, dtype) for of in zip(x, inputs["weight"], exact, strict=True)])

    def bind(given: Tensors) -> functools.partial[Tensor]:
        return functools.partial(batched_gemm.OPERATOR, given["x"], given["weight"], given.get("bias"))

    return Sample(
        inputs, bind, ("y",), {"y": Within(exact, bound)}, lambda given: torch.bmm(given["x"], given["weight"].mT)
    )


def _scaled_gemm(problem: ScaledGemmProblem, seed: int) -> Sample:
    n, m, k = problem.n, problem.m, problem.k
    choices = {"dtype": DTYPES, "fp8": (NATIVE, *FLAVOURS), "scale_x": SCALES_X, "scale_w": SCALES_W}
    for name, allowed in choices.items():
        operands.check_choice("sample", name, getattr(problem, name), allowed)
    out_dtype = operands.DTYPES[problem.dtype]
    generator = torch.Generator().manual_seed(seed)

    def stored(*shape: int) -> Tensor:
        # Numbers that both flavours have, so that what is expected does not depend on the target.
        return torch.randn(*shape, generator=generator).to(torch.float8_e4m3fn).float()

    scale_w = max(k, 1) ** -0.5 * (1 + torch.rand(m if problem.scale_w == "row" else 1, generator=generator))
    scale_x = 0.5 + torch.rand(n, 1, generator=generator) if problem.scale_x == "token" else torch.tensor([0.75])
    inputs = {"x": stored(n, k), "weight": stored(m, k), "scale_x": scale_x, "scale_w": scale_w}
    if problem.bias:
        inputs["bias"] = torch.randn(m, generator=generator).to(out_dtype)
    x, weight, bias = inputs["x"], inputs["weight"], inputs.get("bias")
    exact = x.double() @ weight.double().T * reference.scales(x, scale_x, scale_w)
    exact = exact if bias is None else exact + bias.double()

    def bind(given: Tensors) -> functools.partial[Tensor]:
        device = given["x"].device
        own = persona_for(device.type, device.index).fp8 if problem.fp8 == NATIVE else problem.fp8
        flavour = operands.FP8_DTYPES[own]
        x, weight = given["x"].to(flavour), given["weight"].to(flavour)
        scales = given["scale_x"], given["scale_w"]
        return functools.partial(gemm_fp8.wvSplitKQ, x, weight, out_dtype, *scales, given.get("bias"))

    bound = reference.scaled_error_bound(x, weight, out_dtype, scale_x, scale_w, exact)
    return Sample(inputs, bind, ("y",), {"y": Within(exact, bound)})


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {
    "linear": _gemm(linear.linear, "reduction"),
    "wvSplitK": _gemm(gemm.wvSplitK),
    "wvSplitKQ": _scaled_gemm,
    "wvSplitKrc": _gemm(gemm_rc.wvSplitKrc, "reduction"),
    "LLMM1": _gemm(gemm.LLMM1),
    "batched_gemm_bf16": _batched_gemm,
    "router_gemm": _gemm(router_gemm.router_gemm, rounds=False),
}
