"""Batched GEMM of 8-bit floats whose x is quantised on the way: a scale for 128 k of a token, one for all weights.

What it computes is in `aiterlite.reference.gemm_a8w8`. Names of arguments are upstream's: there M is tokens and N
features. The same call gives the same bits; nothing is added by atomics.
"""

# ruff: noqa: N803 (names of arguments are upstream's)
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.launch import results
from aiterlite.ops import arguments, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.gemm_a8w8_launch import DTYPES, FP8, launch_of
from aiterlite.ops.operator import register
from aiterlite.tables.gemm_a8w8 import BATCHED as _BATCHED
from aiterlite.tables.gemm_a8w8 import BATCHED_TABLE
from aiterlite.tables.gemm_a8w8_problem import BLOCK, VECTOR, BatchedProblem


def batched_gemm_a8w8_a_per_token_group_prequant_w_per_batched_tensor_quant(
    X: Tensor,
    WQ: Tensor,
    w_scale: Tensor,
    group_size: int = 128,
    bias: Tensor | None = None,
    dtype: torch.dtype | None = torch.bfloat16,
    splitK: int | None = None,
    YQ: Tensor | None = None,
    transpose_bm: bool = False,
    transpose_bm_in: bool = False,
    config: object = None,
) -> Tensor:
    """B products of X, quantised with a scale for each 128 k of a token, and weights that share a scale.

    Args:
        X: [B, M, K], with transpose_bm_in [M, B, K], of `dtype`; the last dimension has stride 1. Rows that are not
            all as far apart as the next are copied.
        WQ: [B, N, K] of the target's float8_e4m3 type; the last dimension has stride 1. (Clients pass the transposed
            view of a tensor whose K is dense.)
        w_scale: float32 of one element.
        group_size: 128, of which K is a multiple.
        bias: [B, 1, N] of `dtype`, or None.
        dtype: torch.bfloat16 or torch.float16, X's too; None is YQ's, or bfloat16.
        splitK, config: not used; how K is cut is planned.
        YQ: the result's memory, where it is given, of the result's shape; the last dimension has stride 1.
        transpose_bm: the result is [M, B, N] in place of [B, M, N].

    Source of the semantics: aiter's Triton operator of this name. Codes and scales are those of
    `dynamic_per_group_scaled_quant`. Raises as `aiterlite.gemm.gemm_a8w8_blockscale`.
    """
    if YQ is None:
        kind = dtype or torch.bfloat16
        result: Tensor = BATCHED(X, WQ, w_scale, group_size, bias, kind, transpose_bm, transpose_bm_in)
        return result
    operands.check_choice(_BATCHED, "group_size", group_size, (BLOCK,))
    operands.check_dtype(_BATCHED, "YQ", YQ, (dtype or YQ.dtype,), "the dtype that is asked for")
    BATCHED_OUT(YQ, X, WQ, w_scale, bias, transpose_bm, transpose_bm_in)
    return YQ


def _check_batched(
    x: Tensor, w: Tensor, w_scale: Tensor, bias: Tensor | None, dtype: torch.dtype, tokens_first: bool
) -> tuple[int, int, int, int]:
    """Batches, tokens, features and k."""
    op = _BATCHED
    operands.check_dims(op, "X", x, 3, "[B, M, K], or with transpose_bm_in [M, B, K]")
    operands.check_dims(op, "WQ", w, 3, "[B, N, K]")
    n, batch = (x.shape[0], x.shape[1]) if tokens_first else (x.shape[1], x.shape[0])
    m, k = w.shape[1], x.shape[2]
    operands.check_choice(op, "dtype", dtype, DTYPES)
    operands.check_dtype(op, "X", x, (dtype,), "the dtype of the result")
    operands.check_shape(op, "WQ", w, ([batch, m, k],), f"[{batch}, N, {k}], since X is {list(x.shape)}")
    operands.check_dtype(op, "WQ", w, FP8)
    operands.check_device(op, "WQ", w, x, "X")
    operands.check_dtype(op, "w_scale", w_scale, (torch.float32,), "the dtype of scales")
    operands.check_device(op, "w_scale", w_scale, x, "X")
    if w_scale.numel() != 1:
        raise ArgumentError(op, "w_scale", f"of shape {list(w_scale.shape)}", "one element")
    operands.check_dense(op, X=x, WQ=w)
    if k % BLOCK:
        raise ArgumentError(op, "X", f"of shape {list(x.shape)}", f"a K that is a multiple of {BLOCK}", "Pad X and WQ.")
    if bias is not None:
        operands.check_shape(op, "bias", bias, ([batch, 1, m],))
        operands.check_dtype(op, "bias", bias, (dtype,), "the dtype of the result")
        operands.check_device(op, "bias", bias, x, "X")
        operands.check_dense(op, bias=bias)
    return batch, n, m, k


def _flat_rows(x: Tensor) -> Tensor:
    """[A, B, K] as [A * B, K]: a view where rows are all as far apart, else a copy."""
    return x.reshape(-1, x.shape[-1])


def _prepare_product(
    y: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, sizes: tuple[int, ...], first: tuple[bool, bool]
) -> Any:
    """What launches calls of such operands, a result's memory first; None where there is nothing to do. `first`:
    whether tokens are the first dimension of the result, and of x."""
    batch, n, m, k = sizes
    if 0 in (batch, n, m):
        return None
    if k == 0:
        return lambda y, x, w, bias, *_: y.zero_() if bias is None else y.copy_(_like_result(bias, y, first[0]))
    rows = _flat_rows(x)
    aligned = operands.is_aligned(rows, VECTOR // 2) and operands.is_aligned(w, VECTOR)
    code, kind = operands.dtype_name(w.dtype), operands.dtype_name(y.dtype)
    problem = BatchedProblem(n, m, k, code, kind, aligned, batch, bias is not None, first[1])
    row = rows.stride(0)
    strides = {
        "stride_x": row * (batch if first[1] else 1),
        "stride_x_batch": row * (1 if first[1] else n),
        "stride_w": w.stride(1),
        "stride_w_batch": w.stride(0),
        "stride_y": y.stride(0 if first[0] else 1),
        "stride_y_batch": y.stride(1 if first[0] else 0),
        "stride_bias_batch": 0 if bias is None else bias.stride(0),
    }
    absent = ("x_scale",) if bias is not None else ("bias", "x_scale")
    # GPUs quantise rows, whatever their tokens and batches; a CPU goes by these.
    launch = launch_of(BATCHED_TABLE, problem, strides, x.device, absent, {"stride_x": row})
    return lambda y, x, w, bias, w_scale: launch(_flat_rows(x), w, bias, y, None, w_scale)


def _like_result(bias: Tensor, y: Tensor, tokens_first: bool) -> Tensor:
    return (bias.transpose(0, 1) if tokens_first else bias).expand(y.shape)


def _fake_batched(
    X: Tensor,
    WQ: Tensor,
    w_scale: Tensor,
    group_size: int,
    bias: Tensor | None,
    dtype: torch.dtype,
    transpose_bm: bool = False,
    transpose_bm_in: bool = False,
) -> Tensor:
    operands.check_choice(_BATCHED, "group_size", group_size, (BLOCK,))
    batch, n, m, _ = _check_batched(X, WQ, w_scale, bias, dtype, transpose_bm_in)
    return X.new_empty((n, batch, m) if transpose_bm else (batch, n, m))


def _prepare_batched(
    X: Tensor,
    WQ: Tensor,
    w_scale: Tensor,
    group_size: int,
    bias: Tensor | None,
    dtype: torch.dtype,
    transpose_bm: bool = False,
    transpose_bm_in: bool = False,
) -> Run:
    y = _fake_batched(X, WQ, w_scale, group_size, bias, dtype, transpose_bm, transpose_bm_in)
    sizes = _check_batched(X, WQ, w_scale, bias, dtype, transpose_bm_in)
    product = _prepare_product(y, X, WQ, bias, sizes, (transpose_bm, transpose_bm_in))
    empty = results.allocator(y.shape, dtype, X.device)

    def run(X: Tensor, WQ: Tensor, w_scale: Tensor, group_size: int, bias: Tensor | None, *_: Any, **__: Any) -> Tensor:
        y = empty(X)
        if product is not None:
            product(y, X, WQ, bias, w_scale)
        return y

    return run


def _fake_batched_out(
    YQ: Tensor,
    X: Tensor,
    WQ: Tensor,
    w_scale: Tensor,
    bias: Tensor | None,
    transpose_bm: bool = False,
    transpose_bm_in: bool = False,
) -> None:
    batch, n, m, _ = _check_batched(X, WQ, w_scale, bias, YQ.dtype, transpose_bm_in)
    operands.check_shape(_BATCHED, "YQ", YQ, ([n, batch, m] if transpose_bm else [batch, n, m],))
    operands.check_device(_BATCHED, "YQ", YQ, X, "X")
    operands.check_dense(_BATCHED, YQ=YQ)
    arguments.check_apart(_BATCHED, "YQ", YQ)


def _prepare_batched_out(
    YQ: Tensor,
    X: Tensor,
    WQ: Tensor,
    w_scale: Tensor,
    bias: Tensor | None,
    transpose_bm: bool = False,
    transpose_bm_in: bool = False,
) -> Run:
    _fake_batched_out(YQ, X, WQ, w_scale, bias, transpose_bm, transpose_bm_in)
    sizes = _check_batched(X, WQ, w_scale, bias, YQ.dtype, transpose_bm_in)
    product = _prepare_product(YQ, X, WQ, bias, sizes, (transpose_bm, transpose_bm_in))

    def run(YQ: Tensor, X: Tensor, WQ: Tensor, w_scale: Tensor, bias: Tensor | None, *_: Any, **__: Any) -> None:
        if product is not None:
            product(YQ, X, WQ, bias, w_scale)

    return run


_TRANSPOSED = "bool transpose_bm=False, bool transpose_bm_in=False"
BATCHED = register(
    f"{_BATCHED}(Tensor X, Tensor WQ, Tensor w_scale, int group_size, Tensor? bias, ScalarType dtype, {_TRANSPOSED}) "
    "-> Tensor",
    _prepare_batched,
    _fake_batched,
)
BATCHED_OUT = register(
    f"{_BATCHED}.out(Tensor(a!) YQ, Tensor X, Tensor WQ, Tensor w_scale, Tensor? bias, {_TRANSPOSED}) -> ()",
    _prepare_batched_out,
    _fake_batched_out,
)
