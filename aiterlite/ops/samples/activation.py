"""Samples of gated activations: normal random rows, a few columns of which are large, as a model's are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import activation as ops
from aiterlite.ops import operands, quant
from aiterlite.ops.samples import Sample, Tensors, Within
from aiterlite.reference import activation as reference
from aiterlite.tables import activation as tables
from aiterlite.tables.activation import ActProblem, QuantActProblem
from aiterlite.tables.norm import DTYPES

_LIMIT = 7.0
# Between two numbers of a type, relative to the lower one.
_STEP = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def _x(problem: ActProblem, seed: int) -> Tensor:
    operands.check_choice("sample", "dtype", problem.dtype, DTYPES)
    operands.check_choice("sample", "activation", problem.activation, tables.ACTIVATIONS)
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(problem.row_count, 2 * problem.row_width, generator=generator)
    made[:, :: max(1, problem.row_width // 3)] *= 10
    return made.to(operands.DTYPES[problem.dtype])


def _near(value: Tensor) -> Within:
    """A result that another exponential may round the other way."""
    exact = value.double()
    return Within(exact, exact.abs() * _STEP[value.dtype] + 2.0**-16)


def _made(problem: ActProblem, x: Tensor) -> Tensor:
    return reference.act_and_mul(x, problem.activation, _LIMIT if problem.limited else 0.0)


def _plain(op: str, problem: ActProblem, seed: int) -> Sample:
    x = _x(problem, seed)
    result = _made(problem, x)
    function = getattr(ops, op)
    rest = (_LIMIT,) if problem.limited else ()

    def bind(given: Tensors) -> functools.partial[Any]:
        return functools.partial(function, given["out"], given["x"], *rest)

    inputs = {"x": x, "out": torch.zeros_like(result)}
    return Sample(inputs, bind, (), {"out": _near(result)}, lambda given: _made(problem, given["x"]))


def _coded(problem: QuantActProblem, x: Tensor) -> tuple[Tensor, Tensor]:
    operands.check_choice("sample", "out_dtype", problem.out_dtype, tuple(quant.CODES))
    size = problem.group_size
    if size < 1 or problem.row_width % size:
        raise ArgumentError("sample", "group_size", size, f"one that divides row_width, {problem.row_width}")
    group = 0 if size == problem.row_width else size
    return reference.quantised(_made(problem, x), quant.CODES[problem.out_dtype], group, problem.transposed)


def _quantised(op: str, problem: QuantActProblem, seed: int) -> Sample:
    x = _x(problem, seed)
    codes, scales = _coded(problem, x)
    # A result that is rounded the other way may be the greatest of its group, and moves a code by a step.
    exact, whole = codes.double(), codes.dtype == torch.int8
    bound = exact.abs() * (0.0 if whole else 0.125) + (2.0 if whole else 2.0**-9)
    size, dtype = problem.group_size, codes.dtype
    values = Within(exact, bound), Within(scales.double(), scales.double() * _STEP[x.dtype])
    if op == tables.ANY_QUANT:

        def returned(given: Tensors) -> functools.partial[Any]:
            return functools.partial(ops.act_mul_and_fp8_group_quant, given["x"], problem.activation, size, dtype)

        outputs = dict(zip(("codes", "scales"), values, strict=True))
        return Sample({"x": x}, returned, tuple(outputs), outputs, lambda given: _coded(problem, given["x"]))

    def written(given: Tensors) -> functools.partial[Any]:
        rest = size, _LIMIT if problem.limited else 0.0, problem.transposed
        return functools.partial(ops.silu_and_mul_quant, given["out"], given["x"], given["scale"], *rest)

    inputs = {"x": x, "out": torch.zeros_like(codes), "scale": torch.zeros_like(scales)}
    outputs = dict(zip(("out", "scale"), values, strict=True))
    return Sample(inputs, written, (), outputs, lambda given: _coded(problem, given["x"]))


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {
    **{table.op: functools.partial(_plain, table.op) for table in tables.PLAIN_TABLES.values()},
    **{op: functools.partial(_quantised, op) for op in (tables.SILU_QUANT, tables.ANY_QUANT)},
}
