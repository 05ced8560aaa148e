"""Samples of latents on their way to a cache: random rows, slots in random order of a cache of twice as many, some of
them none (-1), and one row more than slots."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import cache as ops
from aiterlite.ops import operands
from aiterlite.ops.cache_operators import cat_and_cache
from aiterlite.ops.samples import Exact, Sample, Tensors, Within
from aiterlite.ops.samples.rope import POSITIONS, angles, near
from aiterlite.reference import cache as reference
from aiterlite.reference import rope
from aiterlite.tables import cache as tables
from aiterlite.tables.cache import ConcatProblem, FusedProblem
from aiterlite.tables.rope import DTYPES, STYLES

_INDICES = {"int64": torch.int64, "int32": torch.int32}
_TYPES = {**operands.DTYPES, **operands.FP8_DTYPES}
_BLOCK, _SCALE = 16, 0.0625


def _check(problem: ConcatProblem) -> None:
    operands.check_choice("sample", "dtype", problem.dtype, DTYPES)
    operands.check_choice("sample", "cache_dtype", problem.cache_dtype, (problem.dtype, *operands.FP8_DTYPES))
    operands.check_choice("sample", "slots", problem.slots, tuple(_INDICES))
    if problem.rope_dim % 2 or min(problem.rope_dim, problem.kv_lora_rank) < 1:
        raise ArgumentError("sample", "rope_dim", problem.rope_dim, "an even number")


class _Made:
    """Operands of a problem, and its cache as it was and as it must be."""

    def __init__(self, problem: ConcatProblem, seed: int, heads: int, block: int) -> None:
        _check(problem)
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype, self.code = operands.DTYPES[problem.dtype], _TYPES[problem.cache_dtype]
        rows, blocks = problem.tokens + 1, -(-2 * (problem.tokens + 1) // block)
        self.kv_c = self.rows(rows, heads, problem.kv_lora_rank)
        self.k_pe = self.rows(rows, heads, problem.rope_dim)
        slots = torch.randperm(blocks * block, generator=self.generator)[: problem.tokens]
        slots[3::7] = -1
        self.slots = slots.to(_INDICES[problem.slots])
        size = blocks, block, heads, problem.kv_lora_rank + problem.rope_dim
        # Blocks that are apart have a row between them.
        whole = torch.zeros(blocks, block + problem.paged, *size[2:])
        self.cache = whole.to(self.code)[:, :block]
        self.scale = torch.tensor([_SCALE])

    def rows(self, rows: int, heads: int, width: int) -> Tensor:
        return (torch.randn(rows, heads, width, generator=self.generator) * 3).to(self.dtype)

    def written(self, rope_part: Tensor, scaled: bool, nope_first: bool = True) -> Tensor:
        cache = self.cache.clone(memory_format=torch.contiguous_format)
        reference.write(cache, self.slots, self.kv_c, rope_part, self.scale if scaled else None, nope_first)
        return cache


def _concat(problem: ConcatProblem, seed: int) -> Sample:
    made = _Made(problem, seed, 1, _BLOCK)
    coded = made.code.itemsize == 1
    wanted = made.written(made.k_pe, coded)[:, :, 0]
    inputs = {"kv_c": made.kv_c[:, 0], "k_pe": made.k_pe[:, 0], "kv_cache": made.cache[:, :, 0]}
    inputs |= {"slot_mapping": made.slots, "scale": made.scale}

    def bind(given: Tensors) -> functools.partial[Any]:
        of_cache = given["kv_cache"], given["slot_mapping"], "fp8" if coded else "auto", given["scale"]
        return functools.partial(ops.concat_and_cache_mla, given["kv_c"], given["k_pe"], *of_cache)

    def baseline(given: Tensors) -> None:
        rows = torch.cat((given["kv_c"], given["k_pe"]), -1)[: len(made.slots)]
        coded_rows = reference.scaled(rows, made.code, given["scale"] if coded else None)
        at = given["slot_mapping"].clamp_min(0).long()
        given["kv_cache"][at // _BLOCK, at % _BLOCK] = coded_rows

    return Sample(inputs, bind, (), {"kv_cache": Exact(wanted)}, baseline)


def _near(value: Tensor, table: torch.dtype) -> Exact | Within:
    """The same for 8-bit results, which may be a step apart where a number was rounded the other way."""
    if value.dtype.itemsize > 1 or table != torch.float32:
        return near(value, table)
    exact = value.double()
    return Within(exact, exact.abs() * 0.125 + 2.0**-8)


def _fused(op: str, problem: FusedProblem, seed: int) -> Sample:
    is_cat = op == tables.CAT
    operands.check_choice("sample", "style", problem.style, STYLES)
    operands.check_choice("sample", "positions", problem.positions, tuple(_INDICES))
    operands.check_choice("sample", "q_dtype", problem.q_dtype, (problem.dtype, *operands.FP8_DTYPES))
    operands.check_choice("sample", "table_dtype", problem.table_dtype, (problem.dtype, "fp32"))
    made = _Made(problem, seed, problem.kv_heads, 1 if is_cat else _BLOCK)
    table, neox = operands.DTYPES[problem.table_dtype], problem.style == "neox"
    tokens = problem.q_tokens if is_cat else problem.tokens
    if is_cat and tokens > problem.tokens:
        raise ArgumentError("sample", "q_tokens", tokens, f"at most tokens, {problem.tokens}")
    q = made.rows(tokens + (not is_cat), problem.heads, problem.kv_lora_rank + problem.rope_dim)
    q_nope, q_pe = q[..., : problem.kv_lora_rank], q[..., problem.kv_lora_rank :]
    cos, sin = angles(made.generator, problem.rope_dim // 2, problem.half_table, table)
    rows = len(made.kv_c)
    positions = torch.randint(0, POSITIONS, (rows,), generator=made.generator)
    how: Any = (neox, problem.half_table, False, True)
    k_pe = rope.rope(made.k_pe, cos, sin, positions, *how)
    if is_cat:
        k_pe[tokens:] = made.k_pe[tokens:]
    turned = rope.rope(q_pe, cos, sin, positions[: len(q_pe)], *how)
    first = problem.nope_first or is_cat
    q_type = _TYPES[problem.q_dtype]
    q_scale = made.scale if q_type.itemsize == 1 and not is_cat else None
    joined = reference.scaled(torch.cat((q_nope, turned) if first else (turned, q_nope), -1), q_type, q_scale)
    inputs = {"q_nope": q_nope, "q_pe": q_pe, "kv_c": made.kv_c, "k_pe": made.k_pe, "slot_mapping": made.slots}
    inputs |= {"positions": positions.to(_INDICES[problem.positions]), "cos": cos, "sin": sin, "scale": made.scale}
    scaled = problem.scaled if is_cat else made.code.itemsize == 1
    cache = made.written(k_pe, scaled, first)
    if is_cat:
        dense = {"decode_q_pe_out": turned[:1], "k_pe_out": k_pe, "q_nope_zeros_out": torch.zeros_like(q_nope[:1])}
        inputs |= {"kv_cache": made.cache[:, 0], "q_out": torch.zeros_like(joined)}
        inputs |= {name: torch.full_like(value, 7.0) for name, value in dense.items()}
        unwritten = torch.full((rows,), True)
        unwritten[: len(made.slots)] = made.slots < 0
        dense["k_pe_out"] = torch.where(unwritten[:, None, None], 7.0, k_pe.float()).to(made.dtype)
        outputs = {"q_out": _near(joined, table), "kv_cache": _near(cache[:, 0], table)}
        outputs |= {name: near(value, table) for name, value in dense.items()}

        def bind_cat(given: Tensors) -> functools.partial[Any]:
            of_q = given["q_nope"], given["q_pe"], given["kv_c"], given["k_pe"], given["kv_cache"]
            at = given["slot_mapping"], given["positions"], given["cos"], given["sin"]
            written = given["q_out"], given["decode_q_pe_out"], given["k_pe_out"], given["q_nope_zeros_out"]
            return functools.partial(cat_and_cache, *of_q, *at, given["scale"] if scaled else None, neox, *written)

        return Sample(inputs, bind_cat, (), outputs)
    left = torch.zeros_like(joined)
    there = (made.slots >= 0) | problem.all_q
    left[: len(there)] = torch.where(there[:, None, None], joined[: len(there)].float(), 0.0).to(q_type)
    inputs |= {"kv_cache": made.cache, "q_out": torch.zeros_like(joined)}
    outputs = {"q_out": _near(left, table), "kv_cache": _near(cache, table)}

    def bind(given: Tensors) -> functools.partial[Any]:
        names = ("q_nope", "q_pe", "kv_c", "k_pe", "kv_cache", "q_out", "slot_mapping", "scale", "scale", "positions")
        args: list[Any] = [given[name] for name in (*names, "cos", "sin")]
        return functools.partial(_concat_fused, *args, neox, first, problem.all_q)

    return Sample(inputs, bind, (), outputs)


_concat_fused: Callable[..., None] = ops.fused_qk_rope_concat_and_cache_mla


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {
    tables.CONCAT: _concat,
    **{op: functools.partial(_fused, op) for op in (tables.FUSED, tables.CAT)},
}
