"""Skinny GEMM: `wvSplitK`."""

from __future__ import annotations

import functools

from torch import Tensor

from aiterlite.ops import matmul
from aiterlite.ops.matmul import Bias
from aiterlite.ops.operator import register
from aiterlite.tables import gemm as tables

_OP = "wvSplitK"


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


OPERATOR = register(
    "wvSplitK(Tensor x, Tensor weight, Tensor? bias=None, *, int cu_count=0) -> Tensor",
    functools.partial(matmul.prepare, tables.WV_SPLIT_K),
    _fake,
)
