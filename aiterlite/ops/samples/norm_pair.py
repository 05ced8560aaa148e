"""Samples of RMSNorm of two tensors: rows as those of `samples.norm`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import norm_pair as ops
from aiterlite.ops import operands, quant
from aiterlite.ops.samples import Exact, Sample, Tensors, Within
from aiterlite.ops.samples.norm import STEP, near
from aiterlite.reference import norm as reference
from aiterlite.tables import norm_pair as tables
from aiterlite.tables.norm import DTYPES
from aiterlite.tables.norm_pair import PairNormProblem

_EPSILON = 1e-6


def _operands(problem: PairNormProblem, seed: int) -> dict[str, Tensor]:
    operands.check_choice("sample", "dtype", problem.dtype, DTYPES)
    generator, dtype = torch.Generator().manual_seed(seed), operands.DTYPES[problem.dtype]

    def rows(width: int) -> Tensor:
        made = torch.randn(problem.row_count, width, generator=generator)
        made[:, :: max(1, width // 3)] *= 30
        return made.to(dtype)

    def weight(width: int) -> Tensor:
        return (torch.rand(width, generator=generator) + 0.5).to(dtype)

    given = {"q": rows(problem.row_width), "q_weight": weight(problem.row_width)}
    if problem.with_add:
        given["q_residual"] = rows(problem.row_width)
    if problem.second_width:
        given |= {"k": rows(problem.second_width), "k_weight": weight(problem.second_width)}
    return given


def _by_torch(problem: PairNormProblem, given: Tensors) -> dict[str, Tensor]:
    """What a call writes, by the reference."""
    q, found = given["q"], {}
    if problem.with_add:
        found["q_res_out"] = q = reference.add(q, given["q_residual"])
    result = reference.rms_norm(q, given["q_weight"], _EPSILON, problem.gemma)
    if problem.both or not problem.group_size:
        found["q_out_unquantized"] = result
    if problem.group_size:
        group = 0 if problem.group_size == problem.row_width else problem.group_size
        codes, scales = reference.quantised(result, quant.CODES[problem.out_dtype], group)
        # By strides that say where they lie.
        found["q_out_scale"] = scales.T.contiguous().T if problem.transposed else scales
        found["q_out_quantized"] = codes
    if problem.second_width:
        found["k_out"] = reference.rms_norm(given["k"], given["k_weight"], _EPSILON, problem.gemma)
    return found


def _bound_of(name: str, value: Tensor, dtype: torch.dtype) -> Exact | Within:
    if name == "q_res_out":
        return Exact(value)
    if name == "q_out_scale":
        # That of a greatest number that is rounded the other way.
        return Within(value.double(), value.double() * STEP[dtype])
    if name == "q_out_quantized":
        exact, whole = value.double(), value.dtype == torch.int8
        return Within(exact, exact.abs() * (0.0 if whole else 0.125) + (2.0 if whole else 2.0**-9))
    return near(value)


def _pair(problem: PairNormProblem, seed: int) -> Sample:
    size = problem.group_size
    if size and (size < 0 or problem.row_width % size):
        raise ArgumentError("sample", "group_size", size, f"0, or one that divides row_width, {problem.row_width}")
    operands.check_choice("sample", "out_dtype", problem.out_dtype, tuple(quant.CODES))
    given = _operands(problem, seed)
    wanted = _by_torch(problem, given)
    inputs = {**given, **{name: torch.zeros_like(value) for name, value in wanted.items()}}
    outputs = {name: _bound_of(name, value, given["q"].dtype) for name, value in wanted.items()}
    how: dict[str, Any] = {
        "group_size": size or 128,
        "transpose_scale": problem.transposed,
        "gemma_norm": problem.gemma,
    }

    def bind(given: Tensors) -> functools.partial[Any]:
        tensors: dict[str, Any] = dict(given)
        return functools.partial(
            ops.fused_qk_rmsnorm_group_quant, **tensors, q_epsilon=_EPSILON, k_epsilon=_EPSILON, **how
        )

    return Sample(inputs, bind, (), outputs, lambda given: _by_torch(problem, given))


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {tables.PAIR: _pair}
