"""Samples of the GEMM of MXFP4 weights: random codes, and scales around those of real weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import gemm_mxfp4 as ops
from aiterlite.ops import operands
from aiterlite.ops.samples import Sample, Tensors, Within
from aiterlite.ops.shuffle import shuffle_scale, shuffle_weight
from aiterlite.reference import gemm_mxfp4 as reference
from aiterlite.reference import mxfp4
from aiterlite.tables.gemm_mxfp4_problem import KINDS, LAYS, OP, RESULTS, MxGemmProblem
from aiterlite.tables.mx_types import BLOCK


def _codes(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def _scales(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(116, 124, shape, generator=generator, dtype=torch.uint8)


def _sample(problem: MxGemmProblem, seed: int) -> Sample:
    operands.check_choice("sample", "x", problem.x, KINDS)
    operands.check_choice("sample", "dtype", problem.dtype, RESULTS)
    operands.check_choice("sample", "w_scale", problem.w_scale, LAYS)
    n, m, k = problem.n, problem.m, problem.k
    tiled = problem.shuffled or problem.w_scale == "shuffled" or problem.x_scale_shuffled
    if k % BLOCK:
        raise ArgumentError("sample", "k", k, f"a multiple of {BLOCK}")
    if problem.batch > 1 and tiled:
        raise ArgumentError("sample", "batch", problem.batch, "1, of shuffled operands")
    generator, dtype = torch.Generator().manual_seed(seed), operands.DTYPES[problem.dtype]
    first = (problem.batch,) if problem.batch > 1 else ()
    inputs = {"weight": _codes(generator, *first, m, k // 2), "w_scale": _scales(generator, *first, m, k // BLOCK)}
    if problem.is_packed:
        inputs |= {"x": _codes(generator, *first, n, k // 2), "x_scale": _scales(generator, *first, n, k // BLOCK)}
        numbers = mxfp4.dequantise(inputs["x"], inputs["x_scale"])
    else:
        numbers = inputs["x"] = torch.randn(*first, n, k, generator=generator).to(operands.DTYPES[problem.x])
    if problem.bias:
        inputs["bias"] = torch.randn(m, generator=generator)
    weights = mxfp4.dequantise(inputs["weight"], inputs["w_scale"])
    exact, magnitude = reference.product(numbers, weights, inputs.get("bias"))

    def bind(given: Tensors) -> functools.partial[Tensor]:
        w, w_scale, x_scale = given["weight"], given["w_scale"], given.get("x_scale")
        if problem.w_scale == "shuffled":
            w_scale = _shuffled(w_scale)
        elif problem.w_scale == "strided":
            w_scale = w_scale.mT.contiguous().mT
        if problem.x_scale_shuffled and x_scale is not None:
            x_scale = _shuffled(x_scale)
        lays = (problem.shuffled, problem.x_scale_shuffled and x_scale is not None, problem.w_scale == "shuffled")
        w = shuffle_weight(w) if problem.shuffled else w
        return functools.partial(
            ops.FORWARD, given["x"], w, x_scale, w_scale, given.get("bias"), dtype, 1.0, 1.0, *lays
        )

    return Sample(inputs, bind, ("y",), {"y": Within(exact, reference.error_bound(exact, magnitude, dtype))})


def _shuffled(scale: Tensor) -> Tensor:
    made = shuffle_scale(scale)
    assert made is not None
    return made


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {OP: _sample}
