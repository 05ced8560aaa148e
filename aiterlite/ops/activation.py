"""Gated activations: of rows, and quantised to 8 bits. What each computes, and where it rounds, is in
`aiterlite.reference.activation`; a row's bits do not depend on how many rows a call has.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from aiterlite.dispatch import Table
from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import arguments, calls, direct, operands, quant
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.tables import activation as tables
from aiterlite.tables.activation import ActProblem, QuantActProblem
from aiterlite.tables.norm import DTYPES, GROUPS

_DTYPES = tuple(operands.DTYPES[name] for name in DTYPES)
_NAMES = ("x", "out", "scales")
_rows = operands.flatten


def silu_and_mul(out: Tensor, input: Tensor, limit: float = 0.0) -> None:
    """out = silu(gate) * up, for each row: the first half of input's holds gates, the second ups.

    Args:
        out: [..., d] of input's type; the last dimension has stride 1, rows may be strided.
        input: [..., 2 d] of bfloat16 or float16, d any number; strides as of out.
        limit: above 0, a gate counts as at most that, and an up as within -limit and limit.

    Source of the semantics: `aiter.silu_and_mul`, which rounds a limited gate to input's type. Not differentiable.
    Raises `ArgumentError`, `DispatchError` or a `JitError`.
    """
    direct.call(SILU, (out, input, limit), (out,))


def gelu_and_mul(out: Tensor, input: Tensor) -> None:
    """out = gelu(gate) * up, by the error function. Operands and errors are those of `silu_and_mul`.

    Source of the semantics: `aiter.gelu_and_mul`.
    """
    direct.call(GELU, (out, input), (out,))


def gelu_tanh_and_mul(out: Tensor, input: Tensor) -> None:
    """out = gelu(gate) * up, by the approximation with tanh. Operands and errors are those of `silu_and_mul`.

    Source of the semantics: `aiter.gelu_tanh_and_mul`.
    """
    direct.call(GELU_TANH, (out, input), (out,))


def silu_and_mul_quant(
    out: Tensor, input: Tensor, scale: Tensor, group_size: int, limit: float = 0.0, shuffle_scale: bool = False
) -> None:
    """`silu_and_mul`, quantised: the bits of that and of `dynamic_per_group_scaled_quant` after it, or, where
    `group_size` is d, of `dynamic_per_token_scaled_quant`.

    Args are those of `silu_and_mul`, and:
        out: [..., d] of a float8_e4m3 type or int8, contiguous.
        scale: float32, contiguous, one for each group: any shape of as many elements.
        group_size: 32, 64 or 128, of which d is a multiple, or d.
        shuffle_scale: scales lie as [d / group_size, rows].

    Source of the semantics: `aiter.silu_and_mul_quant`, which quantises before it rounds. Raises as `silu_and_mul`.
    """
    direct.call(SILU_QUANT, (out, input, scale, group_size, limit, shuffle_scale), (out, scale))


def act_mul_and_fp8_group_quant(
    x: Tensor, activation: str, group_size: int, dtype_quant: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """(codes [..., d], scales [..., d / group_size]) of act(gate) * up: the bits of `silu_and_mul` or its siblings, and
    of `dynamic_per_group_scaled_quant` after it.

    Args:
        x: [..., 2 d] as `silu_and_mul` has it.
        activation: silu, gelu or gelu_tanh.
        group_size: 32, 64 or 128, of which d is a multiple, or d.
        dtype_quant: a float8_e4m3 type or int8; None is the e4m3 type of x's device.

    Source of the semantics: `aiter.ops.triton.activation.act_mul_and_fp8_group_quant`, which quantises before it
    rounds, and has a last group that is not whole. Raises as `silu_and_mul`.
    """
    arguments.check_tensors(tables.ANY_QUANT, x=x)
    codes, scales = ANY_QUANT(x, activation, group_size, dtype_quant)
    return codes, scales


# What operands must be ------------------------------------------------------------------------------------------------


def _check_input(op: str, name: str, input: Tensor) -> None:
    if input.dim() == 0:
        raise ArgumentError(op, name, "of no dimension", "[..., 2 d]")
    operands.check_dtype(op, name, input, _DTYPES)
    if input.shape[-1] % 2:
        allowed = "[..., 2 d]: as many gates as ups"
        raise ArgumentError(op, name, f"of shape {list(input.shape)}", allowed)
    operands.check_dense(op, **{name: input})


def _shape(input: Tensor) -> tuple[int, ...]:
    return (*input.shape[:-1], input.shape[-1] // 2)


def _check_group(op: str, name: str, input: Tensor, group_size: int) -> None:
    """Groups of which rows are whole ones. Of rows without elements any will do."""
    width = input.shape[-1] // 2
    if group_size == width or (group_size in GROUPS and width % group_size == 0):
        return
    if group_size in GROUPS:
        allowed = f"[..., 2 d], d a multiple of {group_size}"
        raise ArgumentError(op, name, f"of shape {list(input.shape)}", allowed, "Pad the rows.")
    allowed = f"{', '.join(map(str, GROUPS))}, or {width}, for a scale a row"
    raise ArgumentError(op, "group_size", group_size, allowed)


def _check_limit(op: str, limit: float) -> None:
    if not limit >= 0.0:
        raise ArgumentError(op, "limit", limit, "a number above 0, or 0 for none")


def _check_codes(op: str, out: Tensor, input: Tensor, scale: Tensor, group_size: int) -> None:
    _check_input(op, "input", input)
    quant.check_code(op, "out", out.dtype)
    operands.check_shape(op, "out", out, [_shape(input)])
    _check_group(op, "input", input, group_size)
    operands.check_dtype(op, "scale", scale, (torch.float32,))
    count = out.numel() // group_size if out.numel() else 0
    if out.numel() and scale.numel() != count:
        raise ArgumentError(op, "scale", f"of shape {list(scale.shape)}", f"{count} element{'s' * (count != 1)}")
    operands.check_device(op, "out", out, input, "input")
    operands.check_device(op, "scale", scale, input, "input")
    arguments.check_contiguous(op, out=out, scale=scale)


# How calls are prepared -----------------------------------------------------------------------------------------------


def _prepare(
    table: Table,
    x: Tensor,
    out: Tensor,
    scales: Tensor | None,
    activation: str,
    limit: float = 0.0,
    group_size: int = 0,
    transposed: bool = False,
) -> Run | None:
    """What launches calls of such tensors, in the order of `_NAMES`; None for nothing to do."""
    if not out.numel():
        return None
    x, out = _rows(x), _rows(out)
    width = out.shape[1]
    whole = width % (8 if scales is None else 16) == 0
    aligned = whole and operands.is_aligned(x, 8) and operands.is_aligned(out, 16 // out.itemsize)
    dtype, limited = operands.dtype_name(x.dtype), limit > 0
    problem = ActProblem(x.shape[0], width, dtype, activation, limited, aligned)
    if scales is not None:
        code = operands.dtype_name(out.dtype)
        problem = QuantActProblem(**vars(problem), group_size=group_size, out_dtype=code, transposed=transposed)
    decision = calls.decide(table, problem, calls.persona_of(table.op, x.device))
    # Above 0 in float32 too: 0 is none.
    sizes = {"stride_x": x.stride(0), "stride_out": out.stride(0), "limit": max(limit, 2.0**-126) if limited else 0.0}
    return launches.prepare(decision, x.device, _NAMES, sizes, [] if scales is not None else ["scales"])


def _fake_plain(activation: str, out: Tensor, input: Tensor, limit: float = 0.0) -> None:
    op = tables.PLAIN_TABLES[activation].op
    _check_input(op, "input", input)
    operands.check_like(op, "out", out, input, "input")
    operands.check_shape(op, "out", out, [_shape(input)])
    operands.check_dense(op, out=out)
    arguments.check_written(op, "out", out)
    _check_limit(op, limit)


def _prepare_plain(activation: str, out: Tensor, input: Tensor, limit: float = 0.0) -> Run:
    _fake_plain(activation, out, input, limit)
    launch = _prepare(tables.PLAIN_TABLES[activation], input, out, None, activation, limit)

    def run(out: Tensor, input: Tensor, *_: Any, **__: Any) -> None:
        if launch is not None:
            launch(_rows(input), out, None)

    return run


def _fake_silu_quant(
    out: Tensor, input: Tensor, scale: Tensor, group_size: int, limit: float = 0.0, shuffle_scale: bool = False
) -> None:
    _check_codes(tables.SILU_QUANT, out, input, scale, group_size)
    _check_limit(tables.SILU_QUANT, limit)


def _prepare_silu_quant(
    out: Tensor, input: Tensor, scale: Tensor, group_size: int, limit: float = 0.0, shuffle_scale: bool = False
) -> Run:
    _fake_silu_quant(out, input, scale, group_size, limit, shuffle_scale)
    launch = _prepare(tables.SILU_QUANT_TABLE, input, out, scale, "silu", limit, group_size, shuffle_scale)

    def run(out: Tensor, input: Tensor, scale: Tensor, *_: Any, **__: Any) -> None:
        if launch is not None:
            launch(_rows(input), out, scale)

    return run


def _results(x: Tensor, group_size: int, dtype_quant: torch.dtype | None) -> tuple[Tensor, Tensor]:
    shape = _shape(x)
    # Asked here, where nothing traces: what a target is.
    dtype_quant = dtype_quant or operands.FP8_DTYPES[calls.persona_of(tables.ANY_QUANT, x.device).fp8]
    groups = shape[-1] // group_size if shape[-1] else 0
    return x.new_empty(shape, dtype=dtype_quant), x.new_empty((*shape[:-1], groups), dtype=torch.float32)


def _fake_any_quant(
    x: Tensor, activation: str, group_size: int, dtype_quant: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    op = tables.ANY_QUANT
    _check_input(op, "x", x)
    operands.check_choice(op, "activation", activation, tables.ACTIVATIONS)
    _check_group(op, "x", x, group_size)
    if dtype_quant is not None:
        quant.check_code(op, "dtype_quant", dtype_quant)
    return _results(x, group_size, dtype_quant)


def _prepare_any_quant(x: Tensor, activation: str, group_size: int, dtype_quant: torch.dtype | None) -> Run:
    codes, scales = _fake_any_quant(x, activation, group_size, dtype_quant)
    launch = _prepare(tables.ANY_QUANT_TABLE, x, codes, scales, activation, 0.0, group_size)

    shape, groups, dtype = codes.shape, scales.shape, codes.dtype

    def run(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        codes, scales = x.new_empty(shape, dtype=dtype), x.new_empty(groups, dtype=torch.float32)
        if launch is not None:
            launch(_rows(x), codes, scales)
        return codes, scales

    return run


_LIMIT = "float limit=0.0"
_PLAIN = "(Tensor(a!) out, Tensor input{}) -> ()"


def _register(activation: str, rest: str = "") -> Any:
    schema = tables.PLAIN_TABLES[activation].op + _PLAIN.format(rest)
    return register(schema, functools.partial(_prepare_plain, activation), functools.partial(_fake_plain, activation))


SILU = _register("silu", f", {_LIMIT}")
GELU = _register("gelu")
GELU_TANH = _register("gelu_tanh")
SILU_QUANT = register(
    f"{tables.SILU_QUANT}(Tensor(a!) out, Tensor input, Tensor(b!) scale, int group_size, {_LIMIT}, "
    "bool shuffle_scale=False) -> ()",
    _prepare_silu_quant,
    _fake_silu_quant,
)
ANY_QUANT = register(
    f"{tables.ANY_QUANT}(Tensor x, str activation, int group_size, ScalarType? dtype_quant) -> (Tensor, Tensor)",
    _prepare_any_quant,
    _fake_any_quant,
)
