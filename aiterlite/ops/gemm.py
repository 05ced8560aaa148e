"""Skinny GEMM: `wvSplitK`, and its GEMV under the name `LLMM1`."""

from __future__ import annotations

import functools

from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import matmul, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.matmul import Bias
from aiterlite.ops.operator import register
from aiterlite.tables import gemm as tables

_OP, _GEMV = "wvSplitK", "LLMM1"
ROWS_PER_BLOCK = (2, 4, 8, 16)


def wvSplitK(  # noqa: N802 (the operator's name in the field)
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, cu_count: int = 0
) -> Tensor:
    """The skinny GEMM of vLLM's ROCm backend: y = x · weight^T + bias for 1 to 16 rows of x.

    Args:
        x: [..., K] bfloat16 or float16 with 0 to 16 rows; the last dimension has stride 1, rows may be strided.
        weight: [M, K] of x's dtype and device; the last dimension has stride 1, rows may be strided.
        bias: None, [M], [1, M] or [N, M] of x's dtype and device.
        cu_count: plan as for a chip of this many compute units; 0 for as many as the device has.

    Returns [..., M] of x's dtype. Sums are float32, the bias is added in float32, and one rounding follows. The same
    call gives the same bits. Nothing outside the operands' addressed elements is read. Not differentiable.

    Source of the semantics: `wvSplitK` of vLLM (csrc/rocm/skinny_gemms.cu), whose argument order is weight first.
    Raises `ArgumentError`, `DispatchError` (with the reasons) or a `JitError`.
    """
    result: Tensor = OPERATOR(x, weight, bias, cu_count=cu_count)
    return result


def _fake(x: Tensor, weight: Tensor, bias: Bias = None, *, cu_count: int = 0) -> Tensor:
    return matmul.fake(_OP, x, weight, bias)


def LLMM1(x: Tensor, weight: Tensor, rows_per_block: int = 4) -> Tensor:  # noqa: N802 (the operator's name in the field)
    """The matrix-vector product of vLLM's ROCm backend: y = x · weight^T for one row of x.

    Args:
        x: [..., K] bfloat16 or float16 with one row; the last dimension has stride 1.
        weight: [M, K] of x's dtype and device; the last dimension has stride 1, rows may be strided.
        rows_per_block: 2, 4, 8 or 16. Upstream, the weight rows of a thread block. Here the plan of `wvSplitK` decides
            that from the shape and the chip; the argument is checked, so that calls need not change, and has no effect.

    Returns [..., M] of x's dtype. It is `wvSplitK` for N = 1 and gives its bits: float32 sums, one rounding, any M and
    K. Not differentiable.

    Source of the semantics: `LLMM1` of vLLM (csrc/rocm/skinny_gemms.cu), whose argument order is weight first. Upstream
    multiplies in the storage type, leaves the rows beyond a multiple of rows_per_block unwritten, and takes K up to
    8192 without checking that the operands agree in it.
    Raises `ArgumentError`, `DispatchError` (with the reasons) or a `JitError`.
    """
    result: Tensor = GEMV(x, weight, rows_per_block)
    return result


def _check_gemv(x: Tensor, rows_per_block: int) -> None:
    operands.check_choice(_GEMV, "rows_per_block", rows_per_block, ROWS_PER_BLOCK)
    if x.dim() > 1 and operands.rows_of(x) != 1:
        remedy = "Call wvSplitK, which takes 1 to 16 rows."
        raise ArgumentError(_GEMV, "x", f"of shape {list(x.shape)}", "[..., K] with one row", remedy)


def _prepare_gemv(x: Tensor, weight: Tensor, rows_per_block: int = 4) -> Run:
    _check_gemv(x, rows_per_block)
    run = matmul.prepare(tables.LLMM1, x, weight)
    return lambda x, weight, rows_per_block=4: run(x, weight)


def _fake_gemv(x: Tensor, weight: Tensor, rows_per_block: int = 4) -> Tensor:
    _check_gemv(x, rows_per_block)
    return matmul.fake(_GEMV, x, weight)


OPERATOR = register(
    "wvSplitK(Tensor x, Tensor weight, Tensor? bias=None, *, int cu_count=0) -> Tensor",
    functools.partial(matmul.prepare, tables.WV_SPLIT_K),
    _fake,
)
GEMV = register("LLMM1(Tensor x, Tensor weight, int rows_per_block=4) -> Tensor", _prepare_gemv, _fake_gemv)
