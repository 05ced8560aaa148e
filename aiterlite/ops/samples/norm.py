"""Samples of RMSNorm: normal random rows, a few columns of which are large, as a model's hidden states are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import norm as ops
from aiterlite.ops import operands, quant
from aiterlite.ops.samples import Exact, Sample, Tensors, Within
from aiterlite.reference import norm as reference
from aiterlite.tables import norm as tables
from aiterlite.tables.norm import NormProblem, QuantNormProblem

_EPSILON = 1e-6
# Between two numbers of a type, relative to the lower one.
STEP = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def _operands(problem: NormProblem, seed: int) -> dict[str, Tensor]:
    operands.check_choice("sample", "dtype", problem.dtype, tables.DTYPES)
    generator, dtype = torch.Generator().manual_seed(seed), operands.DTYPES[problem.dtype]

    def rows() -> Tensor:
        made = torch.randn(problem.row_count, problem.row_width, generator=generator)
        made[:, :: max(1, problem.row_width // 3)] *= 30
        return made.to(dtype)

    weight = torch.rand(problem.row_width, generator=generator) + 0.5
    return {"x": rows(), "residual_in": rows(), "weight": weight.to(dtype)}


def near(value: Tensor) -> Within:
    """A result that another order of the sum may round the other way."""
    exact = value.double()
    return Within(exact, exact.abs() * STEP[value.dtype] + 2.0**-24)


def _coded(out: Tensor, problem: QuantNormProblem) -> dict[str, Within]:
    """Codes and scales of a result that may be rounded the other way, as its greatest number may."""
    operands.check_choice("sample", "out_dtype", problem.out_dtype, tuple(quant.CODES))
    size, dtype = problem.group_size, quant.CODES[problem.out_dtype]
    if size < 1 or problem.row_width % size:
        raise ArgumentError("sample", "group_size", size, f"one that divides row_width, {problem.row_width}")
    group = 0 if size == problem.row_width else size
    codes, scales = reference.quantised(out, dtype, group, problem.transposed)
    exact, step = codes.double(), 2.0 if dtype == torch.int8 else 0.0
    bound = exact.abs() * (0.125 if dtype != torch.int8 else 0.0) + max(step, 2.0**-9)
    return {"out": Within(exact, bound), "yscale": Within(scales.double(), scales.double() * STEP[out.dtype])}


def _zeros(problem: NormProblem, out: Tensor, outputs: dict[str, Any]) -> dict[str, Tensor]:
    """What a call writes to."""
    if not isinstance(problem, QuantNormProblem):
        return {"out": torch.zeros_like(out)}
    codes = torch.zeros(out.shape, dtype=quant.CODES[problem.out_dtype])
    return {"out": codes, "yscale": torch.zeros(outputs["yscale"].value.shape)}


def _plain(problem: NormProblem, seed: int) -> Sample:
    given = _operands(problem, seed)
    inputs = {name: given[name] for name in ("x", "weight")}
    sensitive = int(problem.model_sensitive)
    wanted = reference.rms_norm(given["x"], given["weight"], _EPSILON, False, problem.model_sensitive)

    def bind(given: Tensors) -> functools.partial[Any]:
        return functools.partial(ops.rms_norm, given["x"], given["weight"], _EPSILON, sensitive)

    def baseline(given: Tensors) -> Tensor:
        return torch.nn.functional.rms_norm(given["x"], given["weight"].shape, given["weight"], _EPSILON)

    return Sample(inputs, bind, ("out",), {"out": near(wanted)}, baseline)


def _written(op: str, problem: NormProblem, seed: int) -> Sample:
    given = _operands(problem, seed)
    with_add, sensitive = op in (tables.WITH_ADD, tables.ADD_DYNAMIC), problem.model_sensitive
    h = reference.add(given["x"], given["residual_in"]) if with_add else given["x"]
    result = reference.rms_norm(h, given["weight"], _EPSILON, problem.gemma, sensitive)
    outputs: dict[str, Exact | Within] = {}
    outputs |= _coded(result, problem) if isinstance(problem, QuantNormProblem) else {"out": near(result)}
    inputs = {"x": given["x"], "weight": given["weight"], **_zeros(problem, result, outputs)}
    if with_add:
        inputs |= {"residual_in": given["residual_in"], "residual_out": torch.zeros_like(h)}
        outputs["residual_out"] = Exact(h)
    function = getattr(ops, op)

    def bind(given: Tensors) -> functools.partial[Any]:
        args = [given["out"], given["x"]]
        args += [given["residual_in"], given["residual_out"]] if with_add else []
        if not isinstance(problem, QuantNormProblem):
            return functools.partial(function, *args, given["weight"], _EPSILON, problem.gemma, int(sensitive))
        group = problem.group_size if problem.group_size < problem.row_width else 0
        how = int(sensitive), group, problem.transposed
        return functools.partial(function, *args, given["yscale"], given["weight"], _EPSILON, *how)

    def baseline(given: Tensors) -> Any:
        h = given["x"] + given["residual_in"] if with_add else given["x"]
        out = torch.nn.functional.rms_norm(h, given["weight"].shape, given["weight"], _EPSILON)
        if not isinstance(problem, QuantNormProblem):
            return h, out
        group = problem.group_size if problem.group_size < problem.row_width else 0
        return h, reference.quantised(out, given["out"].dtype, group, problem.transposed)

    return Sample(inputs, bind, (), outputs, baseline)


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {
    tables.PLAIN: _plain,
    **{op: functools.partial(_written, op) for op in (tables.WITH_ADD, tables.DYNAMIC, tables.ADD_DYNAMIC)},
}
