"""Samples of quantisation to MXFP4: normal random numbers, of which every row has a few large ones and a zero block."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite.ops import mxfp4 as ops
from aiterlite.ops import mxfp4_norm as norms
from aiterlite.ops import mxfp4_sort as sorts
from aiterlite.ops import operands
from aiterlite.ops.samples import Exact, Sample, Tensors
from aiterlite.ops.shuffle import shuffle_scale
from aiterlite.reference import activation as gated
from aiterlite.reference import mxfp4 as reference
from aiterlite.tables.activation import ACTIVATIONS
from aiterlite.tables.mx_types import BLOCK, MX_DEFAULT_ROUND_MODE
from aiterlite.tables.mxfp4_norm import RMS_QUANT, MxNormProblem
from aiterlite.tables.mxfp4_quant import ACT_QUANT, DTYPES, LAYOUTS, QUANT, TILE_ROWS, MxActProblem, MxQuantProblem
from aiterlite.tables.mxfp4_sort import MOST_TOPK, QUANT_SORT, SORT, MxQuantSortProblem, MxSortProblem


def _x(problem: MxQuantProblem, seed: int, width: int) -> Tensor:
    operands.check_choice("sample", "dtype", problem.dtype, DTYPES)
    operands.check_choice("sample", "layout", problem.layout, LAYOUTS)
    operands.check_choice("sample", "parted", problem.parted, (False,))
    if width % BLOCK:
        operands.check_choice("sample", "row_width", width, (width // BLOCK * BLOCK or BLOCK,))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(problem.row_count, width, generator=generator)
    x[:, :: max(1, width // 3)] *= 30
    x[:, :BLOCK] = 0
    return x.to(operands.DTYPES[problem.dtype])


def _sample(
    problem: MxQuantProblem, x: Tensor, made: Callable[[Tensor], Tensor], bind: Callable[..., functools.partial[Any]]
) -> Sample:
    """A call that writes into tensors of ones what quantising `made` of x gives."""
    codes, scales = reference.quantise(made(x), MX_DEFAULT_ROUND_MODE)
    scales = _lying(problem, problem.row_tiles * TILE_ROWS, scales)
    inputs = {"x": x, "out_packed": torch.ones_like(codes), "out_scale": torch.ones_like(scales)}
    outputs = {"out_packed": Exact(codes), "out_scale": Exact(scales)}
    baseline = lambda given: reference.quantise(made(given["x"]), MX_DEFAULT_ROUND_MODE)  # noqa: E731
    return Sample(inputs, bind, (), outputs, baseline)


def _lying(problem: MxQuantProblem | MxNormProblem, rows: int, scales: Tensor) -> Tensor:
    """Scales as a problem's layout has them, shuffled in tiles of `rows` rows."""
    if problem.layout == "columns":
        return scales.T.contiguous().T
    shuffled = shuffle_scale(scales) if problem.layout == "shuffled" else None
    if shuffled is None:
        return scales
    found = torch.zeros(rows, shuffled.shape[1], dtype=torch.uint8)
    count = min(found.numel(), shuffled.numel())
    found.view(-1)[:count] = shuffled.view(-1)[:count]
    return found


def _quant(problem: MxQuantProblem, seed: int) -> Sample:
    def bind(given: Tensors) -> functools.partial[Any]:
        written = given["x"], given["out_packed"], given["out_scale"]
        shuffled = problem.layout == "shuffled"
        return functools.partial(ops.quantise, *written, MX_DEFAULT_ROUND_MODE, shuffled)

    return _sample(problem, _x(problem, seed, problem.row_width), lambda x: x, bind)


def _act(problem: MxActProblem, seed: int) -> Sample:
    operands.check_choice("sample", "activation", problem.activation, ACTIVATIONS)

    def bind(given: Tensors) -> functools.partial[Any]:
        written = given["x"], given["out_packed"], given["out_scale"]
        rest = problem.activation, int(MX_DEFAULT_ROUND_MODE), problem.layout == "shuffled"
        return functools.partial(ops.ACT_QUANT, *written, *rest)

    generator = torch.Generator().manual_seed(seed + 1)
    # Gates of which activations are the gates themselves, so that no result is halfway between two codes.
    gates = torch.exp2(torch.randint(5, 8, (problem.row_count, problem.row_width), generator=generator).float())
    ups = _x(problem, seed, problem.row_width)
    x = torch.cat((gates.to(ups.dtype), ups), 1)
    return _sample(problem, x, lambda x: gated.act_and_mul(x, problem.activation), bind)


def _rms(problem: MxNormProblem, seed: int) -> Sample:
    """Rows whose roots are exact, of 1 and -1, and weights of few bits: no norm is near a rounding."""
    generator = torch.Generator().manual_seed(seed)
    dtype = operands.DTYPES[problem.dtype] if problem.dtype in DTYPES else torch.float32
    shape = problem.row_count, problem.row_width
    x = (torch.randint(0, 2, shape, generator=generator).float() * 2 - 1).to(dtype)
    like = MxQuantProblem(1, problem.row_width, problem.dtype, problem.layout)
    weight = _x(like, seed, problem.row_width)[0]
    residual = torch.zeros_like(x) if problem.add else None
    outputs: dict[str, Exact] = {}
    if problem.add:
        outputs["sum"] = Exact(x)
    norm = (x.float() * weight.float()).to(dtype)
    if problem.plain:
        outputs["plain"] = Exact(norm)
    codes, scales = reference.quantise(norm, MX_DEFAULT_ROUND_MODE)
    outputs |= {"out_packed": Exact(codes), "out_scale": Exact(_lying(problem, problem.rows_of_scales, scales))}
    inputs = {"x": x, "weight": weight, **({"residual": residual} if residual is not None else {})}
    inputs |= {name: torch.ones_like(output.value) for name, output in outputs.items()}

    def bind(given: Tensors) -> functools.partial[Any]:
        written = [given.get(name) for name in ("residual", "sum", "plain")]
        rest = given["out_packed"], given["out_scale"], int(MX_DEFAULT_ROUND_MODE), problem.layout == "shuffled"
        return functools.partial(norms.QUANT, given["x"], given["weight"], 0.0, *written, *rest)

    return Sample(inputs, bind, (), outputs, lambda given: reference.quantise(norm, MX_DEFAULT_ROUND_MODE))


def _entries(problem: MxSortProblem, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of tokens and slots in some order, one entry in three of none, as many as there is room for but a few."""
    operands.check_choice("sample", "topk", problem.topk, tuple(range(1, MOST_TOPK + 1)))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, problem.tokens, (problem.entries,), generator=generator)
    if problem.topk > 1:
        ids |= torch.randint(0, problem.topk, ids.shape, generator=generator) << 24
    ids[::3] = problem.tokens
    return ids.int(), torch.tensor([max(1, problem.entries - 5)], dtype=torch.int32)


def sorted_scales(scales: Tensor, ids: Tensor, valid: int, tokens: int, topk: int) -> Tensor:
    """What sorting makes of scales [rows, blocks]."""
    token, slot = ids & 0xFFFFFF, ids >> 24
    there = (torch.arange(len(ids)) < valid) & (token < tokens) & ((slot < topk) | (topk == 1))
    rows = torch.where(there, token if topk == 1 else token * topk + slot, 0)
    taken = torch.where(there.unsqueeze(1), scales[rows.long()], 0)
    found = shuffle_scale(taken)
    assert found is not None
    return found[: -(-len(ids) // TILE_ROWS) * TILE_ROWS]


def _sort(problem: MxSortProblem, seed: int) -> Sample:
    ids, valid = _entries(problem, seed)
    rows = problem.tokens * problem.topk
    generator = torch.Generator().manual_seed(seed)
    scales = torch.randint(1, 255, (rows, problem.blocks), generator=generator).to(torch.uint8)
    wanted = sorted_scales(scales, ids, int(valid), problem.tokens, problem.topk)

    def bind(given: Tensors) -> functools.partial[Any]:
        given_ids = given["scale"], given["sorted_ids"], given["num_valid_ids"]
        return functools.partial(sorts.SORT, *given_ids, problem.tokens, problem.row_width)

    inputs = {"scale": scales, "sorted_ids": ids, "num_valid_ids": valid}
    return Sample(inputs, bind, ("scales",), {"scales": Exact(wanted)})


def _quant_sort(problem: MxQuantSortProblem, seed: int) -> Sample:
    ids, valid = _entries(problem, seed)
    x = _x(problem.rows, seed, problem.row_width)
    codes, scales = reference.quantise(x, MX_DEFAULT_ROUND_MODE)
    wanted = sorted_scales(scales, ids, int(valid), problem.tokens, problem.topk)

    def bind(given: Tensors) -> functools.partial[Any]:
        entries = given["sorted_ids"], given["num_valid_ids"], problem.tokens, problem.topk
        return functools.partial(sorts.QUANT_SORT, given["x"], *entries, int(MX_DEFAULT_ROUND_MODE))

    inputs = {"x": x, "sorted_ids": ids, "num_valid_ids": valid}
    outputs = {"codes": Exact(codes), "scales": Exact(wanted)}
    return Sample(inputs, bind, ("codes", "scales"), outputs)


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {
    QUANT: _quant,
    ACT_QUANT: _act,
    RMS_QUANT: _rms,
    SORT: _sort,
    QUANT_SORT: _quant_sort,
}
