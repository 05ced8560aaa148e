"""Samples of the toy family."""

from __future__ import annotations

import functools

import torch

from aiterlite.ops.samples import Exact, Sample, Tensors, Within
from toy_family.ops import toy_rows
from toy_family.tables import RowsProblem


def _baseline(given: Tensors) -> object:
    x = given["x"]
    return x.sum(-1), x.argmax(-1), x.amax(-1) + given["peak"] / 2


def _rows(problem: RowsProblem, seed: int) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(problem.batch, problem.heads, problem.width, generator=generator)
    peak = torch.randn(problem.batch, problem.heads, generator=generator)
    bound = problem.width * 2.0**-24 * x.double().abs().sum(-1)
    return Sample(
        inputs={"x": x, "peak": peak},
        bind=lambda given: functools.partial(toy_rows, given["x"], given["peak"]),
        results=("total", "index"),
        outputs={
            "total": Within(x.double().sum(-1), bound),
            "index": Exact(x.argmax(-1).int()),
            "peak": Exact(x.amax(-1) + peak / 2),
        },
        baseline=_baseline,
    )


SAMPLES = {"toy_rows": _rows}
