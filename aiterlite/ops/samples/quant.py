"""Samples of quantisation: normal random numbers, of which every row has a few large ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import operands
from aiterlite.ops import quant as ops
from aiterlite.ops.samples import Exact, Sample, Tensors
from aiterlite.reference import quant as reference
from aiterlite.tables.quant import DTYPES
from aiterlite.tables.quant_plan import QuantProblem

_SCALE = 0.0625


def _x(problem: QuantProblem, seed: int) -> Tensor:
    operands.check_choice("sample", "dtype", problem.dtype, DTYPES)
    operands.check_choice("sample", "out_dtype", problem.out_dtype, tuple(ops.CODES))
    operands.check_choice("sample", "scale_dtype", problem.scale_dtype, ("fp32",))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(problem.n, problem.k, generator=generator)
    x[:, :: max(1, problem.k // 3)] *= 30
    return x.to(operands.DTYPES[problem.dtype])


def _sample(
    problem: QuantProblem,
    x: Tensor,
    bind: Callable[[Tensors], functools.partial[Any]],
    wanted: dict[str, Tensor],
    baseline: Callable[[Tensor], Any],
) -> Sample:
    """A call that writes `wanted` into tensors of zeros."""
    inputs = {"x": x, **{name: torch.zeros_like(value) for name, value in wanted.items()}}
    outputs = {name: Exact(value) for name, value in wanted.items()}
    return Sample(inputs, bind, (), outputs, lambda given: baseline(given["x"]))


def _group(problem: QuantProblem, seed: int) -> Sample:
    x, dtype, group = _x(problem, seed), ops.CODES[problem.out_dtype], problem.group_size
    if group < 1 or problem.k % group:
        raise ArgumentError("sample", "group_size", group, f"one that divides k, {problem.k}")
    out, scales = reference.per_group(x, dtype, group)
    wanted = {"out": out, "scales": scales.T.contiguous() if problem.transposed else scales}

    def bind(given: Tensors) -> functools.partial[Any]:
        written = given["out"], given["x"], given["scales"]
        return functools.partial(ops.dynamic_per_group_scaled_quant, *written, group, problem.transposed)

    return _sample(problem, x, bind, wanted, lambda x: reference.per_group(x, dtype, group))


def _token(problem: QuantProblem, seed: int) -> Sample:
    x, dtype = _x(problem, seed), ops.CODES[problem.out_dtype]
    out, scales = reference.per_token(x, dtype)

    def bind(given: Tensors) -> functools.partial[Any]:
        return functools.partial(ops.dynamic_per_token_scaled_quant, given["out"], given["x"], given["scales"])

    return _sample(problem, x, bind, {"out": out, "scales": scales}, lambda x: reference.per_token(x, dtype))


def _tensor(problem: QuantProblem, seed: int) -> Sample:
    x, dtype = _x(problem, seed), ops.CODES[problem.out_dtype]
    out, scale = reference.per_tensor(x, dtype)

    def bind(given: Tensors) -> functools.partial[Any]:
        return functools.partial(ops.dynamic_per_tensor_quant, given["out"], given["x"], given["scale"])

    return _sample(problem, x, bind, {"out": out, "scale": scale}, lambda x: reference.per_tensor(x, dtype))


def _static(problem: QuantProblem, seed: int) -> Sample:
    x, dtype = _x(problem, seed), ops.CODES[problem.out_dtype]
    scale = torch.tensor([_SCALE])
    out = reference.static(x, dtype, scale)
    inputs = {"x": x, "scale": scale, "out": torch.zeros_like(out)}

    def bind(given: Tensors) -> functools.partial[Any]:
        return functools.partial(ops.static_per_tensor_quant, given["out"], given["x"], given["scale"])

    baseline = lambda given: reference.static(given["x"], dtype, given["scale"])  # noqa: E731
    return Sample(inputs, bind, (), {"out": Exact(out)}, baseline)


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {
    "dynamic_per_group_scaled_quant": _group,
    "dynamic_per_token_scaled_quant": _token,
    "dynamic_per_tensor_quant": _tensor,
    "static_per_tensor_quant": _static,
}
