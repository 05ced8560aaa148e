"""A call of each operator with operands made up for a problem: for demonstrations, and to run a kernel by its shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import gemm
from aiterlite.reference import gemm as reference
from aiterlite.tables.gemm import GemmProblem

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


def _gemm(op: Callable[..., Tensor]) -> Callable[[GemmProblem, int], Sample]:
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
        exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
        return Sample(
            call=lambda: op(x, weight, bias),
            expected=reference.linear(x.float(), weight.float(), None if bias is None else bias.float()),
            exact=exact,
            bound=reference.error_bound(x, weight, exact),
        )

    return make


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {"linear": _gemm(gemm.linear), "wvSplitK": _gemm(gemm.wvSplitK)}


def sample(op: str, problem: Any, seed: int = 0) -> Sample:
    """Contiguous operands of normal random numbers for a problem of `op`. Raises `ArgumentError`."""
    if op not in SAMPLES:
        raise ArgumentError("sample", "op", op, ", ".join(SAMPLES))
    return SAMPLES[op](problem, seed)
