"""A call of each operator with operands made up for a problem: for demonstrations, and to run a kernel by its shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import gemm, gemm_fp8, gemm_rc, linear
from aiterlite.reference import gemm as reference
from aiterlite.tables.gemm import GemmProblem
from aiterlite.tables.gemm_fp8 import FLAVOURS, NATIVE, ScaledGemmProblem
from aiterlite.target import persona_for

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Sample:
    """`call()` runs the operator; `expected` is its float32 reference, `exact` the float64 one, and `bound` what an
    output may differ from `exact`."""

    call: Callable[[], Tensor]
    expected: Tensor
    exact: Tensor
    bound: Tensor

    def error(self, y: Tensor) -> float:
        """The largest difference from the float32 reference."""
        return float((y.float() - self.expected).abs().max())

    def of_bound(self, y: Tensor) -> float:
        """The largest share of the bound that an output uses; nan where an output is."""
        return float(((y.double() - self.exact).abs() / self.bound).max())


def _gemm(op: Callable[..., Tensor], *options: str) -> Callable[[GemmProblem, int], Sample]:
    """Samples of an operator; the problem's fields named in `options` are keywords of the call."""

    def make(problem: GemmProblem, seed: int) -> Sample:
        n, m, k = problem.n, problem.m, problem.k
        if problem.dtype not in _DTYPES:
            raise ArgumentError("sample", "dtype", problem.dtype, ", ".join(_DTYPES))
        dtype = _DTYPES[problem.dtype]
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        x = normal(n, k).to(dtype)
        weight = (normal(m, k) * k**-0.5).to(dtype)
        bias = normal(m).to(dtype) if problem.bias else None
        keywords = {name: getattr(problem, name) for name in options}
        exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
        return Sample(
            call=lambda: op(x, weight, bias, **keywords),
            expected=reference.linear(x.float(), weight.float(), None if bias is None else bias.float()),
            exact=exact,
            bound=reference.error_bound(x, weight, exact),
        )

    return make


def _scaled_gemm(problem: ScaledGemmProblem, seed: int) -> Sample:
    n, m, k = problem.n, problem.m, problem.k
    for name, allowed in (("dtype", tuple(_DTYPES)), ("fp8", (NATIVE, *FLAVOURS)), ("scale_w", ("tensor", "row"))):
        if getattr(problem, name) not in allowed:
            raise ArgumentError("sample", name, getattr(problem, name), ", ".join(allowed))
    out_dtype = _DTYPES[problem.dtype]
    generator = torch.Generator().manual_seed(seed)

    def stored(*shape: int) -> Tensor:
        # Numbers that both flavours have, so that what is expected does not depend on the target.
        return torch.randn(*shape, generator=generator).to(torch.float8_e4m3fn).float()

    x, weight = stored(n, k), stored(m, k)
    scale_x = torch.tensor([0.75])
    scale_w = k**-0.5 * (1 + torch.rand(m if problem.scale_w == "row" else 1, generator=generator))
    bias = torch.randn(m, generator=generator).to(out_dtype) if problem.bias else None
    exact = x.double() @ weight.double().T * scale_x.double() * scale_w.double()
    exact = exact if bias is None else exact + bias.double()

    def call() -> Tensor:
        own = persona_for("cpu", None).fp8 if problem.fp8 == NATIVE else problem.fp8
        flavour = {name: dtype for dtype, name in gemm_fp8.FLAVOURS.items()}[own]
        return gemm_fp8.wvSplitKQ(x.to(flavour), weight.to(flavour), out_dtype, scale_x, scale_w, bias)

    return Sample(
        call=call,
        expected=reference.scaled_linear(x, weight, torch.float32, scale_x, scale_w, bias),
        exact=exact,
        bound=reference.scaled_error_bound(x, weight, out_dtype, scale_x, scale_w, exact),
    )


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {
    "linear": _gemm(linear.linear, "reduction"),
    "wvSplitK": _gemm(gemm.wvSplitK),
    "wvSplitKQ": _scaled_gemm,
    "wvSplitKrc": _gemm(gemm_rc.wvSplitKrc, "reduction"),
}


def sample(op: str, problem: Any, seed: int = 0) -> Sample:
    """Contiguous operands of normal random numbers for a problem of `op`. Raises `ArgumentError`."""
    if op not in SAMPLES:
        raise ArgumentError("sample", "op", op, ", ".join(SAMPLES))
    return SAMPLES[op](problem, seed)
