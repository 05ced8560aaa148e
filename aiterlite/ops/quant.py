"""Quantisation into tensors of the caller: a scale for each row, each group of its elements, or the whole tensor.

What a scale and a code are, zeros, NaN and infinities included, is in `aiterlite.reference.quant`, whose bits these
operators give on every target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aiterlite.dispatch import Table
from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import arguments, calls, mxfp4, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.reference import quant as reference
from aiterlite.tables import quant as tables
from aiterlite.tables.quant import GROUPS
from aiterlite.tables.quant_plan import QuantProblem

_TOKEN, _GROUP, _TENSOR, _STATIC = (table.op for table in (tables.TOKEN, tables.GROUP, tables.TENSOR, tables.STATIC))
CODES = {**operands.FP8_DTYPES, "int8": torch.int8}
_INPUTS = tuple(operands.DTYPES[name] for name in tables.DTYPES)
_ROWS_OPERANDS, _TENSOR_OPERANDS = ("x", "out", "scales", "num_rows"), ("x", "out", "scale")


def dynamic_per_token_scaled_quant(
    out: Tensor,
    input: Tensor,
    scales: Tensor,
    scale_ub: Tensor | None = None,
    shuffle_scale: bool = False,
    num_rows: Tensor | None = None,
    num_rows_factor: int = 1,
) -> None:
    """Quantise rows, a scale for each; writes `out` and `scales`.

    Args:
        out: of input's number of elements, contiguous, of a float8_e4m3 type or int8. Every target has all of them.
        input: [..., K] of bfloat16 or float16; the last dimension has stride 1, rows may be strided. Where K is 32, 64
            or 128, and the last dimension of `out` is n times as long, rows of input are groups of the rows of `out`,
            as `dynamic_per_group_scaled_quant` has them.
        scales: float32, contiguous, one for each row of input.
        scale_ub: not used (nor is it upstream).
        shuffle_scale: of groups, scales lie as [K / group, rows]; see `dynamic_per_group_scaled_quant`.
        num_rows: int32 of one element: no more than num_rows * num_rows_factor rows (of `out`) are quantised. It is
            read on the device, so that a captured graph follows it. Of other rows nothing is read or written.
        num_rows_factor: at least 1.

    Source of the semantics: `aiter.dynamic_per_token_scaled_quant`; zero rows and NaN as in
    `aiterlite.reference.quant`. Not differentiable. Raises `ArgumentError`, `DispatchError` or a `JitError`.
    """
    arguments.check_tensors(_TOKEN, out=out, input=input)
    group = input.shape[-1] if input.dim() else 0
    if group in GROUPS and out.dim() and out.shape[-1] != group:
        _check_sizes(_TOKEN, out, input)
        GROUP(out, input.reshape(out.shape), scales, group, shuffle_scale, num_rows, num_rows_factor)
    else:
        TOKEN(out, input, scales, num_rows, num_rows_factor)


def dynamic_per_group_scaled_quant(
    out: Tensor,
    input: Tensor,
    scales: Tensor,
    group_size: int = 32,
    shuffle_scale: bool = True,
    num_rows: Tensor | None = None,
    num_rows_factor: int = 1,
    scale_layout_m32k4: bool = False,
) -> None:
    """Quantise groups of `group_size` neighbouring elements of each row, a scale for each; writes `out` and `scales`.
    Where `out` is of float4_e2m1fn_x2 or uint8, to MXFP4: `dynamic_per_group_scaled_quant_fp4`.

    Args are those of `dynamic_per_token_scaled_quant`, and:
        scales: float32, contiguous, [..., K / group_size] or any shape of as many elements.
        group_size: 32, 64 or 128, of which K is a multiple.
        shuffle_scale: scales lie as [K / group_size, rows], where `rows` are those that are quantised: with num_rows,
            the rows of a group follow each other without a gap.
        scale_layout_m32k4: has no kernel here.

    8-bit outputs with scales of float8_e8m0fnu (MXFP8) have no kernel, and are refused.

    Source of the semantics: `aiter.dynamic_per_group_scaled_quant`. Raises as `dynamic_per_token_scaled_quant`.
    """
    if scale_layout_m32k4:
        raise ArgumentError(_GROUP, "scale_layout_m32k4", True, "False", "Scales are rows of float32.")
    arguments.check_tensors(_GROUP, out=out)
    if out.dtype in mxfp4.CODES:
        mxfp4.dynamic_per_group_scaled_quant_fp4(
            out, input, scales, group_size, shuffle_scale, num_rows, num_rows_factor
        )
        return
    GROUP(out, input, scales, group_size, shuffle_scale, num_rows, num_rows_factor)


def dynamic_per_tensor_quant(out: Tensor, input: Tensor, scale: Tensor) -> None:
    """Quantise a tensor by one scale; writes `out` and `scale`, float32 of one element. `out` and `input`, contiguous,
    are of the types of `dynamic_per_token_scaled_quant`. The same bits in every launch: nothing is added, and the
    greatest magnitude is the same in any order.

    Source of the semantics: `aiter.dynamic_per_tensor_quant`. Raises as `dynamic_per_token_scaled_quant`.
    """
    TENSOR(out, input, scale)


def static_per_tensor_quant(out: Tensor, input: Tensor, scale: Tensor) -> None:
    """Quantise a tensor by a given scale, any float32 of one element, read on the device; writes `out`. Elements are
    multiplied by 1 / scale, beyond the largest they become that: by a scale of 0 all but zeros, which become NaN.

    Source of the semantics: `aiter.static_per_tensor_quant`. Raises as `dynamic_per_token_scaled_quant`.
    """
    STATIC(out, input, scale)


# What operands must be ------------------------------------------------------------------------------------------------


def check_code(op: str, name: str, dtype: torch.dtype) -> None:
    if dtype not in CODES.values():
        remedy = "MXFP4 is per_1x32: aiterlite.mxfp4." if dtype in mxfp4.CODES else ""
        raise ArgumentError(op, name, f"of dtype {dtype}", ", ".join(map(str, CODES.values())), remedy)


def _check_sizes(op: str, out: Tensor, input: Tensor) -> None:
    if input.dim() == 0:
        raise ArgumentError(op, "input", "of no dimension", "[..., K]")
    if out.numel() != input.numel():
        raise ArgumentError(op, "out", f"of shape {list(out.shape)}", f"{input.numel()} elements, as many as input")


def _check(op: str, out: Tensor, input: Tensor, scales: Tensor, count: int, name: str = "scales") -> None:
    _check_sizes(op, out, input)
    operands.check_dtype(op, "input", input, _INPUTS)
    check_code(op, "out", out.dtype)
    if scales.dtype != torch.float32:
        remedy = "8-bit codes with scales of 8 bits, MXFP8, have no kernel." if scales.itemsize == 1 else ""
        raise ArgumentError(op, name, f"of dtype {scales.dtype}", "torch.float32", remedy)
    if scales.numel() != count:
        raise ArgumentError(op, name, f"of shape {list(scales.shape)}", f"{count} element{'s' * (count != 1)}")
    for other, tensor in (("out", out), (name, scales)):
        operands.check_device(op, other, tensor, input, "input")
        if not tensor.is_contiguous():
            raise ArgumentError(op, other, f"of strides {list(tensor.stride())}", "contiguous")


# Rows and groups ------------------------------------------------------------------------------------------------------


def _prepare_rows(
    table: Table, group: int, transposed: bool, num_rows_factor: int, tensors: Sequence[Tensor | None]
) -> Run:
    out, input, scales, num_rows = tensors
    assert out is not None and input is not None and scales is not None
    if input.numel() == 0:
        return lambda *_, **__: None
    operands.check_dense(table.op, input=input)
    x, k = operands.flatten(input), input.shape[-1]
    problem = QuantProblem(
        row_count=x.shape[0],
        row_width=k,
        group_size=group,
        dtype=operands.dtype_name(x.dtype),
        out_dtype=operands.dtype_name(out.dtype),
        transposed=transposed,
        aligned=k % 16 == 0 and operands.is_aligned(x, 8) and out.data_ptr() % 16 == 0,
    )
    decision = calls.decide(table, problem, calls.persona_of(table.op, x.device))
    sizes = {"stride_x": x.stride(0), "num_rows_factor": num_rows_factor}
    absent = ("num_rows",) if num_rows is None else ()
    return launches.prepare(decision, x.device, _ROWS_OPERANDS, sizes, absent)


def _prepare_token(
    out: Tensor, input: Tensor, scales: Tensor, num_rows: Tensor | None = None, num_rows_factor: int = 1
) -> Run:
    _fake_token(out, input, scales, num_rows, num_rows_factor)
    tensors = (out, input, scales, num_rows)
    launch = _prepare_rows(tables.TOKEN, input.shape[-1], False, num_rows_factor, tensors)

    def run(out: Tensor, input: Tensor, scales: Tensor, num_rows: Tensor | None = None, *_: Any, **__: Any) -> None:
        launch(operands.flatten(input), out, scales, num_rows)

    return run if input.numel() else launch


def _prepare_group(
    out: Tensor,
    input: Tensor,
    scales: Tensor,
    group_size: int,
    shuffle_scale: bool,
    num_rows: Tensor | None = None,
    num_rows_factor: int = 1,
) -> Run:
    _fake_group(out, input, scales, group_size, shuffle_scale, num_rows, num_rows_factor)
    tensors = (out, input, scales, num_rows)
    launch = _prepare_rows(tables.GROUP, group_size, shuffle_scale, num_rows_factor, tensors)

    def run(out: Tensor, input: Tensor, scales: Tensor, *rest: Any, **named: Any) -> None:
        num_rows = rest[2] if len(rest) > 2 else named.get("num_rows")
        launch(operands.flatten(input), out, scales, num_rows)

    return run if input.numel() else launch


def _fake_token(
    out: Tensor, input: Tensor, scales: Tensor, num_rows: Tensor | None = None, num_rows_factor: int = 1
) -> None:
    _check(_TOKEN, out, input, scales, operands.rows_of(input))
    operands.check_row_count(_TOKEN, input, num_rows, num_rows_factor)


def _fake_group(
    out: Tensor,
    input: Tensor,
    scales: Tensor,
    group_size: int,
    shuffle_scale: bool,
    num_rows: Tensor | None = None,
    num_rows_factor: int = 1,
) -> None:
    operands.check_choice(_GROUP, "group_size", group_size, GROUPS)
    if input.dim() and input.shape[-1] % group_size:
        shape = f"of shape {list(input.shape)}"
        raise ArgumentError(_GROUP, "input", shape, f"rows of a multiple of {group_size}", "Pad the rows.")
    _check(_GROUP, out, input, scales, input.numel() // group_size)
    operands.check_row_count(_GROUP, input, num_rows, num_rows_factor)


# Tensors --------------------------------------------------------------------------------------------------------------


def _prepare_whole(table: Table, out: Tensor, input: Tensor, scale: Tensor) -> Run:
    _check_whole(table.op, out, input, scale)
    count = input.numel()
    if count == 0:
        empty = float(reference.scale_of(torch.zeros(()), out.dtype))

        def run(out: Tensor, input: Tensor, scale: Tensor) -> None:
            if table is tables.TENSOR:
                scale.fill_(empty)

        return run
    problem = QuantProblem(
        row_count=count // input.shape[-1],
        row_width=input.shape[-1],
        group_size=0,
        dtype=operands.dtype_name(input.dtype),
        out_dtype=operands.dtype_name(out.dtype),
        aligned=count % 16 == 0 and input.data_ptr() % 16 == 0 and out.data_ptr() % 16 == 0,
    )
    decision = calls.decide(table, problem, calls.persona_of(table.op, input.device))
    launch = launches.prepare(decision, input.device, _TENSOR_OPERANDS, {"count": count})
    return lambda out, input, scale: launch(input, out, scale)


def _check_whole(op: str, out: Tensor, input: Tensor, scale: Tensor) -> None:
    _check(op, out, input, scale, 1, "scale")
    arguments.check_contiguous(op, input=input)


def _prepare_tensor(out: Tensor, input: Tensor, scale: Tensor) -> Run:
    return _prepare_whole(tables.TENSOR, out, input, scale)


def _prepare_static(out: Tensor, input: Tensor, scale: Tensor) -> Run:
    return _prepare_whole(tables.STATIC, out, input, scale)


def _fake_tensor(out: Tensor, input: Tensor, scale: Tensor) -> None:
    _check_whole(_TENSOR, out, input, scale)


def _fake_static(out: Tensor, input: Tensor, scale: Tensor) -> None:
    _check_whole(_STATIC, out, input, scale)


_LIVE = "Tensor? num_rows=None, int num_rows_factor=1"
_WRITTEN = "Tensor(a!) out, Tensor input, Tensor(b!)"
TOKEN = register(f"{_TOKEN}({_WRITTEN} scales, {_LIVE}) -> ()", _prepare_token, _fake_token)
GROUP = register(
    f"{_GROUP}({_WRITTEN} scales, int group_size, bool shuffle_scale, {_LIVE}) -> ()", _prepare_group, _fake_group
)
TENSOR = register(f"{_TENSOR}({_WRITTEN} scale) -> ()", _prepare_tensor, _fake_tensor)
STATIC = register(f"{_STATIC}(Tensor(a!) out, Tensor input, Tensor scale) -> ()", _prepare_static, _fake_static)
