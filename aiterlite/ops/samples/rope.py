"""Samples of rotary embeddings: normal random rows at random positions of tables of some hundred."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import operands
from aiterlite.ops import rope as ops
from aiterlite.ops.rope_operator import ONE, TWO
from aiterlite.ops.samples import Exact, Sample, Tensors, Within
from aiterlite.reference import rope as reference
from aiterlite.tables import rope as tables
from aiterlite.tables.rope import RopeProblem

POSITIONS = 512
_INDICES = {"int64": torch.int64, "int32": torch.int32}
# Between two numbers of a type, relative to the lower one.
_STEP = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def angles(generator: torch.Generator, columns: int, half: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of random angles; a number for each of `columns` pairs, or two."""
    made = torch.rand(POSITIONS, columns * (1 if half else 2), generator=generator) * 6.28
    return made.cos().to(dtype), made.sin().to(dtype)


def near(value: Tensor, table: torch.dtype) -> Exact | Within:
    """Products of 16-bit numbers are exact; those with numbers of float32 may be rounded the other way."""
    if table != torch.float32:
        return Exact(value)
    exact = value.double()
    return Within(exact, exact.abs() * _STEP[value.dtype] + 2.0**-22)


def _sample(problem: RopeProblem, seed: int) -> Sample:
    operands.check_choice("sample", "dtype", problem.dtype, tables.DTYPES)
    operands.check_choice("sample", "table_dtype", problem.table_dtype, (problem.dtype, "fp32"))
    operands.check_choice("sample", "style", problem.style, tables.STYLES)
    operands.check_choice("sample", "positions", problem.positions, ("none", *_INDICES))
    if problem.rot_dim % 2 or not 2 <= problem.rot_dim <= problem.head_dim:
        raise ArgumentError("sample", "rot_dim", problem.rot_dim, f"an even number up to {problem.head_dim}")
    generator, dtype = torch.Generator().manual_seed(seed), operands.DTYPES[problem.dtype]
    table = operands.DTYPES[problem.table_dtype]
    cos, sin = angles(generator, problem.rot_dim // 2, problem.half_table, table)
    shape = problem.tokens, problem.head_dim
    heads = (problem.x_heads, *([problem.y_heads] if problem.y_heads else []))
    made = [torch.randn(shape[0], count, shape[1], generator=generator).to(dtype) for count in heads]
    inputs = {**dict(zip("xy", made, strict=False)), "cos": cos, "sin": sin}
    at = torch.arange(problem.tokens)
    if problem.positions != "none":
        at = torch.randint(0, POSITIONS // 2, (problem.tokens,), generator=generator)
        inputs["positions"] = at.to(_INDICES[problem.positions])
    if problem.with_offsets:
        more = torch.randint(0, POSITIONS // 2, (problem.tokens,), generator=generator)
        inputs["offsets"], at = more.to(_INDICES[problem.positions]), at + more
    neox, how = problem.style == "neox", (problem.half_table, problem.nope_first)
    wanted = [reference.rope(tensor, cos, sin, at, neox, *how) for tensor in made]
    outputs = {name: near(value, table) for name, value in zip("xy", wanted, strict=False)}
    args = (0 if neox else 1, *how)

    def bind(given: Tensors) -> functools.partial[Any]:
        rest = given["cos"], given["sin"], given.get("positions"), given.get("offsets"), *args
        if problem.in_place:
            return functools.partial(ops.rotate_in_place, given["x"], given.get("y"), *rest)
        if "y" in given:
            return functools.partial(TWO, given["x"], given["y"], *rest)
        return functools.partial(ONE, given["x"], *rest)

    def baseline(given: Tensors) -> Any:
        return [reference.rope(given[n], given["cos"], given["sin"], at, neox, *how) for n in "xy" if n in given]

    results = () if problem.in_place else tuple(outputs)
    return Sample(inputs, bind, results, outputs, baseline)


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {tables.OP: _sample}
