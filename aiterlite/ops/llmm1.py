"""The GEMV `LLMM1`, registered with torch.library as `aiterlite::LLMM1`: `wvSplitK` for one row, under its own name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import gemm

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
    result: Tensor = _LLMM1_OP(x, weight, rows_per_block)
    return result


def _check(x: Tensor, rows_per_block: int) -> None:
    if rows_per_block not in ROWS_PER_BLOCK:
        raise ArgumentError("LLMM1", "rows_per_block", rows_per_block, ", ".join(map(str, ROWS_PER_BLOCK)))
    if x.dim() > 1 and gemm._rows(x) != 1:
        remedy = "Call wvSplitK, which takes 1 to 16 rows."
        raise ArgumentError("LLMM1", "x", f"of shape {list(x.shape)}", "[..., K] with one row", remedy)


def _impl(x: Tensor, weight: Tensor, rows_per_block: int = 4) -> Tensor:
    _check(x, rows_per_block)
    return gemm._run_for(x, weight, None, function="LLMM1")(x, weight, None)


def _fake(x: Tensor, weight: Tensor, rows_per_block: int = 4) -> Tensor:
    _check(x, rows_per_block)
    gemm._check("LLMM1", x, weight, None)
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _register() -> Any:
    library: Any = torch.library.Library("aiterlite", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define("LLMM1(Tensor x, Tensor weight, int rows_per_block=4) -> Tensor")
    for key in ("CPU", "CUDA"):
        library.impl("LLMM1", _impl, key)
    torch.library.register_fake("aiterlite::LLMM1", _fake, lib=library)
    return library


_registered = _register()
_LLMM1_OP = torch.ops.aiterlite.LLMM1.default
