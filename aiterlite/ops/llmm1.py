"""The GEMV `LLMM1`: `wvSplitK` for one row, under its own name."""

from __future__ import annotations

from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import matmul, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.tables.gemm import LLMM1 as TABLE

ROWS_PER_BLOCK = (2, 4, 8, 16)


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
    result: Tensor = OPERATOR(x, weight, rows_per_block)
    return result


def _check(x: Tensor, rows_per_block: int) -> None:
    operands.check_choice(TABLE.op, "rows_per_block", rows_per_block, ROWS_PER_BLOCK)
    if x.dim() > 1 and operands.rows_of(x) != 1:
        remedy = "Call wvSplitK, which takes 1 to 16 rows."
        raise ArgumentError(TABLE.op, "x", f"of shape {list(x.shape)}", "[..., K] with one row", remedy)


def _prepare(x: Tensor, weight: Tensor, rows_per_block: int = 4) -> Run:
    _check(x, rows_per_block)
    run = matmul.prepare(TABLE, x, weight)
    return lambda x, weight, rows_per_block=4: run(x, weight)


def _fake(x: Tensor, weight: Tensor, rows_per_block: int = 4) -> Tensor:
    _check(x, rows_per_block)
    return matmul.fake(TABLE.op, x, weight)


OPERATOR = register("LLMM1(Tensor x, Tensor weight, int rows_per_block=4) -> Tensor", _prepare, _fake)
