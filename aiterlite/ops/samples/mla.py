"""Samples of multi-head latent attention: normal random numbers, pages in random order."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import mla, operands
from aiterlite.ops.samples import Sample, Tensors, Within, mla_plan
from aiterlite.reference import mla as reference
from aiterlite.tables.mla import EIGHT_BITS, KEY_DIM, TYPES, VALUE_DIM, MergeProblem, MlaProblem

_SCALES = {"q_scale": 0.5, "kv_scale": 0.25}
# By any arguments: samples hold them by name.
_decode_fwd: Callable[..., Any] = mla.mla_decode_fwd
_prefill_fwd: Callable[..., Any] = mla.mla_prefill_fwd
_reduce_v1: Callable[..., Any] = mla.mla_reduce_v1


def _dtype(name: str) -> torch.dtype:
    return {**operands.DTYPES, **operands.FP8_DTYPES}[name]


def paged(problem: MlaProblem, seed: int) -> dict[str, Tensor]:
    """The operands of a decode: `batch` requests of q_len rows and `context` tokens."""
    if (problem.q_dtype, problem.kv_dtype, problem.out_dtype) not in TYPES:
        given = "/".join((problem.q_dtype, problem.kv_dtype, problem.out_dtype))
        raise ArgumentError("sample", "q_dtype", given, ", ".join("/".join(types) for types in TYPES))
    generator = torch.Generator().manual_seed(seed)
    batch, page = problem.batch, problem.page_size
    pages = -(-problem.context // page)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    starts = torch.arange(batch + 1, dtype=torch.int32)
    made = {
        "q": normal(batch * problem.q_len, problem.heads, KEY_DIM).to(_dtype(problem.q_dtype)),
        "kv_buffer": normal(batch * pages, page, 1, KEY_DIM).to(_dtype(problem.kv_dtype)),
        "o": torch.zeros(batch * problem.q_len, problem.heads, VALUE_DIM, dtype=_dtype(problem.out_dtype)),
        "qo_indptr": starts * problem.q_len,
        "kv_indptr": starts * pages,
        "kv_indices": torch.randperm(batch * pages, generator=generator).int(),
        "kv_last_page_lens": torch.full((batch,), (problem.context - 1) % page + 1, dtype=torch.int32),
    }
    if problem.kv_dtype in EIGHT_BITS:
        made |= {name: torch.tensor([value]) for name, value in _SCALES.items()}
    return made


def _exact(made: Tensors, causal: bool) -> reference.Attention:
    pages = ("qo_indptr", "kv_indptr", "kv_indices", "kv_last_page_lens")
    q_scale = made.get("q_scale") if made["q"].itemsize == 1 else None
    given = (made["q"], made["kv_buffer"], *(made[name] for name in pages))
    return reference.decode(*given, causal=causal, q_scale=q_scale, kv_scale=made.get("kv_scale"))


def _outputs(exact: reference.Attention, dtype: torch.dtype) -> dict[str, Within]:
    lse = Within(exact.lse, 1e-4 * (1 + exact.lse.abs()))
    return {"o": Within(exact.out, reference.error_bound(exact, dtype)), "lse": lse}


def _decode(problem: MlaProblem, seed: int) -> Sample:
    if problem.plan_units:
        raise ArgumentError("sample", "plan_units", problem.plan_units, "0: a plan is made by get_mla_metadata_v1")
    made = paged(problem, seed)
    outputs = _outputs(_exact(made, problem.causal), made["o"].dtype)
    if not problem.lse:
        del outputs["lse"]

    def bind(given: Tensors) -> functools.partial[Any]:
        named = dict(given)
        scales = {name: named.pop(name) for name in _SCALES if name in named}
        options = {"num_kv_splits": problem.splits, "return_lse": problem.lse, "causal": problem.causal, **scales}
        return functools.partial(_decode_fwd, *named.values(), problem.q_len, page_size=problem.page_size, **options)

    return Sample(made, bind, ("logits", "lse"), outputs, functools.partial(_plain, problem))


def _plain(problem: MlaProblem, given: Tensors) -> object:
    """The same by torch, where all requests are equally long: the pages gathered, then two products."""
    q, kv = given["q"], given["kv_buffer"]
    rows = kv[given["kv_indices"].long()].reshape(problem.batch, -1, KEY_DIM)[:, : problem.context].to(torch.bfloat16)
    queries = q.view(problem.batch, -1, KEY_DIM).to(torch.bfloat16)
    scores = (queries @ rows.transpose(1, 2)).float() * KEY_DIM**-0.5
    return scores.softmax(-1).to(rows.dtype) @ rows[..., :VALUE_DIM]


def _prefill(problem: MlaProblem, seed: int) -> Sample:
    made = paged(problem, seed)
    if problem.kv_dtype in EIGHT_BITS:
        raise ArgumentError("sample", "kv_dtype", problem.kv_dtype, "bf16 or fp16: a prefill takes no scales")
    outputs = _outputs(_exact(made, True), made["o"].dtype)
    lse = outputs["lse"]
    assert isinstance(lse, Within)
    shaped = Within(lse.value[:, None, :, None], lse.bound[:, None, :, None])

    def bind(given: Tensors) -> functools.partial[Any]:
        return functools.partial(_prefill_fwd, *given.values(), problem.q_len)

    return Sample(made, bind, ("out", "lse"), {"o": outputs["o"], "lse": shaped})


def _merge(problem: MergeProblem, seed: int) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    tiles, parts, rows = problem.batch, problem.pieces, problem.q_len
    shape = (tiles * parts * rows, problem.heads)
    dtype = _dtype(problem.out_dtype)
    starts = torch.arange(tiles + 1, dtype=torch.int32)
    made = {
        "partial_output": torch.randn(*shape, problem.head_dim, generator=generator),
        "partial_lse": torch.randn(*shape, generator=generator),
        "reduce_indptr": starts * parts,
        "reduce_final_map": torch.stack([starts[:-1] * rows, starts[1:] * rows], 1),
        "reduce_partial_map": torch.arange(tiles * parts, dtype=torch.int32) * rows,
        "final_output": torch.zeros(tiles * rows, problem.heads, problem.head_dim, dtype=dtype),
    }
    if problem.lse:
        made["final_lse"] = torch.zeros(tiles * rows, problem.heads)
    by_part = [made[name].view(tiles, parts, rows, problem.heads, -1).transpose(0, 1) for name in list(made)[:2]]
    by_part[1] = by_part[1].squeeze(-1)
    out, lse = (value.flatten(0, 1) for value in reference.merge(*by_part))
    spread = by_part[0].abs().amax(0).flatten(0, 1)
    exact = reference.Attention(out, lse, spread.double())
    outputs = {"final_output": Within(out, reference.error_bound(exact, dtype))}
    if problem.lse:
        outputs["final_lse"] = Within(lse, 1e-4 * (1 + lse.abs()))

    def bind(given: Tensors) -> functools.partial[Any]:
        partial, partial_lse, indptr, final_map, partial_map, *final = given.values()
        front = partial, partial_lse, indptr, final_map, partial_map, problem.q_len, problem.pieces
        return functools.partial(_reduce_v1, *front, *final)

    return Sample(made, bind, (), outputs)


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {
    "mla_decode_fwd": _decode,
    "mla_prefill_fwd": _prefill,
    "mla_reduce_v1": _merge,
    **mla_plan.SAMPLES,
}
