"""Rotary embeddings of one or two tensors, in place or not. What is computed, and where it is rounded, is in
`aiterlite.reference.rope`; a row's bits do not depend on how many rows a call has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import arguments, calls, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.tables import rope as tables
from aiterlite.tables.rope import RopeProblem

OP = tables.OP
_DTYPES = tuple(operands.DTYPES[name] for name in tables.DTYPES)
INDICES = {torch.int64: "int64", torch.int32: "int32"}
_NAMES = ("x", "y", "cos", "sin", "positions", "offsets", "out_x", "out_y")


# What operands must be ------------------------------------------------------------------------------------------------


def check_tables(op: str, cos: Tensor, sin: Tensor, like: Tensor, of: str, names: tuple[str, str]) -> None:
    """Tables of [positions, ..., F], of like's type or float32, with dimensions of 1 between."""
    for name, table in zip(names, (cos, sin), strict=True):
        operands.check_dtype(op, name, table, (like.dtype, torch.float32), f"the dtype of {of}, or float32")
        operands.check_device(op, name, table, like, of)
        if table.dim() < 2 or any(size != 1 for size in table.shape[1:-1]):
            raise ArgumentError(op, name, f"of shape {list(table.shape)}", "[positions, F] or [positions, 1, 1, F]")
    operands.check_dense(op, **dict(zip(names, (cos, sin), strict=True)))
    operands.check_dtype(op, names[1], sin, (cos.dtype,), f"the dtype of {names[0]}")
    operands.check_shape(op, names[1], sin, [cos.shape])
    if not 1 <= cos.shape[0] < 2**31:
        raise ArgumentError(op, names[0], f"of shape {list(cos.shape)}", "at least one position, fewer than 2^31")


def check_index(op: str, name: str, index: Tensor, like: Tensor, of: str, least: int, exactly: bool) -> None:
    operands.check_dtype(op, name, index, tuple(INDICES))
    operands.check_device(op, name, index, like, of)
    if index.numel() < least or (exactly and index.numel() != least):
        allowed = f"{least} elements, one for each token" if exactly else f"at least {least} elements"
        raise ArgumentError(op, name, f"of shape {list(index.shape)}", allowed)


def _check(
    x: Tensor,
    y: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    offsets: Tensor | None,
    style: int,
    half: bool,
) -> int:
    """How many elements of a head are rotated."""
    operands.check_dtype(OP, "x", x, _DTYPES)
    if x.dim() not in (3, 4):
        raise ArgumentError(OP, "x", f"of shape {list(x.shape)}", "[s, b, heads, D] or [tokens, heads, D]")
    operands.check_dense(OP, x=x, y=y)
    if y is not None:
        operands.check_like(OP, "y", y, x)
        if y.dim() != x.dim() or y.shape[:-2] != x.shape[:-2] or y.shape[-1] != x.shape[-1]:
            wanted = [*x.shape[:-2], "heads", x.shape[-1]]
            raise ArgumentError(OP, "y", f"of shape {list(y.shape)}", f"[{', '.join(map(str, wanted))}], as x has it")
    check_tables(OP, cos, sin, x, "x", ("cos", "sin"))
    operands.check_choice(OP, "rotate_style", style, (0, 1))
    width = cos.shape[-1] * (2 if half else 1)
    if width % 2 or not 2 <= width <= x.shape[-1]:
        given = f"of shape {list(cos.shape)}, for {width} elements"
        allowed = f"an even number of elements, at most the {x.shape[-1]} of a head"
        raise ArgumentError(OP, "cos", given, allowed, "See reuse_freqs_front_part.")
    tokens = _count(x.shape[:-2])
    if positions is None:
        if offsets is not None:
            raise ArgumentError(OP, "offsets", "given without positions", "None")
        return width
    check_index(OP, "positions", positions, x, "x", tokens, True)
    if offsets is not None:
        check_index(OP, "offsets", offsets, x, "x", tokens, True)
    return width


def _count(sizes: Sequence[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


# How calls are prepared -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """How a tensor of [..., heads, D] reaches its tokens: by one stride, or by an outer and an inner one."""

    outer: int
    inner: int

    @staticmethod
    def are_one(tensors: Sequence[Tensor]) -> bool:
        """Whether a stride is enough for each."""
        return all(_is_one(tensor) for tensor in tensors)

    @staticmethod
    def of(tensor: Tensor, one: bool) -> Tokens:
        sizes, strides = tensor.shape[:-2], tensor.stride()[:-2]
        if not one:
            return Tokens(strides[0], strides[1])
        kept = [stride for size, stride in zip(sizes, strides, strict=True) if size > 1]
        return Tokens(kept[-1] if kept else 0, 0)


def _is_one(tensor: Tensor) -> bool:
    sizes, strides = tensor.shape[:-2], tensor.stride()[:-2]
    return len(sizes) == 1 or 1 in sizes or strides[0] == sizes[1] * strides[1]


def is_aligned(tensor: Tensor, offset: int = 0) -> bool:
    """Whether all rows start at multiples of 16 bytes, `offset` elements behind where they do."""
    step = 16 // tensor.itemsize
    strides = [stride for size, stride in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True) if size > 1]
    return (tensor.data_ptr() + offset * tensor.itemsize) % 16 == 0 and all(s % step == 0 for s in strides)


def _prepare(
    x: Tensor,
    y: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    offsets: Tensor | None,
    how: tuple[int, bool, bool],
    out_x: Tensor,
    out_y: Tensor | None,
) -> Run:
    """What launches calls of these tensors, in the order of `_NAMES`; `how` is style, half table, nope first."""
    style, half, nope_first = how
    width = cos.shape[-1] * (2 if half else 1)
    head, in_place = x.shape[-1], out_x is x
    tensors = [t for t in (x, y, out_x, out_y) if t is not None]
    one = Tokens.are_one(tensors) and (positions is not None or x.dim() == 3 or x.shape[1] == 1)
    begin = head - width if nope_first else 0
    aligned = width % 16 == 0 and (in_place or (head - width) % 8 == 0)
    aligned = aligned and all(is_aligned(t, begin) and (in_place or is_aligned(t)) for t in tensors)
    aligned = aligned and all(is_aligned(t) for t in (cos, sin))
    problem = RopeProblem(
        tokens=_count(x.shape[:-2]),
        x_heads=x.shape[-2],
        y_heads=0 if y is None else y.shape[-2],
        head_dim=width if in_place and not begin else head,
        rot_dim=width,
        dtype=operands.dtype_name(x.dtype),
        table_dtype=operands.dtype_name(cos.dtype),
        style=tables.STYLES[style],
        nope_first=nope_first and begin > 0,
        half_table=half,
        in_place=in_place,
        positions="none" if positions is None else INDICES[positions.dtype],
        with_offsets=offsets is not None,
        inner=not one,
        aligned=aligned,
    )
    decision = calls.decide(tables.ROPE, problem, calls.persona_of(OP, x.device))
    sizes = {"inner": 1 if one else x.shape[1], "table_rows": cos.shape[0], "k_block": 0}
    sizes |= {"cos_row": cos.stride(0), "sin_row": sin.stride(0), "cache_slots": 0, "block_size": 1, "copied": 0}
    sizes |= {"rotated": problem.tokens}
    for side, given, out in (("q", x, out_x), ("k", x if y is None else y, out_x if out_y is None else out_y)):
        source, target = Tokens.of(given, one), Tokens.of(out, one)
        for part in ("nope", "pe"):
            sizes |= {f"{side}_{part}_token": source.outer, f"{side}_{part}_head": given.stride(-2)}
        sizes |= {f"{side}_out_token": target.outer, f"{side}_out_head": out.stride(-2)}
        sizes |= {f"{side}_in_inner": source.inner, f"{side}_out_inner": target.inner}
    absent = [n for n, t in zip(_NAMES, (x, y, cos, sin, positions, offsets, out_x, out_y), strict=True) if t is None]
    return launches.prepare(decision, x.device, _NAMES, sizes, absent)


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _contiguous(index: Tensor | None) -> Tensor | None:
    return None if index is None else index.contiguous()


def _alike(positions: Tensor | None, offsets: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Both of one type, dense."""
    if offsets is not None and positions is not None and offsets.dtype != positions.dtype:
        positions, offsets = positions.long(), offsets.long()
    return _contiguous(positions), _contiguous(offsets)


def _fake_in_place(
    x: Tensor,
    y: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    offsets: Tensor | None,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
) -> None:
    _check(x, y, cos, sin, positions, offsets, rotate_style, reuse_freqs_front_part)
    arguments.check_apart(OP, "x", x)
    if y is not None:
        arguments.check_apart(OP, "y", y)


def _prepare_in_place(
    x: Tensor,
    y: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    offsets: Tensor | None,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
) -> Run:
    _fake_in_place(x, y, cos, sin, positions, offsets, rotate_style, reuse_freqs_front_part, nope_first)
    if y is not None and not x.numel():
        # What is left is one tensor.
        return _prepare_only_y(y, cos, sin, positions, offsets, rotate_style, reuse_freqs_front_part, nope_first)
    given, kept = (x, None if y is None or not y.numel() else y), y is not None and bool(y.numel())
    if not x.numel():
        return _nothing
    how = rotate_style, reuse_freqs_front_part, nope_first
    launch = _prepare(*given, cos, sin, *_alike(positions, offsets), how, *given)

    def run(
        x: Tensor,
        y: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        positions: Tensor | None,
        offsets: Tensor | None,
        *_: Any,
        **__: Any,
    ) -> None:
        positions, offsets = _alike(positions, offsets)
        y = y if kept else None
        launch(x, y, cos, sin, positions, offsets, x, y)

    return run


def _prepare_only_y(y: Tensor, *rest: Any) -> Run:
    only = _prepare_in_place(y, None, *rest)

    def run(x: Tensor, y: Tensor | None, *rest: Any, **named: Any) -> None:
        only(y, None, *rest, **named)

    return run


def _result_of(x: Tensor, transposed: bool) -> Tensor:
    if not transposed:
        return x.new_empty(x.shape)
    return x.new_empty((x.shape[1], x.shape[0], *x.shape[2:])).transpose(0, 1)


def _check_transposed(x: Tensor, transposed: bool) -> None:
    if transposed and x.dim() != 4:
        raise ArgumentError(OP, "transpose_output", True, "False for operands of [tokens, heads, D]")


def _fake_one(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    offsets: Tensor | None,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
    transpose_output: bool = False,
) -> Tensor:
    _check(x, None, cos, sin, positions, offsets, rotate_style, reuse_freqs_front_part)
    _check_transposed(x, transpose_output)
    return _result_of(x, transpose_output)


def _prepare_one(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    offsets: Tensor | None,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
    transpose_output: bool = False,
) -> Run:
    how = rotate_style, reuse_freqs_front_part, nope_first
    out = _fake_one(x, cos, sin, positions, offsets, *how, transpose_output)
    launch = None
    if x.numel():
        launch = _prepare(x, None, cos, sin, *_alike(positions, offsets), how, out, None)

    def run(
        x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, offsets: Tensor | None, *_: Any, **__: Any
    ) -> Tensor:
        out = _result_of(x, transpose_output)
        if launch is not None:
            launch(x, None, cos, sin, *_alike(positions, offsets), out, None)
        return out

    return run


def _fake_two(
    x: Tensor,
    y: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    offsets: Tensor | None,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
    transpose_output: bool = False,
) -> tuple[Tensor, Tensor]:
    _check(x, y, cos, sin, positions, offsets, rotate_style, reuse_freqs_front_part)
    _check_transposed(x, transpose_output)
    return _result_of(x, transpose_output), _result_of(y, transpose_output)


def _prepare_two(
    x: Tensor,
    y: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    offsets: Tensor | None,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
    transpose_output: bool = False,
) -> Run:
    how = rotate_style, reuse_freqs_front_part, nope_first
    out_x, out_y = _fake_two(x, y, cos, sin, positions, offsets, *how, transpose_output)
    if not (x.numel() and y.numel()):
        rest = *how, transpose_output
        each = [_prepare_one(tensor, cos, sin, positions, offsets, *rest) for tensor in (x, y)]
        return lambda x, y, *rest, **named: tuple(
            one(tensor, *rest, **named) for one, tensor in zip(each, (x, y), strict=True)
        )
    launch = _prepare(x, y, cos, sin, *_alike(positions, offsets), how, out_x, out_y)

    def run(
        x: Tensor,
        y: Tensor,
        cos: Tensor,
        sin: Tensor,
        positions: Tensor | None,
        offsets: Tensor | None,
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, Tensor]:
        out_x, out_y = _result_of(x, transpose_output), _result_of(y, transpose_output)
        launch(x, y, cos, sin, *_alike(positions, offsets), out_x, out_y)
        return out_x, out_y

    return run


_HOW = (
    "Tensor cos, Tensor sin, Tensor? positions, Tensor? offsets, int rotate_style, bool reuse_freqs_front_part, "
    "bool nope_first"
)
IN_PLACE = register(f"{OP}(Tensor(a!) x, Tensor(b!)? y, {_HOW}) -> ()", _prepare_in_place, _fake_in_place)
ONE = register(f"{OP}.one(Tensor x, {_HOW}, bool transpose_output=False) -> Tensor", _prepare_one, _fake_one)
TWO = register(
    f"{OP}.two(Tensor x, Tensor y, {_HOW}, bool transpose_output=False) -> (Tensor, Tensor)", _prepare_two, _fake_two
)
