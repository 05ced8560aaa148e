"""What the skinny GEMMs share: their operand checks, their problem, and the launch of y = x · weight^T + bias."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from aiterlite.dispatch import Decision, Table
from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.launch import results
from aiterlite.ops import calls, operands
from aiterlite.ops.calls import Run
from aiterlite.tables import gemm as tables

# None, or [M], [1, M] or [N, M].
Bias = Tensor | None
DTYPES = tuple(operands.DTYPES[name] for name in tables.DTYPES)
OPERANDS = ("x", "weight", "bias", "y")


def check(function: str, x: Tensor, weight: Tensor, bias: Bias) -> int:
    """The number of rows of x. Raises `ArgumentError` for operands that do not fit together."""
    n = check_product(function, x, weight)
    if bias is not None:
        check_bias(function, bias, n, weight.shape[0], x, x.dtype, "the dtype of x")
    return n


def check_product(function: str, x: Tensor, weight: Tensor) -> int:
    """The same without a bias."""
    if x.dim() < 1:
        raise ArgumentError(function, "x", "0-dimensional", "[..., K], at least 1 dimension")
    operands.check_dims(function, "weight", weight, 2, "[M, K]")
    k = x.shape[-1]
    if weight.shape[1] != k:
        got = f"of shape {list(weight.shape)}"
        raise ArgumentError(function, "weight", got, f"[M, {k}], since x is {list(x.shape)}")
    operands.check_like(function, "weight", weight, x)
    return operands.rows_of(x)


def check_bias(function: str, bias: Tensor, n: int, m: int, x: Tensor, dtype: torch.dtype, of: str) -> None:
    words = f"[{m}], [1, {m}] or [{n}, {m}] (features, or rows too)"
    operands.check_shape(function, "bias", bias, ([m], [1, m], [n, m]), words)
    operands.check_dtype(function, "bias", bias, (dtype,), of)
    operands.check_device(function, "bias", bias, x)


def problem_of(rows: Tensor, weight: Tensor, bias: Bias) -> tables.GemmProblem:
    """The problem of x[N, K] and a weight."""
    m, k = weight.shape
    return tables.GemmProblem(
        n=rows.shape[0],
        m=m,
        k=k,
        dtype=operands.dtype_name(rows.dtype),
        bias=bias is not None,
        aligned=k % 8 == 0 and operands.is_aligned(rows, 8) and operands.is_aligned(weight, 8),
        dense=all(operands.is_dense(tensor) for tensor in (rows, weight, bias) if tensor is not None),
    )


def strides(rows: Tensor, weight: Tensor, bias: Bias) -> dict[str, int]:
    """The row strides of the family's argument structs."""
    per_row = bias is not None and bias.dim() == 2 and bias.shape[0] > 1
    return {
        "stride_x": rows.stride(0),
        "stride_w": weight.stride(0),
        "stride_bias": bias.stride(0) if bias is not None and per_row else 0,
        "stride_y": weight.shape[0],
    }


def prepare(
    table: Table,
    x: Tensor,
    weight: Tensor,
    bias: Bias = None,
    *,
    cu_count: int = 0,
    to_problem: Callable[..., tables.GemmProblem] = problem_of,
    dtype: torch.dtype | None = None,
) -> Run:
    """The call of an operator that kernels of one table serve. Errors name the operator."""
    n = check(table.op, x, weight, bias)
    # The kernels need this, torch does not.
    operands.check_dtype(table.op, "x", x, DTYPES)
    operands.check_dense(table.op, x=x, weight=weight, bias=bias)
    persona = calls.persona_of(table.op, x.device, cu_count)
    if n == 0 or weight.shape[0] == 0:
        return empty_result(x, weight, dtype)
    decision = calls.decide(table, to_problem(operands.flatten(x), weight, bias), persona)
    return run_of(decision, x, weight, bias, dtype)


def empty_result(x: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> Run:
    """Calls with no rows or no features: nothing is launched."""
    shape = result_shape(x, weight)
    return lambda x, *_, **__: x.new_empty(shape, dtype=dtype)


def fake(function: str, x: Tensor, weight: Tensor, bias: Bias = None) -> Tensor:
    """The result's shape and dtype. Operands are checked but for their number of rows and their strides, which a trace
    may not know."""
    check(function, x, weight, bias)
    operands.check_dtype(function, "x", x, DTYPES)
    return x.new_empty(result_shape(x, weight))


def result_shape(x: Tensor, weight: Tensor) -> tuple[int, ...]:
    return (*x.shape[:-1], weight.shape[0])


def run_of(decision: Decision, x: Tensor, weight: Tensor, bias: Bias, dtype: torch.dtype | None = None) -> Run:
    """The prepared call of a decision: it takes x, weight, bias and, by keyword, a workspace. `dtype` is the result's,
    where that is not x's."""
    rows = operands.flatten(x)
    empty, flat = results.allocator(result_shape(x, weight), dtype or x.dtype, x.device), x.dim() == 2
    absent = () if bias is not None else ("bias",)
    # A prepared call is kept under its strides, among others, so they never change for it.
    fixed: Mapping[str, Any] = strides(rows, weight, bias)
    launch = launches.prepare(decision, x.device, OPERANDS, fixed, absent)

    def run(x: Tensor, weight: Tensor, bias: Bias = None, *, workspace: Tensor | None = None, **_: Any) -> Tensor:
        y = empty(x)
        if workspace is None:
            launch(x if flat else operands.flatten(x), weight, bias, y)
        else:
            launch(operands.flatten(x), weight, bias, y, workspace=workspace)
        return y

    return run
